"""
Decoders of what comes over gRPC: batches with their columns, requests, frames either way.

Each target knows more than its decoder says: it takes apart what was accepted with plain loops,
and holds it against the limits.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, cast

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError

from fuzz.target import Target, check
from sandglass.client.events import Produce
from sandglass.client.lease import ACK, Lease
from sandglass.client.received import Batch
from sandglass.client.session import Session
from sandglass.core import limits, offset
from sandglass.core import message as core
from sandglass.core.topic import PartitionRef, Topic, TopicKind
from sandglass.errors import InternalError, InvalidError
from sandglass.surface.claims import claims_of
from sandglass.surface.consume import ending_of, places_of
from sandglass.wire import compatible, convert, entries
from sandglass.wire.compat import sandglass_pb2 as compat
from sandglass.wire.frame import parse_frame
from sandglass.wire.v1 import broker_pb2 as pb
from sandglass.wire.v1 import keyvalue_pb2 as kv
from sandglass.wire.v1 import raw_pb2

# --- batches ----------------------------------------------------------------------------------


def batch(data: bytes) -> None:
    """A v1 `ProduceRequest`: its batch and columns, checked and cut into rows."""
    try:
        request = pb.ProduceRequest.FromString(data)
    except DecodeError:
        return
    columns = (request.batch, request.count, list(request.due_ms), list(request.delay_ms))
    plain = _tried(convert.cut_plain, *columns)
    checked = _tried(convert.check_batch, *columns)
    if checked is None:
        check(plain is None, "the short way takes what the long one refuses")
        return
    rows = convert.cut(checked)
    check(plain is None or plain == rows, "the short way makes other rows")
    check(rows.count == request.count, "another count")
    check(b"".join(rows.bodies) == request.batch, "bytes were lost")
    _check_rows(rows)
    _check_messages(request.batch)
    partition_count = 1 + len(data) % 5
    keys = convert.keys_of(checked) or [b""] * rows.count
    places = convert.places_of(keys, partition_count, spread=0)
    split = convert.split_by_partition(checked, places)
    check(sum(part.count for _, _, part in split) == rows.count, "a message has no partition")


def _check_rows(rows: core.Batch) -> None:
    check(len(rows.counts) == len(rows.dues) == len(rows.bodies), "columns of other lengths")
    check(sum(rows.counts) == rows.count > 0, "counts that don't add up")
    for count, due_ms, body in zip(rows.counts, rows.dues, rows.bodies, strict=True):
        check(0 < count <= limits.ROW_MESSAGE_COUNT_MAX, "a row of too many")
        check(count == 1 or len(body) <= limits.ROW_BYTES_MAX, "a row too large")
        check(0 <= due_ms <= limits.DUE_MS_MAX, "a time out of its range")
        raws = convert.raw_messages(body)
        check(len(raws) == count, "a row of another count")
        halves = [
            convert.slice_body(body, count, first, end - first)
            for first, end in pairwise(sorted({0, count // 2, count}))
        ]
        check(b"".join(halves) == body, "slices that are not the row")


def _check_messages(body: bytes) -> None:
    """Within the limits, one by one, for both protocols."""
    check(len(body) <= limits.ATOM_BYTES_MAX, "an atom too large")
    for raw in convert.raw_messages(body):
        found = pb.Message.FromString(raw)
        compat.Message.FromString(raw)
        for part in (found.key, found.clustering_key, found.id.encode()):
            check(len(part) <= limits.KEY_BYTES_MAX, "a key too long")
        check(len(found.value) <= limits.VALUE_BYTES_MAX, "a value too large")
        check(len(found.headers) <= limits.HEADER_COUNT_MAX, "too many headers")
        header_bytes = sum(len(each.name.encode()) + len(each.value) for each in found.headers)
        check(header_bytes <= limits.HEADER_BYTES_MAX, "headers too large")


def compatible_produce(data: bytes) -> None:
    """A `ProduceMessageRequest`; what is taken is shown to an old client in the true places."""
    cut = _tried(compatible.cut_compatible, data)
    if cut is None:
        return
    places = [place for part in cut.parts for place in part.places or range(cut.count)]
    check(sorted(places) == list(range(cut.count)), "a message has no part, or two")
    for part in cut.parts:
        _check_rows(convert.cut(part.checked))
        _check_messages(part.checked.body)
        count = len(part.checked.raws)
        piece = core.Slice(part.checked.body, count, 0, count, 1000, 5, 1234)
        for index, raw in enumerate(compatible.compatible_messages(piece, "c"), 5):
            shown = compat.Message.FromString(raw)
            check(shown.index == index and shown.channel == "c", "a forged index or channel")
            check(shown.offset == offset.to_bytes(offset.make(1000, index)), "a forged offset")
            check(shown.producedAt.ToMilliseconds() == 1234, "a forged time")
            check(not shown.producedAt.nanos % 1_000_000, "a time that was merged")


def puts(data: bytes) -> None:
    """A `PutRequest`, as entries of a KV topic."""
    found = _tried(entries.cut_put, data)
    if found is None:
        return
    _, checked = found
    _check_messages(checked.body)
    split = _tried(entries.entries_by_partition, checked, "t", 3, None)
    if split is not None:
        for _, _, part in split:
            check(all(key for key, _ in part.keys), "an entry without a key")
            check(len(part.keys) == len(part.messages), "an entry without a message")
        count = sum(len(part.keys) for _, _, part in split)
        check(count == len(checked.raws), "a message is under no key")


# --- frames -----------------------------------------------------------------------------------


def client_frame(data: bytes) -> None:
    """What a node reads of a client's frame before it acts on its items."""
    frame = _tried(parse_frame, data)
    if frame is None:
        return
    for item in frame.outcomes:
        _tried(ending_of, item)
        places = _tried(places_of, item)
        check(places is None or 2 * len(places) == len(item.places), "a place was lost")
    for item in frame.subscribes:
        claims = _tried(claims_of, _TOPIC, item)
        check(claims is None or len(claims) == len(item.claims), "a claim was lost")


