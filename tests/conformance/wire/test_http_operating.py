"""Transcripts of operating over HTTP: settings, groups, dead letters, what is pending."""

from base64 import b64decode
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import httpx
import pytest

from tests.conformance.wire.calls import b64, consume, create, ok, produce, values


@pytest.fixture(autouse=True)
def partition(http, topic) -> str:
    """The only one of a new topic."""
    return create(http, topic)[0]


def kill(http: httpx.Client, topic: str, group: str, *, reason: str) -> int:
    """Makes dead letters of all that is ready; returns how many."""
    body = {"group": group, "consumer": "c"}
    found = ok(http.post(f"/topics/{topic}/consume", json=body))["deliveries"]
    outcomes = [
        {
            "partitionNumber": each["partitionNumber"],
            "token": each["token"],
            "kind": "OUTCOME_DEAD",
            "reason": reason,
        }
        for each in found
    ]
    replies = ok(
        http.post(f"/topics/{topic}/settle", json={"group": group, "outcomes": outcomes})
    )
    assert [{}] * len(found) == replies.get("outcomes", [])
    return sum(len(each["messages"]) for each in found)


# --- settings and groups ----------------------------------------------------------------------


def test_settings_of_a_topic_are_changed_one_by_one(http, topic):
    changed = ok(http.patch(f"/topics/{topic}", json={"ackTimeoutMs": 30_000}))
    again = ok(
        http.patch(
            f"/topics/{topic}",
            json={"maxDeliveries": 9, "backoff": {"delaysMs": [1000], "factor": 2}},
        )
    )

    assert "30000" == changed["settings"]["ackTimeoutMs"]
    assert 5 == changed["settings"]["maxDeliveries"]
    assert ("30000", 9, ["1000"], 2) == (
        again["settings"]["ackTimeoutMs"],
        again["settings"]["maxDeliveries"],
        again["settings"]["backoff"]["delaysMs"],
        again["settings"]["backoff"]["factor"],
    )


def test_a_group_is_made_once_set_and_deleted(http, topic):
    made = ok(
        http.post(
            f"/topics/{topic}/groups",
            json={"name": "g", "start": "now", "settings": {"maxDeliveries": 2}},
        )
    )
    path = f"/topics/{topic}/groups/g"
    again = http.post(f"/topics/{topic}/groups", json={"name": "g"})
    changed = ok(http.patch(path, json={"ackTimeoutMs": "60000", "maxDeliveries": None}))
    known = ok(http.get(f"/topics/{topic}/groups"))["known"]

    assert ("g", {"maxDeliveries": 2}) == (made["name"], made["settings"])
    assert int(made["startMs"]) > 0
    assert 409 == again.status_code
    assert {"ackTimeoutMs": "60000"} == changed["settings"]
    assert ("60000", 5) == (
        changed["effective"]["ackTimeoutMs"],
        changed["effective"]["maxDeliveries"],
    )
    assert [changed] == known
    assert {} == ok(http.delete(path))
    assert 404 == http.delete(path).status_code
    assert {} == ok(http.get(f"/topics/{topic}/groups"))


def test_a_topic_gets_more_partitions_and_none_goes(http, topic):
    shown = ok(http.patch(f"/topics/{topic}", json={"partitionCount": 3, "maxDeliveries": 4}))
    fewer = http.patch(f"/topics/{topic}", json={"partitionCount": 2})

    assert (3, 4) == (len(shown["partitions"]), shown["settings"]["maxDeliveries"])
    assert ("PRECONDITION", "partition_count") == (
        fewer.headers["Sandglass-Reason"],
        fewer.headers["Sandglass-Field"],
    )


def test_a_group_is_moved_to_a_place_in_all_partitions(http, topic, partition):
    path = f"{topic}/{partition}"
    produce(http, path, b"0", b"1")
    assert [b"0", b"1"] == values(consume(http, path))

    for where, expected in (
        ("beginning", [b"0", b"1"]),
        ("now", []),
        ("2001-01-01T00:00:00Z", [b"0", b"1"]),
        ((datetime.now(UTC) + timedelta(days=1)).isoformat(), []),
    ):
        ok(http.post(f"/topics/{topic}/groups/g/seek", json={"to": where}))
        assert expected == values(consume(http, path)), where


