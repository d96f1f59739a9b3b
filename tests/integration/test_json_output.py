"""What both commands print with `--json`, from a real node, against the published schema."""

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from sandglass import AsyncClient
from sandglass.cli import schema
from tests.integration.test_commands import BIN, FREE_PORTS, Server, environment, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    with serving(home, "--data", str(home / "data"), *FREE_PORTS) as started:
        yield started


CTL = [
    ["topics", "create", "t", "-p", "2"],
    ["topics", "set", "t", "--retention", "30d"],
    ["topics", "list"],
    ["produce", "t", "one", "--key", "k", "--header", "name=value", "--id", "mine"],
    ["produce", "t", "more", "-n", "3"],
    ["produce", "t", "later", "--delay", "1h"],
    ["consume", "t"],
    ["topics", "show", "t"],
    ["groups", "create", "t", "g", "--start", "now"],
    ["groups", "create", "t", "h"],
    ["groups", "set", "t", "g", "--ack_timeout", "90s"],
    ["groups", "seek", "t", "g", "--start", "beginning"],
    ["groups", "list"],
    ["groups", "show", "t", "sandctl"],
    ["groups", "show", "t", "g"],
    ["groups", "delete", "t", "g", "--yes"],
    ["schedule", "count", "t"],
    ["schedule", "list", "t"],
    ["clock", "show"],
    ["clock", "accept"],
    ["cluster", "info"],
    ["cluster", "nodes"],
    ["cluster", "partitions"],
    ["dead", "count", "d"],
    ["dead", "list", "d", "--messages"],
    ["dead", "list", "d"],
    ["consume", "d", "--channel", "__death_letter"],
    ["dead", "redrive", "d", "-n", "1"],
    ["dead", "purge", "d"],
    ["schedule", "count", "d"],
    ["topics", "create", "kv", "--kind", "kv"],
    ["kv", "put", "kv", "key", "value", "--header", "name=value"],
    ["kv", "get", "kv", "key"],
    ["kv", "list", "kv"],
    ["kv", "delete", "kv", "key"],
    ["topics", "delete", "t", "--yes"],
    ["bench", "-n", "200", "--batch", "50"],
    ["config", "show"],
    ["version"],
]
SERVER = [
    ["token", "add", "me", "--token_file", "tokens"],
    ["token", "renew", "me", "--token_file", "tokens"],
    ["token", "list", "--token_file", "tokens"],
    ["token", "remove", "me", "--token_file", "tokens"],
    ["config", "show"],
    ["version"],
]


OF_A_CLUSTER = {"sandctl cluster nodes", "sandctl cluster partitions"}
"""One node has nothing to show; tests/integration/test_cluster.py has three."""

CHANGES_OF_A_CLUSTER = {
    f"sandctl {name}"
    for name in ("cluster drain", "cluster undrain", "cluster remove", "topics move")
}
"""One node has nothing to change; tests/integration/test_growing_cluster.py holds them."""


def test_every_command_prints_what_its_schema_says(server: Server, tmp_path: Path) -> None:
    asyncio.run(_with_dead_letters(server))
    seen: set[str] = set()

    for line in CTL:
        printed = server.ok(*line, "--json")
        seen.add(_hold("sandctl", line, printed))
    for line in SERVER:
        done = subprocess.run(
            [BIN / "sandglass", *line, "--json"],
            capture_output=True,
            check=True,
            cwd=tmp_path,
            env=environment(tmp_path),
        )
        seen.add(_hold("sandglass", line, done.stdout.decode()))

    assert schema.COMMANDS.keys() == seen | CHANGES_OF_A_CLUSTER, (
        "a command of the table that isn't tried here"
    )


def test_what_is_not_in_the_schema_is_noticed() -> None:
    validator = Draft202012Validator(schema.schema_of("sandctl topics delete"))

    assert validator.is_valid({"deleted": "t"})
    assert not validator.is_valid({"deleted": "t", "more": 1})
    assert not validator.is_valid({})


def _hold(tool: str, line: list[str], printed: str) -> str:
    """Raises if the output isn't as the schema of the command says; returns its name."""
    words = [tool, *line[:2]]
    name = " ".join(words) if " ".join(words) in schema.COMMANDS else " ".join(words[:2])
    validator = Draft202012Validator(schema.schema_of(name))
    lines = printed.splitlines()
    assert lines, f"{name} printed nothing"
    assert len(lines) == 1 or name == "sandctl consume", f"{name} printed several documents"
    for each in lines:
        found: Any = json.loads(each)
        validator.validate(found)
        assert found != [] or name in OF_A_CLUSTER, f"{name} had nothing to show"
    return name


async def _with_dead_letters(server: Server) -> None:
    """A topic `d` with two: one of text, one of bytes that are no UTF-8."""
    async with AsyncClient(f"127.0.0.1:{server.port}") as client:
        await client.create_topic("d")
        await client.produce("d", "text", key="key", headers={"name": "value"}, id="mine")
        await client.produce("d", b"\xff", key=b"\xfe", headers={"name": b"\xfd"})
        async for message in client.consume("d", group="g", drain=True):
            await message.dead("why", wait=True)
