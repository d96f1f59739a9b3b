"""
A node, put together: adapters, loop, broker, surfaces, by hand and from top to bottom.

    node = Node(NodeConfig(data=Path("/var/lib/sandglass"), ...))
    await node.start()
    ...
    await node.stop()

What lies in the data directory: `superblock` (whose data these are), and `store-000/log` and
`store-000/view`. Data that don't fit together are refused, never repaired by guessing: a log
whose view is missing is only accepted while it still holds everything from its first record.
"""

import asyncio
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from sandglass.adapters.filelog import RESERVE_BYTES_DEFAULT, SEGMENT_BYTES_DEFAULT, FileLog
from sandglass.adapters.files import Files, make_directories, translate
from sandglass.adapters.rocksdb import ADVICE, RocksStore
from sandglass.adapters.superblock import (
    SUPERBLOCK_VERSION,
    Superblock,
    load_superblock,
    save_superblock,
)
from sandglass.adapters.system import SystemClock, SystemEntropy, stopwatch_ns
from sandglass.broker.broker import Broker
from sandglass.broker.node_loop import NodeLoop
from sandglass.cluster.engines import GivenConfig
from sandglass.core import limits
from sandglass.errors import (
    CorruptError,
    NoSpaceError,
    PreconditionError,
    SandglassError,
    UnavailableError,
)
from sandglass.ports import Clock, Entropy
from sandglass.rpc.forwarding import Peers
from sandglass.rpc.server import Surface, serve
from sandglass.rpc.sessions import Sessions
from sandglass.sandflake import Generator
from sandglass.security.access import Access
from sandglass.security.tls import TlsFiles
from sandglass.surface.admin import Admin
from sandglass.surface.leaders import ALONE, Leaders
from sandglass.web import server as web
from sandglass.web.metrics import Scrapes
from sandglass.wire.convert import slice_body

if TYPE_CHECKING:
    from sandglass.cluster.cluster import Cluster
    from sandglass.cluster.engines import ClusterEngine

logger = logging.getLogger(__name__)

SUPERBLOCK = "superblock"
STORE = "store-000"
ENGINE = "engine"
REMOVED = "removed"
"""A file that says that these data were removed from their cluster."""

NO_CLUSTER = bytes(16)


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """
    A node's place in a cluster: the ports of its engine, and the route addresses (host:port) of
    the others'. `advertise_host` is how other nodes reach this one; empty for `bind_addr`.
    """

    client_port: int
    route_port: int
    peers: tuple[str, ...]
    is_founder: bool
    secret: bytes = b""
    advertise_host: str = ""
    engine_binary: Path | None = None
    engine_tls: TlsFiles | None = None
    given: GivenConfig | None = None
    """An operator's own engine, instead of one of the node's."""

    snapshot_bytes: int = limits.SNAPSHOT_BYTES_DEFAULT
    snapshot_folder: Path | None = None


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """
    What a node needs to know: values only.

    Port 0 takes a free one; without an `http_port` there is no HTTP. `http_hosts` are names by
    which HTTP requests may call the node, beside loopback and `bind_addr`. `data` is made where
    it is missing, with its parents. Files of the log have `segment_bytes`, and `reserve_bytes`
    are kept for a full disk.
    """

    data: Path
    name: str = "sandglass"
    bind_addr: str = "127.0.0.1"
    grpc_port: int = 7170
    http_port: int | None = None
    http_hosts: tuple[str, ...] = ()
    session_grace_ms: int = limits.SESSION_GRACE_MS_DEFAULT
    stop_grace_ms: int = 5000
    cluster: ClusterSettings | None = None
    segment_bytes: int = SEGMENT_BYTES_DEFAULT
    reserve_bytes: int = RESERVE_BYTES_DEFAULT
    version: str = ""
    """What other nodes are told of this program's."""


