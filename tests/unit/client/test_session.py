"""The session: frames, produces, heartbeats, breaks. No I/O."""

from typing import Any

import pytest

from sandglass.client.events import Changed, Expired, Produced
from sandglass.client.lease import ACK
from sandglass.client.received import decode
from sandglass.core import limits
from sandglass.errors import BusyError, InternalError, NotFoundError, UnavailableError
from sandglass.wire.v1 import broker_pb2 as pb
from tests.unit.client.frames import HEARTBEAT_MS, PARTITION, Table, produce


def test_nothing_is_sent_before_the_node_has_greeted() -> None:
    table = Table()
    table.session.produce(produce())

    before = table.session.next_frame(table.now_ms)
    table.open()
    after = table.frame()

    assert before is None
    assert 1 == len(after.produces)


def test_hello_names_the_session_to_come_back_to() -> None:
    table = Table()

    first = pb.ClientFrame.FromString(table.session.hello()).hello
    table.open()
    second = pb.ClientFrame.FromString(table.session.hello()).hello

    assert ("", "test") == (first.session_id, first.client_name)
    assert "s1" == second.session_id
    assert (1, 2) == (first.connection, second.connection)


def test_produce_arrives_as_the_stubs_would_have_written_it() -> None:
    table = Table()
    table.open()
    item = produce(300)
    item.due_ms = [7]
    table.session.produce(item)

    (sent,) = table.frame().produces

    expected = pb.ProduceRequest(
        request_id=item.request_id, topic="t", batch=item.batch, count=1, due_ms=[7]
    )
    assert expected == sent


def test_several_produces_share_a_frame_up_to_its_limit() -> None:
    table = Table()
    table.open()
    for _ in range(5):
        table.session.produce(produce(400 * 1024))

    frames = table.frames()

    assert [2, 2, 1] == [len(frame.produces) for frame in frames]
    assert all(frame.ByteSize() <= limits.FRAME_BYTES_MAX for frame in frames)


def test_an_item_larger_than_a_frame_goes_alone() -> None:
    table = Table()
    table.open()
    for size_bytes in (10, 2_000_000, 10):
        table.session.produce(produce(size_bytes))

    frames = table.frames()

    assert [[10], [2_000_000], [10]] == [
        [
            len(pb.MessageBatch.FromString(each.batch).messages[0].value)
            for each in frame.produces
        ]
        for frame in frames
    ]


def test_an_answer_goes_to_its_produce() -> None:
    table = Table()
    table.open()
    first, second = produce(), produce()
    table.session.produce(first)
    table.session.produce(second)
    table.frames()

    events = table.receive(
        produces=[
            pb.ProduceReply(request_id=second.request_id, placed=[pb.Placed(first_index=7)]),
            pb.ProduceReply(
                request_id=first.request_id,
                error=pb.Error(code=5, reason="NOT_FOUND", message="gone", field="topic"),
            ),
        ]
    )

    answered, refused = events
    assert isinstance(answered, Produced)
    assert isinstance(refused, Produced)
    assert second is answered.produce
    assert answered.reply is not None
    assert 7 == answered.reply.placed[0].first_index
    assert first is refused.produce
    assert isinstance(refused.error, NotFoundError)
    assert "topic" == refused.error.field


def test_an_answer_that_nobody_waits_for_is_ignored() -> None:
    table = Table()
    table.open()

    assert [] == table.receive(produces=[pb.ProduceReply(request_id=99)])


def test_a_break_fails_what_was_sent_and_keeps_what_was_not() -> None:
    table = Table()
    table.open()
    sent, unsent = produce(), produce()
    table.session.produce(sent)
    table.frames()
    table.session.produce(unsent)

    (event,) = table.break_off()
    table.open(is_resumed=True)
    frame = table.frame()

    assert isinstance(event, Produced)
    assert sent is event.produce
    assert isinstance(event.error, UnavailableError)
    assert event.error.is_result_unknown
    assert [unsent.request_id] == [each.request_id for each in frame.produces]


