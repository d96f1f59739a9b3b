"""
The OpenAPI document of the HTTP surface, written by hand, checked against the routes by a test.

Fields that the protocols define have the names of proto/sandglass.proto; see its comments.
"""

from typing import Any, Final

from sandglass.core import limits

Part = dict[str, Any]


def _ref(name: str) -> Part:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(text: str, *required: str, **properties: Part) -> Part:
    schema: Part = {"type": "object", "description": text, "properties": properties}
    return schema | ({"required": [*required]} if required else {})


def _text(text: str, **more: Any) -> Part:
    return {"type": "string", "description": text, **more}


def _list(items: Part, text: str = "") -> Part:
    return {"type": "array", "items": items} | ({"description": text} if text else {})


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
GROUP: Final = _path("consumerGroupName", "Name of the group; it is made if there is none.")
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


_BYTES: Final = "base64"
_PLACE: Final = {
    "partition": _text("Id of a partition; found by the key without one."),
    "channel": _text("`master` by default."),
}
_OFFSET: Final = (
    "Offset, 14 bytes in base64; a list of 14 numbers is understood too. Made by the broker; a"
    " producer's own sets the due time by its first 6 bytes."
)

SCHEMAS: Final[Part] = {
    "TopicConfig": _object(
        "A topic to be made.",
        "name",
        "numPartitions",
        "replicationFactor",
        name=_text("1 to 200 characters of A-Z a-z 0-9 . _ -"),
        kind=_text("How it is ordered.", enum=["TimerKind", "KVKind"]),
        numPartitions={"type": "integer", "minimum": 1, "maximum": limits.PARTITION_COUNT_MAX},
        replicationFactor={"type": "integer", "minimum": 1},
        storageDriver=_text("Without effect.", enum=["RocksDB", "Badger"]),
    ),
    "TopicReply": _object("Made.", success={"type": "boolean"}),
    "GetTopicReply": _object(
        "A topic and the ids of its partitions, in order.",
        name=_text("Its name."),
        partitions=_list({"type": "string"}),
    ),
    "Topics": _object("All topics, by name.", topics=_list(_ref("Topic"))),
    "Topic": _object(
        "A topic.",
        name=_text("Its name."),
        kind=_text("TOPIC_KIND_KV for a KV topic; nothing for a timer topic."),
        partitions=_list({"type": "string"}),
        replicationFactor={"type": "integer"},
        settings=_ref("Settings"),
        createdMs=_text("Unix ms."),
    ),
    "Settings": _object(
        "What holds for a topic or a group; times in ms, as texts.",
        retentionMs=_text("Messages go so long after their due time."),
        ackTimeoutMs=_text("A lease ends after so long without a word."),
        maxDeliveries={"type": "integer", "description": "Attempts before a dead letter."},
        backoff=_object(
            "How long a message waits after a failed attempt.",
            delaysMs=_list({"type": "string"}),
            factor={"type": "integer"},
            capMs=_text("The longest."),
            jitterPercent={"type": "integer"},
        ),
    ),
    "Groups": _object(
        "The groups of a topic, and how they stand.",
        groups=_list(_ref("GroupStatus"), "One for each partition and channel that it reads."),
        known=_list(_ref("Group"), "Each group, whether it has read or not."),
    ),
    "Group": _object(
        "A group: for all partitions and channels.",
        topic=_text("Of the group."),
        name=_text("Its name."),
        startMs=_text("Where it begins in partitions that it reaches later: Unix ms."),
        createdMs=_text("Unix ms."),
        settings=_ref("Settings"),
        effective=_ref("Settings"),
    ),
    "GroupStatus": _object(
        "How a group stands in a partition. Counts are texts; what is 0 is left out.",
        topic=_text("Of the group."),
        partition=_text("Its id."),
        channel=_text("What it reads."),
        group=_text("Its name."),
        committed=_text("Offset below which all is settled.", format=_BYTES),
        consumed=_text("Last offset handed out.", format=_BYTES),
        lagCount=_text("Due and not settled; a lower bound from 10,000 rows on."),
        leasedCount=_text("Handed out, without an outcome."),
        retryCount=_text("Waiting to be handed out again."),
        ackedCount=_text("Acknowledged."),
        deadCount=_text("Made dead letters."),
        redrivenCount=_text("Dead letters that came back."),
        expiredCount=_text("Removed by retention before they were settled."),
        generation={"type": "integer", "description": "Grows with each seek."},
        consumerCount={"type": "integer"},
    ),
    "Message": _object(
        "A message. When it is handed out, index, offset and producedAt are the broker's.",
        channel=_text("`master` by default."),
        index=_text("Place in the order of production."),
        offset=_text(_OFFSET, format=_BYTES),
        producedAt=_text("When it was produced.", format="date-time"),
        consumeIn=_text('Delay: "1.5s", or whole nanoseconds as a number.'),
        key=_text("Messages of one key go to one partition.", format=_BYTES),
        clusteringKey=_text("Second part of the key.", format=_BYTES),
        value=_text("Up to 1 MiB.", format=_BYTES),
        id=_text("The producer's own name for it; only by `schedule` and gRPC."),
        headers=_list(_ref("Header"), "Only by `schedule` and gRPC."),
    ),
    "Header": _object("A header.", name=_text("Its name."), value=_text("", format=_BYTES)),
    "ProduceMessageRequest": _object(
        "Messages: all or nothing in each partition.",
        "messages",
        partition=_text("Id; by key, or spread, without one. The path's counts first."),
        messages=_list(_ref("Message")),
    ),
    "ProduceResponse": _object(
        "Durable.", offsets=_list(_text("", format=_BYTES), "In the order of the request.")
    ),
    "ScheduleRequest": _object(
        "Messages for later. `dueAt` or `delay`, one kind for all, here or in each message.",
        "messages",
        channel=_text("`master` by default."),
        dueAt=_text("RFC 3339: 2027-01-01T09:00:00Z.", format="date-time"),
        delay=_text("From now: `90s`, `1h30m`; or whole nanoseconds as a number."),
        messages=_list(_ref("ScheduledMessage")),
    ),
    "ScheduledMessage": _object(
        "A message and its time.",
        dueAt=_text("As above.", format="date-time"),
        delay=_text("As above."),
        key=_text("Messages of one key go to one partition.", format=_BYTES),
        clusteringKey=_text("Second part of the key.", format=_BYTES),
        value=_text("Up to 1 MiB.", format=_BYTES),
        id=_text("Your own name for it, up to 1 KiB."),
        headers=_list(_ref("Header"), "Up to 64, 16 KiB together."),
    ),
    "MarkRequest": _object(
        "Outcomes by offset. What holds no message, or was never handed out, is ignored.",
        "consumerGroup",
        "offsets",
        consumerGroup=_text("Name of the group."),
        consumerName=_text("Ignored: an outcome is taken from anyone."),
        channel=_text("`master` by default."),
        offsets=_list(_text(_OFFSET, format=_BYTES)),
    ),
    "MarkResponse": _object("Durable.", success={"type": "boolean"}),
    "Key": _object(
        "What an entry stands under.",
        "key",
        key=_text("1 byte to 1 KiB.", format=_BYTES),
        clusteringKey=_text("Up to 1 KiB.", format=_BYTES),
    ),
    "KeyMessage": _object(
        "A message to be put; its key is that of the path.",
        value=_text("Up to 1 MiB.", format=_BYTES),
        id=_text("Your own name for it, up to 1 KiB."),
        headers=_list(_ref("Header"), "Up to 64, 16 KiB together."),
    ),
    "Revision": _object(
        "Durable.",
        revision=_text("Index of the change; those of a key only grow."),
        existed={"type": "boolean", "description": "When deleted: whether there was an entry."},
    ),
    "Entry": _object(
        "What stands under a key; empty where nothing does.",
        message=_object(
            "As it was put.",
            key=_text("", format=_BYTES),
            clusteringKey=_text("", format=_BYTES),
            value=_text("", format=_BYTES),
            id=_text(""),
            headers=_list(_ref("Header")),
        ),
        revision=_text("Index of the put."),
        offset=_text("When it was put, and the revision.", format=_BYTES),
        producedMs=_text("Unix ms."),
    ),
    "GetRequest": _object(
        "Keys to get.", "keys", **_PLACE, keys=_list(_ref("Key"), "1 to 1,000.")
    ),
    "GetReply": _object(
        "Entries of the first keys, as many as fit into 1 MiB.", entries=_list(_ref("Entry"))
    ),
    "HasRequest": _object(
        "Keys to look for.", "keys", **_PLACE, keys=_list(_ref("Key"), "1 to 1,000.")
    ),
    "HasReply": _object("For each key.", exists=_list({"type": "boolean"})),
    "PutRequest": _object(
        "Messages, each with a key.", "messages", **_PLACE, messages=_list(_ref("Message"))
    ),
    "PutReply": _object("Durable: where they went.", placed=_list(_ref("Placed"))),
    "Placed": _object(
        "Messages of one partition, with consecutive revisions.",
        partition=_text("Its id."),
        firstIndex=_text("The first revision."),
        runDueMs=_list({"type": "string"}),
        runCount=_list({"type": "integer"}),
        requestPlaces=_list({"type": "integer"}, "Which they are, if there are several."),
    ),
    "DeleteRequest": _object(
        "Keys to delete.", "keys", **_PLACE, keys=_list(_ref("Key"), "1 to 100.")
    ),
    "DeleteReply": _object(
        "For each key: whether it held something, and the revision that it took.",
        existed=_list({"type": "boolean"}),
        revisions=_list({"type": "string"}),
    ),
    "ScanRequest": _object(
        "A page of entries.",
        **_PLACE,
        key=_text("Of this key only.", format=_BYTES),
        first=_ref("Key"),
        end=_ref("Key"),
        countMax={"type": "integer", "maximum": limits.SCAN_ENTRY_COUNT_MAX},
    ),
    "ScanReply": _object(
        "In order, up to 1 MiB; `next` is the `first` of the next page.",
        entries=_list(_ref("Entry")),
        next=_ref("Key"),
    ),
    "StreamItem": _object(
        "A line: one of the two.", result=_ref("Message"), error=_ref("StreamError")
    ),
    "StreamError": _object(
        "Why the stream ends early, or never began.",
        grpc_code={"type": "integer"},
        http_code={"type": "integer"},
        message=_text("What is wrong."),
        http_status=_text("The words of `http_code`."),
    ),
    "Error": _object(
        "An error.",
        error=_text("What is wrong."),
        message=_text("The same."),
        code={"type": "integer", "description": "The number of the gRPC code."},
    ),
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
        "delete": _call("Delete a topic with its messages and groups.", TOPIC, tag="topics"),
    },
    "/topics/{topic}/groups": {
        "get": _call(
            "Show how the groups of a topic stand.",
            TOPIC,
            _query("group", "One group only."),
            tag="topics",
            gives="Groups",
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
            GROUP,
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
