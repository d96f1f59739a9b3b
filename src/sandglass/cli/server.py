"""
`sandglass`: reads its settings, starts a node, and stops it well.

Flags are made from the table in `sandglass.settings`. A signal drains the node; a second one
ends the process at once, which the log survives as it survives a power cut.
"""

import asyncio
import inspect
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sandglass.cli import ending
from sandglass.cli.config import SERVER_CONFIG_ENV, Loaded, load
from sandglass.errors import SandglassError
from sandglass.settings import Setting, Settings, table

if TYPE_CHECKING:
    from sandglass.node import Node

TOOL: Final = "sandglass"

STOP_S_MAX: Final = 9.5
"""Ten seconds from signal to exit are promised; the rest is the interpreter's."""

SWITCH_S: Final = 0.0005
"""The loop waits so long for the sync thread to let go of the interpreter; 5 ms by default."""

CONFIG_HELP: Final = "Settings to read: a file or an http(s) URL; YAML, TOML or JSON."

app = typer.Typer(
    rich_markup_mode=None,  # its tables cut long names off in a terminal of 80 columns
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point; returns the code to exit with."""
    if not __debug__:
        ending.failed(TOOL, "start Python without -O: the node relies on its asserts")
        return ending.WRONG_USAGE
    given = sys.argv[1:] if arguments is None else arguments
    return ending.run(lambda: typer.main.get_command(app), TOOL, given)


def start(context: typer.Context, **flags: Any) -> None:
    """
    Start a node, and serve until a signal comes.

    Settings come from flags, then variables (SANDGLASS_GRPC_PORT and so on), then the config.
    """
    if context.invoked_subcommand is not None:
        return
    config = flags.pop("config") or os.environ.get(SERVER_CONFIG_ENV, "")
    given = {name: value for name, value in flags.items() if value not in (None, [])}
    loaded = load(
        Settings,
        flags=given,
        environ=os.environ,
        config=config,
        home=Path.home(),
        file_stem=TOOL,
    )
    exposure = exposure_of(loaded.settings)
    if exposure:
        ending.failed(TOOL, exposure)
        raise typer.Exit(ending.WRONG_USAGE)
    raise typer.Exit(_serve(loaded))


@app.command()
def version(
    is_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the version."""
    from sandglass.cli.version import version_text

    print(version_text(TOOL, is_json=is_json))


def exposure_of(settings: Settings) -> str:
    """What to say if others could reach the node unasked; empty if all is well."""
    if settings.insecure or is_loopback(settings.bind_addr):
        return ""
    return (
        f"bind_addr {settings.bind_addr} can be reached from other machines, and there is"
        " neither TLS nor tokens: bind to 127.0.0.1, or give --insecure where the network"
        " is trusted"
    )


def is_loopback(address: str) -> bool:
    """
    Whether only this machine can reach a listener bound to `address`. A name counts by what it
    resolves to now; one that resolves to nothing doesn't count.
    """
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(ipaddress.ip_address(each[4][0]).is_loopback for each in found)


# --- flags ---


def _flags() -> list[inspect.Parameter]:
    config = Annotated[str, typer.Option("--config", help=CONFIG_HELP)]
    return [
        _parameter("config", config, ""),
        *(_parameter(row.name, _flag(row), None) for row in table(Settings)),
    ]


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _flag(row: Setting) -> Any:
    """An option without a default of its own: the table's must be the weakest source."""
    spelled = [f"--{row.name}"]
    short = f"-{row.short}" if row.short else ""
    notes = [f"default: {row.default_text}"]
    if row.range_text and row.kind is not bool:
        notes.append(row.range_text)
    help_text = f"{row.help} [{'; '.join(notes)}]"
    if row.kind is bool:
        spelled = [f"--{row.name}/--no-{row.name}"]
        option = typer.Option(*spelled, *filter(None, [short]), help=help_text)
        return Annotated[bool | None, option]
    kind = list[str] | None if row.kind is tuple else str | None
    option = typer.Option(
        *spelled,
        *filter(None, [short]),
        help=help_text,
        metavar=row.metavar,
    )
    return Annotated[kind, option]


def _declare() -> None:
    context = inspect.Parameter(
        "context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
    )
    parameters = [context, *_flags()]
    callback: Any = start
    callback.__signature__ = inspect.Signature(parameters)
    callback.__annotations__ = {each.name: each.annotation for each in parameters}
    app.callback(invoke_without_command=True)(callback)


_declare()


# --- serving ---


def _serve(loaded: Loaded[Settings]) -> int:
    settings = loaded.settings
    try:
        # Here, because the bare wheel (client and sandctl) doesn't bring what they need.
        import structlog
        import uvloop

        from sandglass.cli import logs
        from sandglass.node import Node, NodeConfig
    except ModuleNotFoundError as error:
        return ending.failed(
            TOOL, f"the server needs the package {error.name}: install sandglass[server]"
        )
    logs.configure(settings.log_format, is_verbose=settings.verbose)
    log = structlog.get_logger(TOOL)
    _say_settings(log, loaded)
    sys.setswitchinterval(SWITCH_S)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        node = Node(
            NodeConfig(
                data=settings.data,
                name=settings.name,
                bind_addr=settings.bind_addr,
                grpc_port=settings.grpc_port,
                session_grace_ms=settings.session_grace // timedelta(milliseconds=1),
                stop_grace_ms=settings.stop_grace // timedelta(milliseconds=1),
            )
        )
        try:
            return runner.run(serve(node, settings, log))
        except SandglassError as error:
            return ending.failed(TOOL, _with_advice(error.message))


def _say_settings(log: Any, loaded: Loaded[Settings]) -> None:
    settings = loaded.settings
    if loaded.config:
        log.info("settings read", config=loaded.config)
    for note in loaded.notes:
        log.warning(note)
    if settings.initial_peers:
        log.warning(
            "serving alone: initial_peers are read, and not used until there is a cluster",
            initial_peers=list(settings.initial_peers),
        )
    if settings.insecure and not is_loopback(settings.bind_addr):
        log.warning("everybody who reaches this address may do anything: --insecure was given")


def _with_advice(message: str) -> str:
    if message.startswith("port ") and message.endswith(" is in use"):
        return f"{message}; stop what listens there, or choose another with --grpc_port"
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

    for number in (signal.SIGTERM, signal.SIGINT):
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