def test_a_produce_expires_at_its_deadline_and_not_before() -> None:
    table = Table()
    table.open()
    item = produce(deadline_ms=table.now_ms + 100)
    table.session.produce(item)

    before = table.tick(99)
    at = table.tick(1)

    assert [] == before
    assert [Expired(item)] == at
    assert not item.is_sent
    assert [] == list(table.frame().produces)


def test_a_sent_produce_that_expires_says_that_it_was_sent() -> None:
    table = Table()
    table.open()
    item = produce(deadline_ms=table.now_ms + 100)
    table.session.produce(item)
    table.frames()

    assert [Expired(item)] == table.tick(100)
    assert item.is_sent


def test_a_heartbeat_goes_out_when_nothing_else_did() -> None:
    table = Table()
    table.open()

    table.tick(HEARTBEAT_MS - 1)
    early = table.session.next_frame(table.now_ms)
    table.tick(1)
    due = table.session.next_frame(table.now_ms)
    again = table.session.next_frame(table.now_ms)

    assert (None, b"", None) == (early, due, again)


def test_any_frame_is_a_heartbeat() -> None:
    table = Table()
    table.open()
    table.tick(HEARTBEAT_MS - 1)
    table.session.produce(produce())
    table.frames()

    table.tick(1)

    assert table.session.next_frame(table.now_ms) is None


def test_a_node_that_owes_an_answer_and_says_nothing_is_silent() -> None:
    table = Table()
    table.open()
    table.tick(60_000)
    idle = table.session.is_silent(table.now_ms)
    table.session.produce(produce())
    table.frames()

    table.tick(5000)
    early = table.session.is_silent(table.now_ms)
    table.tick(1)

    assert (False, False, True) == (idle, early, table.session.is_silent(table.now_ms))


def test_subscription_becomes_active_when_the_node_says_so() -> None:
    table = Table()
    table.open()
    request = pb.Subscribe(topic="t", group="g", credit_count=5, credit_bytes=50)
    subscription = table.session.subscribe(request, is_extending=True)

    (sent,) = table.frame().subscribes
    events = table.activate(subscription)

    assert ("t", "g", 5, 50) == (sent.topic, sent.group, sent.credit_count, sent.credit_bytes)
    assert [Changed(subscription)] == events
    assert subscription.is_active
    assert [PARTITION] == subscription.partitions


def test_subscription_that_is_refused_ends_with_the_error() -> None:
    table = Table()
    table.open()
    subscription = table.session.subscribe(pb.Subscribe(topic="t"), is_extending=True)
    table.frames()

    error = pb.Error(code=5, reason="NOT_FOUND", message="no topic")
    table.receive(subscribed=[pb.Subscribed(subscription_id=subscription.id, error=error)])

    assert subscription.is_ended
    assert isinstance(subscription.error, NotFoundError)


@pytest.mark.parametrize("reason", ["BUSY", "UNAVAILABLE", "NOT_LEADER"])
def test_subscription_is_asked_for_again_when_the_refusal_passes(reason: str) -> None:
    table = Table()
    table.open()
    subscription = table.session.subscribe(pb.Subscribe(topic="t"), is_extending=True)
    table.frames()
    error = pb.Error(code=14, reason=reason, message="later", retry_after_ms=300)
    table.receive(subscribed=[pb.Subscribed(subscription_id=subscription.id, error=error)])

    table.tick(299)
    early = table.frame()
    table.tick(1)
    again = table.frame()

    assert not subscription.is_ended
    assert subscription.trouble is not None
    assert "later" == subscription.trouble.message
    assert [] == list(early.subscribes)
    assert [subscription.id] == [each.subscription_id for each in again.subscribes]


