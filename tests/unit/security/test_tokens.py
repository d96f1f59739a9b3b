"""Tokens, and the lines of their file."""

import hashlib
from pathlib import Path

import pytest

from sandglass.core import limits
from sandglass.errors import ConflictError, InvalidError, NotFoundError, PreconditionError
from sandglass.security.tokens import (
    TOKEN_BYTES,
    add_token,
    digest_of,
    new_token,
    parse_tokens,
    read_tokens,
    remove_token,
    renew_token,
)

A, B = bytes(range(32)), bytes(range(1, 33))


def line(name: str, digest: bytes) -> str:
    return f"{name} sha256:{digest.hex()}\n"


def test_a_token_holds_all_of_its_chance_and_is_fit_for_a_header() -> None:
    one, other = new_token(bytes(TOKEN_BYTES)), new_token(bytes(31) + b"\x01")

    assert one == "sg_" + 43 * "A"
    assert one != other
    assert other.isascii()
    assert len(other) == 46 <= limits.TOKEN_LENGTH_MAX


def test_the_digest_is_the_sha256_of_the_text_as_it_is_sent() -> None:
    assert digest_of("sg_x") == hashlib.sha256(b"sg_x").digest()


def test_comments_and_empty_lines_mean_nothing() -> None:
    content = f"# ours\n\n  \n{line('a', A)}\t{line('b', B)}".encode()

    assert parse_tokens(content, source="f") == {A: "a", B: "b"}
    assert parse_tokens(b"", source="f") == {}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("sg_secret", "line 1 of f: a line is NAME sha256:HEX"),
        ("mailer sg_secret", "line 1 of f: a line is NAME sha256:HEX"),
        ("mailer sha256:" + 63 * "a", "line 1 of f: a line is NAME sha256:HEX"),
        ("mailer sha256:" + 65 * "a", "line 1 of f: a line is NAME sha256:HEX"),
        ("mailer sha256:" + 64 * "A", "line 1 of f: a line is NAME sha256:HEX"),
        (f"a secret {line('b', A)}", "line 1 of f: a line is NAME sha256:HEX"),
        (line("a/b", A), "line 1 of f: the name is none"),
        (line("_a", A), "line 1 of f: the name is none"),
        (line("é", A), "line 1 of f: the name is none"),
        (
            line("a", A) + line("a", B) + line("a", bytes(32)),
            "line 3 of f: the name 'a' stands there twice already",
        ),
        (line("a", A) + line("b", A), "line 2 of f: 'b' has the same token as 'a'"),
    ],
)
def test_a_wrong_line_is_named_and_never_shown(content: str, said: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse_tokens(content.encode(), source="f")

    assert caught.value.message.startswith(said)
    assert caught.value.field == "token_file"
    assert "secret" not in str(caught.value)


def test_as_many_tokens_as_may_be_are_read_and_one_more_is_not(tmp_path: Path) -> None:
    lines = [
        line(f"{number}".rjust(limits.NAME_LENGTH_MAX, "n"), digest_of(str(number)))
        for number in range(limits.TOKEN_COUNT_MAX + 1)
    ]
    path = tmp_path / "tokens"
    path.write_text("".join(lines[:-1]))
    path.chmod(0o600)

    assert len(read_tokens(path)) == limits.TOKEN_COUNT_MAX
    with pytest.raises(InvalidError, match=r"holds 1001 tokens; the limit is 1000"):
        parse_tokens("".join(lines).encode(), source="f")
    with pytest.raises(InvalidError, match="the limit is 1000"):
        add_token(path, "more", "sg_more")
    assert len(read_tokens(path)) == limits.TOKEN_COUNT_MAX


def test_a_file_of_the_largest_size_is_read_and_a_byte_more_is_not(tmp_path: Path) -> None:
    most, first = limits.TOKEN_FILE_BYTES_MAX, line("a", A)
    path = tmp_path / "tokens"
    for size_bytes in (most, most + 1):
        path.write_text(first + "#" * (size_bytes - len(first)))
        path.chmod(0o600)
        if size_bytes == most:
            assert len(read_tokens(path)) == 1
            continue
        with pytest.raises(InvalidError, match=f"is larger than {most} bytes"):
            read_tokens(path)


def test_a_token_added_is_known_by_its_hash_alone(tmp_path: Path) -> None:
    path = tmp_path / "tokens"

    add_token(path, "mailer", "sg_one")
    add_token(path, "reader", "sg_two")

    assert read_tokens(path) == {digest_of("sg_one"): "mailer", digest_of("sg_two"): "reader"}
    assert "sg_" not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_name_is_taken_once(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    add_token(path, "mailer", "sg_one")

    with pytest.raises(ConflictError, match="has a token 'mailer' already"):
        add_token(path, "mailer", "sg_two")
    with pytest.raises(InvalidError, match="name 'a b' is not a name"):
        add_token(path, "a b", "sg_two")


def test_a_renewed_name_has_two_tokens_and_the_older_one_goes(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    add_token(path, "mailer", "sg_one")
    add_token(path, "reader", "sg_two")

    renew_token(path, "mailer", "sg_three")
    both = read_tokens(path)
    with pytest.raises(ConflictError, match="has 2 tokens 'mailer': remove the older one"):
        renew_token(path, "mailer", "sg_four")
    remove_token(path, "mailer", is_older_alone=True)
    with pytest.raises(NotFoundError, match="has one token 'mailer' alone, and none older"):
        remove_token(path, "mailer", is_older_alone=True)

    older, other, newer = map(digest_of, ("sg_one", "sg_two", "sg_three"))
    assert both == {older: "mailer", other: "reader", newer: "mailer"}
    assert read_tokens(path) == {other: "reader", newer: "mailer"}


def test_a_name_without_a_token_cannot_be_renewed(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    with pytest.raises(NotFoundError, match="there is no token file"):
        renew_token(path, "a", "sg_a")
    add_token(path, "a", "sg_a")

    with pytest.raises(NotFoundError, match="has no token 'b'"):
        renew_token(path, "b", "sg_b")


def test_removing_a_renewed_name_takes_both(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    add_token(path, "a", "sg_one")
    renew_token(path, "a", "sg_two")

    remove_token(path, "a")

    assert read_tokens(path) == {}


def test_a_removed_token_leaves_every_other_line_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"# head\n{line('a', A)}\n  {line('b', B)}# end")
    path.chmod(0o600)

    remove_token(path, "a")

    assert path.read_text() == f"# head\n\n  {line('b', B)}# end"
    with pytest.raises(NotFoundError, match="has no token 'a'"):
        remove_token(path, "a")


def test_a_line_is_added_below_one_without_an_end(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(line("a", A) + "# end")
    path.chmod(0o600)

    add_token(path, "b", "sg_b")

    assert read_tokens(path) == {A: "a", digest_of("sg_b"): "b"}


def test_nothing_is_removed_from_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no token file"):
        remove_token(tmp_path / "none", "a")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777, 0o601])
def test_a_file_that_others_can_get_at_is_refused_by_name_and_mode(
    tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "tokens"
    path.write_text(line("a", A))
    path.chmod(mode)

    with pytest.raises(PreconditionError) as caught:
        read_tokens(path)
    with pytest.raises(PreconditionError):
        add_token(path, "b", "sg_b")

    assert caught.value.message == (
        f"token file {path} has mode {mode:04o}, which lets others at it; it must be 0600:"
        f" chmod 600 {path}"
    )


def test_a_file_that_only_its_owner_reads_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(line("a", A))
    path.chmod(0o400)

    assert read_tokens(path) == {A: "a"}
