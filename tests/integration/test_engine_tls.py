"""Engines that show each other certificates: those of one authority meet, and nobody else."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sandglass.adapters.engine import Engine
from sandglass.adapters.engine_peers import look_at
from sandglass.security.tls import TlsFiles, peer_context
from sandglass.testing.engines import Engines
from tests.certificates import Authority, Pair

pytestmark = pytest.mark.slow

DEADLINE_S = 60.0


def files(pair: Pair, authority: Authority) -> TlsFiles:
    return TlsFiles(pair.certificate, pair.key, authority.file)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.05)


async def shown_by(engine: Engine, own: TlsFiles) -> bytes:
    """The certificate that an engine shows on its route port."""
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", engine.config.route_port, ssl=peer_context(own)
        )
        assert (await reader.readline()).startswith(b"INFO ")
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
    return shown


async def test_engines_of_one_authority_meet_and_take_up_new_certificates(
    tmp_path: Path,
) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    pair, other = authority.issue("node"), stranger.issue("node")
    async with Engines(tmp_path, count=2, tls=files(pair, authority)) as engines:
        one, two = engines.engines
        await until(lambda: one.met()[1] == {"engine1"} and two.met()[1] == {"engine0"})
        assert one.config.url == f"nats://127.0.0.1:{one.config.client_port}"

        # One with the right secret, and a certificate of somebody else's authority.
        (tmp_path / "intruder").mkdir()
        shown = await shown_by(one, files(pair, authority))
        peer = f"127.0.0.1:{one.config.route_port}"
        seen, strange, plain = (
            *await look_at([peer], tls=peer_context(files(pair, authority)), look_s=DEADLINE_S),
            *await look_at([peer], tls=peer_context(files(other, stranger)), look_s=DEADLINE_S),
            *await look_at([peer]),
        )
        assert (seen.name, seen.group) == ("engine0", one.config.group)
        assert "don't take each other's certificate" in strange.trouble
        assert "says nothing: it is stopped, or has engine_tls" in plain.trouble
        intruder = Engine(
            replace(
                two.config,
                name="intruder",
                directory=tmp_path / "intruder",
                tls=files(other, stranger),
                peers=(peer,),
            )
        )
        await two.stop()
        await intruder.start()
        try:
            log = one.config.directory / "engine.log"
            await until(lambda: "TLS route handshake error" in log.read_text())
            assert intruder.met()[1] == set()
        finally:
            await intruder.stop()

        renewed = authority.issue("renewed")
        pair.key.write_bytes(renewed.key.read_bytes())
        pair.certificate.write_bytes(renewed.certificate.read_bytes())
        async with asyncio.timeout(DEADLINE_S):
            while await shown_by(one, files(renewed, authority)) == shown:
                await asyncio.sleep(0.2)
        await two.start()
        await until(lambda: one.met()[1] == {"engine1"})


def test_what_leaves_the_host_is_routes_alone(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    engine = Engines(tmp_path, count=1, tls=files(authority.issue(), authority)).engines[0]
    config = replace(engine.config, bind_addr="0.0.0.0", advertise_host="node1")

    text = config.text()

    assert f'listen: "127.0.0.1:{config.client_port}"' in text
    assert "client_advertise" not in text
    assert f'"listen": "0.0.0.0:{config.route_port}"' in text
    assert '"verify": true' in text
    assert '"no_advertise": true' in text
