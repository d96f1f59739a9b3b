"""
Whose streams lie in an engine's directory, and which engines are of one group.

An engine that meets others takes their word for what there is: streams that the others don't
know it makes away with, be they of another cluster, or of a server that stood alone. So what
lies in its directory is looked at before it is started, and engines of another group are kept
out by name, before a word is said.

1. `js/owner.json` says whose the streams beside it are: the node's id and name, and the group.
   It is written before the engine is first started; streams without it are refused.
2. The founder draws a group, unless an engine that it can reach has one. Whoever comes later
   takes that of an engine that is there. Nobody ever changes it.
3. A node's name is the name of its engine, which holds streams by it: it stays.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from sandglass.adapters.files import Files, make_directories, replace_file, translate
from sandglass.errors import CorruptError, PreconditionError

STREAMS: Final = "js"
OWNER: Final = "owner.json"
OWNER_VERSION: Final = 1
GROUP_PREFIX: Final = "sandglass-"


@dataclass(frozen=True, slots=True)
class Owner:
    """A node, by the id of its data, in hex, and by name; and the group of its engine."""

    node: str
    name: str
    group: str


def load_owner(directory: Path, *, node: str, name: str) -> Owner | None:
    """
    The owner of the streams below an engine's directory; None if there are none.

    Args:
        node, name: who is to be the owner.

    Raises:
        PreconditionError: somebody else is, or nobody says who; or a newer version wrote it.
        CorruptError: the file can't be understood.
        DeniedError, UnavailableError: it can't be read.
    """
    streams = directory / STREAMS
    path = streams / OWNER
    try:
        if not path.exists():
            _check_nothing_there(streams)
            return None
        text = path.read_bytes()
    except OSError as error:
        raise translate(error, path) from error
    owner = _decoded(text, path)
    if owner.node != node:
        raise PreconditionError(
            f"the streams in {streams} are of node {owner.name}, with other data than these:"
            " they are left as they are. Bring them back to where they belong, or move them"
            " away; the other nodes fill an empty directory"
        )
    if owner.name != name:
        raise PreconditionError(
            f"name is {name}, and the data are of node {owner.name}: a node of a cluster keeps"
            f" its name. Start it as {owner.name}",
            field="name",
        )
    return owner


def save_owner(directory: Path, owner: Owner) -> None:
    """
    Writes it, durably. Blocks.

    Raises:
        NoSpaceError, DeniedError, UnavailableError: there may be none yet.
    """
    files, path = Files(), directory / STREAMS / OWNER
    text = json.dumps({"version": OWNER_VERSION, **asdict(owner)}).encode()
    try:
        make_directories(files, path.parent)
        replace_file(files, path, text)
    except OSError as error:
        raise translate(error, path) from error


def _check_nothing_there(streams: Path) -> None:
    found = sorted(each.name for each in streams.iterdir()) if streams.is_dir() else []
    if [name for name in found if name != f"{OWNER}.new"]:
        raise PreconditionError(
            f"{streams} holds streams, and no {OWNER} that says whose: an engine makes away"
            " with streams that its cluster doesn't know, as with all of a server that stood"
            " alone. They are left as they are. Move them away; the other nodes fill an empty"
            " directory"
        )


def _decoded(text: bytes, path: Path) -> Owner:
    try:
        found = json.loads(text)
        version, owner = found["version"], Owner(found["node"], found["name"], found["group"])
    except (ValueError, LookupError, TypeError) as error:
        raise CorruptError(f"{path} is damaged; restore it from a backup") from error
    if version > OWNER_VERSION:
        raise PreconditionError(
            f"{path} has version {version}, this program knows up to {OWNER_VERSION}: start"
            " the newer version"
        )
    return owner
