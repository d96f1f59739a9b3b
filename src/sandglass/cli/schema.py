"""
What every command prints with `--json`: one table, as JSON Schema.

`document()` is `docs/reference/sandctl.schema.json`; a test holds the real output against it.
It is exact for its release: a later one may add fields, and takes none away.
"""

from typing import Any, Final

Part = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def _text(description: str, **more: Any) -> Part:
    return {"type": "string", "description": description, **more}


def _count(description: str) -> Part:
    return {"type": "integer", "minimum": 0, "description": description}


def _moment(description: str) -> Part:
    pattern = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$"
    return _text(f"{description} RFC 3339, UTC, in milliseconds.", pattern=pattern)


def _or_null(part: Part) -> Part:
    return {**part, "type": [part["type"], "null"]}


def _offset(description: str) -> Part:
    return _text(f"{description} 28 hex digits.", pattern="^[0-9a-f]{28}$")


def _list(of: Part) -> Part:
    return {"type": "array", "items": of}


def _object(description: str, fields: dict[str, Part], **optional: Part) -> Part:
    return {
        "type": "object",
        "description": description,
        "properties": {**fields, **optional},
        "required": list(fields),
        "additionalProperties": False,
    }


def _shape(name: str) -> Part:
    return {"$ref": f"#/$defs/{name}"}


def _bytes(name: str, description: str) -> dict[str, Part]:
    """Under one of two names; which, the bytes say."""
    base64 = _text(f"{description} In base64, where it is no UTF-8.")
    return {name: _text(description), f"{name}_base64": base64}


_TOPIC: Final[dict[str, Part]] = {
    "name": _text("Its name."),
    "kind": _text("What it keeps.", enum=["timer", "kv"]),
    "partitions": _list({"type": "string", "description": "An id."}),
    "replication_factor": _count("How many nodes hold each partition."),
    "retention": _text("How long messages are kept once due: 7d."),
    "ack_timeout": _text("How long a message may be in hand without a word: 10s."),
    "max_deliveries": _count("Attempts before a message becomes a dead letter."),
    "backoff": _text("As --backoff takes it."),
    "created_at": _moment("When it was made."),
}
_COUNTS: Final[dict[str, Part]] = {
    "lag_count": _count("Messages that are due and not settled."),
    "leased_count": _count("Those that are in somebody's hands."),
    "retry_count": _count("Those that wait for their next attempt."),
    "acked_count": _count("Messages acknowledged."),
    "dead_count": _count("Messages that became dead letters."),
    "consumer_count": _count("Consumers."),
}
_GROUP: Final[dict[str, Part]] = {
    "topic": _text("Its topic."),
    "group": _text("Its name."),
    "start": _or_null(_moment("Where it begins; null for the beginning.")),
    "created_at": _moment("When it was made."),
    "ack_timeout": _TOPIC["ack_timeout"],
    "max_deliveries": _TOPIC["max_deliveries"],
    "backoff": _TOPIC["backoff"],
    "own": _list({"type": "string", "description": "A setting that isn't the topic's."}),
}
_CONTENT: Final[dict[str, Part]] = {
    **_bytes("value", "What was produced."),
    **_bytes("key", "Its key, if it has one."),
    "id": _text("Its producer's name for it, if it has one."),
    "headers": {"type": "object", "additionalProperties": {"type": "string"}},
    "headers_base64": {"type": "object", "additionalProperties": {"type": "string"}},
}
_PLACE: Final[dict[str, Part]] = {
    "partition": _text("The partition's id."),
    "offset": _offset("Its place in the partition."),
    "index": _count("Its place in the order of production."),
    "produced_at": _moment("When it was produced."),
}
_SIZE: Final = _count("Its bytes.")
_LETTER: Final[dict[str, Part]] = {
    "group": _text("The group in which it died."),
    "attempts": _count("Counted attempts."),
    "reason": _text("Why it died."),
}

_MEASURED: Final[dict[str, Part]] = {
    "rate": _count("Messages a second."),
    "seconds": {"type": "number", "minimum": 0, "description": "How long all took."},
    "p50_ms": {
        "type": "number",
        "minimum": 0,
        "description": "Half the answers took no longer.",
    },
    "p99_ms": {"type": "number", "minimum": 0, "description": "99 of 100 took no longer."},
}

