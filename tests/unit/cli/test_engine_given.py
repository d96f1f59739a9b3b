"""Settings of an operator's own engine that can't be are refused, and no secret is shown."""

from pathlib import Path

import pytest

from sandglass.cli import server
from sandglass.cli.engine_given import given_of
from sandglass.cluster.engines import GivenConfig
from sandglass.settings import Settings
from tests.certificates import Authority
from tests.unit.cli.refusal import refusal

URL = "--engine_url=nats://10.0.0.1:4222"


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    path = tmp_path / "credentials"
    path.write_text("user:a:word\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engine_url=10.0.0.1:4222"], "engine_url has an address that is none"),
        (["--engine_url=http://10.0.0.1"], "engine_url has an address that is none"),
        (["--engine_url=nats://"], "engine_url has an address that is none"),
        (["--engine_url=nats://a:0"], "engine_url has an address that is none"),
        (["--engine_url=nats://a:65536"], "engine_url has an address that is none"),
        (["--engine_url=nats://a/path"], "engine_url has an address that is none"),
        (["--engine_url=nats://user:word@a"], "engine_url has a user in it"),
        ([URL, "--initial_peers=10.0.0.2:9900"], "initial_peers is given with engine_url"),
        ([URL, "--engine_binary=/bin/nats-server"], "engine_binary is given with engine_url"),
        ([URL, "--engine_ca_file=/nowhere"], "engine_ca_file is given, and engine_url is not"),
        (["--engine_ca_file=/nowhere"], "engine_ca_file is given without engine_url"),
        (["--engine_credentials_file=/nowhere"], "engine_credentials_file is given without"),
        ([URL, "--engine_credentials_file=/nowhere"], "engine_credentials_file /nowhere can't"),
        ([URL, "--http_port=7170"], "http_port is 7170, as grpc_port is"),
    ],
)
def test_a_fault_is_refused_in_one_line_that_names_the_setting(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(arguments, capsys)

    assert line.startswith(said)
    assert "word" not in line


@pytest.mark.parametrize("content", [b"", b"\n", b"one\ntwo\n", b"\xff\xfe"])
def test_credentials_are_one_line(
    credentials: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    credentials.write_bytes(content)

    assert server.main([URL, f"--engine_credentials_file={credentials}"]) == 2

    assert "is to hold one line: user:password, or a token" in capsys.readouterr().err


def test_a_creds_file_is_refused_as_such(
    credentials: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark, end = b"-----BEGIN NATS USER JWT-----", b"------END NATS USER JWT------"
    credentials.write_bytes(b"\n".join([mark, b"a secret", end, b""]))

    assert server.main([URL, f"--engine_credentials_file={credentials}"]) == 2

    err = capsys.readouterr().err
    assert f"engine_credentials_file {credentials} is a .creds file of NATS" in err
    assert "secret" not in err


def test_credentials_are_their_owners_alone(
    credentials: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    credentials.chmod(0o644)

    assert server.main([URL, f"--engine_credentials_file={credentials}"]) == 2

    err = capsys.readouterr().err
    assert f"engine_credentials_file {credentials} has mode 0644" in err
    assert "word" not in err


def test_credentials_cross_no_network_unencrypted(
    credentials: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert server.main([URL, f"--engine_credentials_file={credentials}"]) == 2
    assert "would be sent to nats://10.0.0.1:4222 unencrypted" in capsys.readouterr().err

    for url in ("tls://10.0.0.1:4222", "nats://127.0.0.1:4222", "nats://localhost"):
        given = given_of(Settings(engine_url=(url,), engine_credentials_file=credentials))
        assert given is not None
        assert (given.user, given.password) == ("user", "a:word")
    insecure = Settings(
        engine_url=("nats://10.0.0.1",), engine_credentials_file=credentials, insecure=True
    )
    assert given_of(insecure) is not None


def test_an_address_has_the_usual_port_and_a_token_no_user(
    credentials: Path, tmp_path: Path
) -> None:
    credentials.write_text("a-token\n")
    authority = Authority(tmp_path)

    given = given_of(
        Settings(
            engine_url=("tls://A.example", "tls://[::1]:4333", "tls://a.example:4222"),
            engine_credentials_file=credentials,
            engine_ca_file=authority.file,
        )
    )

    urls = ("tls://a.example:4222", "tls://[::1]:4333")
    assert given == GivenConfig(urls, "", "a-token", authority.file)
