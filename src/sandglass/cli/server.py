"""
`sandglass`: reads its settings, starts a node, and stops it well.

Flags are made from the table in `sandglass.settings`. A signal drains the node; a second one
ends the process at once, which the log survives as it survives a power cut.
"""

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sandglass.cli import ending, flags, show, token
from sandglass.cli.config import SERVER_CONFIG_ENV, Loaded, load
from sandglass.cli.joining import Joining, joining_of
from sandglass.errors import (
    InvalidError,
    NoSpaceError,
    NotFoundError,
    SandglassError,
)
from sandglass.security.access import Access
from sandglass.security.reach import exposure_of, is_loopback
from sandglass.security.tls import tls_files
from sandglass.settings import Settings

if TYPE_CHECKING:
    from sandglass.node import Node

TOOL: Final = "sandglass"

STOP_S_MAX: Final = 9.5
"""Ten seconds from signal to exit are promised; the rest is the interpreter's."""

FILE_COUNT: Final = 65_536
"""Open files to ask for: 10,000 connections, and what RocksDB likes to keep open."""

app = typer.Typer(
    rich_markup_mode=None,  # its tables cut long names off in a terminal of 80 columns
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(token.app, name="token")
app.add_typer(show.app, name="config")


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point; returns the code to exit with."""
    if not __debug__:
        ending.failed(TOOL, "start Python without -O: the node relies on its asserts")
        return ending.WRONG_USAGE
    given = sys.argv[1:] if arguments is None else arguments
    return ending.run(lambda: typer.main.get_command(app), TOOL, given)


def start(context: typer.Context, **given: Any) -> None:
    """
    Start a node, and serve until a signal comes.

    Settings come from flags, then variables (SANDGLASS_GRPC_PORT and so on), then the config.
    """
    del given["is_version"]  # it has been shown, and that was all
    config = given.pop("config") or os.environ.get(SERVER_CONFIG_ENV, "")
    context.obj = partial(
        load,
        Settings,
        flags=flags.given(given),
        environ=os.environ,
        config=config,
        home=Path.home(),
        file_stem=TOOL,
    )
    if context.invoked_subcommand is not None:
        return
    loaded = context.obj()
    try:
        access = access_of(loaded.settings)
        joining = joining_of(loaded.settings)
    except SandglassError as error:
        ending.failed(TOOL, error.message)
        raise typer.Exit(ending.WRONG_USAGE) from error
    raise typer.Exit(_serve(loaded, access, joining))


@app.command()
def version(
    is_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the version."""
    from sandglass.cli.version import version_text

    print(version_text(TOOL, is_json=is_json))


def access_of(settings: Settings) -> Access:
    """
    The TLS and the tokens that the settings ask for, read and checked.

    Raises:
        InvalidError: others could reach the node, and something is missing for that; or files
            are given that don't make sense together.
        SandglassError: as `Access`.
    """
    files = tls_files(
        settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file
    )
    if not settings.insecure:
        exposure = exposure_of(
            settings.bind_addr,
            has_tls=files is not None,
            has_tokens=settings.token_file is not None,
        )
        if exposure:
            raise InvalidError(exposure, field="bind_addr")
    if settings.token_file is not None and not settings.token_file.exists():
        raise NotFoundError(
            f"there is no token file {settings.token_file}; make it with: sandglass token add"
            f" NAME --token_file {settings.token_file}",
            field="token_file",
        )
    return Access(tls_files=files, token_file=settings.token_file)


flags.declare(
    app,
    start,
    Settings,
    more={"is_version": flags.version_flag(TOOL)},
    invoke_without_command=True,
)


# --- serving ---


def _serve(loaded: Loaded[Settings], access: Access, joining: Joining) -> int:
    settings = loaded.settings
    # gRPC would put lines of its own form into the log, one for each handshake that fails.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        # Here, because the bare wheel (client and sandctl) doesn't bring what they need.
        import structlog
        import uvloop

        from sandglass.adapters import interpreter
        from sandglass.cli import logs
        from sandglass.cli.node_config import config_of
        from sandglass.node import Node
    except ModuleNotFoundError as error:
        return ending.failed(
            TOOL, f"the server needs the package {error.name}: install sandglass[server]"
        )
    logs.configure(settings.log_format, is_verbose=settings.verbose)
    log = structlog.get_logger(TOOL)
    _say_settings(log, loaded, access)
    _say_joining(log, settings, joining)
    interpreter.prepare()
    _raise_file_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        node = Node(config_of(settings, joining), access=access)
        try:
            return runner.run(serve(node, settings, log))
        except SandglassError as error:
            return ending.failed(TOOL, _with_advice(error))


def _raise_file_limit() -> None:
    """As many open files as the system allows without asking: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILE_COUNT if hard == resource.RLIM_INFINITY else min(hard, FILE_COUNT)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # macOS has a further limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _say_settings(log: Any, loaded: Loaded[Settings], access: Access) -> None:
    settings = loaded.settings
    if loaded.config:
        log.info("settings read", config=loaded.config)
    for note in loaded.notes:
        log.warning(note)
    if access.tls is not None:
        log.info("TLS", certificate_ends=access.tls.ends, asks=access.tls.client_ca is not None)
    if settings.insecure and not is_loopback(settings.bind_addr):
        if access.guard is None:
            log.warning("whoever reaches this address may do anything: --insecure was given")
        if access.tls is None:
            log.warning("nothing is encrypted: --insecure was given")


def _say_joining(log: Any, settings: Settings, joining: Joining) -> None:
    is_exposed = joining.peers and not is_loopback(settings.bind_addr)
    if is_exposed and joining.engine_tls is None:
        log.warning("what engines say to each other is not encrypted: see engine_tls")
    if joining.names_itself:
        log.warning("initial_peers has this node itself in it: that one is left out")


def _with_advice(error: SandglassError) -> str:
    message = error.message
    if message.startswith("port ") and message.endswith(" is in use"):
        flag = error.field or "grpc_port"
        return f"{message}; stop what listens there, or choose another with --{flag}"
    if isinstance(error, NoSpaceError):
        return f"{message}; make room there, and start again: nothing is lost"
    return message


async def serve(node: "Node", settings: Settings, log: Any) -> int:
    """
    Runs a node until a signal comes or it fails; returns the code to exit with.

    Raises:
        SandglassError: it didn't start.
    """
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        log.info("stopping", signal=number.name)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as SIGHUP is under nohup
            loop.add_signal_handler(number, on_signal, number)
    starting = loop.create_task(node.start())
    stopped = loop.create_task(stopping.wait())
    failed = loop.create_task(node.failed.wait())
    await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting}, timeout=STOP_S_MAX)
        return ending.OK
    try:
        starting.result()
        _say_serving(node, settings, log)
        await asyncio.wait({stopped, failed}, return_when=asyncio.FIRST_COMPLETED)
        return await _stop(node, log)
    finally:
        stopped.cancel()
        failed.cancel()


def _say_serving(node: "Node", settings: Settings, log: Any) -> None:
    from sandglass.cli.version import version_number

    log.info(
        "serving",
        grpc=f"{settings.bind_addr}:{node.grpc_port}",
        http=f"{settings.bind_addr}:{node.http_port}",
        name=settings.name,
        data=str(settings.data),
        version=version_number(),
    )


async def _stop(node: "Node", log: Any) -> int:
    if node.failure is not None:
        log.error("the node has failed, and stops", error=str(node.failure))
    try:
        async with asyncio.timeout(STOP_S_MAX):
            await node.stop()
    except TimeoutError:
        log.error("not stopped in time; the next start recovers", seconds=STOP_S_MAX)
        return ending.FAILED
    log.info("stopped")
    return ending.OK if node.failure is None else ending.FAILED


if __name__ == "__main__":
    sys.exit(main())
