"""What a consumer asks for: checked, and as the wire has it."""

import os
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from sandglass.client.message import span_ms
from sandglass.client.requests import checked_text
from sandglass.core import limits
from sandglass.errors import InvalidError
from sandglass.sandflake import Generator
from sandglass.wire.v1 import broker_pb2

CREDIT_COUNT_DEFAULT: Final = 1000
CREDIT_BYTES_DEFAULT: Final = 16 * 1024 * 1024

CREDIT_COUNT_MAX: Final = limits.CREDIT_COUNT_MAX // 2
CREDIT_BYTES_MAX: Final = limits.CREDIT_BYTES_MAX // 2
"""Half of what a broker takes: after a break a subscription may be granted its credit twice."""

_STARTS: Final = {"beginning": broker_pb2.START_BEGINNING, "now": broker_pb2.START_NOW}

_names: Final = Generator(wall_ms=lambda: time.time_ns() // 1_000_000, entropy=os.urandom)


def subscribe_request(
    topic: str,
    *,
    group: str,
    consumer: str | None,
    channel: str,
    partitions: Iterable[str] | None,
    credit: int,
    credit_bytes: int,
    drain: bool,
    ack_timeout: timedelta | None,
    start: str,
) -> broker_pb2.Subscribe:
    """
    See `AsyncClient.consume`.

    Raises:
        InvalidError: a name or number out of its bounds.
    """
    if start not in _STARTS:
        raise InvalidError(f"start is {start!r}; it must be beginning or now", field="start")
    if isinstance(partitions, str):
        raise InvalidError("partitions is one text; give several ids", field="partitions")
    wanted = [checked_text(each, "partitions") for each in partitions or ()]
    if partitions is not None and not wanted:
        raise InvalidError(
            "partitions is empty; name one at least, or give None for all", field="partitions"
        )
    return broker_pb2.Subscribe(
        topic=checked_text(topic, "topic"),
        partitions=wanted,
        channel=checked_text(channel, "channel"),
        group=checked_text(group, "group"),
        consumer=str(_names.next()) if consumer is None else checked_text(consumer, "consumer"),
        credit_count=limits.check_range(credit, field="credit", low=1, high=CREDIT_COUNT_MAX),
        credit_bytes=limits.check_range(
            credit_bytes, field="credit_bytes", low=1, high=CREDIT_BYTES_MAX
        ),
        start=_STARTS[start],
        ack_timeout_ms=_ack_timeout_ms(ack_timeout),
        is_drain=drain,
    )


def _ack_timeout_ms(ack_timeout: timedelta | None) -> int:
    if ack_timeout is None:
        return 0
    low, high = limits.ACK_TIMEOUT_MS_MIN, limits.LEASE_MS_MAX
    return span_ms(ack_timeout, field="ack_timeout", low=low, high=high)