def test_a_group_is_moved_to_an_offset_in_one_partition(http, topic, partition):
    path = f"{topic}/{partition}"
    offsets = produce(http, path, b"0", b"1", b"2")
    consume(http, path)

    body = {"partition": partition, "offset": offsets[1]}
    ok(http.post(f"/topics/{topic}/groups/g/seek", json=body))

    assert [b"1", b"2"] == values(consume(http, path))


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("PATCH", "", {"ackTimeout": "30s"}, "ackTimeout"),
        ("PATCH", "", {"maxDeliveries": "many"}, "maxDeliveries"),
        ("PATCH", "", {"partitionCount": 1025}, "partition_count"),
        ("PATCH", "", {"partitionCount": "many"}, "partitionCount"),
        ("POST", "/groups", {}, "group"),
        ("POST", "/groups", {"name": "g", "begin": "now"}, "begin"),
        ("POST", "/groups", {"name": "g", "start": "then"}, "start"),
        ("POST", "/groups", {"name": "g", "settings": {"retentionMs": 5}}, "retentionMs"),
        ("POST", "/groups", {"name": "g", "settings": 5}, "settings"),
        ("PATCH", "/groups/old", {"backof": None}, "backof"),
        ("PATCH", "/groups/old", {"backoff": 5}, "backoff"),
        ("POST", "/groups/old/seek", {}, "to"),
        ("POST", "/groups/old/seek", {"to": "end"}, "to"),
        ("POST", "/groups/old/seek", {"to": "now", "partition": "p"}, "to"),
        ("POST", "/groups/old/seek", {"partition": "p", "offset": 7}, "offset"),
        ("POST", "/dead/purge", {"grup": "g"}, "grup"),
        ("POST", "/dead/redrive", {"limit": -1}, "limit"),
        ("POST", "/dead/redrive", {"places": [{"offset": "?"}]}, "places[0].offset"),
        ("GET", "/dead?pageSize=1001", None, "page_size"),
        ("GET", "/dead?newest=yes", None, "newest"),
        ("GET", "/dead?grup=g", None, "grup"),
        ("GET", "/dead?pageToken=AAAA", None, "page_token"),
        ("GET", "/pending?from=tomorrow", None, "from"),
        ("GET", "/pending/count?until=now", None, "until"),
    ],
)
def test_a_wrong_call_is_refused_by_field(http, topic, method, path, body, field):
    ok(http.post(f"/topics/{topic}/groups", json={"name": "old"}))

    refused = http.request(method, f"/topics/{topic}{path}", json=body)

    assert 400 == refused.status_code, refused.text
    assert field == refused.headers["sandglass-field"], refused.text


def test_a_missing_topic_or_group_is_not_found(http, topic):
    for method, path, body in (
        ("PATCH", "none", {}),
        ("POST", "none/groups", {"name": "g"}),
        ("PATCH", f"{topic}/groups/none", {"maxDeliveries": 3}),
        ("POST", f"{topic}/groups/none/seek", {"to": "now"}),
        ("DELETE", f"{topic}/groups/none", None),
        ("GET", "none/dead", None),
        ("GET", "none/dead/count", None),
        ("POST", "none/dead/redrive", {}),
        ("POST", "none/dead/purge", {}),
        ("GET", "none/pending", None),
        ("GET", "none/pending/count", None),
    ):
        answer = http.request(method, f"/topics/{path}", json=body)
        assert 404 == answer.status_code, (path, answer.text)


# --- dead letters -----------------------------------------------------------------------------


