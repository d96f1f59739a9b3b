import asyncio
from typing import Any

import pytest

from sandglass.core.message import Placed
from sandglass.errors import (
    BusyError,
    InvalidError,
    NotFoundError,
    SandglassError,
    UnavailableError,
)
from sandglass.surface.produce import produce, produce_compatible, produce_nowait
from sandglass.surface.producing import Producing
from sandglass.wire.compat import sandglass_pb2 as pb
from sandglass.wire.v1.broker_pb2 import Message, MessageBatch, ProduceRequest
from tests.unit.rpc.fake_broker import NOW_MS, FakeBroker

# Of three partitions, these keys go to these: known from the first Sandglass.
KEY_OF_0, KEY_OF_1 = b"a", b"my_key"


def request(*messages: Message, **fields: Any) -> ProduceRequest:
    batch = MessageBatch(messages=messages).SerializeToString()
    return ProduceRequest(topic="t", batch=batch, count=len(messages), **fields)


def reached(broker: FakeBroker) -> list[tuple[str, str, int]]:
    return [(partition, channel, batch.count) for partition, channel, batch in broker.batches]


async def test_a_named_partition_takes_all_whatever_the_keys(broker):
    [placed] = await produce(
        broker, request(Message(key=KEY_OF_0), Message(key=KEY_OF_1), partition="t-2")
    )

    assert [("t-2", "master", 2)] == reached(broker)
    assert placed.request_places is None


async def test_messages_without_keys_take_turns_by_request(broker):
    for _ in range(4):
        await produce(broker, request(Message(value=b"x"), Message(value=b"y")))

    assert ["t-0", "t-1", "t-2", "t-0"] == [partition for partition, _, _ in broker.batches]


async def test_messages_of_one_key_go_to_its_partition_every_time(broker):
    for _ in range(3):
        [placed] = await produce(broker, request(Message(key=KEY_OF_1), Message(key=KEY_OF_1)))
        assert ("t-1", None) == (placed.partition_id, placed.request_places)


async def test_an_id_routes_where_there_is_no_key(broker):
    await produce(broker, request(Message(id=KEY_OF_1.decode())))
    await produce(broker, request(Message(id=KEY_OF_1.decode(), key=KEY_OF_0)))

    assert ["t-1", "t-0"] == [partition for partition, _, _ in broker.batches]


async def test_keys_of_several_partitions_make_an_atom_in_each(broker):
    placed = await produce(
        broker,
        request(Message(key=KEY_OF_1), Message(key=KEY_OF_0), Message(key=KEY_OF_1)),
    )

    assert [("t-0", [1]), ("t-1", [0, 2])] == [
        (each.partition_id, each.request_places) for each in placed
    ]
    assert [("t-0", "master", 1), ("t-1", "master", 2)] == reached(broker)


async def test_messages_without_a_key_beside_keyed_ones_go_together(broker):
    broker.spread_count = 2

    placed = await produce(broker, request(Message(), Message(key=KEY_OF_0), Message()))

    assert [("t-0", [1]), ("t-2", [0, 2])] == [
        (each.partition_id, each.request_places) for each in placed
    ]


async def test_with_one_partition_nothing_is_split(broker):
    broker.add("one", 1)
    asked = request(Message(key=KEY_OF_0), Message(key=KEY_OF_1))
    asked.topic = "one"

    [placed] = await produce(broker, asked)

    assert ("one-0", None) == (placed.partition_id, placed.request_places)


async def test_a_reply_carries_the_request_s_id_and_places(broker):
    reply = await Producing(broker).produce(
        request(Message(), Message(), request_id=9, delay_ms=[500])
    )

    assert 9 == reply.request_id
    assert not reply.HasField("error")
    [placed] = reply.placed
    assert ("t-0", 1) == (placed.partition, placed.first_index)
    assert ([NOW_MS + 500], [2]) == (list(placed.run_due_ms), list(placed.run_count))


@pytest.mark.parametrize(
    ("fields", "kind", "field"),
    [
        ({"partition": "nowhere"}, NotFoundError, "partition"),
        ({"channel": "no/name"}, InvalidError, "channel"),
        ({"channel": "_ours"}, InvalidError, "channel"),
        ({"channel": "__death_letter"}, InvalidError, "channel"),
        ({"due_ms": [-1]}, InvalidError, "due_ms[0]"),
    ],
)
async def test_what_is_wrong_is_refused_before_anything_is_appended(
    broker, fields, kind, field
):
    with pytest.raises(kind) as caught:
        await produce(broker, request(Message(), **fields))

    assert field == caught.value.field
    assert not broker.batches


async def test_an_unknown_topic_is_named(broker):
    with pytest.raises(NotFoundError, match="ErrTopicNotFound: topic 'nope' not found"):
        await produce(broker, ProduceRequest(topic="nope"))


async def test_channel_names_are_taken_up_to_200_characters(broker):
    await produce(broker, request(Message(), channel="c" * 200))
    with pytest.raises(InvalidError):
        await produce(broker, request(Message(), channel="c" * 201))

    assert [("t-0", "c" * 200, 1)] == reached(broker)


# --- failures ---------------------------------------------------------------------------------


