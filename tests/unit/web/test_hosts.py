"""Whom the node takes for itself, and which pages it lets in."""

import pytest

from sandglass.web.hosts import Hosts, host_of


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("Example.com", "example.com"),
        ("example.com:2108", "example.com"),
        ("example.com.:2108", "example.com"),
        ("127.0.0.1:2108", "127.0.0.1"),
        ("[::1]:2108", "::1"),
        ("::1", "::1"),
        ("", ""),
    ],
)
def test_a_host_is_what_stands_before_the_port(authority, host):
    assert host == host_of(authority)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1:2108", "127.9.9.9", "[::1]:2108"]
)
def test_loopback_is_always_this_node(host):
    assert Hosts("127.0.0.1").is_known(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "stranger.example",
        "stranger.example:2108",
        "127.0.0.1.stranger.example",
        "localhost.stranger.example",
        "10.0.0.7",
        "0.0.0.0",
        "localhost, stranger.example",
        "[::ffff:10.0.0.7]",
        "localhost@stranger.example",
        "2130706433",
    ],
)
def test_a_name_or_address_of_somebody_else_is_not(host):
    assert not Hosts("127.0.0.1").is_known(host)


def test_the_node_is_known_by_where_it_listens_and_by_names_it_was_given():
    hosts = Hosts("10.0.0.7", ["queue.example", "", "10.0.0.8:2108"])

    for host in ("10.0.0.7:2108", "queue.example", "QUEUE.example:99", "10.0.0.8"):
        assert hosts.is_known(host)
    assert not hosts.is_known("10.0.0.9")


@pytest.mark.parametrize("bind_addr", ["0.0.0.0", "::"])
def test_a_node_that_listens_everywhere_is_known_by_any_address_but_not_by_any_name(bind_addr):
    hosts = Hosts(bind_addr)

    assert hosts.is_known("10.0.0.7:2108")
    assert hosts.is_known("[fe80::1]:2108")
    assert not hosts.is_known("stranger.example")


@pytest.mark.parametrize(
    ("origin", "fetch_site", "is_let_in"),
    [
        ("", "", True),
        ("", "none", True),
        ("", "same-origin", True),
        ("http://localhost:2108", "", True),
        ("https://127.0.0.1", "same-origin", True),
        ("http://stranger.example", "", False),
        ("null", "", False),
        ("file://localhost", "", False),
        ("", "cross-site", False),
        ("", "same-site", False),
        ("http://", "", False),
    ],
)
def test_only_pages_of_this_node_are_let_in(origin, fetch_site, is_let_in):
    assert is_let_in is Hosts("127.0.0.1").is_own_page(origin, fetch_site)
