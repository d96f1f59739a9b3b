"""Who can reach a listener."""

import socket

import pytest

from sandglass.security.reach import exposure_of, is_loopback, is_loopback_text


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "127.1"])
def test_addresses_that_only_this_machine_reaches_need_nothing(address: str) -> None:
    assert is_loopback(address)
    assert exposure_of(address, has_tls=False, has_tokens=False) == ""


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0", "::", "192.0.2.1", "", "no such name", ".", "0", "::ffff:192.0.2.1", "[::1]"],
)
def test_addresses_that_others_reach_need_tls_and_tokens(address: str) -> None:
    assert not is_loopback(address)
    for has_tls in (False, True):
        for has_tokens in (False, True):
            said = exposure_of(address, has_tls=has_tls, has_tokens=has_tokens)
            assert (said == "") == (has_tls and has_tokens)
            assert ("--tls_cert_file" in said) == (not has_tls)
            assert ("--token_file" in said) == (not has_tokens)
            assert not said or "--insecure" in said


def test_a_name_counts_by_all_that_it_resolves_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*addresses: str) -> list[tuple[object, ...]]:
        return [(0, 0, 0, "", (each, 0)) for each in addresses]

    names = {
        "inner": found("127.0.0.1", "::1"),
        "outer": found("192.0.2.1"),
        "both": found("127.0.0.1", "192.0.2.1"),
    }
    monkeypatch.setattr(socket, "getaddrinfo", lambda name, *_, **__: names[name])

    assert [is_loopback(name) for name in names] == [True, False, False]


def test_to_connect_to_a_host_counts_by_its_text() -> None:
    known = ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1"]
    others = ["0.0.0.0", "localhost.example.com", "192.0.2.1", "", "node1", "127.1"]

    assert all(map(is_loopback_text, known))
    assert not any(map(is_loopback_text, others))
