"""
From a command's function to a client and back: connection, progress, errors, exit code.

What a node answers is a failure (code 1); what is wrong with the command line is raised before,
as `InvalidError` (code 2).
"""

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from sandglass.cli import ending
from sandglass.cli.config import Loaded
from sandglass.cli.ctl.progress import Progress
from sandglass.errors import InvalidError, SandglassError
from sandglass.security.files import read_file
from sandglass.settings import CtlSettings

if TYPE_CHECKING:
    from sandglass import AsyncClient
    from sandglass.client.entry import Tls

TOOL: Final = "sandctl"


@dataclass(frozen=True, slots=True)
class Globals:
    """What the options of the whole tool say, and where the settings come from."""

    settings: CtlSettings
    is_json: bool
    loaded: Loaded[CtlSettings] | None = None


Work = Callable[["AsyncClient", Progress], Awaitable[None]]


def globals_of(context: typer.Context) -> Globals:
    """What the root command left for this one."""
    found = context.obj
    assert isinstance(found, Globals), "the root command comes first"
    return found


def call(context: typer.Context, work: Work, *, label: str, is_quiet: bool = False) -> None:
    """
    Runs `work` with a client, and shows `label` on a terminal when it takes over a second.

    Raises:
        typer.Exit: it failed, and has been told; or nobody reads our output any more; or a
            signal ended it, with everything given back as after Ctrl-C.
        InvalidError: an address is none.
    """
    # gRPC is slow to load, and prints what its threads think.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    logging.basicConfig(level=logging.WARNING, format=f"{TOOL}: %(message)s")
    logging.getLogger().handlers[0].setFormatter(_Line(f"{TOOL}: %(message)s"))
    client = open_client(globals_of(context))
    signals: list[signal.Signals] = []
    try:
        progress = Progress(label, waits_for=lambda: client.open().waits_for, is_quiet=is_quiet)
        asyncio.run(_within(client, work, progress, signals))
    except asyncio.CancelledError:
        raise typer.Exit(128 + signals[0]) from None
    except BrokenPipeError:
        ending.drop_output()
        raise typer.Exit(ending.OK) from None
    except SandglassError as error:
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        raise typer.Exit(ending.failed(TOOL, error.message + notes)) from error
    except OSError as error:
        raise typer.Exit(ending.failed_by_system(TOOL, error)) from error


def open_client(found: Globals) -> "AsyncClient":
    """
    A client for these settings. Nothing is connected yet. A node that isn't there is waited for
    by those who say for how long.

    Raises:
        InvalidError: a setting is none, or settings don't fit together.
    """
    from sandglass import AsyncClient

    settings = found.settings
    is_timeout_given = found.loaded is not None and "timeout" in found.loaded.sources
    addresses = [
        f"127.0.0.1{each}" if each.startswith(":") else each for each in settings.addrs
    ]
    try:
        return AsyncClient(
            *addresses,
            timeout=settings.timeout if is_timeout_given else None,
            tls=_tls_of(settings),
            token=_token_of(settings),
            insecure=settings.insecure,
            name=f"{TOOL}:{os.getpid()}",
        )
    except SandglassError as error:
        raise InvalidError(_with_flags(error.message), field=error.field) from error


def _tls_of(settings: CtlSettings) -> "Tls":
    from sandglass import TlsOptions

    options = TlsOptions(
        ca_file=settings.ca_file,
        certificate_file=settings.cert_file,
        key_file=settings.key_file,
        server_name=settings.server_name,
    )
    return options if settings.tls or options != TlsOptions() else None


def _token_of(settings: CtlSettings) -> Path | str | None:
    from sandglass.client.entry import TOKEN_FILE_BYTES_MAX

    path = settings.token_file
    if path is None:
        return settings.token or None
    if settings.token:
        raise InvalidError("token and token_file are both set; give one", field="token")
    read_file(path, what="token file", bytes_max=TOKEN_FILE_BYTES_MAX, is_private=True)
    return path


def _with_flags(message: str) -> str:
    """The client speaks of its arguments, where people here have flags."""
    return message.replace(
        "give tls, or insecure where", "give --tls or --ca-file, or --insecure where"
    )


async def _within(
    client: "AsyncClient", work: Work, progress: Progress, signals: list[signal.Signals]
) -> None:
    _end_by_signal(signals)
    async with client:
        showing = asyncio.create_task(progress.show_in_time())
        try:
            await work(client, progress)
        finally:
            showing.cancel()
            progress.close()


def _end_by_signal(signals: list[signal.Signals]) -> None:
    """
    What asks us to end cancels the running task, as Ctrl-C does, and is noted in `signals`. The
    second time it ends the process at once.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def end(number: signal.Signals) -> None:
        loop.remove_signal_handler(number)
        signals.append(number)
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # not under nohup
            loop.add_signal_handler(number, end, number)


class _Line(logging.Formatter):
    """A log line is a line: no traceback below it."""

    def formatException(self, ei: object) -> str:
        return ""
