"""The files of deploy/ name settings that exist, and fit together."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandglass.settings import Settings, table

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UID = "10001"


def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_compose_file_names_settings_that_exist() -> None:
    known = {env for setting in table(Settings) for env in setting.envs}

    for service in compose()["services"].values():
        assert set(service["environment"]) <= known


def test_nodes_of_the_compose_file_know_each_other_and_have_one_founder() -> None:
    services = compose()["services"]

    for name, service in services.items():
        said = service["environment"]
        assert said["SANDGLASS_NAME"] == said["SANDGLASS_ADVERTISE_ADDR"] == name
        peers = [f"{other}:9900" for other in services if other != name]
        assert said["SANDGLASS_INITIAL_PEERS"].split(",") == peers
        assert service["volumes"] == [f"{name}:/var/lib/sandglass"]
        assert service["secrets"][0]["uid"] == UID
    founders = [each for each in services.values() if _founds(each)]
    assert len(founders) == 1
    assert set(compose()["volumes"]) == set(services)


def _founds(service: dict[str, Any]) -> bool:
    return service["environment"].get("SANDGLASS_BOOTSTRAP_RAFT") == "true"


def test_no_port_of_the_compose_file_leaves_the_host() -> None:
    ports = [port for each in compose()["services"].values() for port in each["ports"]]

    assert len(set(ports)) == len(ports) == 6
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_sample_settings_exist() -> None:
    sample = yaml.safe_load((DEPLOY / "node.yaml").read_text())

    assert set(sample) <= {setting.name for setting in table(Settings)}


def test_image_runs_as_a_user_of_its_own_on_files_that_exist() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    kept = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()

    assert f"USER {UID}:{UID}" in text
    assert all((ROOT / name.removeprefix("!")).exists() for name in kept if name != "*")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    text = (DEPLOY / "sandglass.service").read_text()
    command = Path(sys.executable).with_name("sandglass")
    unit = tmp_path / "sandglass.service"
    unit.write_text(text.replace("/opt/sandglass/bin/sandglass", str(command)))

    run = subprocess.run(
        ["systemd-analyze", "verify", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    assert "sandglass.service" not in run.stderr
