"""
What both muxes share: the settings of one topic, and what its handlers' ends mean.

A line is a topic with its handler. Its workers take messages from one subscription, one at a
time each, so that as many handlers run at once as it has workers.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, TypedDict

from sandglass.client.received import Leased
from sandglass.client.retry import Dead, Retry, reason_of
from sandglass.core import limits
from sandglass.errors import SandglassError

CONCURRENCY_DEFAULT: Final = 10
CONCURRENCY_MAX: Final = 1000
DRAIN_DEFAULT: Final = timedelta(seconds=30)
DRAIN_MS_MAX: Final = 24 * 3600 * 1000

PAUSE_S_MIN: Final = 0.5
PAUSE_S_MAX: Final = 30.0
"""Before a topic that could not be consumed is tried again: it may have to be created yet."""

_CONSUME_NAMES: Final = ("channel", "partitions", "ack_timeout", "start")

log = logging.getLogger("sandglass.mux")


class LineSettings(TypedDict, total=False):
    """
    What `add` and `on` take beside topic and handler; what is left out is the mux's.

    `group`, `channel`, `partitions`, `ack_timeout` and `start` are those of `consume`.
    `concurrency` is how many handlers of the topic run at once, 1 to 1,000; `credit` how many
    of its messages may be here, by default two for each handler.
    """

    group: str
    channel: str
    partitions: Iterable[str]
    ack_timeout: timedelta
    start: Literal["beginning", "now"]
    concurrency: int
    credit: int
    retry: Retry


@dataclass(frozen=True, slots=True)
class Line:
    """The settings of one topic, checked. `consume` are arguments of the client's method."""

    topic: str
    concurrency: int
    retry: Retry
    consume: dict[str, Any]


def line_of(
    topic: str, settings: LineSettings, *, group: str, concurrency: int, retry: Retry
) -> Line:
    """
    A topic's settings, filled up with the mux's.

    Raises:
        InvalidError: concurrency is out of its bounds.
    """
    checked = limits.check_range(
        settings.get("concurrency", concurrency),
        field="concurrency",
        low=1,
        high=CONCURRENCY_MAX,
    )
    consume: dict[str, Any] = {
        "group": settings.get("group", group),
        "credit": settings.get("credit", 2 * checked),
    }
    given: dict[str, Any] = {**settings}
    consume |= {name: given[name] for name in _CONSUME_NAMES if name in given}
    return Line(topic, checked, settings.get("retry", retry), consume)


def settle_done(message: Leased[Any, Any]) -> None:
    """A handler has returned: the message is done, unless it was settled already."""
    if not message.is_settled:
        _noted(message, message.ack)


def settle_failed(message: Leased[Any, Any], error: Exception, retry: Retry) -> None:
    """A handler has raised."""
    log.warning(
        "handling message %d of %s/%s failed at attempt %d: %s",
        message.index,
        message.topic,
        message.partition,
        message.attempt,
        type(error).__name__,
        exc_info=error,
    )
    if message.is_settled:
        return
    verdict = retry.verdict(error, message.attempt)
    reason = reason_of(error)
    if isinstance(verdict, Dead):
        _noted(message, lambda: message.dead(reason))
    else:
        _noted(message, lambda: message.nack(delay=verdict.delay, reason=reason))


def settle_unfinished(message: Leased[Any, Any]) -> None:
    """The time to finish is over: somebody else may try, and nothing is counted."""
    if not message.is_settled:
        _noted(message, message.release)


def _noted(message: Leased[Any, Any], settle: Any) -> None:
    """Notes an outcome; one that comes too late is no matter of the handler's."""
    try:
        settle()
    except SandglassError as error:
        log.warning(
            "the outcome of message %d of %s/%s was not taken: %s",
            message.index,
            message.topic,
            message.partition,
            error,
        )


def pause_s(failure_count: int) -> float:
    """How long to wait after so many failures in a row."""
    return min(PAUSE_S_MAX, PAUSE_S_MIN * 2 ** min(failure_count - 1, 10))
