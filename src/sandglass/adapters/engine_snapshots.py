"""
`SnapshotStore` in the cluster's engine: a stream for all logs of one replication factor, which
holds one message for each object.

Any replica of the stream gives an object out. One that lags may not have it yet; then the
stream's leader is asked.
"""

import asyncio
from base64 import b64decode
from collections.abc import Iterable
from typing import Final

import nats.errors

from sandglass.adapters.nats import CALL_S, Connection
from sandglass.errors import NotFoundError, UnavailableError

REPEAT_COUNT: Final = 5
"""Of a put that nobody answered: a disk that syncs a log meanwhile takes its time."""

REPEAT_S: Final = 0.3


class EngineSnapshots:
    """`SnapshotStore` over a connection to the engine, for logs of `replica_count` replicas."""

    def __init__(self, connection: Connection, replica_count: int) -> None:
        self._connection = connection
        self._replica_count = replica_count
        self._stream = f"SANDGLASS_SNAPSHOTS_R{replica_count}"
        self._root = f"sandglass.snapshot.r{replica_count}"
        self._is_made = False

    async def put(self, log: int, name: str, raw: bytes) -> None:
        """See `SnapshotStore.put`."""
        await self._make()
        for attempt in range(REPEAT_COUNT):
            try:
                await self._connection.store(self._subject(log, name), raw, {})
                return
            except UnavailableError:
                if attempt == REPEAT_COUNT - 1:
                    raise
                await asyncio.sleep(REPEAT_S)

    async def get(self, log: int, name: str) -> bytes | None:
        """See `SnapshotStore.get`."""
        subject = self._subject(log, name)
        try:
            found = await self._connection.client.request(
                f"$JS.API.DIRECT.GET.{self._stream}.{subject}", timeout=CALL_S
            )
            if found.headers is not None and "Nats-Sequence" in found.headers:
                return found.data
        except nats.errors.Error:
            pass  # no stream, no replica, no answer: the leader says which
        return await self._ask_leader(subject)

    async def _ask_leader(self, subject: str) -> bytes | None:
        try:
            answer = await self._connection.call(
                f"STREAM.MSG.GET.{self._stream}", {"last_by_subj": subject}
            )
        except NotFoundError:
            return None
        return b64decode(answer["message"].get("data", ""))

    async def names(self, log: int) -> frozenset[str]:
        """See `SnapshotStore.names`."""
        names: set[str] = set()
        try:
            while True:
                answer = await self._connection.call(
                    f"STREAM.INFO.{self._stream}",
                    {"subjects_filter": self._subject(log, "*"), "offset": len(names)},
                )
                found = answer["state"].get("subjects") or {}
                names.update(subject.rpartition(".")[2] for subject in found)
                if not found or len(names) >= answer.get("total", 0):
                    return frozenset(names)
        except NotFoundError:
            return frozenset()

    async def delete(self, log: int, names: Iterable[str]) -> None:
        """See `SnapshotStore.delete`."""
        for name in names:
            await self._purge(self._subject(log, name))

    async def clear(self, log: int) -> None:
        """See `SnapshotStore.clear`."""
        await self._purge(self._subject(log, "*"))

    async def _purge(self, subject: str) -> None:
        try:
            await self._connection.call(f"STREAM.PURGE.{self._stream}", {"filter": subject})
        except NotFoundError:
            return  # nothing was ever put

    async def _make(self) -> None:
        """The stream, if there is none; whoever is first makes it."""
        if self._is_made:
            return
        await self._connection.call(
            f"STREAM.CREATE.{self._stream}",
            {
                "name": self._stream,
                "subjects": [f"{self._root}.*.*"],
                "max_msgs_per_subject": 1,
                "num_replicas": self._replica_count,
                "storage": "file",
                "retention": "limits",
                "discard": "new",
                "allow_direct": True,
            },
        )
        self._is_made = True

    def _subject(self, log: int, name: str) -> str:
        return f"{self._root}.{log}.{name}"