SHAPES: Final[dict[str, Part]] = {
    "topic": _object("A topic.", _TOPIC),
    "topic-status": _object(
        "A topic and its partitions.",
        {
            **_TOPIC,
            "partitions": _list(
                _object(
                    "A partition.",
                    {
                        "id": _text("Its id."),
                        "message_count": _count("Messages ever produced to it."),
                        "closed_offset": _offset("Nothing new comes at or below it."),
                        "channels": _list({"type": "string"}),
                    },
                )
            ),
        },
    ),
    "group": _object("A group of a topic.", _GROUP),
    "group-status": _object(
        "A group, and how it stands where it has read.",
        {**_GROUP, "parts": _list(_shape("group-part"))},
    ),
    "group-part": _object(
        "A group in one partition and channel.",
        {
            "topic": _text("Its topic."),
            "partition": _text("The partition's id."),
            "channel": _text("The channel."),
            "group": _text("Its name."),
            "committed": _offset("Everything below it is settled."),
            "consumed": _offset("The last that was handed out."),
            **_COUNTS,
            "generation": _count("How often it was moved."),
            "redriven_count": _count("Dead letters that came back."),
            "expired_count": _count("Messages that retention removed unsettled."),
            "skipped_count": _count("Messages due before the group's start."),
        },
    ),
    "group-sum": _object(
        "A group in one channel, all partitions together.",
        {
            "topic": _text("Its topic."),
            "group": _text("Its name."),
            "channel": _text("The channel; empty where it has read nowhere."),
            "partition_count": _count("Partitions in which it has read."),
            **_COUNTS,
        },
    ),
    "deleted": _object("What is gone.", {"deleted": _text("Its name.")}),
    "message": _object(
        "A message that was handed out.",
        {
            **_PLACE,
            "channel": _text("The channel."),
            "due_at": _moment("When it was due."),
            "attempt": _count("Which attempt this is, from 1."),
        },
        **_CONTENT,
        dead_letter=_object(
            "What a dead letter was.", {**_LETTER, "offset": _offset("Where it stood.")}
        ),
    ),
    "stored-message": _object(
        "A message as it is stored.",
        {**_PLACE, "due_at": _moment("When it is due."), "size_bytes": _SIZE},
        **_CONTENT,
    ),
    "dead-letter": _object(
        "A dead letter.",
        {
            **_PLACE,
            **_LETTER,
            "died_at": _moment("When it died."),
            "size_bytes": _SIZE,
            "channel": _text("The channel from which it came."),
            "original_offset": _offset("Where it stood."),
        },
        **_CONTENT,
    ),
    "dead-count": _object(
        "How many dead letters there are.",
        {
            "count": _count("All of them."),
            "size_bytes": _SIZE,
            "groups": _list(
                _object(
                    "Of one group and channel.",
                    {
                        "group": _text("The group."),
                        "channel": _text("The channel."),
                        "count": _count("Dead letters."),
                    },
                )
            ),
        },
    ),
    "dead-taken": _object(
        "Dead letters that came back, or went.",
        {
            "count": _count("How many."),
            "skipped_count": _count("Those that stay, because their group is gone."),
        },
    ),
    "pending-count": _object(
        "What is still to come.",
        {
            "count": _count("How many."),
            "is_lower_bound": {"type": "boolean", "description": "There may be more."},
            "next_due_at": _or_null(_moment("When the first is due; null if none is.")),
        },
    ),
    "cluster": _object(
        "A cluster, as its nodes know it.",
        {
            "cluster_id": _text("32 hex digits; empty where there is none."),
            "trouble": _text(
                "Why the node that was asked has not joined; empty if it has, or has none."
            ),
            "has_quorum": {
                "type": "boolean",
                "description": "What the members agree on can be changed.",
            },
            "durability": {
                "enum": ["always", "unknown"],
                "description": "Whether all engines sync what they acknowledge.",
            },
            "node_count": _count("Nodes that belong to it."),
            "alive_node_count": _count("Those that are there."),
            "partition_count": _count("Partitions of replicated topics."),
            "led_partition_count": _count("Those that have a leader."),
            "warnings": _list(_text("For people.")),
        },
    ),
    "cluster-node": _object(
        "A node of a cluster.",
        {
            "name": _text("Its name."),
            "grpc_address": _text("host:port"),
            "http_address": _text("host:port; empty without HTTP."),
            "is_alive": {"type": "boolean", "description": "It is there."},
            "is_drained": {"type": "boolean", "description": "It leads nothing, on purpose."},
            "version": _text("Of Sandglass; empty where it isn't known."),
            "durability": {
                "enum": ["always", "unknown", ""],
                "description": "Whether its engine syncs what it acknowledges; empty if the"
                " node didn't answer.",
            },
            "led_count": _count("Partitions that it leads."),
        },
    ),
    "cluster-partition": _object(
        "A partition of a topic, and where it is.",
        {
            "topic": _text("Its topic."),
            "partition": _text("Its id."),
            "leader": _text("The node that leads it; empty if none does."),
            "epoch": _count("How often it has changed its leader, about."),
            "replicas": _list(_text("A node that holds it.")),
            "held": _list(_shape("cluster-replica")),
        },
    ),
    "cluster-replica": _object(
        "What a node holds of a partition.",
        {
            "node": _text("Its name."),
            "state": _text("leading, following, and so on; empty if it didn't answer."),
            "position": _count("Records that it has applied."),
            "lag_count": _or_null(
                _count("How many the leader has beyond that; null if one didn't answer.")
            ),
        },
    ),
    "clock": _object(
        "A node's clock.",
        {
            "now": _moment("The clock by which it leads."),
            "machine": _moment("Its machine's."),
            "step_ms": _count("A forward step that it doesn't believe yet; 0 for none."),
            "believed_in_ms": _count("After so long it is believed, if it stays."),
        },
    ),
    "accepted-clock": _object(
        "A step of the clock that is believed from now on.",
        {"accepted_ms": _count("How far it went; 0 if there was none.")},
    ),
    "entry": _object(
        "What stands under a key.",
        {
            "revision": _count("Grows with each change of the key."),
            "offset": _PLACE["offset"],
            "produced_at": _PLACE["produced_at"],
        },
        **_CONTENT,
        **_bytes("clustering_key", "Its clustering key, if it has one."),
    ),
    "put": _object(
        "Where an entry went.",
        {
            "topic": _text("The topic."),
            "partition": _PLACE["partition"],
            "offset": _PLACE["offset"],
            "revision": _count("That of the entry."),
        },
    ),
    "removed-entry": _object(
        "An entry that is gone.",
        {"topic": _text("The topic."), "deleted": _count("How many keys: 1.")},
    ),
    "produced": _object(
        "What was produced. Partition and offset are there for a single message.",
        {"topic": _text("The topic."), "count": _count("How many.")},
        partition=_PLACE["partition"],
        offset=_PLACE["offset"],
    ),
    "bench": _object(
        "What a small load met with.",
        {
            "count": _count("Messages."),
            "size_bytes": _count("Bytes of each value."),
            "batch_count": _count("Messages produced at a time."),
            "produce": _object("Each answer to a batch.", _MEASURED),
            "consume": _object("Each answer to an acknowledged delivery.", _MEASURED),
        },
    ),
    "setting": _object(
        "A setting and where its value comes from.",
        {
            "name": _text("Its name."),
            "value": {"description": "Its value; secrets are hidden."},
            "source": _text("flag, environment, file or default."),
            "from": _text("Which of those: a flag, a variable, a path."),
        },
    ),
    "version": _object(
        "A version.",
        {
            "tool": _text("sandctl or sandglass."),
            "version": _text("The package's."),
            "commit": _text("What it was built from."),
            "date": _text("When."),
        },
    ),
    "token": _object(
        "A token that was made.", {"name": _text("Whose."), "token": _text("Itself.")}
    ),
    "token-name": _object("Who has a token.", {"name": _text("The name.")}),
}

