"""
The OpenAPI document of the HTTP surface, written by hand, checked against the routes by a test.
"""

from typing import Final

from sandglass.core import limits
from sandglass.web.schemas import SCHEMAS, Part


def _ref(name: str) -> Part:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: Part) -> Part:
    return {"application/json": {"schema": schema}}


def _path(name: str, text: str) -> Part:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": text,
        "schema": {"type": "string"},
    }


def _query(name: str, text: str) -> Part:
    return {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}


TOPIC: Final = _path("topic", "Name of the topic.")
PARTITION: Final = _path("partition", "Id of a partition of the topic: 26 characters.")
GROUP: Final = _path("group", "Name of the group.")
READER: Final = _path("consumerGroupName", "Name of the group; it is made if there is none.")
CONSUMER: Final = _path("consumerName", "Name of the consumer.")
CHANNEL: Final = _query("channel", "Channel to read; `master` by default.")
WAIT: Final = _query(
    "wait",
    "How long to wait for the first message if none is ready: `20s`; up to"
    f" {limits.HTTP_WAIT_MS_MAX // 1000} s, 0 by default.",
)

KEY: Final = _path("key", "The key, in UTF-8; one segment.")
_KV: Final = (
    _query("clusteringKey", "Second part of the key."),
    _query("partition", "Id of a partition; found by the key without one."),
    _query("channel", "`master` by default."),
)

_FILTER: Final = (
    _query("group", "Only what this group gave up."),
    _query("channel", "Only what was read in this channel."),
    _query("reason", "Only those with this reason."),
)
_PAGE_TOKEN: Final = _query("pageToken", "Of the page before.")
_PAGE: Final = (
    _query(
        "pageSize", f"1 to {limits.PAGE_COUNT_MAX}; {limits.PAGE_COUNT_DEFAULT} by default."
    ),
    _PAGE_TOKEN,
    _query("messages", "`true` for the messages themselves."),
)
_SPAN: Final = (
    _query("channel", "`master` by default."),
    _query("from", "Only what is due from this moment on: 2027-01-01T09:00:00Z."),
    _query("to", "Only what is due before this moment."),
)

_ERROR: Final = {
    "default": {
        "description": "An error. `Sandglass-Reason`, `Sandglass-Field`, `Sandglass-Result` and"
        " `Retry-After` are headers.",
        "content": _json(_ref("Error")),
    }
}


def _call(
    summary: str,
    *parameters: Part,
    tag: str = "messages",
    body: str = "",
    gives: str = "",
    text: str = "",
) -> Part:
    """An operation: JSON in, JSON out."""
    call: Part = {"summary": summary, "tags": [tag]}
    if text:
        call["description"] = text
    if parameters:
        call["parameters"] = [*parameters]
    if body:
        call["requestBody"] = {"required": True, "content": _json(_ref(body))}
    content = _json(_ref(gives)) if gives else _json({"type": "object"})
    call["responses"] = {"200": {"description": "Done.", "content": content}, **_ERROR}
    return call


def _plain(summary: str, kind: str, *, codes: tuple[int, ...] = (200,)) -> Part:
    """An operation that answers with something else than JSON."""
    content = {kind: {"schema": {"type": "string"}}}
    answers = {str(code): {"description": "As said.", "content": content} for code in codes}
    return {"summary": summary, "tags": ["node"], "responses": answers}


def _stream(summary: str, *parameters: Part) -> Part:
    content = {
        "application/json": {"schema": _ref("StreamItem")},
        "text/event-stream": {"schema": {"type": "string"}},
    }
    return {
        "summary": summary,
        "tags": ["messages"],
        "description": "A line of JSON for each message that is ready, then the end;"
        " server-sent events where `Accept` asks for `text/event-stream`. Each message is"
        " leased to the consumer for the topic's `ack_timeout`.",
        "parameters": [*parameters],
        "responses": {"200": {"description": "The messages.", "content": content}, **_ERROR},
    }


