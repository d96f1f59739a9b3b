"""
Room for what calls read, asked for before they read it: see `sandglass.broker.outgoing`.

`connection` is whose connection a call came over; its calls share in the room.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Final, TypeVar, cast

from sandglass.broker.broker import FETCH_BYTES
from sandglass.broker.drain import CREDIT_BYTES
from sandglass.broker.outgoing import Flow, Outgoing
from sandglass.core import limits

PIECE_ROOM_BYTES: Final = FETCH_BYTES + limits.ROW_BYTES_MAX
"""What is read at a time: the last row goes beyond, and may be one larger message."""

DRAIN_ROOM_BYTES: Final = CREDIT_BYTES
"""A drain holds what it has credit for."""

Piece = TypeVar("Piece")


async def in_pieces(
    outgoing: Outgoing,
    connection: str,
    pieces: AsyncIterator[Piece],
    size_of: Callable[[Piece], int],
) -> AsyncGenerator[Piece, None]:
    """
    The pieces, each read when there is room for it; it has been taken when the next is wanted.

    Raises:
        BusyError: there was no room for too long.
    """
    flow = outgoing.flow(connection)
    try:
        async with _closing(pieces) as found:
            await flow.room(PIECE_ROOM_BYTES)
            async for piece in found:
                flow.fit(size_of(piece))
                yield piece
                await flow.room(PIECE_ROOM_BYTES)
    finally:
        flow.close()


async def at_once(
    outgoing: Outgoing, connection: str, pieces: AsyncIterator[Piece]
) -> AsyncGenerator[Piece, None]:
    """
    The pieces of a drain, begun when there is room for all that it holds.

    Raises:
        BusyError: there was no room for too long.
    """
    flow = outgoing.flow(connection)
    try:
        await flow.room(DRAIN_ROOM_BYTES)
        async with _closing(pieces) as found:
            async for piece in found:
                yield piece
    finally:
        flow.close()


async def drain_room(outgoing: Outgoing) -> Flow:
    """
    For a drain without a connection of gRPC; `close` it.

    Raises:
        BusyError: there was no room for too long.
    """
    flow = outgoing.flow()
    await flow.room(DRAIN_ROOM_BYTES)
    return flow


def _closing(pieces: AsyncIterator[Piece]) -> "aclosing[AsyncGenerator[Piece, None]]":
    return aclosing(cast("AsyncGenerator[Piece, None]", pieces))
