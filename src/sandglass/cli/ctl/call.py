"""
From a command's function to a client and back: connection, progress, errors, exit code.

What a node answers is a failure (code 1); what is wrong with the command line is raised before,
as `InvalidError` (code 2).
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import typer

from sandglass.cli import ending
from sandglass.cli.ctl.progress import Progress
from sandglass.errors import SandglassError
from sandglass.settings import CtlSettings

if TYPE_CHECKING:
    from sandglass import AsyncClient

TOOL: Final = "sandctl"


@dataclass(frozen=True, slots=True)
class Globals:
    """What the options of the whole tool say."""

    settings: CtlSettings
    is_json: bool


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
        typer.Exit: it failed, and has been told; or nobody reads our output any more.
        InvalidError: an address is none.
    """
    # gRPC is slow to load, and prints what its threads think.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    logging.basicConfig(level=logging.WARNING, format=f"{TOOL}: %(message)s")
    logging.getLogger().handlers[0].setFormatter(_Line(f"{TOOL}: %(message)s"))
    client = open_client(globals_of(context).settings)
    try:
        asyncio.run(_within(client, work, Progress(label, is_quiet=is_quiet)))
    except BrokenPipeError:
        ending.drop_output()
        raise typer.Exit(ending.OK) from None
    except SandglassError as error:
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        raise typer.Exit(ending.failed(TOOL, error.message + notes)) from error
    except OSError as error:
        raise typer.Exit(ending.failed_by_system(TOOL, error)) from error


def open_client(settings: CtlSettings) -> "AsyncClient":
    """A client for these settings. Nothing is connected yet."""
    from sandglass import AsyncClient

    addresses = [
        f"127.0.0.1{each}" if each.startswith(":") else each for each in settings.addrs
    ]
    return AsyncClient(*addresses, timeout=settings.timeout, name=f"{TOOL}:{os.getpid()}")


async def _within(client: "AsyncClient", work: Work, progress: Progress) -> None:
    async with client:
        showing = asyncio.create_task(progress.show_in_time())
        try:
            await work(client, progress)
        finally:
            showing.cancel()
            progress.close()


class _Line(logging.Formatter):
    """A log line is a line: no traceback below it."""

    def formatException(self, ei: object) -> str:
        return ""
