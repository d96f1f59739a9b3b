"""The engine of a node: started, watched over, taken over, ended."""

import asyncio
import os
import signal
import socket
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sandglass.adapters.engine import Engine, EngineConfig, find_binary
from sandglass.adapters.engine_store import load_owner
from sandglass.adapters.nats import Connection
from sandglass.adapters.system import SystemEntropy
from sandglass.cluster.own_engine import OwnEngine
from sandglass.errors import PreconditionError, UnavailableError
from sandglass.testing.engines import Engines
from sandglass.testing.ports import free_ports

DEADLINE_S = 60.0


def config(directory: Path, **changes: object) -> EngineConfig:
    client, route, peer = free_ports(3)
    made = EngineConfig(
        name="node1",
        directory=directory,
        client_port=client,
        route_port=route,
        peers=(f"127.0.0.1:{peer}",),
        secret=b"a secret",
    )
    return replace(made, **changes)


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_starts_alone_and_ends(tmp_path: Path) -> None:
    engine = Engine(config(tmp_path / "engine"))
    await engine.start()
    try:
        pid = engine.pid
        assert pid
        conf = tmp_path / "engine" / "engine.conf"
        assert stat.S_IMODE(conf.stat().st_mode) == 0o600
        assert "always" in conf.read_text()
    finally:
        await engine.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_is_started_again_when_it_was_killed(tmp_path: Path) -> None:
    engine = Engine(config(tmp_path / "engine"))
    await engine.start()
    try:
        first = engine.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: engine.restart_count and engine.pid not in (0, first))
    finally:
        await engine.stop()


async def test_one_that_outlived_its_node_is_taken_over(tmp_path: Path) -> None:
    settings = config(tmp_path / "engine")
    before = Engine(settings)
    await before.start()
    pid = before.pid
    assert before._watch is not None
    before._watch.cancel()  # as a killed node would leave it
    after = Engine(settings)
    await after.start()
    try:
        assert after.pid == pid
    finally:
        await asyncio.gather(after.stop(), before.stop())


async def test_one_of_other_settings_is_replaced(tmp_path: Path) -> None:
    settings = config(tmp_path / "engine")
    before = Engine(settings)
    await before.start()
    assert before._watch is not None
    before._watch.cancel()
    after = Engine(replace(settings, secret=b"another"))
    await after.start()
    try:
        assert after.pid != before.pid
    finally:
        await asyncio.gather(after.stop(), before.stop())


async def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    first = Engine(config(tmp_path / "first"))
    await first.start()
    try:
        taken = first.config.route_port
        second = Engine(config(tmp_path / "second", route_port=taken))
        with pytest.raises(PreconditionError, match=f"port {taken} is in use"):
            await second.start()
    finally:
        await first.stop()


@pytest.mark.parametrize("setting", ["raft_port", "gossip_port"])
def test_a_port_is_found_in_use_before_there_is_a_server(tmp_path: Path, setting: str) -> None:
    engine = Engine(config(tmp_path / "engine"))
    engine.check_ports()
    port = engine.config.client_port if setting == "raft_port" else engine.config.route_port

    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(PreconditionError, match=f"port {port} is in use") as caught,
    ):
        engine.check_ports()

    assert caught.value.field == setting


def own_engine(settings: EngineConfig, *, is_founder: bool) -> OwnEngine:
    return OwnEngine(
        settings, node_id="ab" * 16, is_founder=is_founder, entropy=SystemEntropy()
    )


async def test_a_founder_of_which_the_data_were_lost_comes_to_those_who_are_there(
    tmp_path: Path,
) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"S2","server_name":"b","cluster":"sandglass-1"}\r\n')
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        peer = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        engine = own_engine(config(tmp_path / "engine", peers=(peer,)), is_founder=True)
        await engine.open()
        assert not (tmp_path / "engine").exists()
        try:
            assert await engine.start()
        finally:
            await engine.stop()

    owner = load_owner(tmp_path / "engine", node="ab" * 16, name="node1")
    assert owner is not None
    assert owner.group == engine.config.group == "sandglass-1"


async def test_an_engine_waits_for_its_group_and_then_keeps_it(tmp_path: Path) -> None:
    settings = config(tmp_path / "engine")
    other = own_engine(settings, is_founder=False)
    await other.open()
    assert not await other.start()

    founder = own_engine(settings, is_founder=True)
    try:
        assert await founder.start()
    finally:
        await founder.stop()
    again = own_engine(settings, is_founder=False)
    try:
        await again.open()  # what it holds says whose it is: it waits for nobody
        assert await again.start()
    finally:
        await again.stop()

    assert again.config.group == founder.config.group != settings.group


async def test_a_start_that_is_cut_short_leaves_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch, pids, may_go = asyncio.create_subprocess_exec, list[int](), asyncio.Event()

    async def slow(*command: Any, **options: Any) -> asyncio.subprocess.Process:
        process = await launch(*command, **options)
        pids.append(process.pid)
        await may_go.wait()
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", slow)
    starting = asyncio.create_task(Engine(config(tmp_path / "engine")).start())
    await until(lambda: pids)
    starting.cancel()
    await asyncio.sleep(0)
    may_go.set()
    await asyncio.gather(starting, return_exceptions=True)

    assert starting.cancelled()
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


async def test_another_secret_is_refused(tmp_path: Path) -> None:
    engine = Engine(config(tmp_path / "engine"))
    await engine.start()
    try:
        stranger = Connection((engine.config.url,), "broker", "wrong", "stranger")
        with pytest.raises(PreconditionError, match="another cluster"):
            await stranger.connect()
    finally:
        await engine.stop()


async def test_where_nobody_listens_that_is_said_instead_of_tried_again() -> None:
    (first, second) = free_ports(2)
    urls = (f"nats://127.0.0.1:{first}", f"nats://127.0.0.1:{second}")

    with pytest.raises(UnavailableError, match="doesn't answer: connection refused"):
        await Connection(urls, "broker", "secret", "test").connect()


def test_a_binary_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PreconditionError, match="is not a program"):
        find_binary(tmp_path / "nothing")


async def test_an_old_binary_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "nats-server"
    old.write_text("#!/bin/sh\necho 'nats-server: v2.9.1'\n")
    old.chmod(0o755)
    engine = Engine(config(tmp_path / "engine", binary=old))
    with pytest.raises(PreconditionError, match=r"2\.12 or newer"):
        await engine.start()


async def test_two_of_three_are_a_quorum(tmp_path: Path) -> None:
    async with Engines(tmp_path) as engines:
        await engines.engines[2].stop()
        await engines.quorum()