PATHS: Final[Part] = {
    "/topics": {
        "get": _call("List all topics.", tag="topics", gives="Topics"),
        "post": _call("Create a topic.", tag="topics", body="TopicConfig", gives="TopicReply"),
    },
    "/topics/{topic}": {
        "get": _call("Show a topic's partitions.", TOPIC, tag="topics", gives="GetTopicReply"),
        "post": _call(
            "Produce messages.", TOPIC, body="ProduceMessageRequest", gives="ProduceResponse"
        ),
        "patch": _call(
            "Change settings of a topic: what is given, and nothing else.",
            TOPIC,
            tag="topics",
            body="TopicChange",
            gives="Topic",
        ),
        "delete": _call("Delete a topic with its messages and groups.", TOPIC, tag="topics"),
    },
    "/topics/{topic}/groups": {
        "get": _call(
            "Show how the groups of a topic stand.",
            TOPIC,
            _query("group", "One group only."),
            _query("pageSize", f"1 to {limits.PAGE_COUNT_MAX}, and as many by default."),
            _PAGE_TOKEN,
            tag="groups",
            gives="Groups",
        ),
        "post": _call("Make a group.", TOPIC, tag="groups", body="NewGroup", gives="Group"),
    },
    "/topics/{topic}/groups/{group}": {
        "patch": _call(
            "Change settings of a group: what is given; null is the topic's again.",
            TOPIC,
            GROUP,
            tag="groups",
            body="GroupSettings",
            gives="Group",
        ),
        "delete": _call("Delete a group with its state.", TOPIC, GROUP, tag="groups"),
    },
    "/topics/{topic}/groups/{group}/seek": {
        "post": _call(
            "Move a group; what it held can't be settled any more.",
            TOPIC,
            GROUP,
            tag="groups",
            body="Seek",
            gives="Group",
        )
    },
    "/topics/{topic}/consume": {
        "post": _call(
            "Take what is ready, under leases with tokens.",
            TOPIC,
            body="ConsumeRequest",
            gives="Deliveries",
        )
    },
    "/topics/{topic}/settle": {
        "post": _call(
            "Say what became of deliveries: ack, nack, release or dead.",
            TOPIC,
            body="SettleRequest",
            gives="SettleReply",
        )
    },
    "/topics/{topic}/extend": {
        "post": _call(
            "Keep leases for longer.",
            TOPIC,
            body="ExtendLeasesRequest",
            gives="ExtendLeasesReply",
        )
    },
    "/topics/{topic}/dead": {
        "get": _call(
            "List dead letters in the order of their death.",
            TOPIC,
            *_FILTER,
            _query("newest", "`true` for the newest first."),
            *_PAGE,
            tag="dead letters",
            gives="DeadLetters",
        )
    },
    "/topics/{topic}/dead/count": {
        "get": _call(
            "Count dead letters.", TOPIC, *_FILTER, tag="dead letters", gives="DeadLetterCount"
        )
    },
    "/topics/{topic}/dead/redrive": {
        "post": _call(
            "Give dead letters back to the groups that gave them up.",
            TOPIC,
            tag="dead letters",
            body="TakeDeadLetters",
            gives="Taken",
        )
    },
    "/topics/{topic}/dead/purge": {
        "post": _call(
            "Throw dead letters away.",
            TOPIC,
            tag="dead letters",
            body="TakeDeadLetters",
            gives="Taken",
        )
    },
    "/topics/{topic}/pending": {
        "get": _call(
            "List what comes due next.", TOPIC, *_SPAN, *_PAGE, tag="topics", gives="Pending"
        )
    },
    "/topics/{topic}/pending/count": {
        "get": _call(
            "Count what is not due yet.", TOPIC, *_SPAN, tag="topics", gives="PendingCount"
        )
    },
    "/topics/{topic}/schedule": {
        "post": _call(
            "Produce messages for later.",
            TOPIC,
            body="ScheduleRequest",
            gives="ProduceResponse",
        )
    },
    "/topics/{topic}/kv/{key}": {
        "get": _call(
            "Get what stands under a key.", TOPIC, KEY, *_KV, tag="keys", gives="Entry"
        ),
        "put": _call(
            "Put a message under a key.",
            TOPIC,
            KEY,
            *_KV,
            tag="keys",
            body="KeyMessage",
            gives="Revision",
        ),
        "delete": _call(
            "Delete what stands under a key.", TOPIC, KEY, *_KV, tag="keys", gives="Revision"
        ),
    },
    **{
        f"/topics/{{topic}}/kv/{call}": {
            "post": _call(text, TOPIC, tag="keys", body=f"{name}Request", gives=f"{name}Reply")
        }
        for call, name, text in (
            ("get", "Get", "Get what stands under keys."),
            ("has", "Has", "Look whether keys hold something."),
            ("put", "Put", "Put messages under keys: all or nothing in each partition."),
            ("delete", "Delete", "Delete keys: all or nothing in each partition."),
            ("scan", "Scan", "List entries of one partition in the order of their keys."),
        )
    },
    "/topics/{topic}/{partition}": {
        "get": _stream(
            "Consume what is ready.",
            TOPIC,
            PARTITION,
            _query("consumerGroupName", "Name of the group."),
            _query("consumerName", "Name of the consumer."),
            CHANNEL,
            WAIT,
        ),
        "post": _call(
            "Produce messages to a partition.",
            TOPIC,
            PARTITION,
            body="ProduceMessageRequest",
            gives="ProduceResponse",
        ),
    },
    "/topics/{topic}/{partition}/ack": {
        "post": _call(
            "Acknowledge messages: they are done with.",
            TOPIC,
            PARTITION,
            body="MarkRequest",
            gives="MarkResponse",
        )
    },
    "/topics/{topic}/{partition}/nack": {
        "post": _call(
            "Give messages back: a failed attempt, counted.",
            TOPIC,
            PARTITION,
            body="MarkRequest",
            gives="MarkResponse",
        )
    },
    "/topics/{topic}/{partition}/schedule": {
        "post": _call(
            "Produce messages for later to a partition.",
            TOPIC,
            PARTITION,
            body="ScheduleRequest",
            gives="ProduceResponse",
        )
    },
    "/topics/{topic}/{partition}/{consumerGroupName}/{consumerName}": {
        "get": _stream(
            "Consume what is ready, with the names in the path.",
            TOPIC,
            PARTITION,
            READER,
            CONSUMER,
            CHANNEL,
            WAIT,
        )
    },
    "/livez": {"get": _plain("200 while the process runs and its loop turns.", "text/plain")},
    "/readyz": {
        "get": _plain(
            "200 if the node may get traffic, 503 with the reason if not.",
            "text/plain",
            codes=(200, 503),
        )
    },
    "/metrics": {"get": _plain("Metrics, for Prometheus.", "text/plain")},
    "/openapi.json": {"get": _call("This document.", tag="node")},
    "/docs": {"get": _plain("This document as a page.", "text/html")},
}

DOCUMENT: Final[Part] = {
    "openapi": "3.1.0",
    "info": {
        "title": "Sandglass",
        "version": "1",
        "description": "A message queue ordered by time, over HTTP and JSON.",
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    },
    "security": [{}, {"token": []}],
    "paths": PATHS,
    "components": {
        "schemas": SCHEMAS,
        "securitySchemes": {
            "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "Where the node has a token file; the probes need none.",
            }
        },
    },
}
