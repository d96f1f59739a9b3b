"""Where settings come from, and which source wins."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from sandglass.cli import config
from sandglass.cli.config import Source, load, read_config, shown_place
from sandglass.errors import InvalidError, NotFoundError, SandglassError
from sandglass.settings import CtlSettings, Settings

DEMO = Path(__file__).parents[3] / "demo"


def written(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


@contextmanager
def served(body: bytes, *, form: str = "text/plain") -> Iterator[str]:
    """A page on a server of its own; the address without a path."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/missing"):
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", form)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
            """Nothing on stderr."""

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_the_strongest_source_wins(tmp_path: Path) -> None:
    path = written(
        tmp_path, "s.yaml", "grpc_port: 1\nhttp_port: 1\nraft_port: 1\ngossip_port: 1\n"
    )
    environ = {
        "SANDGLASS_GRPC_PORT": "2",
        "SANDGLASS_HTTP_PORT": "2",
        "HTTP_PORT": "3",
        "RAFT_PORT": "3",
        "GOSSIP_PORT": "",
    }

    loaded = load(Settings, flags={"grpc_port": "4"}, environ=environ, config=path)

    settings = loaded.settings
    assert (settings.grpc_port, settings.http_port) == (4, 2)
    assert (settings.raft_port, settings.gossip_port) == (3, 1)
    assert settings.bind_addr == "127.0.0.1"
    assert loaded.config == path


def test_each_value_knows_where_it_comes_from(tmp_path: Path) -> None:
    path = written(tmp_path, "s.yaml", "grpc_port: 1\nhttp_port: 1\nraft_port: 1\n")
    environ = {"SANDGLASS_HTTP_PORT": "2", "RAFT_PORT": "3", "SANDGLASS_GOSSIP_PORT": "4"}

    loaded = load(Settings, flags={"raft_port": "5"}, environ=environ, config=path)

    assert loaded.sources == {
        "grpc_port": Source("file", path),
        "http_port": Source("environment", "SANDGLASS_HTTP_PORT"),
        "raft_port": Source("flag", "--raft_port"),
        "gossip_port": Source("environment", "SANDGLASS_GOSSIP_PORT"),
    }


def test_of_an_address_only_what_holds_no_secret_is_shown() -> None:
    assert shown_place("https://me:secret@host:1/a.yaml?key=secret") == (
        "https://host:1/a.yaml?(hidden)"
    )
    assert shown_place("/a@b?c.yaml") == "/a@b?c.yaml"
    assert "secret" not in shown_place("http://[secret")
    for url in ("http://me:secret@127.0.0.1:1/s", "http://127.0.0.1:1/s?key=secret"):
        with pytest.raises(SandglassError) as caught:
            read_config(url)
        assert "secret" not in caught.value.message


def test_a_config_that_cannot_be_understood_is_not_quoted(tmp_path: Path) -> None:
    for name, text in (
        ("s.yaml", "addrs: [a]\ntoken: secret: ["),
        ("s.json", '{"token": secret}'),
        ("s.toml", "token = secret"),
    ):
        with pytest.raises(InvalidError) as caught:
            read_config(written(tmp_path, name, text))
        assert "secret" not in caught.value.message
        assert "line" in caught.value.message


def test_the_bare_variables_name_and_data_are_left_alone() -> None:
    loaded = load(Settings, flags={}, environ={"NAME": "x y", "DATA": "/x"})

    assert loaded.settings == Settings()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.yaml", "timeout: 5m\naddrs: [a:1, b:2]\n"),
        ("s.yml", "Timeout: 5m\naddrs:\n  - a:1\n  - b:2\n"),
        ("s.toml", 'timeout = "5m"\naddrs = ["a:1", "b:2"]\n'),
        ("s.json", '{"timeout": "5m", "addrs": ["a:1", "b:2"]}'),
        ("plain", "timeout: 5m\naddrs: a:1,b:2\n"),
    ],
)
def test_a_config_is_read_in_each_form(tmp_path: Path, name: str, text: str) -> None:
    loaded = load(CtlSettings, flags={}, environ={}, config=written(tmp_path, name, text))

    assert loaded.settings == CtlSettings(addrs=("a:1", "b:2"), timeout=timedelta(minutes=5))


def test_a_config_in_the_home_directory_is_found(tmp_path: Path) -> None:
    written(tmp_path, ".sandglass.toml", "grpc_port = 5")

    loaded = load(Settings, flags={}, environ={}, home=tmp_path, file_stem="sandglass")

    assert loaded.settings.grpc_port == 5
    assert loaded.config.endswith(".sandglass.toml")


