"""Nodes whose engine an operator runs: one that won't do, and one that does."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from sandglass import AsyncClient, PreconditionError, SandglassError
from sandglass.adapters.engine import ACCOUNT_USER, find_binary
from sandglass.cluster.engines import GivenConfig
from sandglass.cluster.given_engine import GivenEngine
from sandglass.testing.engines import Engines, free_ports
from sandglass.testing.process import NodeProcess
from tests.certificates import Authority

pytestmark = pytest.mark.slow

DEADLINE_S = 60.0
ROOT = Path(__file__).parents[2]
WORD = "a word that nobody may see"

ALONE = f"""
listen: "127.0.0.1:%d"
jetstream: {{ store_dir: "%s" }}
authorization: {{ user: "one", password: "{WORD}" }}
"""


@asynccontextmanager
async def server_alone(directory: Path, more: str = "") -> AsyncIterator[int]:
    """A NATS server that is no member of a cluster; its port."""
    (port,) = free_ports(1)
    conf = directory / "alone.conf"
    conf.write_text(ALONE % (port, directory / "js") + more)
    with subprocess.Popen(
        [find_binary(None), "--config", conf],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield port
        finally:
            process.terminate()


def node(
    data: Path, ports: Sequence[int], credentials: str, *, founds: bool = True
) -> NodeProcess:
    path = data.with_name(f"{data.name}.credentials")
    path.write_text(credentials)
    path.chmod(0o600)
    return NodeProcess(
        data,
        name=data.name,
        flags=[
            *(f"--engine_url=nats://127.0.0.1:{port}" for port in ports),
            f"--engine_credentials_file={path}",
            f"--bootstrap_raft={'true' if founds else 'false'}",
        ],
    )


async def trouble_of(node: NodeProcess, text: str) -> None:
    """Waits until a node says this, and serves nevertheless."""
    async with AsyncClient(node.address) as client:
        async with asyncio.timeout(DEADLINE_S):
            while text not in (await client.admin.show_cluster()).trouble:
                await asyncio.sleep(0.05)
        await client.create_topic("alone", kind="kv")
        with pytest.raises(PreconditionError):
            await client.create_topic("two", replication_factor=2)


async def test_an_engine_that_will_not_do_keeps_nobody_from_serving(tmp_path: Path) -> None:
    async with server_alone(tmp_path) as port:
        right = node(tmp_path / "right", [port], f"one:{WORD}")
        wrong = node(tmp_path / "wrong", [port], f"one:not {WORD}")
        async with right, wrong:
            await trouble_of(right, "is a server that stands alone: replicas need a cluster")
            await trouble_of(wrong, "refuses our secret: see engine_credentials_file")
            assert "it is not known whether it syncs" in right.stderr
            assert WORD not in right.stderr + wrong.stderr


async def test_an_address_with_tls_is_spoken_to_with_tls(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    pair = authority.issue()
    tls = f'tls: {{ cert_file: "{pair.certificate}", key_file: "{pair.key}" }}'
    async with server_alone(tmp_path, tls) as port, asyncio.timeout(DEADLINE_S):
        config = GivenConfig((f"tls://127.0.0.1:{port}",), "one", WORD, authority.file)
        await until_refused(config, "is a server that stands alone")
        await until_refused(replace(config, ca=stranger.file), "certificate verify failed")


async def until_refused(config: GivenConfig, text: str) -> None:
    """Connects until it is said why not; the server may still be about to start."""
    said = ""
    while text not in said:
        try:
            await GivenEngine("node1", config).connect()
        except SandglassError as error:
            said = error.message


def test_servers_take_what_the_page_tells_them(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "operate" / "cluster.md").read_text()
    section = page.partition("## An existing NATS")[2].partition("\n## ")[0]
    lines = [line[4:] for line in section.splitlines() if line.startswith("    ")]
    conf = tmp_path / "nats.conf"
    conf.write_text("\n".join(lines).replace("/var/lib/nats", str(tmp_path)))

    done = subprocess.run(
        [find_binary(None), "-t", "--config", conf],
        env={"SANDGLASS_PASSWORD": WORD},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "sync_interval: always" in lines[3]


@pytest.mark.fault
async def test_three_nodes_replicate_over_an_operators_engine(tmp_path: Path) -> None:
    async with Engines(tmp_path) as engines, AsyncExitStack() as stack:
        ports = [engine.config.client_port for engine in engines.engines]
        shown = f"{ACCOUNT_USER}:{engines.engines[0].config.password(ACCOUNT_USER)}"
        nodes = [
            node(tmp_path / name, ports[place:] + ports[:place], shown, founds=name == "one")
            for place, name in enumerate(("one", "two", "three"))
        ]
        for each in nodes:
            await stack.enter_async_context(each)
        one, two, three = nodes
        async with AsyncClient(one.address) as client, asyncio.timeout(DEADLINE_S):
            while len((await client.admin.show_cluster()).nodes) < 3:
                await asyncio.sleep(0.1)
            await client.create_topic("t", kind="kv", replication_factor=3)
            await until_put(client, b"before")
        async with AsyncClient(two.address) as client, asyncio.timeout(DEADLINE_S):
            found = await client.admin.show_cluster()
            assert found.durability == "unknown"
            await client.admin.drain_node("one")
            await client.admin.undrain_node("one")

        one.kill()
        await one.wait()
        await engines.engines[0].stop()
        for each in (two, three):
            async with AsyncClient(each.address) as client, asyncio.timeout(DEADLINE_S):
                await until_put(client, each.name.encode())
                entry = await client.get("t", b"before")
                assert entry is not None
        assert shown.partition(":")[2] not in one.stderr + two.stderr


async def until_put(client: AsyncClient, key: bytes) -> None:
    while True:
        try:
            await client.put("t", key, key)
            return
        except SandglassError:
            await asyncio.sleep(0.1)
