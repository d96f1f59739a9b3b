"""`sandctl kv`: what a KV topic holds under a key."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sandglass.cli.ctl import output
from sandglass.cli.ctl.call import call, globals_of
from sandglass.cli.ctl.given import content_of, encoded, headers_of, key_bytes
from sandglass.cli.ctl.progress import Progress
from sandglass.core import limits
from sandglass.errors import InvalidError, NotFoundError

if TYPE_CHECKING:
    from sandglass import AsyncClient, Entry

app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Entries of KV topics, by key."
)

Topic = Annotated[str, typer.Argument(metavar="TOPIC", help="The topic's name.")]
Key = Annotated[str, typer.Argument(metavar="KEY", help="The key, as text.")]
Clustering = Annotated[
    str, typer.Option("--clustering-key", metavar="TEXT", help="The clustering key, as text.")
]
IsHex = Annotated[
    bool, typer.Option("--hex", help="Key and clustering key are in hexadecimal digits.")
]
IsBase64 = Annotated[
    bool, typer.Option("--base64", help="Key and clustering key are in base64.")
]
Channel = Annotated[
    str, typer.Option("--channel", metavar="NAME", help="A channel. [default: master]")
]
Partition = Annotated[
    str, typer.Option("--partition", metavar="ID", help="A partition's id. [default: by key]")
]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A key, as bytes and as it was written, and where it is."""

    topic: str
    key: bytes
    where: dict[str, Any]
    shown: str

    def missing(self) -> NotFoundError:
        """Nothing is there."""
        return NotFoundError(f"topic '{self.topic}' holds nothing under {self.shown}")


@app.command()
def get(
    context: typer.Context,
    topic: Topic,
    key: Key,
    clustering_key: Clustering = "",
    is_hex: IsHex = False,
    is_base64: IsBase64 = False,
    channel: Channel = "",
    partition: Partition = "",
) -> None:
    """Print the value under a key, as it is. On a terminal a new line follows."""
    wanted = _wanted(topic, key, clustering_key, is_hex, is_base64, channel, partition)

    async def work(client: "AsyncClient", _: Progress) -> None:
        entry = await client.get(topic, wanted.key, **wanted.where)
        if entry is None:
            raise wanted.missing()
        if globals_of(context).is_json:
            output.print_json(output.entry_json(entry))
        else:
            await output.write(entry.value + (b"\n" if sys.stdout.isatty() else b""))

    call(context, work, label=f"looking into {topic}")


@app.command()
def put(
    context: typer.Context,
    topic: Topic,
    key: Key,
    value: Annotated[
        str | None, typer.Argument(metavar="[VALUE]", help="The value, as UTF-8.")
    ] = None,
    file: Annotated[
        str, typer.Option("--file", metavar="PATH", help="The value: a whole file; - is stdin.")
    ] = "",
    clustering_key: Clustering = "",
    is_hex: IsHex = False,
    is_base64: IsBase64 = False,
    header: Annotated[
        list[str] | None,
        typer.Option("--header", metavar="NAME=VALUE", help="A header; give it repeatedly."),
    ] = None,
    channel: Channel = "",
    partition: Partition = "",
) -> None:
    """Put a value under a key, in place of the one that was there. Prints OK."""
    wanted = _wanted(topic, key, clustering_key, is_hex, is_base64, channel, partition)
    if value is not None and file:
        raise InvalidError("VALUE and --file are both given; give one")
    if value is None and not file:
        raise InvalidError("nothing to put: give a VALUE or --file")
    content = content_of(file) if value is None else encoded(value, "the value")
    headers = headers_of(header or [])

    async def work(client: "AsyncClient", _: Progress) -> None:
        receipt = await client.put(topic, wanted.key, content, headers=headers, **wanted.where)
        if globals_of(context).is_json:
            output.print_json(
                {
                    "topic": topic,
                    "partition": receipt.partition,
                    "offset": receipt.offset,
                    "revision": receipt.index,
                }
            )
        else:
            print("OK")

    call(context, work, label=f"putting into {topic}")


