"""A node that ended while a topic moved, and is started without its cluster."""

from pathlib import Path

from sandglass import AsyncClient
from sandglass.broker import moving
from sandglass.testing import Broker
from tests.integration.test_commands import FREE_PORTS, serving

WARNING = "topic 'orders' is not served: it was on its way between this node and others"
ADVICE = "start the node with its cluster"


async def test_it_says_which_topic_and_what_to_do(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with Broker(data=data) as broker, AsyncClient(broker.address) as client:
        await client.create_topic("orders")
        await client.create_topic("other")
        await client.produce("orders", b"kept")
        assert broker.node is not None
        assert broker.node._loop is not None
        await moving.seal(broker.node._loop, "orders", 7)

    with serving(tmp_path, "--data", str(data), *FREE_PORTS) as server:
        produced = server.ctl("produce", "orders", "more")
        told = server.ok("cluster", "info")
        server.ok("produce", "other", "more")

    (warning,) = (each["message"] for each in server.started if WARNING in str(each["message"]))
    assert ADVICE in warning
    assert 1 == produced.returncode
    assert WARNING in produced.stderr.decode()
    assert told.startswith("this node serves alone")
    assert f"warning: {warning}" in told
