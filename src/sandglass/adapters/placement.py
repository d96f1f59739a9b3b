"""
`Placement` in the cluster's engine: a key-value bucket, which is a stream with one message a
key.

    placement = JetStreamPlacement(connection)
    await placement.create(3)    # once in the life of a cluster
    await placement.open()       # NotFoundError: nobody has founded it yet

The bucket is laid out as the engine's own tools expect it (`nats kv get sandglass cluster`):
stream `KV_sandglass`, subjects `$KV.sandglass.<key>`, a header `KV-Operation` on what deletes.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from sandglass.adapters.nats import Connection, led
from sandglass.adapters.tail import Found, Tail
from sandglass.errors import SandglassError
from sandglass.ports import Entry

logger = logging.getLogger(__name__)

BUCKET: Final = "sandglass"
STREAM: Final = f"KV_{BUCKET}"
SUBJECT: Final = f"$KV.{BUCKET}."

HEARD_S: Final = 0.5
"""What was answered to a change of our own comes by the tail within this, or that is deaf: what
it reads by may lie on an engine that has gone, whose silence is noticed late."""

ANEW_S: Final = 3.0
"""Between two tails: on a machine that is slow, they are late and not deaf."""


class JetStreamPlacement:
    """
    `Placement` over a connection to the engine. All calls run in the event loop's thread.

    What is known here is a tail of the bucket's stream: it is complete once `open` returned.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.entries: dict[str, Entry] = {}
        self._revisions: dict[str, int] = {}
        """Of each key the last that was seen, deleted ones included."""
        self._followers: list[Callable[[str], None]] = []
        self._tail: Tail | None = None
        self._is_current = asyncio.Event()
        self._whole_revision = 0
        """Up to here the tail has brought everything."""
        self.revision = 0
        self._waits: list[tuple[int, asyncio.Future[None]]] = []
        self._anew: asyncio.Task[None] | None = None
        self._anew_s = 0.0
        """When a tail was last replaced."""

    async def create(self, replica_count: int) -> None:
        """
        Makes the bucket, if there is none.

        Raises:
            PreconditionError: the engine has fewer members than that.
            UnavailableError: no quorum.
        """
        await self.connection.call(
            f"STREAM.CREATE.{STREAM}",
            {
                "name": STREAM,
                "subjects": [f"{SUBJECT}>"],
                "max_msgs_per_subject": 1,
                "num_replicas": replica_count,
                "storage": "file",
                "retention": "limits",
                "discard": "new",
                "deny_delete": True,
                "allow_rollup_hdrs": True,
                "allow_direct": True,
                "max_msg_size": 1024 * 1024,
            },
        )

    async def replica_count(self) -> int:
        """
        How many members hold the bucket.

        Raises:
            NotFoundError: there is none.
            UnavailableError: no quorum.
        """
        answer = led(await self.connection.call(f"STREAM.INFO.{STREAM}"))
        return int(answer["config"]["num_replicas"])

    async def replicate(self, replica_count: int) -> None:
        """
        Lets more members hold the bucket.

        Raises:
            PreconditionError: the engine has fewer members than that.
            UnavailableError: no quorum.
        """
        answer = led(await self.connection.call(f"STREAM.INFO.{STREAM}"))
        await self.connection.call(
            f"STREAM.UPDATE.{STREAM}", {**answer["config"], "num_replicas": replica_count}
        )

    async def open(self) -> None:
        """
        Reads the bucket, and follows it from here on.

        Raises:
            NotFoundError: there is none.
            UnavailableError: no quorum.
        """
        answer = led(await self.connection.call(f"STREAM.INFO.{STREAM}"))
        if answer["state"]["messages"] == 0:
            self._is_current.set()
        tail = Tail(self.connection, STREAM, self._on_found)
        try:
            await tail.open()
            self._tail = tail
            await self._is_current.wait()
        except BaseException:
            await tail.close()
            raise

    async def close(self) -> None:
        """Follows no longer."""
        tail, self._tail = self._tail, None
        if self._anew is not None:
            self._anew.cancel()
            await asyncio.gather(self._anew, return_exceptions=True)
        if tail is not None:
            await tail.close()

    # --- the port -----------------------------------------------------------------------------

    def follow(self, on_change: Callable[[str], None]) -> None:
        """See `Placement.follow`."""
        self._followers.append(on_change)

    async def reached(self, revision: int) -> None:
        """See `Placement.reached`."""
        if revision > self._whole_revision:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waits.append((revision, future))
            try:
                await future
            finally:
                self._waits.remove((revision, future))

    async def set(self, key: str, value: bytes, revision: int | None = None) -> int:
        """See `Placement.set`."""
        if revision == 0 and key not in self.entries:
            # What was deleted has left a mark in the stream, which is what is expected then.
            revision = self._revisions.get(key, 0)
        stored = await self.connection.store(SUBJECT + key, value, _expected(revision))
        self._put(Entry(key, value, stored.sequence))
        self._expect(stored.sequence)
        return stored.sequence

    async def delete(self, key: str, revision: int | None = None) -> None:
        """See `Placement.delete`."""
        headers = {**_expected(revision), "KV-Operation": "DEL"}
        stored = await self.connection.store(SUBJECT + key, b"", headers)
        self._drop(key, stored.sequence)
        self._expect(stored.sequence)

    # --- is it deaf? --------------------------------------------------------------------------

    def _expect(self, revision: int) -> None:
        """The tail will bring this, too."""
        asyncio.get_running_loop().call_later(HEARD_S, self._check_heard, revision)

    def _check_heard(self, revision: int) -> None:
        now_s = asyncio.get_running_loop().time()
        if (
            self._tail is not None
            and self._whole_revision < revision
            and now_s - self._anew_s >= ANEW_S
        ):
            self._anew_s = now_s
            self._anew = asyncio.create_task(self._listen_anew(self._tail), name="bucket")

    async def _listen_anew(self, tail: Tail) -> None:
        logger.info("what members agree on isn't heard: it is listened to anew")
        try:
            await tail.anew()
        except SandglassError as error:
            logger.debug("tail of the bucket: %s", error)

    # --- what is known ------------------------------------------------------------------------

    async def _on_found(self, found: Found) -> None:
        key = found.subject.removeprefix(SUBJECT)
        if found.headers.get("KV-Operation") in {"DEL", "PURGE"}:
            self._drop(key, found.sequence)
        else:
            self._put(Entry(key, found.data, found.sequence))
        self._whole_revision = found.sequence
        if found.is_last:
            self._is_current.set()
        for revision, future in self._waits:
            if revision <= found.sequence and not future.done():
                future.set_result(None)

    def _put(self, entry: Entry) -> None:
        if self._is_news(entry.key, entry.revision):
            self.entries[entry.key] = entry
            self._tell(entry.key)

    def _drop(self, key: str, revision: int) -> None:
        if self._is_news(key, revision):
            self.entries.pop(key, None)
            self._tell(key)

    def _is_news(self, key: str, revision: int) -> bool:
        """The tail may be behind what was answered to a change of our own."""
        self.revision = max(self.revision, revision)
        is_news = revision > self._revisions.get(key, 0)
        if is_news:
            self._revisions[key] = revision
        return is_news

    def _tell(self, key: str) -> None:
        for follower in self._followers:
            follower(key)


def _expected(revision: int | None) -> dict[str, str]:
    if revision is None:
        return {}
    return {"Nats-Expected-Last-Subject-Sequence": str(revision)}
