"""A client's frame: its items are bounded before they are parsed."""

import pytest

from sandglass.core import limits
from sandglass.errors import InvalidError
from sandglass.wire.frame import parse_frame
from sandglass.wire.v1 import broker_pb2 as pb

MOST = limits.FRAME_BYTES_MAX


def frame(size_bytes: int, **fields: list[object]) -> bytes:
    """A frame with these fields, and outcomes of which the last makes it so large."""
    raw = pb.ClientFrame(**fields).SerializeToString()  # pyright: ignore[reportArgumentType]
    reason_bytes = size_bytes - len(raw) - 8
    outcome = pb.Outcome(reason="x" * reason_bytes)
    raw += pb.ClientFrame(outcomes=[outcome]).SerializeToString()
    assert size_bytes == len(raw)
    return raw


def test_a_frame_is_as_large_as_the_limit_and_no_larger() -> None:
    assert 2 == len(parse_frame(frame(MOST, outcomes=[pb.Outcome()])).outcomes)

    with pytest.raises(InvalidError, match=rf"frame is {MOST + 1} bytes; the limit is {MOST}"):
        parse_frame(frame(MOST + 1, outcomes=[pb.Outcome()]))


def test_one_produce_alone_may_be_larger() -> None:
    produce = pb.ProduceRequest(topic="t", batch=bytes(limits.ATOM_BYTES_MAX), count=1)

    parsed = parse_frame(pb.ClientFrame(produces=[produce]).SerializeToString())

    assert [produce] == parsed.produces


@pytest.mark.parametrize(
    "more",
    [
        {"produces": [pb.ProduceRequest()]},
        {"outcomes": [pb.Outcome()]},
        {"is_goodbye": True},
    ],
)
def test_a_larger_produce_with_something_else_is_refused(more: dict[str, object]) -> None:
    produce = pb.ProduceRequest(batch=bytes(MOST))
    large = pb.ClientFrame(produces=[produce]).SerializeToString()
    other = pb.ClientFrame(**more).SerializeToString()  # pyright: ignore[reportArgumentType]

    for raw in (large + other, other + large):
        with pytest.raises(InvalidError, match="or one larger produce alone"):
            parse_frame(raw)


def test_a_large_frame_of_tiny_items_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million of them, and whatever a tag and a length may say."""
    monkeypatch.delattr("sandglass.wire.frame.broker_pb2")

    for raw in (b"\x12\x00" * 1_000_000, b"\x3a\x00" * 1_000_000, b"\x3a" + b"\xff" * MOST):
        with pytest.raises(InvalidError):
            parse_frame(raw)


def test_what_is_no_frame_is_refused() -> None:
    with pytest.raises(InvalidError, match="request is not a ClientFrame"):
        parse_frame(b"\x0a\xff")

    assert pb.ClientFrame() == parse_frame(b"")
