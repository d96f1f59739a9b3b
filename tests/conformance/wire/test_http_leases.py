"""Transcripts of consuming over HTTP by leases: tokens, and every kind of outcome."""

import socket
import time
from collections.abc import Callable
from threading import Thread
from typing import Any

import httpx
import pytest

from tests.conformance.wire.calls import b64, create, ok, produce, values
from tests.conformance.wire.conftest import CALL_TIMEOUT_S, DEAD_LETTERS


@pytest.fixture(autouse=True)
def partition(http, topic) -> str:
    """The only one of a new topic."""
    return create(http, topic)[0]


def take(http: httpx.Client, topic: str, **fields: Any) -> list[dict[str, Any]]:
    body = {"group": "g", "consumer": "c", **fields}
    return ok(http.post(f"/topics/{topic}/consume", json=body))["deliveries"]


def settle(http: httpx.Client, topic: str, *outcomes: dict[str, Any], **fields: Any) -> Any:
    """Whether each outcome was taken: None, or the reason of its refusal."""
    body = {"group": "g", "outcomes": outcomes, **fields}
    replies = ok(http.post(f"/topics/{topic}/settle", json=body))["outcomes"]
    return [each.get("error", {}).get("reason") for each in replies]


def outcome(delivery: dict[str, Any], kind: str, **fields: Any) -> dict[str, Any]:
    lease = {name: delivery[name] for name in ("partitionNumber", "token")}
    return {**lease, "kind": f"OUTCOME_{kind}", **fields}


def test_what_is_ready_of_all_partitions_is_given_under_tokens(http, topic):
    wide = f"{topic}-wide"
    ids = create(http, wide, 3)
    for number, each in enumerate(ids):
        produce(http, f"{wide}/{each}", {"value": b64(b"%d" % number), "key": b64(b"k")})

    found = take(http, wide)

    assert sorted(ids) == sorted(each["partition"] for each in found)
    for each in found:
        place = ids.index(each["partition"])
        assert (place, 1, [b"%d" % place]) == (
            each["partitionNumber"],
            each["attempt"],
            values(each["messages"]),
        )
        message = each["messages"][0]
        assert {"channel", "index", "offset", "producedAt", "key", "value"} == set(message)
        assert int(each["token"]) > 0
        assert 10_000 == int(each["leaseMs"])
    assert [None] * 3 == settle(http, wide, *(outcome(each, "ACK") for each in found))
    assert [] == take(http, wide)


def test_each_kind_of_outcome_does_what_it_says(http, topic):
    produce(http, topic, b"0", b"1", b"2", b"3")

    (first,) = take(http, topic)
    taken = settle(
        http,
        topic,
        outcome(first, "ACK", places=[0, 1]),
        outcome(first, "NACK", places=[1, 1], delayMs=0, reason="busy"),
        outcome(first, "RELEASE", places=[2, 1]),
        outcome(first, "DEAD", places=[3, 1], reason="no use"),
    )

    assert [None] * 4 == taken
    again = {b"".join(values(each["messages"])): each["attempt"] for each in take(http, topic)}
    assert {b"1": 2, b"2": 1} == again
    (letter,) = take(http, topic, channel=DEAD_LETTERS, group="doctor")
    assert {"group": "g", "attempts": 1, "reason": "no use"} == letter["deadLetter"]
    assert [b"3"] == values(letter["messages"])


def test_an_outcome_under_a_token_that_has_ended_is_refused_alone(http, topic):
    produce(http, topic, b"0")
    (delivery,) = take(http, topic)

    assert [None, "LEASE_LOST"] == settle(
        http, topic, outcome(delivery, "ACK"), outcome(delivery, "ACK")
    )


def test_a_lease_is_as_long_as_was_asked_for_and_can_be_extended(http, topic):
    produce(http, topic, b"0")
    (delivery,) = take(http, topic, ackTimeoutMs=300_000)
    assert "300000" == delivery["leaseMs"]

    lease = {"token": delivery["token"], "leaseMs": "600000"}
    body = {"group": "g", "extends": [lease, {**lease, "token": "1"}]}
    kept, lost = ok(http.post(f"/topics/{topic}/extend", json=body))["extends"]

    assert int(kept["leaseEndsMs"]) > time.time() * 1000 + 300_000
    assert "LEASE_LOST" == lost["error"]["reason"]


def test_a_call_waits_for_the_first_message_and_no_longer(http, topic):
    assert [] == take(http, topic, waitMs=50)
    found: list[Any] = []
    waiting = Thread(target=lambda: found.extend(take(http, topic, waitMs="20000")))

    waiting.start()
    produce(http, topic, b"came")
    waiting.join(CALL_TIMEOUT_S)

    assert [b"came"] == values(found[0]["messages"])


def test_a_caller_that_goes_away_while_it_waits_is_given_nothing(http, topic):
    body = b'{"group": "g", "consumer": "c", "waitMs": 60000}'
    head = f"POST /topics/{topic}/consume HTTP/1.1\r\nhost: localhost\r\n"
    head += f"content-length: {len(body)}\r\n\r\n"
    with socket.create_connection((http.base_url.host, http.base_url.port or 0)) as caller:
        caller.sendall(head.encode() + body)
        until(lambda: consumer_count(http, topic) == 1, "it waits")
    until(lambda: consumer_count(http, topic) == 0, "it is waited for no longer")

    produce(http, topic, b"0")

    assert [1] == [each["attempt"] for each in take(http, topic)]


def consumer_count(http, topic) -> int:
    groups = ok(http.get(f"/topics/{topic}/groups")).get("groups", [])
    return sum(each.get("consumerCount", 0) for each in groups)


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + CALL_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("call", "body", "field"),
    [
        ("consume", {}, "group"),
        ("consume", {"group": "g", "countMax": 10_001}, "count_max"),
        ("consume", {"group": "g", "waitMs": 60_001}, "wait_ms"),
        ("consume", {"group": "g", "start": "SOMEWHERE"}, "start"),
        ("settle", {"group": "a/b", "outcomes": []}, "group"),
        ("settle", {"group": "g", "outcomes": [{"token": "x"}]}, "outcomes[0].token"),
        ("extend", {"group": "g", "extends": 5}, "extends"),
    ],
)
def test_a_wrong_call_is_refused_by_field(http, topic, call, body, field):
    refused = http.post(f"/topics/{topic}/{call}", json=body)

    assert 400 == refused.status_code, refused.text
    assert field == refused.headers["sandglass-field"]


def test_a_missing_topic_or_partition_is_not_found(http, topic):
    for path, body in (
        ("none/consume", {"group": "g"}),
        (f"{topic}/consume", {"group": "g", "partitions": ["nowhere"]}),
        ("none/settle", {"group": "g", "outcomes": []}),
        ("none/extend", {"group": "g", "extends": []}),
    ):
        assert 404 == http.post(f"/topics/{path}", json=body).status_code
