"""The synchronous client where processes begin and end: exit, Ctrl-C, fork."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator

import pytest

from sandglass import AsyncClient
from sandglass.testing.broker import Broker

RUN_S = 60


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    async with Broker() as broker, AsyncClient(broker.address) as client:
        await client.create_topic("t")
        yield broker


async def start(broker: Broker, script: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-W", "error", "-c", script, broker.address),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def finish(process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    """Exit code, and what it said."""
    try:
        async with asyncio.timeout(RUN_S):
            said, complained = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, said.decode(), complained.decode()


async def run(broker: Broker, script: str) -> str:
    """What a script says that ends well and doesn't complain."""
    code, said, complained = await finish(await start(broker, script))
    assert (0, "") == (code, complained), complained
    return said


async def count_of(broker: Broker) -> int:
    async with AsyncClient(broker.address) as client:
        status = await client.show_topic("t")
        return sum(each.message_count for each in status.partitions)


# In development mode asyncio warns of what takes 0.1 s, as anything does on a busy machine.
HEAD = """
import logging, sys, os, time
from datetime import timedelta
HOUR = timedelta(hours=1)
logging.getLogger("asyncio").setLevel(logging.ERROR)
from sandglass import Client, PreconditionError, UnavailableError
client = Client(sys.argv[1])
"""


async def test_an_unused_client_leaves_no_trace(broker: Broker) -> None:
    assert "" == await run(broker, HEAD)


async def test_what_is_on_its_way_is_sent_when_nobody_closes_the_client(
    broker: Broker,
) -> None:
    await run(broker, HEAD + "for _ in range(100): client.produce_nowait('t', 'x')\n")

    assert 100 == await count_of(broker)


async def test_an_open_iterator_at_the_end_gives_back_what_it_held(broker: Broker) -> None:
    script = """
client.produce_many("t", ["1", "2", "3"])
messages = iter(client.consume("t", group="g"))
next(messages).ack()
held = next(messages)
"""
    await run(broker, HEAD + script)

    async with AsyncClient(broker.address) as client, asyncio.timeout(RUN_S):
        values = [
            (message.value, message.attempt)
            async for message in client.consume("t", group="g", drain=True)
        ]
    assert [(b"2", 1), (b"3", 1)] == values


async def test_a_thread_that_waits_doesnt_hold_up_the_end(broker: Broker) -> None:
    script = """
import threading
def consume():
    try:
        for message in client.consume("t", group="g"):
            pass
    except UnavailableError:
        pass
threading.Thread(target=consume, daemon=True).start()
while not client.list_groups("t", "g"):
    time.sleep(0.01)
"""
    await run(broker, HEAD + script)


async def test_a_node_that_is_away_doesnt_hold_up_the_end_for_long(broker: Broker) -> None:
    script = """
client = Client("127.0.0.1:1", timeout=HOUR)
client.produce_nowait("t", "x")
print("end", flush=True)
"""
    process = await start(broker, HEAD + script)

    code, said, complained = await finish(process)

    assert (0, "end\n") == (code, said)
    assert "Traceback" not in complained
    assert "a Client that was not closed" in complained


async def test_the_last_error_of_a_program_is_its_own(broker: Broker) -> None:
    process = await start(broker, HEAD + "client.produce('t', 'x')\n1 / 0\n")

    code, _, complained = await finish(process)

    assert 1 == code
    assert 1 == complained.count("Traceback")
    assert complained.rstrip().endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    "wait",
    [
        "next(iter(client.consume('t', group='g')))",
        "Client('127.0.0.1:1', timeout=HOUR).produce('t', 'x')",
        "Client('127.0.0.1:1', timeout=HOUR).produce_many('t', ['x'])",
        "Client('127.0.0.1:1', timeout=HOUR).list_topics()",
    ],
)
async def test_ctrl_c_ends_a_call_that_waits(broker: Broker, wait: str) -> None:
    script = f"""
import threading
client.list_topics()
try:
    threading.Timer(0.3, lambda: print("waiting", flush=True)).start()
    {wait}
except KeyboardInterrupt:
    print("interrupted", client.produce("t", "x").index, flush=True)
    os._exit(0)
"""
    process = await start(broker, HEAD + script)
    assert process.stdout is not None
    assert b"waiting\n" == await process.stdout.readline()

    process.send_signal(signal.SIGINT)

    code, said, _ = await finish(process)
    assert (0, "interrupted 1\n") == (code, said)


@pytest.mark.parametrize("number", range(3))
async def test_a_fork_leaves_the_parents_client_alone(broker: Broker, number: int) -> None:
    script = """
client.produce_many("t", ["1", "2", "3"])
messages = iter(client.consume("t", group="g"))
held = next(messages)
child = os.fork()
if not child:
    calls = (
        lambda: client.produce("t", "x"),
        lambda: client.produce_many("t", ["x"]),
        lambda: client.consume("t", group="g"),
        lambda: next(messages),
        lambda: held.ack(),
        client.list_topics,
        client.close,
    )
    for call in calls:
        try:
            call()
        except PreconditionError as error:
            assert "make a Client in the child" in error.message, error.message
            print("refused", flush=True)
    try:
        Client(sys.argv[1]).produce("t", "x")
    except PreconditionError as error:
        assert "fork before the first call" in error.message, error.message
        print("gRPC is in use", flush=True)
    sys.exit(0)
assert 0 == os.waitpid(child, 0)[1]
held.ack(wait=True)
print(client.produce("t", "4").index)
next(messages).ack(wait=True)
client.close()
"""
    said = await run(broker, HEAD + script)

    assert [*["refused"] * 7, "gRPC is in use", "4"] == said.split("\n")[:-1]


async def test_a_client_made_in_the_child_works_if_the_parent_made_no_call(
    broker: Broker,
) -> None:
    script = """
child = os.fork()
if not child:
    try:
        client.produce("t", "x")
    except PreconditionError as error:
        with Client(sys.argv[1]) as client:
            print(client.produce("t", "x").index, flush=True)
    sys.exit(0)
assert 0 == os.waitpid(child, 0)[1]
print(client.produce("t", "y").index)
"""
    said = await run(broker, HEAD + script)

    assert ["1", "2"] == said.split()