def server_frame(data: bytes) -> None:
    """
    What a client makes of a node's frame, while it has a subscription and a produce under way,
    and of the messages in it.
    """
    try:
        frame = pb.ServerFrame.FromString(data)
    except DecodeError:
        return
    session = Session(client_name="fuzz", on_work=lambda: None)
    session.received(_WELCOME, 0)
    request = pb.Subscribe(topic="t", group="g", credit_count=10, credit_bytes=1000)
    subscription = session.subscribe(request, is_extending=True)
    session.produce(Produce("t", "", "", b"", 1, deadline_ms=9, owner=None))
    while session.next_frame(1):
        pass
    subscribed = pb.Subscribed(subscription_id=subscription.id, partitions=["a", "b"])
    session.received(pb.ServerFrame(subscribed=[subscribed]), 2)
    try:
        session.received(frame, 3)
    except InternalError:
        return
    for lease in [*subscription.ready]:
        _look_at(lease)
    session.tick(4)
    session.next_frame(5)
    session.broken(6, cause="over")


def _look_at(lease: Lease) -> None:
    try:
        messages = Batch(lease, settler=_SETTLER).messages
    except InternalError:
        return
    for message in messages:
        repr(message)
        for name in _LOOKED_AT:
            getattr(message, name)
        lease.settle(0, ACK)


_WELCOME = pb.ServerFrame(welcome=pb.Welcome(session_id="s", heartbeat_ms=5000))
_SETTLER = cast("Any", None)
_TOPIC = Topic("t", TopicKind.TIMER, (PartitionRef("a", 1), PartitionRef("b", 2)))
"""Nothing is settled through it."""

_LOOKED_AT = (
    *("value", "key", "clustering_key", "headers", "id", "topic", "channel", "partition"),
    *("offset", "index", "due_at", "produced_at", "attempt", "dead_letter", "is_settled"),
)


# --- all of them ------------------------------------------------------------------------------


def _tried(call: Callable[..., Any], *args: Any) -> Any:
    """What a decoder returns; None if it refuses in the way that it documents."""
    try:
        return call(*args)
    except InvalidError as error:
        check(error.message.isprintable(), "an error that is not for a terminal")
        check(len(error.message) < 1000, "an error that shows too much")
        return None


def _batch_seeds() -> Sequence[bytes]:
    header = pb.Header(name="h", value=b"v")
    messages = [
        pb.Message(value=b"one"),
        pb.Message(key=b"k", clustering_key=b"c", value=b"two", headers=[header] * 2, id="i"),
        pb.Message(),
    ]
    raw = pb.MessageBatch(messages=messages).SerializeToString()
    plain = pb.MessageBatch(messages=messages[:1] * 3).SerializeToString()
    requests = [
        pb.ProduceRequest(topic="t", batch=raw, count=3),
        pb.ProduceRequest(topic="t", batch=raw, count=3, due_ms=[5, 5, 9]),
        pb.ProduceRequest(topic="t", batch=plain, count=3, delay_ms=[1000]),
        pb.ProduceRequest(topic="t", batch=plain, count=3),
    ]
    old = compat.Message(channel="c", offset=bytes(14), key=b"k").SerializeToString()
    carried = raw_pb2.RawBatch(messages=[old]).SerializeToString()
    requests.append(pb.ProduceRequest(topic="t", batch=carried, count=1))
    return [request.SerializeToString() for request in requests]


