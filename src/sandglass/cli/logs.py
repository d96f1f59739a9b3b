"""The server's log: one line an event on stderr, for people or as JSON."""

import logging
import os
import sys
from typing import Any, TextIO

import structlog


def configure(form: str, *, is_verbose: bool) -> None:
    """
    Sends all log lines, ours and those of libraries, to stderr.

    Args:
        form: `human`, `json`, or `auto`: human on a terminal.
    """
    stream: TextIO = sys.stderr
    is_terminal = stream.isatty()
    is_human = form == "human" or (form == "auto" and is_terminal)
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    if not is_human:
        shared.append(structlog.stdlib.add_logger_name)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(is_human=is_human, is_coloured=is_terminal),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.DEBUG if is_verbose else logging.INFO)
    # At debug level it tells of every selector; nobody asked for that.
    logging.getLogger("asyncio").setLevel(logging.INFO)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_of_the_server)


def _is_of_the_server(record: logging.LogRecord) -> bool:
    """An answer that could not be sent is the client's doing: it has gone."""
    return not record.getMessage().startswith("ExecuteBatchError")


def _in_order(_logger: object, _name: str, event: dict[str, Any]) -> dict[str, Any]:
    """What every line has comes first: people read these too."""
    head = {key: event.pop(key) for key in ("time", "level", "message") if key in event}
    return head | event


def _rendering(*, is_human: bool, is_coloured: bool) -> list[Any]:
    if is_human:
        return [
            structlog.dev.ConsoleRenderer(
                colors=is_coloured and not os.environ.get("NO_COLOR"),
                exception_formatter=structlog.dev.plain_traceback,
                timestamp_key="time",
                pad_event_to=0,
            )
        ]
    return [
        structlog.processors.EventRenamer("message"),
        structlog.processors.format_exc_info,
        _in_order,
        structlog.processors.JSONRenderer(default=str),
    ]
