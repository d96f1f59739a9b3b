"""Each example runs against a node, does what it says, and can be run again."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandglass.testing.broker import Broker
from tests.integration.output import output_of

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RUN_S = 60


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    async with Broker() as broker:
        yield broker


async def run(broker: Broker, name: str) -> list[str]:
    """The lines that an example prints."""
    said = await output_of(sys.executable, EXAMPLES / name, broker.address, within_s=RUN_S)
    return said.splitlines()


def test_every_example_is_run_here() -> None:
    tested = {
        "hello.py",
        "schedule.py",
        "worker_pool.py",
        "dead_letters.py",
        "sync_producer.py",
        "async_producer.py",
        "sync_consumer.py",
        "async_consumer.py",
        "sync_mux.py",
        "async_mux.py",
    }

    assert tested == {path.name for path in EXAMPLES.glob("*.py")}


async def test_hello_brings_the_message_back(broker: Broker) -> None:
    first = await run(broker, "hello.py")
    second = await run(broker, "hello.py")

    assert "consumed: hello, attempt 1" == first[-1]
    assert second[0].startswith("produced: index 2,")
    assert "consumed: hello, attempt 1" == second[-1]


async def test_schedule_brings_messages_in_the_order_of_their_time(broker: Broker) -> None:
    said = await run(broker, "schedule.py")

    assert ["first", "second", "third"] == [line.split(":")[0] for line in said]
    assert not any(": -" in line for line in said)


async def test_worker_pool_does_every_job_once(broker: Broker) -> None:
    said = await run(broker, "worker_pool.py")

    assert said[-1].startswith("30 jobs done by ")


async def test_dead_letters_say_whose_they_were_and_why(broker: Broker) -> None:
    await run(broker, "dead_letters.py")
    said = await run(broker, "dead_letters.py")

    not_json = "dead letter: not json of group billing after 3 attempts: Expecting value:"
    assert {
        "order 1 done",
        "attempt 1 failed: not json",
        "attempt 2 failed: not json",
        "attempt 3 failed: not json",
        'dead letter: {"id": 3, "x": 0} of group billing after 1 attempts: field x is unknown',
        f"{not_json} line 1 column 1 (char 0)",
    } == set(said)


@pytest.mark.parametrize("face", ["sync", "async"])
async def test_producers_produce_in_every_way(broker: Broker, face: str) -> None:
    said = await run(broker, f"{face}_producer.py")

    assert said[0].endswith(", index 1")
    assert [" 100 answers", " 10000 messages"] == [line.split(":")[1] for line in said[1:]]


@pytest.mark.parametrize("face", ["sync", "async"])
async def test_a_consumer_s_loop_settles_what_it_is_given(broker: Broker, face: str) -> None:
    for _ in range(2):
        said = await run(broker, f"{face}_consumer.py")

        assert [
            "delivered: books, attempt 1",
            "delivered: glass, attempt 2",
            "delivered: shoes, attempt 1",
        ] == sorted(said)


@pytest.mark.parametrize("face", ["sync", "async"])
async def test_muxes_call_functions_by_topic(broker: Broker, face: str) -> None:
    said = await run(broker, f"{face}_mux.py")

    told = [line for line in said if line.startswith(("sent", "filed"))]
    assert ["sent: to ann, attempt 2", "filed: to ann"] == told
    assert "ConnectionError: the mail server is away" in said