def _compatible_seeds() -> Sequence[bytes]:
    wait = Duration(seconds=1, nanos=5)
    messages = [
        compat.Message(value=b"one"),
        compat.Message(channel="c", value=b"two", consumeIn=wait),
        compat.Message(offset=offset.to_bytes(offset.make(99, 1)), key=b"k", index=7),
    ]
    messages[0].producedAt.FromMilliseconds(1)
    requests = [
        compat.ProduceMessageRequest(topic="t", messages=messages),
        compat.ProduceMessageRequest(topic="t", partition="p", messages=messages[:1] * 3),
    ]
    return [request.SerializeToString() for request in requests]


def _put_seeds() -> Sequence[bytes]:
    message = pb.Message(key=b"k", clustering_key=b"c", value=b"v")
    return [kv.PutRequest(topic="t", messages=[message] * 2).SerializeToString()]


def _client_frame_seeds() -> Sequence[bytes]:
    outcome = pb.Outcome(request_id=1, token=5, kind=pb.OUTCOME_NACK, places=[0, 1, 4, 2])
    columns: dict[str, Any] = {"run_due_ms": [5], "run_first_index": [1], "run_count": [9]}
    claim = pb.Claim(partition_number=1, token=5, attempt=2, places=[0, 1, 4, 2], **columns)
    frames = [
        pb.ClientFrame(hello=pb.Hello(client_name="c")),
        pb.ClientFrame(outcomes=[outcome] * 2, extends=[pb.Extend(token=5, lease_ms=7)]),
        pb.ClientFrame(
            credits=[pb.Credit(subscription_id=1, count=5, bytes=9)],
            subscribes=[pb.Subscribe(topic="t", partitions=["p"], group="g")],
            unsubscribes=[pb.Unsubscribe(subscription_id=1)],
            produces=[pb.ProduceRequest(topic="t", batch=b"\n\0", count=1)],
        ),
        pb.ClientFrame(subscribes=[pb.Subscribe(topic="t", claims=[claim] * 2)]),
        pb.ClientFrame(is_goodbye=True),
    ]
    return [frame.SerializeToString() for frame in frames]


def _server_frame_seeds() -> Sequence[bytes]:
    """The session of `server_frame` asks with the ids 1 and 2, and is known as 2."""
    messages = [pb.Message(value=b"v", key=b"k", headers=[pb.Header(name="h")])] * 2
    delivery = pb.Delivery(
        subscription_id=_SUBSCRIPTION,
        token=5,
        attempt=1,
        batch=pb.MessageBatch(messages=messages).SerializeToString(),
        count=2,
        run_due_ms=[9, 10],
        run_first_index=[1, 2],
        run_count=[1, 1],
        run_produced_ms=[8, 8],
        lease_ms=1000,
    )
    letter = pb.Delivery()
    letter.CopyFrom(delivery)
    letter.dead_letter.CopyFrom(pb.DeadLetter(group="g", run_offset=[bytes(14)] * 2))
    error = pb.Error(code=3, message="no", reason="INVALID", field="f")
    ended = pb.SubscriptionEnded(subscription_id=_SUBSCRIPTION, error=error)
    frames = [
        _WELCOME,
        pb.ServerFrame(deliveries=[delivery, letter]),
        pb.ServerFrame(deliveries=[delivery], ended=[ended], is_draining=True),
        pb.ServerFrame(produces=[pb.ProduceReply(request_id=2, error=error)]),
        pb.ServerFrame(outcomes=[pb.OutcomeReply(request_id=3, error=error)]),
        pb.ServerFrame(extends=[pb.ExtendReply(request_id=3, lease_ends_ms=9)]),
    ]
    return [frame.SerializeToString() for frame in frames]


_SUBSCRIPTION = 1
"""The id that the first subscription of a session asks with."""

TARGETS = (
    Target("batch", batch, _batch_seeds),
    Target("compatible", compatible_produce, _compatible_seeds),
    Target("put", puts, _put_seeds),
    Target("client-frame", client_frame, _client_frame_seeds),
    Target("server-frame", server_frame, _server_frame_seeds),
)
