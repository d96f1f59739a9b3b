"""What the guides show, runs."""

import ast
import asyncio
import os
import re
import time
from datetime import UTC, datetime, timedelta
from inspect import CO_COROUTINE
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from sandglass import AsyncClient, Message
from sandglass.testing.broker import Broker

DOCS = Path(__file__).resolve().parents[3] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = ["guide/produce.md", "guide/consume.md", "guide/schedule.md", "reference/python.md"]


@pytest.mark.parametrize("page", PAGES)
async def test_every_block_of_a_page_runs(page: str) -> None:
    """An endless consumer is given something to do, and stopped when it has done it."""
    blocks = BLOCK.findall((DOCS / page).read_text())
    assert blocks

    for block in blocks:
        async with Broker() as broker, AsyncClient(broker.address) as client:
            await client.create_topic("emails")
            await client.produce_many("emails", [f"{each}" for each in range(20)])
            async for message in client.consume("emails", group="doctor", drain=True):
                await (message.dead("ill") if message.value == b"7" else message.ack())
            sent = asyncio.Event()

            async def send(value: bytes, sent: asyncio.Event = sent) -> None:
                sent.set()

            names: dict[str, Any] = {
                "AsyncClient": lambda _, address=broker.address: AsyncClient(address),
                "Message": Message,
                "UTC": UTC,
                "asyncio": asyncio,
                "client": client,
                "datetime": datetime,
                "os": os,
                "print": lambda *_: None,
                "send": send,
                "time": time,
                "timedelta": timedelta,
            }
            await run(block, names, stop=sent)


async def run(block: str, names: dict[str, Any], *, stop: asyncio.Event) -> None:
    """Runs a block with `await` at its top, until it ends or `stop` is set."""
    code = compile(block, "guide", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if not code.co_flags & CO_COROUTINE:
        exec(code, names)
        return
    task = asyncio.ensure_future(FunctionType(code, names)())
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait({task, stopped}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    is_over = task.done() or stop.is_set()
    for each in (task, stopped):
        each.cancel()
    results = await asyncio.gather(task, return_exceptions=True)
    await asyncio.gather(stopped, return_exceptions=True)
    assert is_over, "the block neither ends nor sends"
    assert isinstance(results[0], asyncio.CancelledError | None), results[0]
