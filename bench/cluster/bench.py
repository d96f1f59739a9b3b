"""Where the lines run: one cluster for most of them, and how much each does."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.cluster.nodes import Nodes
from bench.lines import Figure

RAW = "engine"
"""The kind of a floor: the engines alone."""
FILE = "file"
NODES = "nodes"
SINGLE = "single node"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much each line does."""

    rounds: int = 3
    """In turns with the floor, so that what the machine does at the time weighs on both."""
    produce_batches: int = 1000
    both_batches: int = 1000
    singles_count: int = 20_000
    growth_batches: int = 800
    alone_batches: int = 1500
    kill_count: int = 3
    idle_counts: tuple[int, ...] = (30, 100, 300)
    idle_s: float = 15.0
    catchup_bytes: int = 1_000_000_000
    catchup_snapshot_bytes: int = 256 * 1024 * 1024


QUICK = Sizes(
    rounds=1,
    produce_batches=10,
    both_batches=10,
    singles_count=200,
    growth_batches=10,
    alone_batches=10,
    kill_count=1,
    idle_counts=(3,),
    idle_s=0.5,
    catchup_bytes=2_000_000,
    catchup_snapshot_bytes=64 * 1024,
)


class ClusterBench:
    """A cluster that is started by the first line that wants it, and serves all that do."""

    def __init__(self, directory: Path, sizes: Sizes, stack: AsyncExitStack) -> None:
        self.directory = directory
        self.sizes = sizes
        self._stack = stack
        self._nodes: Nodes | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, sizes: Sizes) -> "AsyncIterator[ClusterBench]":
        """A temporary directory, which goes afterwards."""
        with TemporaryDirectory(prefix="sandglass-bench-") as name:
            async with AsyncExitStack() as stack:
                yield cls(Path(name), sizes, stack)

    async def nodes(self) -> Nodes:
        """The cluster that lines share."""
        if self._nodes is None:
            opened = Nodes.open(self.directory / "shared")
            self._nodes = await self._stack.enter_async_context(opened)
        return self._nodes


Line = Callable[[ClusterBench], Awaitable[list[Figure]]]
