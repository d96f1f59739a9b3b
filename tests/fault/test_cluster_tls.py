"""Two nodes of which everything between them is encrypted: calls, and their engines."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sandglass import AsyncClient, SandglassError, TlsOptions
from sandglass.testing.ports import free_ports
from sandglass.testing.process import NodeProcess
from tests.certificates import Authority

pytestmark = [pytest.mark.slow, pytest.mark.fault]

DEADLINE_S = 60.0


async def test_nodes_with_certificates_of_one_authority_replicate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue()
    places = {"one": free_ports(2), "two": free_ports(2)}
    (tmp_path / "secret").write_text("the secret of the cluster")
    (tmp_path / "secret").chmod(0o600)

    def node(name: str, other: str) -> NodeProcess:
        raft, gossip = places[name]
        return NodeProcess(
            tmp_path / name,
            name=name,
            flags=[
                f"--raft_port={raft}",
                f"--gossip_port={gossip}",
                f"--initial_peers=127.0.0.1:{places[other][1]}",
                f"--bootstrap_raft={'true' if name == 'one' else 'false'}",
                f"--cluster_secret_file={tmp_path / 'secret'}",
                "--engine_tls",
                f"--tls_cert_file={os.path.relpath(pair.certificate)}",
                f"--tls_key_file={pair.key}",
                f"--tls_client_ca_file={authority.file}",
            ],
        )

    tls = TlsOptions(
        ca_file=authority.file, certificate_file=pair.certificate, key_file=pair.key
    )
    async with node("one", "two") as one, node("two", "one") as two:
        async with AsyncClient(one.address, tls=tls) as client, asyncio.timeout(DEADLINE_S):
            while len((await client.admin.show_cluster()).nodes) < 2:
                await asyncio.sleep(0.1)
            await until(client.create_topic, "t", kind="kv", partitions=2, replication_factor=2)
            for number in range(10):  # some of them are led by the other
                await until(client.put, "t", f"{number}", b"v")
        async with AsyncClient(two.address, tls=tls) as client, asyncio.timeout(DEADLINE_S):
            assert all([await client.has("t", f"{number}") for number in range(10)])
            found = await client.admin.show_cluster()
        assert {replica.state for p in found.partitions for replica in p.held} == {
            "leading",
            "following",
        }


async def until(
    call: Callable[..., Awaitable[object]], *arguments: object, **options: object
) -> None:
    """Calls until it is answered well."""
    while True:
        try:
            await call(*arguments, **options)
            return
        except SandglassError:
            await asyncio.sleep(0.1)