@app.command()
def delete(
    context: typer.Context,
    topic: Topic,
    key: Key,
    clustering_key: Clustering = "",
    is_hex: IsHex = False,
    is_base64: IsBase64 = False,
    channel: Channel = "",
    partition: Partition = "",
) -> None:
    """Delete what is under a key. Prints OK; fails if nothing is there."""
    wanted = _wanted(topic, key, clustering_key, is_hex, is_base64, channel, partition)

    async def work(client: "AsyncClient", _: Progress) -> None:
        if not await client.delete(topic, wanted.key, **wanted.where):
            raise wanted.missing()
        if globals_of(context).is_json:
            output.print_json({"topic": topic, "deleted": 1})
        else:
            print("OK")

    call(context, work, label=f"deleting from {topic}")


@app.command(name="list")
def list_(
    context: typer.Context,
    topic: Topic,
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="TEXT", help="Only keys that begin with this.")
    ] = "",
    key: Annotated[
        str, typer.Option("--key", metavar="TEXT", help="Only the entries of this key.")
    ] = "",
    is_hex: Annotated[
        bool, typer.Option("--hex", help="Keys are in hexadecimal digits, also in the table.")
    ] = False,
    is_base64: Annotated[
        bool, typer.Option("--base64", help="Keys are in base64, also in the table.")
    ] = False,
    number: Annotated[
        int, typer.Option("--number", "-n", metavar="N", help="At most so many; 0 is all.")
    ] = limits.PAGE_COUNT_DEFAULT,
    channel: Channel = "",
    partition: Annotated[
        str, typer.Option("--partition", metavar="ID", help="A partition's id. [default: all]")
    ] = "",
) -> None:
    """List entries in the order of their keys. Partition by partition; values with --json."""
    _check_form(is_hex, is_base64)
    if prefix and key:
        raise InvalidError("--prefix and --key are both given; give one")
    if number < 0:
        raise InvalidError(f"--number is {number}; it must be 0 or more", field="--number")
    where = {
        "prefix": key_bytes(prefix, "--prefix", is_hex=is_hex, is_base64=is_base64),
        "key": key_bytes(key, "--key", is_hex=is_hex, is_base64=is_base64),
    }

    async def work(client: "AsyncClient", _: Progress) -> None:
        found: list[Any] = []
        form = "hex" if is_hex else "base64" if is_base64 else "text"
        is_json = globals_of(context).is_json
        async for entry in client.scan(topic, **where, channel=channel, partition=partition):
            found.append(output.entry_json(entry) if is_json else _row(entry, form))
            if len(found) == number:
                break
        if is_json:
            output.print_json(found)
        else:
            output.print_table(["KEY", "CLUSTERING KEY", "REVISION", "BYTES", "PUT"], found)

    call(context, work, label=f"listing {topic}")


def _row(entry: "Entry", form: str) -> tuple[str, str, int, int, str]:
    return (
        output.key_text(entry.key, form),
        output.key_text(entry.clustering_key, form),
        entry.revision,
        len(entry.value),
        output.moment(entry.produced_at),
    )


def _check_form(is_hex: bool, is_base64: bool) -> None:
    if is_hex and is_base64:
        raise InvalidError("--hex and --base64 are both given; give one")


def _wanted(
    topic: str,
    key: str,
    clustering_key: str,
    is_hex: bool,
    is_base64: bool,
    channel: str,
    partition: str,
) -> Wanted:
    _check_form(is_hex, is_base64)
    raw = key_bytes(key, "KEY", is_hex=is_hex, is_base64=is_base64)
    if not raw:
        raise InvalidError("KEY is empty; a KV topic holds nothing without one")
    clustering = key_bytes(
        clustering_key, "--clustering-key", is_hex=is_hex, is_base64=is_base64
    )
    shown = f"key {_short(key)}"
    if clustering_key:
        shown += f" and clustering key {_short(clustering_key)}"
    where = {"clustering_key": clustering, "channel": channel, "partition": partition}
    return Wanted(topic, raw, where, shown)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")