COMMANDS: Final[dict[str, Part]] = {
    "sandctl produce": _shape("produced"),
    "sandctl consume": _shape("message"),
    "sandctl bench": _shape("bench"),
    "sandctl version": _shape("version"),
    "sandctl topics create": _shape("topic"),
    "sandctl topics list": _list(_shape("topic")),
    "sandctl topics show": _shape("topic-status"),
    "sandctl topics set": _shape("topic"),
    "sandctl topics move": _shape("topic"),
    "sandctl topics delete": _shape("deleted"),
    "sandctl groups list": _list(_shape("group-sum")),
    "sandctl groups show": _shape("group-status"),
    "sandctl groups create": _shape("group"),
    "sandctl groups set": _shape("group"),
    "sandctl groups seek": _shape("group"),
    "sandctl groups delete": _shape("deleted"),
    "sandctl dead list": _list(_shape("dead-letter")),
    "sandctl dead count": _shape("dead-count"),
    "sandctl dead redrive": _shape("dead-taken"),
    "sandctl dead purge": _shape("dead-taken"),
    "sandctl schedule count": _shape("pending-count"),
    "sandctl schedule list": _list(_shape("stored-message")),
    "sandctl kv get": _shape("entry"),
    "sandctl kv list": _list(_shape("entry")),
    "sandctl kv put": _shape("put"),
    "sandctl kv delete": _shape("removed-entry"),
    "sandctl clock show": _shape("clock"),
    "sandctl clock accept": _shape("accepted-clock"),
    "sandctl cluster info": _shape("cluster"),
    "sandctl cluster nodes": _list(_shape("cluster-node")),
    "sandctl cluster partitions": _list(_shape("cluster-partition")),
    "sandctl cluster drain": _object(
        "A node that was drained.",
        {
            "drained": _text("Its name."),
            "led_count": _count("Partitions that it leads still."),
            "alone": _list(_text("A topic that lives on it alone.")),
        },
    ),
    "sandctl cluster remove": _object(
        "A node that was removed.", {"removed": _text("Its name.")}
    ),
    "sandctl cluster undrain": _object(
        "A node that takes part again.", {"undrained": _text("Its name.")}
    ),
    "sandctl config show": _list(_shape("setting")),
    "sandglass version": _shape("version"),
    "sandglass config show": _list(_shape("setting")),
    "sandglass token add": _shape("token"),
    "sandglass token renew": _shape("token"),
    "sandglass token list": _list(_shape("token-name")),
    "sandglass token remove": _shape("token-name"),
}
"""The output of each; of `consume`, each line of it."""


def document() -> Part:
    """An object with the output of each command under its name; `$defs` has what they print."""
    return {
        "$schema": DIALECT,
        "title": "What sandctl and sandglass print with --json",
        "description": "The output of each command is a property; of consume, each line is.",
        "type": "object",
        "properties": COMMANDS,
        "additionalProperties": False,
        "$defs": SHAPES,
    }


def schema_of(command: str) -> Part:
    """A schema of its own for the output of one command, such as `sandctl topics list`."""
    return {"$schema": DIALECT, **COMMANDS[command], "$defs": SHAPES}
