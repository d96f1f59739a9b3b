"""`config show`: values, sources, and no secrets."""

import json
from pathlib import Path

import pytest

from sandglass.cli import server
from sandglass.cli.ctl import main as ctl


def test_the_server_shows_each_setting_with_its_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (config := tmp_path / "s.toml").write_text('session_grace = "3s"\ntoken_file = "/t"\n')
    monkeypatch.setenv("HTTP_PORT", "2109")

    code = server.main(["config", "show", f"--config={config}", "--grpc-port", "7171"])

    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert code == 0
    assert rows["grpc_port"] == ["7171", "flag", "--grpc_port"]
    assert rows["http_port"] == ["2109", "environment", "HTTP_PORT"]
    assert rows["session_grace"] == ["3s", "file", str(config)]
    assert rows["token_file"] == ["/t", "file", str(config)]
    assert rows["insecure"] == ["false", "default"]


def test_the_server_shows_them_to_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert server.main(["config", "show", "--json", "--config=", "--data=/d", "-p", "a:1"]) == 0

    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["data"] == {"name": "data", "value": "/d", "source": "flag", "from": "--data"}
    assert rows["initial_peers"]["value"] == ["a:1"]
    assert rows["stop_grace"]["value"] == "5s"
    assert rows["tls_cert_file"] == {
        "name": "tls_cert_file",
        "value": None,
        "source": "default",
        "from": "",
    }


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_secret_is_hidden_and_its_source_isn_t(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    monkeypatch.setenv("SANDCTL_TOKEN", "sg_secret")

    assert ctl.main(["config", "show", "--config=", *more]) == 0

    out = capsys.readouterr().out
    assert "sg_secret" not in out
    assert "(hidden)" in out
    assert "SANDCTL_TOKEN" in out


def test_a_secret_that_is_not_set_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(["config", "show", "--json"]) == 0

    rows = {row["name"]: row["value"] for row in json.loads(capsys.readouterr().out)}
    assert (rows["token"], rows["token_file"]) == ("", None)
