"""What a user can meet is documented: flags, settings, errors, limits."""

import inspect
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import typer

import sandglass
from sandglass import (
    AsyncAdmin,
    AsyncBatch,
    AsyncClient,
    AsyncMux,
    AsyncReceived,
    errors,
    telemetry,
)
from sandglass.cli import server
from sandglass.cli.argv import commands_of
from sandglass.cli.ctl import main as ctl
from sandglass.core import limits
from sandglass.settings import CtlSettings, Settings, table
from sandglass.testing import Broker
from sandglass.web import openapi
from sandglass.wire.v1 import admin_pb2, broker_pb2, keyvalue_pb2
from tests.tidy.tree import ROOT

REFERENCE = ROOT / "docs" / "reference"

NOT_FOR_USERS = {(AsyncClient, "timeout_ms"), (AsyncClient, "open")}
"""For the synchronous client, which is a face of the other."""


def page(name: str) -> str:
    return (REFERENCE / name).read_text()


def test_generated_tables_are_what_the_code_says() -> None:
    checked = subprocess.run(
        [sys.executable, "scripts/gen_docs.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("kind", [Settings, CtlSettings])
def test_every_setting_is_documented_with_its_variables(kind: type) -> None:
    text = page("settings.md")

    missing = [
        name for row in table(kind) for name in (row.name, *row.envs) if f"`{name}`" not in text
    ]

    assert [] == missing


def test_every_setting_is_a_flag_with_its_short_form() -> None:
    for root, kind in (
        (typer.main.get_command(server.app), Settings),
        (ctl.build(), CtlSettings),
    ):
        spelled = {each for option in root.params for each in option.opts}
        options = {
            f"--{each[2:].replace('-', '_')}" if "--" in each else each for each in spelled
        }
        rows = [row for row in table(kind) if not row.is_secret]

        wanted = {f"--{row.name}" for row in rows}
        wanted |= {f"-{row.short}" for row in rows if row.short}

        assert set() == wanted - options


def test_every_flag_and_command_is_documented() -> None:
    text = page("cli.md")

    for root in (typer.main.get_command(server.app), ctl.build()):
        for command in commands_of(root):
            assert command.help, command.name
            assert f" {command.name}\n" in text or command is root
            for option in command.params:
                shown = option.opts if option.param_type_name == "option" else [option.metavar]
                assert [] == [each for each in shown if f"`{each}`" not in text]
                assert option.help, f"{command.name} {option.name}"


def test_every_error_is_documented_by_class_and_code() -> None:
    text = page("errors.md")
    kinds = [
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, errors.SandglassError)
    ]

    missing = [
        each.__name__
        for each in kinds
        if each is not errors.SandglassError
        and not re.search(rf"^\| `{each.code}` \| `{each.__name__}` \|", text, re.MULTILINE)
    ]

    assert len(kinds) > 10
    assert [] == missing


def test_every_limit_is_documented() -> None:
    text = page("limits.md")
    names = [name for name in vars(limits) if name.isupper()]

    assert len(names) > 30
    assert [] == [name for name in names if f"`{name}`" not in text]


def test_every_metric_is_documented() -> None:
    text = page("metrics.md")

    assert [] == [
        each.name
        for each in telemetry.METRICS
        if not re.search(rf"`{telemetry.PREFIX}{each.name}(_total)?`", text)
    ]


def test_every_route_is_documented() -> None:
    text = page("http.md")

    assert [] == [
        f"{method} {path}"
        for path, methods in openapi.PATHS.items()
        for method in methods
        if f"`{method.upper()} {path}`" not in text
    ]


def _public(kind: type) -> dict[str, Any]:
    return {name: each for name, each in vars(kind).items() if not name.startswith("_")}


def test_every_name_of_the_python_library_is_documented() -> None:
    text = page("python.md") + page("errors.md")
    exported = [name for name in dir(sandglass) if name in sandglass._HOME_OF]
    names = {*exported}
    for each in (getattr(sandglass, name) for name in exported):
        if is_dataclass(each):
            names |= {field.name for field in fields(each) if not field.name.startswith("_")}
    for kind in (AsyncClient, AsyncAdmin, AsyncMux, AsyncReceived, AsyncBatch, Broker):
        for name, call in _public(kind).items():
            if (kind, name) not in NOT_FOR_USERS:
                names |= {name, *(inspect.signature(call).parameters if callable(call) else ())}

    missing = [name for name in names - {"self"} if not re.search(rf"\b{name}\b", text)]

    assert len(names) > 100
    assert [] == sorted(missing)


def test_every_call_of_our_protocol_is_documented() -> None:
    text = page("grpc.md")
    services = [
        file.DESCRIPTOR.services_by_name[name]
        for file, name in (
            (broker_pb2, "Broker"),
            (keyvalue_pb2, "KeyValue"),
            (admin_pb2, "Admin"),
        )
    ]

    calls = [method.name for service in services for method in service.methods]

    assert len(calls) > 20
    assert [] == [name for name in calls if not re.search(rf"\b{name}\b", text)]
