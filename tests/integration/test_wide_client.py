"""What the engine's client sends by a way of its own arrives as it was, in order."""

import asyncio

from sandglass.adapters.nats import Connection, Stored
from sandglass.adapters.tail import Found, Tail
from sandglass.adapters.wide_client import WHOLE_BYTES
from sandglass.errors import ConflictError, SandglassError
from tests.visitors import Visitor

DEADLINE_S = 60.0
SIZES = (0, 1, WHOLE_BYTES - 1, WHOLE_BYTES, 200_000, 4_000_000)


async def test_messages_of_all_sizes_are_stored_in_the_order_in_which_they_were_sent(
    visitor: Visitor,
) -> None:
    """Several send at a time, and more than the client keeps before it waits for the socket."""
    connection = await visitor.connect(0)
    await connection.call("STREAM.CREATE.S", {"name": "S", "subjects": ["s.>"]})
    sent: dict[str, list[bytes]] = {f"s.{number}": [] for number in range(3)}

    await asyncio.gather(*[_send(connection, subject, sent[subject]) for subject in sent])

    assert sent == await _read(connection, count=3 * len(SIZES))
    await _refused(connection)


async def _send(connection: Connection, subject: str, sent: list[bytes]) -> None:
    stored = asyncio.Event()
    answers: list[Stored | SandglassError] = []

    def told(answer: Stored | SandglassError) -> None:
        answers.append(answer)
        if len(answers) == len(SIZES):
            stored.set()

    for size in SIZES:
        body = (subject.encode() + b"\r\nHPUB ") * (size // 9 + 1)
        sent.append(body[:size])
        await connection.publish(
            subject, body[:size], {"Nats-Msg-Id": f"{subject} {size}"}, told
        )
    async with asyncio.timeout(DEADLINE_S):
        await stored.wait()
    assert all(isinstance(answer, Stored) for answer in answers), answers


async def _read(connection: Connection, *, count: int) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    is_whole = asyncio.Event()

    async def on_found(each: Found) -> None:
        found.setdefault(each.subject, []).append(each.data)
        if sum(map(len, found.values())) == count:
            is_whole.set()

    tail = Tail(connection, "S", on_found)
    await tail.open()
    async with asyncio.timeout(DEADLINE_S):
        await is_whole.wait()
    await tail.close()
    return found


async def _refused(connection: Connection) -> None:
    """Its headers are read."""
    try:
        await connection.store("s.x", bytes(WHOLE_BYTES), {"Nats-Expected-Last-Sequence": "1"})
    except ConflictError:
        return
    raise AssertionError("what is expected was not looked at")