def test_subscriptions_are_asked_for_anew_in_a_new_session() -> None:
    table = Table()
    table.open()
    subscription = table.subscribe(credit=10)
    table.deliver(subscription, 4)
    old_id = subscription.id

    table.break_off()
    table.open(is_resumed=False)
    (sent,) = table.frame().subscribes

    assert old_id != sent.subscription_id
    assert (6, 1) == (sent.credit_count, len(sent.claims))


def test_a_subscription_made_without_a_connection_is_asked_for_once() -> None:
    table = Table()
    table.session.subscribe(pb.Subscribe(topic="t"), is_extending=True)

    table.open()

    assert 1 == sum(len(frame.subscribes) for frame in table.frames())


def test_a_subscription_whose_request_was_on_its_way_is_replaced() -> None:
    table = Table()
    table.open()
    subscription = table.session.subscribe(pb.Subscribe(topic="t"), is_extending=True)
    table.frames()
    old_id = subscription.id

    table.break_off()
    table.open(is_resumed=True)
    frame = table.frame()

    assert [old_id] == [each.subscription_id for each in frame.unsubscribes]
    assert [subscription.id] == [each.subscription_id for each in frame.subscribes]
    assert old_id != subscription.id


def test_refusal_of_the_client_fails_all_that_waits() -> None:
    table = Table()
    item = produce()
    table.session.produce(item)
    subscription = table.session.subscribe(pb.Subscribe(topic="t"), is_extending=True)
    error = BusyError("no")

    events = table.session.refused(error)

    over = Produced(item, error=error, is_over=True)
    assert [over, Changed(subscription)] == events
    assert error is subscription.error


def test_goodbye_is_the_last_thing_in_its_frame() -> None:
    table = Table()
    table.open()
    table.session.produce(produce())
    table.session.goodbye()

    frame = table.frame()

    assert (1, True) == (len(frame.produces), frame.is_goodbye)
    assert table.session.next_frame(table.now_ms) is None


DELIVERY = pb.Delivery(
    token=1,
    batch=pb.MessageBatch(messages=[pb.Message(value=b"x")] * 3).SerializeToString(),
    count=3,
    run_due_ms=[500, 501],
    run_first_index=[1, 2],
    run_count=[1, 2],
    run_produced_ms=[400, 400],
)


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 0, "run_count": []},
        {"count": 2},
        {"count": 4_000_000_000, "run_count": [2_000_000_000] * 2},
        {"run_count": [3]},
        {"run_due_ms": [500]},
        {"run_due_ms": [500, -1]},
        {"run_due_ms": [500, limits.DUE_MS_MAX + 1]},
        {"run_first_index": [1, 2, 3]},
        {"run_produced_ms": []},
        {"run_produced_ms": [400, 1 << 62]},
        {"partition_number": 1},
        {"dead_letter": pb.DeadLetter(run_offset=[bytes(14)])},
        {"dead_letter": pb.DeadLetter(run_offset=[bytes(14), bytes(13)])},
    ],
)
def test_a_delivery_whose_columns_do_not_fit_is_a_defect_of_the_node(
    changes: dict[str, Any],
) -> None:
    """It is not taken, and nothing of that size is made of it; the connection is of no use."""
    table = Table()
    table.open()
    subscription = table.subscribe()
    delivery = pb.Delivery()
    delivery.CopyFrom(DELIVERY)
    delivery.subscription_id = subscription.id
    for name in changes:
        delivery.ClearField(name)
    delivery.MergeFrom(pb.Delivery(**changes))

    with pytest.raises(InternalError, match="columns don't fit"):
        table.receive(deliveries=[delivery])

    assert not subscription.leases


@pytest.mark.parametrize("batch", [b"\x0a\x05abcde", b"\x0a\x00" * 4])
def test_messages_that_are_none_or_of_another_number_are_a_defect_of_the_node(
    batch: bytes,
) -> None:
    table = Table()
    table.open()
    subscription = table.subscribe()
    delivery = pb.Delivery()
    delivery.CopyFrom(DELIVERY)
    delivery.subscription_id, delivery.batch = subscription.id, batch
    table.receive(deliveries=[delivery])

    with pytest.raises(InternalError, match="the node sent"):
        decode(subscription.ready[0])


