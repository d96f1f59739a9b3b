"""The document says what the routes are, and its page shows all of it."""

import re
from typing import Any, cast

import pytest

from sandglass.web.openapi import DOCUMENT, PATHS
from sandglass.web.page import PAGE
from sandglass.web.probes import Probes
from sandglass.web.routes import desks, table
from sandglass.web.schemas import SCHEMAS
from sandglass.web.stream import Streams
from sandglass.wire.compat import sandglass_pb2 as compat
from sandglass.wire.v1 import admin_pb2, broker_pb2, keyvalue_pb2

CALLS = [
    (path, method, call) for path, methods in PATHS.items() for method, call in methods.items()
]


def references(part: Any) -> list[str]:
    if isinstance(part, dict):
        found = [part["$ref"]] if "$ref" in part else []
        return found + [each for value in part.values() for each in references(value)]
    return [each for value in part for each in references(value)] if type(part) is list else []


def test_every_route_is_in_the_document_and_nothing_else() -> None:
    nobody = cast("Any", None)
    routes = table(desks(nobody, Streams(), Probes(nobody, nobody)))

    expected = {(path, method.lower()) for path, each in routes.items() for method in each}

    assert expected == {(path, method) for path, method, _ in CALLS}


def test_what_the_document_refers_to_is_there_and_everything_is_used() -> None:
    names = [each.removeprefix("#/components/schemas/") for each in references(DOCUMENT)]

    assert set(SCHEMAS) == set(names)


@pytest.mark.parametrize(("path", "method", "call"), CALLS)
def test_a_call_declares_the_parts_of_its_path_and_what_it_answers(
    path: str, method: str, call: dict[str, Any]
) -> None:
    parts = re.findall(r"{(\w+)}", path)
    parameters = call.get("parameters", [])

    assert parts == [each["name"] for each in parameters if each["in"] == "path"]
    assert "200" in call["responses"]
    assert call["summary"].endswith(".")
    assert ("requestBody" in call) <= (method in {"post", "put", "patch"})
    for each in parameters:
        assert each["in"] in {"path", "query"}
        assert each.get("required", False) is (each["in"] == "path")


def test_every_schema_is_described_and_requires_only_what_it_has() -> None:
    for schema in SCHEMAS.values():
        assert schema["description"]
        assert set(schema.get("required", [])) <= schema["properties"].keys()


def test_the_page_shows_every_path_and_schema_and_loads_nothing() -> None:
    for path, _, _ in CALLS:
        assert f" {path}</code>" in PAGE
    for name in SCHEMAS:
        assert f'<h3 id="{name}">' in PAGE
    assert not re.search(r"<(script|link|img|iframe|object)\b|url\(|@import|\bon\w+=", PAGE)
    assert {"/openapi.json", *(f"#{name}" for name in SCHEMAS)} >= set(
        re.findall(r'href="([^"]*)"', PAGE)
    )


WIRE: dict[str, Any] = {
    "TopicConfig": compat.TopicConfig,
    "TopicReply": compat.TopicReply,
    "GetTopicReply": compat.GetTopicReply,
    "ProduceMessageRequest": compat.ProduceMessageRequest,
    "ProduceResponse": compat.ProduceResponse,
    "MarkRequest": compat.MarkRequest,
    "MarkResponse": compat.MarkResponse,
    "Message": compat.Message,
    "Topics": admin_pb2.ListTopicsReply,
    "Topic": admin_pb2.Topic,
    "Settings": admin_pb2.TopicSettings,
    "Groups": admin_pb2.ListGroupsReply,
    "Group": admin_pb2.Group,
    "GroupStatus": admin_pb2.GroupStatus,
    "GroupSettings": admin_pb2.GroupSettings,
    "Backoff": admin_pb2.Backoff,
    "DeadLetters": admin_pb2.ListDeadLettersReply,
    "DeadLetter": admin_pb2.StoredDeadLetter,
    "StoredMessage": admin_pb2.StoredMessage,
    "DeadLetterCount": admin_pb2.CountDeadLettersReply,
    "Taken": admin_pb2.TakeDeadLettersReply,
    "Pending": admin_pb2.ListPendingReply,
    "PendingCount": admin_pb2.CountPendingReply,
    "Content": broker_pb2.Message,
    "Outcome": broker_pb2.Outcome,
    "Extend": broker_pb2.Extend,
    "ItemError": broker_pb2.Error,
    **{
        name: getattr(broker_pb2, name)
        for name in (
            "ConsumeRequest", "SettleRequest", "SettleReply", "OutcomeReply",
            "ExtendLeasesRequest", "ExtendLeasesReply", "ExtendReply",
        )
    },
    "Header": broker_pb2.Header,
    "Placed": broker_pb2.Placed,
    **{
        name: getattr(keyvalue_pb2, name)
        for name in (
            "Key", "Entry", "GetRequest", "GetReply", "HasRequest", "HasReply", "PutRequest",
            "PutReply", "DeleteRequest", "DeleteReply", "ScanRequest", "ScanReply",
        )
    },
}  # fmt: skip
BY_PATH = {"topic", "partition"}
OURS = {"Message": {"id", "headers"}}
UNTOLD = {
    "MarkRequest": {"state"},
    "ConsumeRequest": {"pullId", "isLetGo"},
    "ItemError": {"leader"},
    "Topics": {"nextPageToken"},
    "Outcome": {"requestId", "subscriptionId"},
    "OutcomeReply": {"requestId"},
    "Extend": {"requestId", "subscriptionId", "begunCount"},
    "ExtendReply": {"requestId"},
}
"""Fields of the wire that the document leaves out."""


@pytest.mark.parametrize("name", WIRE)
def test_a_schema_has_the_fields_of_its_message(name: str) -> None:
    shown = set(SCHEMAS[name]["properties"]) - OURS.get(name, set())
    fields = {each.json_name for each in WIRE[name].DESCRIPTOR.fields}

    left_out = UNTOLD.get(name, set()) | (BY_PATH if name.endswith("Request") else set())
    assert shown <= fields
    assert fields - shown <= left_out
