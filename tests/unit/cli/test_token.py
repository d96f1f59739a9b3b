"""`sandglass token`: the file is the one that `token_file` names."""

import json
from pathlib import Path

import pytest

from sandglass.cli import server
from sandglass.security.tokens import digest_of, read_tokens


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = server.main([*arguments, "--config="])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_token_is_printed_once_and_known_by_its_hash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tokens"

    code, out, err = run(capsys, "token", "add", "mailer", "--token-file", str(path))

    token = out.strip()
    assert (code, err) == (0, "")
    assert token.startswith("sg_")
    assert len(token) == 46
    assert read_tokens(path) == {digest_of(token): "mailer"}
    assert token not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_tokens_are_listed_and_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tokens"
    monkeypatch.setenv("SANDGLASS_TOKEN_FILE", str(path))
    added = json.loads(run(capsys, "token", "add", "b", "--json")[1])
    run(capsys, "token", "add", "a")

    assert added["name"] == "b"
    assert read_tokens(path)[digest_of(added["token"])] == "b"
    assert run(capsys, "token", "list") == (0, "NAME\na\nb\n", "")
    assert run(capsys, "token", "list", "--json")[1] == '[{"name": "a"}, {"name": "b"}]\n'
    assert run(capsys, "token", "remove", "a") == (0, "token 'a' was removed\n", "")
    assert run(capsys, "token", "remove", "b", "--json")[1] == '{"name": "b"}\n'
    assert read_tokens(path) == {}


def test_what_goes_wrong_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tokens"
    flag = ("--token_file", str(path))
    run(capsys, "token", "add", "a", *flag)

    for arguments, code, said in (
        (("token", "add", "a", *flag), 1, "has a token 'a' already"),
        (("token", "remove", "b", *flag), 1, "has no token 'b'"),
        (("token", "list", "--token_file", str(path) + "x"), 1, "can't be read: No such file"),
        (
            ("token", "remove", "a", "--token_file", str(path) + "x"),
            1,
            "there is no token file",
        ),
    ):
        found, out, err = run(capsys, *arguments)
        assert (found, out) == (code, "")
        assert err.count("\n") == 1
        assert said in err
    found, _, err = run(capsys, "token", "add", "a b", *flag)
    assert found == 2
    assert "name 'a b' is not a name" in err
    found, _, err = run(capsys, "token", "list")
    assert found == 2
    assert "give --token_file PATH" in err
