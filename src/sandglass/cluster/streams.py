"""
The streams of logs that are led here are held by as many engines as the catalog says.

Whoever changes a topic's replication factor changes its streams, too; but it may end between
the two. So the leader of a log looks at what it knows of the stream since it began to read it,
and puts it right.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from sandglass.cluster.catalog import ClusterCatalog
from sandglass.cluster.replica import Replica, State
from sandglass.errors import SandglassError

logger = logging.getLogger(__name__)

AGAIN_S: Final = 5.0


class Streams:
    """All calls run in the event loop's thread. `stop` it."""

    def __init__(self, catalog: ClusterCatalog, replicas: Mapping[int, Replica]) -> None:
        self._catalog = catalog
        self._replicas = replicas
        self._task: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Puts right what is not, in the background, one stream after the other."""
        wrong = [each for each in self._replicas.values() if self._is_wrong(each)]
        if wrong and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._put_right(wrong), name="cluster-streams")

    async def stop(self) -> None:
        """Lets go of what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _is_wrong(self, replica: Replica) -> bool:
        wanted = self._wanted(replica)
        return replica.state is State.LEADING and wanted not in {0, replica.engine_count}

    def _wanted(self, replica: Replica) -> int:
        placed = self._catalog.placed_of(replica.number)
        return 0 if placed is None else placed[0].replication_factor

    async def _put_right(self, wrong: list[Replica]) -> None:
        for replica in wrong:
            wanted = self._wanted(replica)
            try:
                if wanted:
                    await replica.stream.replicate(wanted)
                    replica.engine_count = wanted
            except SandglassError as error:
                logger.warning(
                    "partition %d: its stream is not held by %d engines yet: %s",
                    replica.number,
                    wanted,
                    error,
                )
                await asyncio.sleep(AGAIN_S)