async def test_a_single_atom_s_failure_is_passed_on_as_it_is(broker):
    failure = UnavailableError("the log is gone", is_result_unknown=True)
    broker.failures["t-0"] = failure

    with pytest.raises(UnavailableError) as caught:
        await produce(broker, request(Message()))

    assert failure is caught.value


async def test_a_refusal_of_the_first_atom_appends_nothing(broker):
    broker.refusals["t-0"] = BusyError("full", retry_after_ms=20)

    with pytest.raises(BusyError) as caught:
        await produce(broker, request(Message(key=KEY_OF_0), Message(key=KEY_OF_1)))

    assert (20, False) == (caught.value.retry_after_ms, caught.value.is_result_unknown)
    assert not broker.batches


@pytest.mark.parametrize("is_refused", [True, False])
async def test_when_some_atoms_fail_the_result_is_unknown(broker, is_refused):
    kind = broker.refusals if is_refused else broker.failures
    kind["t-1"] = BusyError("full", retry_after_ms=20)

    with pytest.raises(BusyError) as caught:
        await produce(broker, request(Message(key=KEY_OF_0), Message(key=KEY_OF_1)))

    assert caught.value.is_result_unknown
    assert 20 == caught.value.retry_after_ms
    assert "full (1 of the request's 2 atoms were appended)" == caught.value.message


async def test_when_every_atom_fails_the_result_is_known(broker):
    broker.failures["t-0"] = broker.failures["t-1"] = BusyError("full")

    with pytest.raises(BusyError, match="0 of the request's 2") as caught:
        await produce(broker, request(Message(key=KEY_OF_0), Message(key=KEY_OF_1)))

    assert not caught.value.is_result_unknown


async def test_an_answer_waits_for_the_last_atom(broker):
    broker.waiting = []
    asked = request(Message(key=KEY_OF_0), Message(key=KEY_OF_1))
    answers: list[tuple[list[Placed], SandglassError | None]] = []

    produce_nowait(broker, asked, lambda placed, error: answers.append((placed, error)))
    broker.waiting[1](None)
    assert not answers
    broker.waiting[0](None)

    [(placed, error)] = answers
    assert ["t-0", "t-1"] == [each.partition_id for each in placed]
    assert error is None


async def test_requests_are_admitted_in_the_order_of_their_calls(broker):
    def ignored(placed: list[Placed], error: SandglassError | None) -> None: ...

    produce_nowait(broker, request(Message(key=KEY_OF_0), Message(key=KEY_OF_1)), ignored)
    produce_nowait(broker, request(Message(), partition="t-0"), ignored)

    assert ["t-0", "t-1", "t-0"] == [partition for partition, _, _ in broker.batches]


async def test_a_caller_that_goes_away_leaves_its_atom_to_be_answered(broker):
    broker.waiting = []
    running = asyncio.create_task(produce(broker, request(Message())))
    await asyncio.sleep(0)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    broker.waiting[0](None)

    assert [("t-0", "master", 1)] == reached(broker)


# --- the compatible protocol ------------------------------------------------------------------


def compatible(*messages: pb.Message, **fields: Any) -> bytes:
    return pb.ProduceMessageRequest(
        **{"topic": "t", **fields}, messages=messages
    ).SerializeToString()


def place_of(raw: bytes) -> tuple[int, int]:
    return int.from_bytes(raw[:6], "big"), int.from_bytes(raw[6:], "big")


async def test_offsets_come_in_the_order_of_the_request(broker):
    late = pb.Message()
    late.consumeIn.FromMilliseconds(5000)

    offsets = await produce_compatible(broker, compatible(late, pb.Message(), pb.Message()))

    assert [(NOW_MS + 5000, 1), (NOW_MS, 2), (NOW_MS, 3)] == [
        place_of(each) for each in offsets
    ]
    assert all(14 == len(each) for each in offsets)


async def test_one_call_may_reach_several_partitions_and_channels(broker):
    messages = [
        pb.Message(key=KEY_OF_1, channel="c"),
        pb.Message(key=KEY_OF_0),
        pb.Message(key=KEY_OF_1),
        pb.Message(key=KEY_OF_1, channel="c"),
        pb.Message(channel="c"),
    ]

    offsets = await produce_compatible(broker, compatible(*messages))

    assert [1, 1, 1, 2, 1] == [place_of(each)[1] for each in offsets]
    assert {
        ("t-1", "c", 2),
        ("t-0", "c", 1),
        ("t-0", "master", 1),
        ("t-1", "master", 1),
    } == set(reached(broker))


async def test_one_bad_channel_refuses_the_whole_request(broker):
    with pytest.raises(InvalidError):
        await produce_compatible(
            broker, compatible(pb.Message(), pb.Message(channel="no name"))
        )

    assert not broker.batches


async def test_no_message_is_told_before_no_topic(broker):
    with pytest.raises(InvalidError, match="ErrNoMessageToProduce"):
        await produce_compatible(broker, compatible(topic="nope"))
    with pytest.raises(NotFoundError, match="ErrTopicNotFound"):
        await produce_compatible(broker, compatible(pb.Message(), topic="nope"))
    with pytest.raises(NotFoundError, match="ErrPartitionNotFound"):
        await produce_compatible(broker, compatible(pb.Message(), partition="nope"))
