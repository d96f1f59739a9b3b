"""The OpenAPI document as a page of HTML, made once: no scripts, nothing from elsewhere."""

import re
from collections.abc import Iterator
from html import escape
from typing import Any, Final

from sandglass.web.openapi import DOCUMENT
from sandglass.web.schemas import Part

_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;"
    "color:#222;background:#fff}"
    "code{font:13px ui-monospace,monospace;background:#f4f1ea;padding:0 .3em}"
    "h2{border-bottom:1px solid #ddd;margin-top:2em}h3{margin-bottom:.2em}"
    "table{border-collapse:collapse;margin:.5em 0}"
    "td,th{text-align:left;vertical-align:top;padding:.2em .8em .2em 0;"
    "border-bottom:1px solid #eee}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#1b1b1b}"
    "code{background:#2c2a26}h2,td,th{border-color:#444}a{color:#9cf}}"
)


def render(document: Part) -> str:
    """A page that shows all operations and schemas of a document."""
    title = escape(document["info"]["title"])
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>{title}: HTTP</title><style>{_STYLE}</style></head><body>",
        f"<h1>{title}</h1>",
        f"<p>{_prose(document['info']['description'])}</p>",
        '<p><a href="/openapi.json">openapi.json</a></p>',
        *_operations(document),
        "<h2>Schemas</h2>",
        *(
            _schema(name, each)
            for name, each in sorted(document["components"]["schemas"].items())
        ),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _operations(document: Part) -> Iterator[str]:
    by_tag: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, call in methods.items():
            by_tag.setdefault(call["tags"][0], []).append(_operation(path, method, call))
    for tag, calls in by_tag.items():
        yield f"<h2>{escape(tag.capitalize())}</h2>"
        yield from calls


def _operation(path: str, method: str, call: Part) -> str:
    parts = [f"<h3><code>{method.upper()} {escape(path)}</code></h3>"]
    parts.append(f"<p>{_prose(call['summary'])} {_prose(call.get('description', ''))}</p>")
    rows = [
        (each["name"], each["in"], each["description"]) for each in call.get("parameters", ())
    ]
    if rows:
        parts.append(_table(rows))
    if "requestBody" in call:
        parts.append(f"<p>Body: {_shown(call['requestBody']['content'])}</p>")
    answers = call["responses"]
    parts.append(f"<p>Answer: {_shown(next(iter(answers.values()))['content'])}</p>")
    return "\n".join(parts)


def _schema(name: str, schema: Part) -> str:
    rows = [
        (field, _kind(each), each.get("description", ""))
        for field, each in schema["properties"].items()
    ]
    return (
        f'<h3 id="{escape(name)}">{escape(name)}</h3>'
        f"<p>{_prose(schema['description'])}</p>{_table(rows)}"
    )


def _table(rows: list[tuple[str, str, str]]) -> str:
    cells = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{kind}</td><td>{_prose(text)}</td></tr>"
        for name, kind, text in rows
    )
    return f"<table>{cells}</table>"


def _shown(content: Part) -> str:
    return ", ".join(
        f"<code>{escape(kind)}</code> {_kind(each['schema'])}" for kind, each in content.items()
    )


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if schema["type"] == "array":
        return f"list of {_kind(schema['items'])}"
    return escape(" ".join((schema["type"], schema.get("format", ""))).strip())


def _prose(text: str) -> str:
    """Plain text, its `code` marked."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


PAGE: Final = render(DOCUMENT)
