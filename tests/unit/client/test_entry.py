"""How a client gets in: TLS and tokens as users give them."""

from pathlib import Path

import pytest

from sandglass import AsyncClient, TlsOptions
from sandglass.client.entry import Entry, Token, entry_of, metadata_of
from sandglass.core import limits
from sandglass.errors import InvalidError, NotFoundError, PreconditionError, SandglassError
from tests.certificates import Authority


def entry(token: Token = None, *, host: str = "127.0.0.1", insecure: bool = False) -> Entry:
    return entry_of(None, token, hosts=[host], insecure=insecure)


def test_a_token_is_shown_as_a_bearer_s() -> None:
    assert metadata_of("sg_x") == (("authorization", "Bearer sg_x"),)
    assert metadata_of("") == ()


def test_a_token_is_given_read_or_asked_for(tmp_path: Path) -> None:
    (path := tmp_path / "token").write_text("sg_file\n")

    assert entry("sg_text").current_token() == "sg_text"
    assert entry(path).current_token() == "sg_file"
    assert entry(lambda: "sg_call").current_token() == "sg_call"
    assert [entry(each).current_token() for each in (None, "")] == ["", ""]


def test_a_renewed_token_is_noticed(tmp_path: Path) -> None:
    (path := tmp_path / "token").write_text("sg_old")
    found = entry(path)

    assert not found.has_other_token("sg_old")
    path.write_text("sg_new")
    assert found.has_other_token("sg_old")
    assert found.current_token() == "sg_new"
    path.unlink()
    assert not found.has_other_token("sg_new")


@pytest.mark.parametrize(
    "token", ["a secret", "secret\n", "sécret", "\0secret", "s" * (limits.TOKEN_LENGTH_MAX + 1)]
)
def test_what_is_no_token_is_refused_and_not_shown(tmp_path: Path, token: str) -> None:
    (path := tmp_path / "file").write_text(token if token != "secret\n" else "")
    longest = "s" * limits.TOKEN_LENGTH_MAX

    assert entry(longest).current_token() == longest
    for given in (token, path):
        with pytest.raises(InvalidError, match="holds no token") as caught:
            entry(given)
        assert "cret" not in caught.value.message
    with pytest.raises(InvalidError, match="holds no token"):
        entry(lambda: token).current_token()


def test_a_token_is_not_in_what_is_printed() -> None:
    assert "sg_secret" not in repr(entry("sg_secret"))
    assert "sg_secret" not in repr(vars(AsyncClient(token="sg_secret")))


def test_a_token_file_that_is_not_there_is_named() -> None:
    with pytest.raises(NotFoundError, match="token file /nowhere/token can't be read"):
        entry(Path("/nowhere/token"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_to_this_machine_a_token_goes_as_it_is(host: str) -> None:
    assert entry("sg_x", host=host).token == "sg_x"


@pytest.mark.parametrize("host", ["192.0.2.1", "node1", "localhost.example.com", "0.0.0.0"])
def test_to_another_machine_a_token_goes_encrypted_or_as_told(host: str) -> None:
    for token in ("sg_x", lambda: "sg_x"):
        with pytest.raises(PreconditionError, match=f"would go to {host} unencrypted"):
            entry(token, host=host)
        assert entry(token, host=host, insecure=True).token == token
    assert entry(None, host=host).token is None
    assert entry_of(True, "sg_x", hosts=[host], insecure=False).token == "sg_x"


def test_every_address_of_a_client_counts() -> None:
    with pytest.raises(PreconditionError, match="would go to node2 unencrypted"):
        AsyncClient("127.0.0.1", "node2:7171", token="sg_x")
    with pytest.raises(PreconditionError, match="would go to 2001:db8::1 unencrypted"):
        AsyncClient("[2001:db8::1]:7170", token="sg_x")

    AsyncClient("127.0.0.1", "[::1]:7170", token="sg_x")


def test_what_is_for_this_machine_goes_through_no_proxy() -> None:
    assert ("grpc.enable_http_proxy", 0) in entry().channel_options("127.0.0.1")
    assert [] == entry().channel_options("node1")


def test_tls_is_given_in_several_ways(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue()
    whole = TlsOptions(authority.file, str(pair.certificate), pair.key, "node1")

    for tls in (True, authority.file, str(authority.file), TlsOptions(), whole):
        found = entry_of(tls, None, hosts=[], insecure=False)
        assert found.credentials() is not None
    assert entry_of(False, None, hosts=[], insecure=False).credentials() is None
    named = entry_of(whole, None, hosts=[], insecure=False)
    assert ("grpc.ssl_target_name_override", "node1") in named.channel_options("127.0.0.1")


def test_tls_that_does_not_fit_is_refused_at_once(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair, other = authority.issue(), authority.issue("other")

    for tls, said in (
        (TlsOptions(certificate_file=pair.certificate), "give both, or neither"),
        (TlsOptions(key_file=pair.key), "give both, or neither"),
        (TlsOptions(None, pair.certificate, other.key), "does not belong to"),
        (TlsOptions(ca_file=pair.key), "holds no certificate"),
        (TlsOptions(ca_file="/nowhere"), "/nowhere can't be read"),
        (17, "tls is int"),
    ):
        with pytest.raises(SandglassError, match=said):
            AsyncClient(tls=tls)  # pyright: ignore[reportArgumentType] - one of them