class Node:
    """One process's node. `start` once, `stop` once."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        clock: Clock | None = None,
        entropy: Entropy | None = None,
        access: Access | None = None,
        files: Files | None = None,
    ) -> None:
        self.config = config
        self.files = files or Files()
        self.access = access or Access()
        self.clock = clock or SystemClock()
        self.entropy = entropy or SystemEntropy()
        self.failed = asyncio.Event()
        """Set when the node has to stop; `failure` says why."""
        self.failure: BaseException | None = None
        self._log: FileLog | None = None
        self._store: RocksStore | None = None
        self._loop: NodeLoop | None = None
        self._broker: Broker | None = None
        self._sessions: Sessions | None = None
        self._surface: Surface | None = None
        self._web: web.Surface | None = None
        self._superblock: Superblock | None = None
        self._watch: asyncio.Task[None] | None = None
        self._peers: Peers | None = None
        self._leaders = ALONE
        self.cluster: Cluster | None = None
        """Its part in a cluster, if it has one."""

    @property
    def broker(self) -> Broker:
        """The front door, once started."""
        assert self._broker is not None, "the node has not started"
        return self._broker

    @property
    def grpc_port(self) -> int:
        """The port that gRPC listens on, once started."""
        assert self._surface is not None, "the node has not started"
        return self._surface.port

    @property
    def http_port(self) -> int:
        """The port that HTTP listens on, once started."""
        assert self._web is not None, "the node serves no HTTP, or has not started"
        return self._web.port

    async def start(self) -> None:
        """
        Opens the data, recovers, and serves.

        Raises:
            PreconditionError: the data or the port are in use, or of another version or node.
            CorruptError: the data are damaged; the message says where.
            DeniedError: the directory cannot be written.
            NoSpaceError, BusyError, UnavailableError: the disk is full, too many files are
                open, or the disk fails.
        """
        if not __debug__:
            raise PreconditionError("Sandglass relies on its asserts: start it without -O")
        try:
            self._open()
            ids = Generator(wall_ms=self.clock.wall_ms, entropy=self.entropy.token_bytes)
            broker = await self._start_broker(ids)
            if self.config.cluster is None:
                for text in broker.loops.stuck_texts():
                    logger.warning("%s", text)
            else:
                self._peers = self._open_peers()
                self._leaders = self._open_leaders(broker, self._peers)
            await self._start_surfaces(broker)
            self._watch = asyncio.create_task(self.access.watch(), name="access-watch")
            if self.config.cluster is not None:
                self.cluster = self._cluster(broker, ids, self.config.cluster)
                await self.cluster.start()
        except BaseException:
            await self.stop()
            raise

    async def _start_broker(self, ids: Generator) -> Broker:
        assert self._log is not None
        assert self._store is not None
        self._loop = NodeLoop(
            self._log,
            self._store,
            self.clock,
            slice_body,
            stopwatch_ns=stopwatch_ns,
            session_grace_ms=self.config.session_grace_ms,
        )
        self._loop.on_failure = self._fail
        self._loop.chance = int.from_bytes(self.entropy.token_bytes(4), "big") / 2**32
        self._broker = Broker(
            self._loop,
            ids,
            session_grace_ms=self.config.session_grace_ms,
            node_name=self.config.name,
        )
        await self._loop.start()
        return self._broker

    async def _start_surfaces(self, broker: Broker) -> None:
        self._sessions = Sessions(broker, self.access.guard, self._peers)
        host = self.config.bind_addr
        shown = f"[{host}]" if ":" in host else host
        self._surface = await serve(
            broker,
            f"{shown}:{self.config.grpc_port}",
            session=self._sessions.serve,
            access=self.access,
            leaders=self._leaders,
        )
        if self.config.http_port is not None:
            self._web = await self._serve_http(broker, self.config.http_port)

    async def stop(self) -> None:
        """
        Drains and stops: consumers are told, what is on its way is finished, the closed offsets
        are written exactly. Safe to call after a failed start.
        """
        grace_s = self.config.stop_grace_ms / 1000
        if self._web is not None:
            self._web.drain()
        if self.cluster is not None:
            # First of all: whoever is told to go elsewhere finds there what was led here.
            await self.cluster.hand_over()
        if self._sessions is not None:
            self._sessions.drain()
        if self._broker is not None:
            self._broker.pulls.let_go()
        if self._surface is not None:
            await self._surface.stop(grace_s)
            self._surface = None
        if self._web is not None:
            await self._web.stop(grace_s)
            self._web = None
        if self._broker is not None:
            await self._broker.stop()
        if self.cluster is not None:
            await self.cluster.stop()
        await self._leaders.stop()
        if self._peers is not None:
            await self._peers.close()
        if self._loop is not None:
            await self._loop.stop()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        self._close()

    async def _serve_http(self, broker: Broker, port: int) -> web.Surface:
        return await web.serve(
            broker,
            self.config.bind_addr,
            port,
            clock=self.clock,
            scraped=Scrapes(broker).text,
            troubled=lambda: "" if self.failure is None else "the node has failed",
            names=self.config.http_hosts,
            access=self.access,
            leaders=self._leaders,
        )

    def _open_leaders(self, broker: Broker, peers: Peers) -> Leaders:
        loops = broker.loops
        peers.revision = lambda: loops.shared.revision if loops.shared is not None else 0
        leaders = Leaders(loops, peers)
        broker.groups.drop_elsewhere = Admin(broker, leaders).drop_elsewhere
        return leaders

    def _open_peers(self) -> Peers:
        """The other nodes are spoken to as they speak: with TLS, by the authorities of ours."""
        tls = self.access.tls
        if tls is None:
            return Peers()
        return Peers(grpc.ssl_channel_credentials(tls.client_ca, tls.key, tls.certificate))

    def _cluster(self, broker: Broker, ids: Generator, settings: ClusterSettings) -> "Cluster":
        try:
            # Here, because a node alone doesn't need what they bring.
            from sandglass.cluster.cluster import Cluster, ClusterConfig
            from sandglass.cluster.founding import Identity
        except ModuleNotFoundError as error:
            raise PreconditionError(
                f"a cluster needs the package {error.name}: install sandglass[cluster]"
            ) from error
        superblock = self._superblock
        assert superblock is not None
        host = settings.advertise_host or self.config.bind_addr
        shown = f"[{host}]" if ":" in host else host
        return Cluster(
            ClusterConfig(
                settings.is_founder,
                self.config.data / STORE / "replicas",
                grpc=f"{shown}:{self.grpc_port}",
                http="" if self._web is None else f"{shown}:{self.http_port}",
                software=self.config.version,
                snapshot_bytes=settings.snapshot_bytes,
                snapshot_folder=settings.snapshot_folder,
            ),
            self._engine(settings, superblock.node_id),
            broker.loops,
            Identity(
                superblock.node_id,
                superblock.cluster_id,
                self._save_cluster_id,
                is_removed=(self.config.data / REMOVED).exists(),
                mark_removed=self._mark_removed,
            ),
            clock=self.clock,
            entropy=self.entropy,
            ids=ids,
            slicer=slice_body,
            stopwatch_ns=stopwatch_ns,
        )

    def _engine(self, settings: ClusterSettings, node_id: bytes) -> "ClusterEngine":
        from sandglass.adapters.engine import EngineConfig
        from sandglass.cluster.given_engine import GivenEngine
        from sandglass.cluster.own_engine import OwnEngine

        if settings.given is not None:
            return GivenEngine(self.config.name, settings.given)
        config = EngineConfig(
            name=self.config.name,
            directory=self.config.data / ENGINE,
            bind_addr=self.config.bind_addr,
            client_port=settings.client_port,
            route_port=settings.route_port,
            peers=settings.peers,
            advertise_host=settings.advertise_host,
            secret=settings.secret,
            binary=settings.engine_binary,
            tls=settings.engine_tls,
        )
        return OwnEngine(
            config,
            node_id=node_id.hex(),
            is_founder=settings.is_founder,
            entropy=self.entropy,
        )

    def _mark_removed(self) -> None:
        """Not durable at once: a start that has forgotten it finds it in the cluster again."""
        (self.config.data / REMOVED).write_text("sandctl cluster remove\n")

    def _save_cluster_id(self, cluster_id: bytes) -> None:
        assert self._superblock is not None
        superblock = replace(self._superblock, cluster_id=cluster_id)
        save_superblock(self.config.data / SUPERBLOCK, superblock)
        self._superblock = superblock

    def _open(self) -> None:
        data = self.config.data
        try:
            make_directories(self.files, data)
            superblock = load_superblock(data / SUPERBLOCK, files=self.files)
            if superblock is None:
                self._check_empty(data)
                superblock = Superblock(self.entropy.token_bytes(16), NO_CLUSTER, 0)
                self._open_parts(data, superblock, is_new=True)
                save_superblock(data / SUPERBLOCK, superblock, files=self.files)
            else:
                self._open_parts(data, superblock, is_new=False)
                if superblock.version < SUPERBLOCK_VERSION:
                    # Before anything is written that an older program could not read.
                    superblock = replace(superblock, version=SUPERBLOCK_VERSION)
                    save_superblock(data / SUPERBLOCK, superblock, files=self.files)
        except OSError as error:
            raise translate(error, data) from error
        self._superblock = superblock

    def _check_empty(self, data: Path) -> None:
        """Without a superblock there must be nothing, or what a first start left unfinished."""
        unfinished = {STORE, SUPERBLOCK + ".new"}
        others = [entry.name for entry in data.iterdir() if entry.name not in unfinished]
        if others:
            raise PreconditionError(
                f"{data} is not a data directory of Sandglass: it holds {sorted(others)[0]!r}"
                " and no superblock; give an empty directory"
            )

    def _open_parts(self, data: Path, superblock: Superblock, *, is_new: bool) -> None:
        log_directory = data / STORE / "log"
        if not is_new and not log_directory.is_dir():
            raise CorruptError(
                f"{log_directory} is missing; restore the data directory from a backup"
            )
        self._log = FileLog(
            log_directory,
            node_id=superblock.node_id,
            segment_bytes=self.config.segment_bytes,
            reserve_bytes=self.config.reserve_bytes,
            files=self.files,
        )
        view_directory = data / STORE / "view"
        is_view_new = is_new or not view_directory.exists()
        self._store = RocksStore(
            view_directory,
            is_new=is_view_new,
            files=self.files,
            advice=lambda: self._view_advice(view_directory),
        )
        applied, last = self._store.applied_position, self._log.last_position
        if applied + 1 < self._log.first_position:
            raise CorruptError(
                f"{view_directory} ends at position {applied}, but the log begins at"
                f" {self._log.first_position}: the view is missing or damaged; restore the data"
                " directory from a backup"
            )
        if last < max(applied, superblock.last_position):
            raise CorruptError(
                f"the log in {log_directory} ends at position {last}, but"
                f" {max(applied, superblock.last_position)} was written before: it is not the"
                " log of this data directory; restore it from a backup"
            )

    def _view_advice(self, view_directory: Path) -> str:
        """What to do when the view is damaged. The log can make it anew, if it is whole."""
        if self._log is not None and self._log.first_position == 1:
            return (
                f"stop the node, move {view_directory} away and start it again; the log is"
                " whole, and makes the view anew"
            )
        return f"{ADVICE}; the log was trimmed, and can't make the view anew"

    def _close(self) -> None:
        log, store, superblock = self._log, self._store, self._superblock
        self._log = self._store = self._superblock = None
        if store is not None:
            try:
                store.close()
            except SandglassError as error:
                logger.error("the view was not closed well: %s", error)
        if log is not None:
            durable = log.durable_position
            log.close()
            if superblock is not None and self.failure is None:
                self._save_position(superblock, durable)

    def _save_position(self, superblock: Superblock, durable: int) -> None:
        """On a full disk the old superblock stays: its position is a lower bound."""
        path = self.config.data / SUPERBLOCK
        try:
            save_superblock(
                path,
                Superblock(superblock.node_id, superblock.cluster_id, durable),
                files=self.files,
            )
        except NoSpaceError as error:
            logger.warning("the superblock keeps an earlier position: %s", error)

    def _fail(self, error: BaseException) -> None:
        self.failure = error
        self.failed.set()

    def check(self) -> None:
        """
        Raises:
            UnavailableError: the node has failed.
        """
        if self.failure is not None:
            raise UnavailableError(f"the node has failed: {self.failure}")
