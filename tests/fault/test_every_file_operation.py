"""
Every file operation of a node fails in turn, with everything that an operating system may say.

Whatever fails, whenever: the node goes on, with clear refusals, or it says why it cannot and
stops. On its next start all that was answered is there, and nothing comes twice.

A node in this process runs over `FailingFiles`: once to count what it does, then again and
again with one operation failing. What RocksDB does with its files is not among them; see
test_small_disk.py and test_damaged_view.py.
"""

import asyncio
import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from sandglass.node import Node
from tests.fault.failing_files import FailingFiles, Fault
from tests.fault.life import (
    CLEAR,
    Data,
    connected,
    create,
    data_of,
    everything_is_there,
    node_on,
    produce,
    refusal_of,
    stop_when_failed,
    work,
)

ERRNOS: Final = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.EROFS)


async def goes_on(node: Node, data: Data) -> None:
    """The disk is well again, and so is the node, by itself."""
    async with connected(node) as wire:
        await create(wire)
        while not await produce(wire, data):
            assert node.failure is None
            await asyncio.sleep(0.05)


async def strike(data: Data, fault: Fault | None) -> FailingFiles:
    """A node's life with a fault, and the life after it."""
    files = FailingFiles(fault)
    node = node_on(data, files)
    refusal = await refusal_of(node)
    if refusal is not None:
        assert "\n" not in refusal.message
        assert str(data.directory) in refusal.message
    else:
        stopping = asyncio.create_task(stop_when_failed(node))
        await work(node, data)
        files.heal()
        if node.failure is None:
            await goes_on(node, data)
            node.failed.set()
        else:
            assert isinstance(node.failure, CLEAR), repr(node.failure)
        await stopping
    await everything_is_there(data)
    return files


KINDS: Final = ("new", "stopped", "killed")

Calls = list[tuple[str, str]]


async def sweep(kind: str, home: Path, faults: Callable[[Calls], list[Fault]]) -> None:
    """Tries faults on data of a kind, chosen among what a life without any does."""
    origin = await data_of(kind, home)
    calls = (await strike(origin.copied(home / "counted"), None)).calls
    for fault in faults(calls):
        data = origin.copied(home / "struck")
        try:
            await strike(data, fault)
        except BaseException as error:
            error.add_note(f"{kind} data, {fault}: {calls[fault.nth]}")
            raise
        shutil.rmtree(data.directory, ignore_errors=True)


def one_of_each(calls: Calls) -> list[Fault]:
    """The first operation of each kind on each kind of file, with errors by turns."""
    first: dict[tuple[str, str], int] = {}
    for nth, (operation, name) in enumerate(calls):
        first.setdefault((operation, name.lstrip("0123456789")), nth)
    return [
        Fault(nth, ERRNOS[place % len(ERRNOS)], is_lasting=place % 2 == 0)
        for place, nth in enumerate(first.values())
    ]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_file_operation_of_each_kind_fails(tmp_path: Path, kind: str) -> None:
    await sweep(kind, tmp_path, one_of_each)


@pytest.mark.fault
@pytest.mark.parametrize("is_lasting", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("number", ERRNOS, ids=errno.errorcode.get)
@pytest.mark.parametrize("kind", KINDS)
async def test_every_file_operation_fails_in_turn(
    tmp_path: Path, kind: str, number: int, is_lasting: bool
) -> None:
    def everything(calls: Calls) -> list[Fault]:
        return [Fault(nth, number, is_lasting=is_lasting) for nth in range(len(calls))]

    await sweep(kind, tmp_path, everything)