def test_a_goodbye_behind_a_large_produce_goes_in_a_frame_of_its_own() -> None:
    """The node takes a frame above 1 MiB for what it is only if it is one produce."""
    table = Table()
    table.open()
    table.session.produce(produce(limits.FRAME_BYTES_MAX))
    table.session.goodbye()

    first, second = table.frames()

    assert (1, False) == (len(first.produces), first.is_goodbye)
    assert (0, True) == (len(second.produces), second.is_goodbye)


# --- a node that goes down --------------------------------------------------------------------


def test_who_is_to_move_on_waits_for_what_it_is_owed_and_takes_all_of_it_along() -> None:
    table = Table()
    table.open()
    subscription = table.subscribe()
    lease = table.deliver(subscription, 2)
    sent, later = produce(), produce()
    table.session.produce(sent)
    table.frames()

    table.session.move_on()
    table.session.produce(later)
    frame = table.frame()
    table.deliver(subscription, 1)

    assert [subscription.id] == [each.subscription_id for each in frame.unsubscribes]
    assert [] == list(frame.produces)
    table.receive(ended=[pb.SubscriptionEnded(subscription_id=subscription.id)])
    assert not table.session.has_moved
    reply = pb.ProduceReply(request_id=sent.request_id)
    assert [Produced(sent, reply=reply)] == table.receive(produces=[reply])
    assert table.session.has_moved
    assert [] == table.break_off()
    table.open(node_name="another")
    frame = table.frame()
    (request,) = frame.subscribes
    assert [lease.token, lease.token + 1] == [claim.token for claim in request.claims]
    assert [later.request_id] == [each.request_id for each in frame.produces]
    assert not table.session.has_moved
    assert not subscription.is_ended


def test_outcomes_are_answered_before_a_node_is_left() -> None:
    table = Table()
    table.open()
    subscription = table.subscribe()
    lease = table.deliver(subscription, 1)
    lease.settle(0, ACK)
    (outcome,) = table.frame().outcomes

    table.session.move_on()
    table.frames()
    table.receive(ended=[pb.SubscriptionEnded(subscription_id=subscription.id)])
    assert not table.session.has_moved
    table.receive(outcomes=[pb.OutcomeReply(request_id=outcome.request_id)])

    assert table.session.has_moved


def test_a_consumer_that_leaves_while_its_client_moves_on_is_over() -> None:
    table = Table()
    table.open()
    subscription = table.subscribe()

    table.session.move_on()
    table.session.leave(subscription)
    table.receive(ended=[pb.SubscriptionEnded(subscription_id=subscription.id)])

    assert subscription.is_ended
    assert table.session.has_moved


def test_a_subscription_that_fails_while_its_client_moves_on_says_so() -> None:
    table = Table()
    table.open()
    subscription = table.subscribe()

    table.session.move_on()
    error = pb.Error(code=5, reason="NOT_FOUND", message="the topic is gone")
    table.receive(ended=[pb.SubscriptionEnded(subscription_id=subscription.id, error=error)])

    assert isinstance(subscription.error, NotFoundError)
    assert table.session.has_moved


def test_nobody_moves_on_without_a_node() -> None:
    table = Table()

    table.session.move_on()

    assert not table.session.has_moved


def test_a_node_that_is_come_back_to_while_moving_on_is_asked_anew() -> None:
    """It may have ended the subscription, or not."""
    table = Table()
    table.open()
    subscription = table.subscribe()
    before = subscription.id
    table.session.move_on()
    table.frames()

    table.break_off()
    table.open(is_resumed=True)
    frame = table.frame()

    (request,) = frame.subscribes
    assert before != request.subscription_id
    assert [before] == [each.subscription_id for each in frame.unsubscribes]