def test_an_empty_config_sets_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, "s.yaml", "# nothing\nname:\n")

    assert load(Settings, flags={}, environ={}, config=path).settings == Settings()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "s.yaml",
            "grpc_prot: 1",
            "grpc_prot in {} is not a setting; the nearest is grpc_port",
        ),
        ("s.yaml", "grpc_port: 70000", "grpc_port (from {}) is '70000'; it must be 0 to 65535"),
        ("s.yaml", "a: [", "config {} can't be understood: "),
        ("s.json", "{", "config {} can't be understood: "),
        ("s.toml", "a", "config {} can't be understood: "),
        ("s.yaml", "- a\n- b", "config {} holds no keys"),
        ("s.json", "\ud800", "config {} can't be understood: "),
    ],
)
def test_a_wrong_config_is_refused_by_name(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    path = str(tmp_path / name)
    Path(path).write_bytes(text.encode("utf-8", "surrogatepass"))

    with pytest.raises(InvalidError) as caught:
        load(Settings, flags={}, environ={}, config=path)

    assert caught.value.message.startswith(said.format(path))
    assert "\n" not in caught.value.message


def test_a_config_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="No such file"):
        read_config(str(tmp_path / "none.yaml"))


def test_a_config_of_the_largest_size_is_read_and_a_byte_more_is_not(tmp_path: Path) -> None:
    text = "name: a\n#"
    filled = text + "x" * (config.CONFIG_BYTES_MAX - len(text))

    assert read_config(written(tmp_path, "full.yaml", filled)) == {"name": "a"}
    with pytest.raises(InvalidError, match="larger than 1048576 bytes"):
        read_config(written(tmp_path, "over.yaml", filled + "x"))


def test_yaml_without_its_package_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)

    with pytest.raises(InvalidError, match="needs the package pyyaml"):
        read_config(written(tmp_path, "s.yaml", "name: a"))


def test_a_config_is_fetched_from_a_url() -> None:
    with served(b"name: a") as address:
        assert read_config(f"{address}/s.yaml?x=1") == {"name": "a"}
    with served(b'name = "a"') as address:
        assert read_config(f"{address}/s.toml") == {"name": "a"}
    with served(b'{"name": "a"}', form="application/json") as address:
        assert read_config(f"{address}/settings") == {"name": "a"}


def test_a_url_that_gives_no_config_is_not_found() -> None:
    with served(b"") as address, pytest.raises(NotFoundError, match="missing"):
        read_config(f"{address}/missing.yaml")
    with pytest.raises(NotFoundError, match="Connection refused"):
        read_config(f"{address}/s.yaml")


def test_a_page_that_is_too_large_is_refused() -> None:
    body = b"#" * (config.CONFIG_BYTES_MAX + 1)

    with served(body) as address, pytest.raises(InvalidError, match="larger than"):
        read_config(f"{address}/s.yaml")


def test_a_variable_that_looks_like_a_slip_earns_a_note_and_others_none() -> None:
    environ = {
        "SANDGLASS_GRPC_PROT": "1",
        "SANDGLASS_SERVICE_HOST": "10.0.0.1",
        "SANDGLASS_CONFIG": "x",
        "SANDGLASS_TIMEOUT": "5s",
    }

    loaded = load(Settings, flags={}, environ=environ)

    assert loaded.notes == (
        "the variable SANDGLASS_GRPC_PROT sets nothing; did you mean SANDGLASS_GRPC_PORT?",
    )


def test_the_nodes_of_the_tour_have_ports_of_their_own_and_know_each_other() -> None:
    nodes = [
        load(Settings, flags={}, environ={}, config=str(DEMO / f"node{number}.yaml")).settings
        for number in (1, 2, 3)
    ]

    ports = [(each.grpc_port, each.http_port, each.raft_port) for each in nodes]
    assert ports == [(7170, 2108, 9190), (7171, 3108, 9191), (7172, 4108, 9192)]
    assert [each.bootstrap_raft for each in nodes] == [True, False, False]
    for node in nodes:
        others = [each for each in nodes if each is not node]
        assert set(node.initial_peers) == {f"127.0.0.1:{each.gossip_port}" for each in others}
    assert len({each.data for each in nodes}) == 3


@pytest.mark.parametrize(
    "value",
    [
        "!!int ''",
        "!!bool x",
        "!!float ''",
        "!!timestamp x",
        "2001-99-99",
        "!!int x",
        "!!binary [",
    ],
)
def test_a_value_that_is_not_what_its_tag_says_is_refused(tmp_path: Path, value: str) -> None:
    path = written(tmp_path, "s.yaml", f"grpc_port: {value}\n")

    with pytest.raises(InvalidError, match="can't be understood"):
        read_config(path)
