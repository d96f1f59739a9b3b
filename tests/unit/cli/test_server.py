"""What the server's command line refuses, and how it logs."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import structlog

from sandglass.cli import logs, server
from sandglass.errors import InvalidError, PreconditionError
from sandglass.security.tokens import add_token
from sandglass.settings import Settings
from tests.certificates import Authority, Pair


@pytest.fixture
def log_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Authority(tmp_path).issue()


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    add_token(tmp_path / "tokens", "one", "sg_one")
    return tmp_path / "tokens"


def refusal(settings: Settings) -> str:
    with pytest.raises(InvalidError) as caught:
        server.access_of(settings)
    assert caught.value.field == "bind_addr"
    return caught.value.message


def test_on_loopback_nothing_is_needed() -> None:
    access = server.access_of(Settings())

    assert (access.guard, access.tls) == (None, None)


def test_beyond_loopback_both_tls_and_tokens_are_needed(pair: Pair, tokens: Path) -> None:
    exposed = Settings(bind_addr="0.0.0.0")
    with_tls = replace(exposed, tls_cert_file=pair.certificate, tls_key_file=pair.key)
    with_tokens = replace(exposed, token_file=tokens)
    with_both = replace(with_tls, token_file=tokens)

    assert "neither TLS nor a token" in refusal(exposed)
    assert "there are no tokens" in refusal(with_tls)
    assert "there are no tokens" in refusal(
        replace(with_tls, tls_client_ca_file=pair.certificate)
    )
    assert "there is no TLS" in refusal(with_tokens)
    access = server.access_of(with_both)
    assert access.guard is not None
    assert access.tls is not None


def test_insecure_takes_what_there_is(pair: Pair, tokens: Path) -> None:
    exposed = Settings(bind_addr="0.0.0.0", insecure=True)

    assert server.access_of(exposed).guard is None
    assert server.access_of(replace(exposed, token_file=tokens)).guard is not None
    with_tls = replace(exposed, tls_cert_file=pair.certificate, tls_key_file=pair.key)
    assert server.access_of(with_tls).tls is not None


def test_an_exposed_listener_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert server.main(["--bind_addr", "0.0.0.0", "--config="]) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sandglass: bind_addr 0.0.0.0 can be reached")
    assert captured.err.count("\n") == 1


def test_files_that_do_not_fit_are_refused_in_one_line(
    tmp_path: Path, pair: Pair, tokens: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expired = Authority(tmp_path, "past").issue(ends=timedelta(hours=-1))
    other = Authority(tmp_path, "other").issue()
    (wide := tmp_path / "wide").write_bytes(tokens.read_bytes())
    wide.chmod(0o640)
    (wrong := tmp_path / "wrong").write_text("one sg_secret\n")
    wrong.chmod(0o600)
    certificate, key = f"--tls_cert_file={pair.certificate}", f"--tls_key_file={pair.key}"

    for arguments, said in (
        ([key], "tls_key_file is given without tls_cert_file"),
        ([certificate], "tls_cert_file is given without tls_key_file"),
        ([f"--tls_client_ca_file={pair.certificate}"], "is given without tls_cert_file"),
        ([certificate, f"--tls_key_file={other.key}"], "does not belong to"),
        ([certificate, "--tls_key_file=/nowhere/key"], "/nowhere/key can't be read"),
        (
            [f"--tls_cert_file={expired.certificate}", f"--tls_key_file={expired.key}"],
            "certificate has expired",
        ),
        ([f"--token_file={wide}"], "has mode 0640"),
        ([f"--token_file={wrong}"], "line 1 of"),
        (["--token_file=/nowhere/tokens"], "make it with: sandglass token add NAME"),
    ):
        assert server.main(arguments) == 2
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1
        assert "secret" not in err


def test_a_setting_out_of_range_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert server.main(["--grpc_port", "65536"]) == 2

    assert capsys.readouterr().err == (
        "sandglass: grpc_port (from --grpc_port) is '65536'; it must be 0 to 65535\n"
        "Try 'sandglass --help'.\n"
    )


def test_a_config_that_is_not_there_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert server.main(["--config", "/nowhere/s.yaml"]) == 1

    assert "config /nowhere/s.yaml can't be read" in capsys.readouterr().err


def test_the_version_is_printed_for_people_and_programs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert server.main(["version"]) == 0
    assert server.main(["version", "--json"]) == 0

    text, document = capsys.readouterr().out.splitlines()
    assert text.startswith("sandglass ")
    assert json.loads(document).keys() == {"tool", "version", "commit", "date"}


def test_python_without_asserts_is_refused() -> None:
    script = "import sys; from sandglass.cli.server import main; sys.exit(main([]))"

    done = subprocess.run(
        [sys.executable, "-O", "-c", script], capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert done.stderr == (
        "sandglass: start Python without -O: the node relies on its asserts\n"
    )


@pytest.mark.usefixtures("log_restored")
def test_the_log_is_json_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("auto", is_verbose=False)

    structlog.get_logger("sandglass").info("serving", port=7170)
    logging.getLogger("some.library").warning("odd: %s", 1)
    logging.getLogger("some.library").debug("not shown")

    ours, theirs = map(json.loads, capsys.readouterr().err.splitlines())
    assert list(ours)[:3] == ["time", "level", "message"]
    assert (ours["level"], ours["message"], ours["port"]) == ("info", "serving", 7170)
    assert (theirs["level"], theirs["message"]) == ("warning", "odd: 1")
    assert theirs["logger"] == "some.library"


@pytest.mark.usefixtures("log_restored")
def test_the_log_is_a_plain_line_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("human", is_verbose=True)

    structlog.get_logger("sandglass").debug("serving", port=7170)

    line = capsys.readouterr().err
    assert "serving port=7170" in line
    assert "\x1b" not in line


@pytest.mark.usefixtures("log_restored")
def test_a_client_that_did_not_wait_for_its_answer_is_no_news(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("human", is_verbose=False)

    library = logging.getLogger("grpc._cython.cygrpc")
    library.error("ExecuteBatchError raised in core by servicer method [%s]", "/a.B/C")
    library.error("Unexpected [%s] raised by servicer method [%s]", "KeyError", "/a.B/C")

    (line,) = capsys.readouterr().err.splitlines()
    assert "KeyError" in line


def test_a_port_in_use_comes_with_advice() -> None:
    text = "port 7170 on 127.0.0.1 is in use"

    said = server._with_advice(PreconditionError(text))

    assert said == f"{text}; stop what listens there, or choose another with --grpc_port"
    assert server._with_advice(PreconditionError(text, field="http_port")).endswith(
        "--http_port"
    )
    assert server._with_advice(PreconditionError("anything else")) == "anything else"