def test_dead_letters_are_listed_counted_redriven_and_purged(http, topic, partition):
    produce(http, topic, {"value": b64(b"0"), "key": b64(b"k")}, b"1", b"2")
    assert 3 == kill(http, topic, "g", reason="ill")
    assert 3 == kill(http, topic, "h", reason="old")
    path = f"/topics/{topic}/dead"

    counted = ok(http.get(f"{path}/count"))
    of_g = ok(http.get(f"{path}/count", params={"group": "g"}))
    listed = ok(http.get(path, params={"reason": "ill", "messages": "true"}))

    assert ("6", {"g": "3", "h": "3"}) == (
        counted["count"],
        {each["group"]: each["count"] for each in counted["groups"]},
    )
    assert "3" == of_g["count"]
    letters = listed["letters"]
    assert [b"0", b"1", b"2"] == [
        b64decode(each["letter"]["message"]["value"]) for each in letters
    ]
    assert b64(b"k") == letters[0]["letter"]["message"]["key"]
    assert ("g", "master", 1, "ill", partition) == (
        *(letters[0][name] for name in ("group", "channel", "attempts", "reason")),
        letters[0]["letter"]["partition"],
    )

    place = {name: letters[1]["letter"][name] for name in ("partition", "offset")}
    one = ok(http.post(f"{path}/redrive", json={"places": [place]}))
    rest = ok(http.post(f"{path}/redrive", json={"group": "g", "limit": 1}))
    assert ("1", "1") == (one["count"], rest["count"])
    assert {b"0", b"1"} == set(values(consume(http, f"{topic}/{partition}")))
    assert "3" == ok(http.post(f"{path}/purge", json={"group": "h"}))["count"]
    assert "1" == ok(http.get(f"{path}/count"))["count"]
    assert "1" == ok(http.post(f"{path}/purge"))["count"]
    assert {} == ok(http.get(f"{path}/count"))


def test_dead_letters_come_in_pages_of_either_order(http, topic):
    produce(http, topic, *(b"%d" % number for number in range(5)))
    kill(http, topic, "g", reason="ill")

    def pages(**query: str) -> list[list[int]]:
        found: list[list[int]] = []
        page: dict[str, Any] = {"nextPageToken": ""}
        while "nextPageToken" in page:
            query["pageToken"] = page["nextPageToken"]
            page = ok(http.get(f"/topics/{topic}/dead", params={"pageSize": "2", **query}))
            found.append([int(each["letter"]["index"]) for each in page["letters"]])
        return found

    forward = pages()
    assert [2, 2, 1] == [len(each) for each in forward]
    assert [*chain(*forward)] == [*chain(*pages(newest="true"))][::-1]


def test_a_token_of_a_page_may_stand_in_a_url_as_it_came(http, topic):
    produce(http, topic, b"0", b"1")
    kill(http, topic, "g", reason="ill")
    page = ok(http.get(f"/topics/{topic}/dead?pageSize=1"))

    again = ok(http.get(f"/topics/{topic}/dead?pageToken={page['nextPageToken']}"))

    assert "nextPageToken" not in again
    assert 1 == len(again["letters"])


# --- what is pending --------------------------------------------------------------------------


def test_what_is_pending_is_listed_and_counted_by_time(http, topic, partition):
    start = datetime(2999, 1, 1, tzinfo=UTC)
    moments = [(start + timedelta(days=day)).isoformat() for day in range(4)]
    body = {
        "messages": [{"value": b64(b"%d" % n), "dueAt": at} for n, at in enumerate(moments)]
    }
    ok(http.post(f"/topics/{topic}/schedule", json=body))
    path = f"/topics/{topic}/pending"

    counted = ok(http.get(f"{path}/count"))
    some = ok(http.get(f"{path}/count", params={"from": moments[1], "to": moments[3]}))
    first = ok(http.get(path, params={"pageSize": "3", "messages": "true"}))
    rest = ok(http.get(path, params={"pageToken": first["nextPageToken"]}))

    assert ("4", str(int(start.timestamp() * 1000))) == (counted["count"], counted["nextDueMs"])
    assert "2" == some["count"]
    assert [b"0", b"1", b"2"] == [
        b64decode(each["message"]["value"]) for each in first["messages"]
    ]
    assert [partition] == [each["partition"] for each in rest["messages"]]
    assert "message" not in rest["messages"][0]
    assert {} == ok(http.get(f"{path}/count", params={"channel": "side"}))
