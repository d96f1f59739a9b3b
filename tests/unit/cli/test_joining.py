"""Settings of a cluster that can't be are refused at the door, in a line that names which."""

from dataclasses import replace
from pathlib import Path

import pytest

from sandglass.cli import server
from sandglass.cli.joining import Joining, joining_of
from sandglass.errors import InvalidError
from sandglass.security.tls import TlsFiles
from sandglass.settings import Settings
from tests.certificates import Authority
from tests.unit.cli.refusal import refusal

PEER = "--initial_peers=10.0.0.2:9900"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--initial_peers=nonsense"], "initial_peers has 'nonsense'; each is to be host:port"),
        (["--initial_peers=10.0.0.2"], "initial_peers has '10.0.0.2'"),
        (["--initial_peers=10.0.0.2:0"], "initial_peers has '10.0.0.2:0'"),
        (["--initial_peers=10.0.0.2:65536"], "initial_peers has '10.0.0.2:65536'"),
        (["--initial_peers=:9900"], "initial_peers has ':9900'"),
        (["--initial_peers=a b:9900"], "initial_peers has 'a b:9900'"),
        (["--initial_peers=user:word@host:9900"], "initial_peers has 'user:word@host:9900'"),
        (["--initial_peers=nats://host:9900"], "initial_peers has 'nats://host:9900'"),
        (["--initial_peers=fe80::1:9900"], "initial_peers has 'fe80::1:9900'"),
        (["--initial_peers=[fe80::g]:9900"], "initial_peers has '[fe80::g]:9900'"),
        ([PEER, "--initial_peers=x"], "initial_peers has 'x'"),
        (["--initial_peers=127.0.0.1:9900"], "initial_peers names this node alone"),
        (["--initial_peers=localhost:9900"], "initial_peers names this node alone"),
        ([PEER, "--gossip_port=9190"], "gossip_port is 9190, as raft_port is"),
        ([PEER, "--raft_port=7170"], "raft_port is 7170, as grpc_port is"),
        ([PEER, "--gossip_port=7170"], "gossip_port is 7170, as grpc_port is"),
        ([PEER, "--gossip_port=2108"], "gossip_port is 2108, as http_port is"),
        (["--http_port=7170"], "http_port is 7170, as grpc_port is"),
        ([PEER, "--cluster_secret_file=/nowhere/s"], "cluster_secret_file /nowhere/s can't be"),
        ([PEER, "--engine_binary=/nowhere/e"], "engine_binary /nowhere/e is not a program"),
    ],
)
def test_a_fault_is_refused_in_one_line_that_names_the_setting(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(arguments, capsys)

    assert line.startswith(said)


@pytest.mark.parametrize("name", ["raft_port", "gossip_port"])
def test_the_engine_takes_no_free_port(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The others could not know it."""
    assert server.main([PEER, f"--{name}=0"]) == 2

    assert capsys.readouterr().err.startswith(
        f"sandglass: {name} (from --{name}) is '0'; it must be 1 to 65535"
    )


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'nats-server: v2.9.1'", "is nats-server 2.9.1; 2.12 or newer is needed"),
        ("echo 'redis 7'", "is no nats-server: asked for its version, it says 'redis 7'"),
        ("exit 1", "is no nats-server"),
    ],
)
def test_an_engine_that_is_none_is_refused(
    script: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    binary = tmp_path / "nats-server"
    binary.write_text(f"#!/bin/sh\n{script}\n")
    binary.chmod(0o755)

    assert server.main([PEER, f"--engine_binary={binary}"]) == 2

    err = capsys.readouterr().err
    assert err.startswith(f"sandglass: engine_binary {binary} {said}")
    assert err.count("\n") == 1


def test_a_secret_is_its_owners_alone_and_no_short_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "secret"
    path.write_text("a word\n")
    path.chmod(0o600)
    assert server.main([PEER, f"--cluster_secret_file={path}"]) == 2
    assert f"cluster_secret_file {path} holds 6 bytes" in capsys.readouterr().err

    path.write_text("a secret of enough bytes\n")
    path.chmod(0o640)
    assert server.main([PEER, f"--cluster_secret_file={path}"]) == 2
    assert f"cluster_secret_file {path} has mode 0640" in capsys.readouterr().err

    path.chmod(0o600)
    settings = Settings(initial_peers=("10.0.0.2:9900",), cluster_secret_file=path)
    joining = joining_of(settings)
    assert joining.secret == b"a secret of enough bytes"
    assert "enough" not in repr(joining)


def test_beyond_loopback_there_is_a_secret() -> None:
    exposed = Settings(bind_addr="0.0.0.0", initial_peers=("10.0.0.2:9900",))

    with pytest.raises(InvalidError, match="needs --cluster_secret_file") as caught:
        joining_of(exposed)

    assert caught.value.field == "cluster_secret_file"
    assert joining_of(replace(exposed, insecure=True)).secret == b""


def test_engines_show_certificates_of_their_nodes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue()
    tls = [f"--tls_cert_file={pair.certificate}", f"--tls_key_file={pair.key}"]

    assert server.main([PEER, "--engine_tls"]) == 2
    assert "engine_tls needs tls_cert_file" in capsys.readouterr().err
    assert server.main([PEER, "--engine_tls", *tls]) == 2
    assert "engine_tls needs tls_client_ca_file" in capsys.readouterr().err

    settings = Settings(
        initial_peers=("10.0.0.2:9900",),
        tls_cert_file=pair.certificate,
        tls_key_file=pair.key,
        tls_client_ca_file=authority.file,
    )
    assert joining_of(settings).engine_tls is None
    wanted = TlsFiles(pair.certificate, pair.key, authority.file)
    assert joining_of(replace(settings, engine_tls=True)).engine_tls == wanted


def test_a_list_of_all_nodes_does_for_each_of_them() -> None:
    peers = ("Node1:9900", "node2:9900", "[::1]:9900", "node1:9900")
    settings = Settings(initial_peers=peers, advertise_addr="node1")

    joining = joining_of(settings)

    assert joining == Joining(peers=("node2:9900", "[::1]:9900"), names_itself=True)


def test_a_node_that_listens_everywhere_is_found_by_loopback_too() -> None:
    settings = Settings(
        bind_addr="0.0.0.0", insecure=True, initial_peers=("127.0.0.1:9900", "b:9900")
    )

    assert joining_of(settings).peers == ("b:9900",)


def test_another_node_on_this_machine_is_another() -> None:
    peers = ("127.0.0.1:9901", "127.0.0.2:9900")

    assert joining_of(Settings(initial_peers=peers)).peers == peers


def test_a_node_alone_may_leave_the_engines_ports_as_they_are() -> None:
    assert joining_of(Settings(grpc_port=9900, http_port=9190)) == Joining()
