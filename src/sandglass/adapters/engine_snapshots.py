"""
`SnapshotStore` in the cluster's engine: a stream for all logs of one replication factor, which
holds one message for each object.

Any replica of the stream gives an object out. One that lags may not have it yet; then the
stream's leader is asked. A log whose factor was changed has its older objects in the stream of
the factor that it had: they are found, and are sent anew with the next snapshot.
"""

import asyncio
from base64 import b64decode
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import nats.errors

from sandglass.adapters.nats import CALL_S, Connection, led
from sandglass.core import limits
from sandglass.errors import NotFoundError, UnavailableError

REPEAT_COUNT: Final = 5
"""Of a put that nobody answered: a disk that syncs a log meanwhile takes its time."""

REPEAT_S: Final = 0.3


class EngineSnapshots:
    """`SnapshotStore` over a connection to the engine, for logs of `replica_count` replicas."""

    def __init__(self, connection: Connection, replica_count: int) -> None:
        self._connection = connection
        self._replica_count = replica_count
        self._place = _Place(replica_count)
        others = range(1, limits.REPLICATION_FACTOR_MAX + 1)
        self._places = (
            self._place,
            *(_Place(count) for count in others if count != replica_count),
        )
        self._is_made = False

    async def put(self, log: int, name: str, raw: bytes) -> None:
        """See `SnapshotStore.put`."""
        await self._make()
        for attempt in range(REPEAT_COUNT):
            try:
                await self._connection.store(self._place.subject(log, name), raw, {})
                return
            except UnavailableError:
                if attempt == REPEAT_COUNT - 1:
                    raise
                await asyncio.sleep(REPEAT_S)

    async def get(self, log: int, name: str) -> bytes | None:
        """See `SnapshotStore.get`."""
        for place in self._places:
            subject = place.subject(log, name)
            with suppress(nats.errors.Error):  # no stream, no replica, no answer
                found = await self._connection.client.request(
                    f"$JS.API.DIRECT.GET.{place.stream}.{subject}", timeout=CALL_S
                )
                if found.headers is not None and "Nats-Sequence" in found.headers:
                    return found.data
            raw = await self._ask_leader(place.stream, subject)
            if raw is not None:
                return raw
        return None

    async def _ask_leader(self, stream: str, subject: str) -> bytes | None:
        try:
            answer = await self._connection.call(
                f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject}
            )
        except NotFoundError:
            return None
        return b64decode(answer["message"].get("data", ""))

    async def names(self, log: int) -> frozenset[str]:
        """See `SnapshotStore.names`."""
        names: set[str] = set()
        try:
            while True:
                told = await self._connection.call(
                    f"STREAM.INFO.{self._place.stream}",
                    {"subjects_filter": self._place.subject(log, "*"), "offset": len(names)},
                )
                answer = led(told)
                found = answer["state"].get("subjects") or {}
                names.update(subject.rpartition(".")[2] for subject in found)
                if not found or len(names) >= answer.get("total", 0):
                    return frozenset(names)
        except NotFoundError:
            return frozenset()

    async def delete(self, log: int, names: Iterable[str]) -> None:
        """See `SnapshotStore.delete`."""
        for name in names:
            await self._purge(self._place, self._place.subject(log, name))

    async def clear(self, log: int) -> None:
        """See `SnapshotStore.clear`."""
        for place in self._places:
            await self._purge(place, place.subject(log, "*"))

    async def _purge(self, place: "_Place", subject: str) -> None:
        with suppress(NotFoundError):  # nothing was ever put
            await self._connection.call(f"STREAM.PURGE.{place.stream}", {"filter": subject})

    async def _make(self) -> None:
        """The stream, if there is none; whoever is first makes it."""
        if self._is_made:
            return
        await self._connection.call(
            f"STREAM.CREATE.{self._place.stream}",
            {
                "name": self._place.stream,
                "subjects": [self._place.subject("*", "*")],
                "max_msgs_per_subject": 1,
                "num_replicas": self._replica_count,
                "storage": "file",
                "retention": "limits",
                "discard": "new",
                "allow_direct": True,
            },
        )
        self._is_made = True


@dataclass(frozen=True, slots=True)
class _Place:
    """Where objects of logs of one factor lie."""

    replica_count: int

    @property
    def stream(self) -> str:
        """The name of the engine's stream that holds them."""
        return f"SANDGLASS_SNAPSHOTS_R{self.replica_count}"

    def subject(self, log: int | str, name: str) -> str:
        """Under which an object is published; `*` stands for any log, or any name."""
        return f"sandglass.snapshot.r{self.replica_count}.{log}.{name}"
