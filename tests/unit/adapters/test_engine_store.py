"""An engine's directory: whose it is, before an engine is started on it."""

import json
from pathlib import Path

import pytest

from sandglass.adapters.engine_store import Owner, load_owner, save_owner
from sandglass.errors import CorruptError, PreconditionError

ME = Owner("ab" * 16, "node1", "sandglass-1")


def loaded(directory: Path, node: str = ME.node, name: str = ME.name) -> Owner | None:
    return load_owner(directory, node=node, name=name)


def test_an_owner_is_known_again(tmp_path: Path) -> None:
    assert loaded(tmp_path / "engine") is None

    save_owner(tmp_path / "engine", ME)
    (tmp_path / "engine" / "js" / "jetstream").mkdir()

    assert loaded(tmp_path / "engine") == ME


def test_a_first_start_that_was_cut_off_is_none(tmp_path: Path) -> None:
    (tmp_path / "js").mkdir()
    (tmp_path / "js" / "owner.json.new").touch()

    assert loaded(tmp_path) is None
    save_owner(tmp_path, ME)
    assert loaded(tmp_path) == ME


def test_streams_of_a_server_that_stood_alone_are_refused_and_left(tmp_path: Path) -> None:
    block = tmp_path / "js" / "jetstream" / "$G" / "streams" / "ORDERS" / "msgs" / "1.blk"
    block.parent.mkdir(parents=True)
    block.write_bytes(b"orders")

    with pytest.raises(PreconditionError, match=r"holds streams, and no owner\.json that says"):
        loaded(tmp_path)

    assert block.read_bytes() == b"orders"


def test_streams_of_another_nodes_data_are_refused(tmp_path: Path) -> None:
    save_owner(tmp_path, ME)

    with pytest.raises(PreconditionError, match="are of node node1, with other data than"):
        loaded(tmp_path, node="cd" * 16)


def test_a_node_keeps_its_name(tmp_path: Path) -> None:
    save_owner(tmp_path, ME)

    with pytest.raises(PreconditionError, match="Start it as node1") as caught:
        loaded(tmp_path, name="node2")

    assert caught.value.field == "name"


def test_what_a_newer_version_wrote_is_not_guessed_at(tmp_path: Path) -> None:
    save_owner(tmp_path, ME)
    path = tmp_path / "js" / "owner.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 2}))

    with pytest.raises(PreconditionError, match="has version 2, this program knows up to 1"):
        loaded(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": "1", "node": "x"}', "null"])
def test_a_damaged_file_is_said_to_be_damaged(tmp_path: Path, text: str) -> None:
    save_owner(tmp_path, ME)
    (tmp_path / "js" / "owner.json").write_text(text)

    with pytest.raises(CorruptError, match=r"owner\.json is damaged"):
        loaded(tmp_path)
