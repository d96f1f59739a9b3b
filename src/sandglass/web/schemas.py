"""
The schemas of the OpenAPI document: what bodies and answers look like.

Fields that the protocols define have the names of the files in proto/; see their comments.
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


def _number(text: str) -> Part:
    return {"type": "integer", "description": text}


def _list(items: Part, text: str = "") -> Part:
    return {"type": "array", "items": items} | ({"description": text} if text else {})


_BYTES: Final = "base64"
_CHANNEL: Final = {"channel": _text("`master` by default.")}
_PLACE: Final = {
    "partition": _text("Id of a partition; found by the key without one."),
    **_CHANNEL,
}
_GROUP: Final = {"group": _text("Name of the group."), **_CHANNEL}
_NEXT_PAGE: Final = {
    "nextPageToken": _text("For the next page; absent at the end.", format=_BYTES),
}
_ATTEMPTS: Final = {
    "ackTimeoutMs": _text("A lease ends after so long without a word."),
    "maxDeliveries": _number("Attempts before a dead letter."),
    "backoff": _ref("Backoff"),
}
_KEY: Final = {
    "key": _text("Messages of one key go to one partition.", format=_BYTES),
    "clusteringKey": _text("Second part of the key.", format=_BYTES),
}
_CONTENT: Final = {
    "value": _text("Up to 1 MiB.", format=_BYTES),
    "id": _text("Your own name for it, up to 1 KiB."),
    "headers": _list(_ref("Header"), "Up to 64, 16 KiB together."),
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
        replicationFactor={
            "type": "integer",
            "minimum": 1,
            "maximum": limits.REPLICATION_FACTOR_MAX,
        },
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
        **_ATTEMPTS,
    ),
    "TopicChange": _object(
        "What is to change of a topic: as `Settings`, and what it is made of.",
        retentionMs=_text("As in `Settings`."),
        ackTimeoutMs=_text("As in `Settings`."),
        maxDeliveries=_number("As in `Settings`."),
        backoff=_ref("Backoff"),
        partitionCount=_number("So many from here on: more, of a timer topic."),
        replicationFactor=_number("So many replicas from here on."),
        node=_text("Where a topic with one replica is to live."),
    ),
    "Groups": _object(
        "The groups of a topic, and how they stand.",
        groups=_list(_ref("GroupStatus"), "One for each partition and channel that it reads."),
        known=_list(_ref("Group"), "Each group, whether it has read or not, before all those."),
        **_NEXT_PAGE,
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
        skippedCount=_text("Due before its start; a lower bound from 10,000 rows on."),
        generation=_number("Grows with each seek."),
        consumerCount={"type": "integer"},
    ),
    "Message": _object(
        "A message. When it is handed out, index, offset and producedAt are the broker's.",
        **_CHANNEL,
        index=_text("Place in the order of production."),
        offset=_text(_OFFSET, format=_BYTES),
        producedAt=_text("When it was produced.", format="date-time"),
        consumeIn=_text('Delay: "1.5s", or whole nanoseconds as a number.'),
        **_KEY,
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
        **_CHANNEL,
        dueAt=_text("RFC 3339: 2027-01-01T09:00:00Z.", format="date-time"),
        delay=_text("From now: `90s`, `1h30m`; or whole nanoseconds as a number."),
        messages=_list(_ref("ScheduledMessage")),
    ),
    "ScheduledMessage": _object(
        "A message and its time.",
        dueAt=_text("As above.", format="date-time"),
        delay=_text("As above."),
        **_KEY,
        **_CONTENT,
    ),
    "MarkRequest": _object(
        "Outcomes by offset. What holds no message, or was never handed out, is ignored.",
        "consumerGroup",
        "offsets",
        consumerGroup=_text("Name of the group."),
        consumerName=_text("Ignored: an outcome is taken from anyone."),
        **_CHANNEL,
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
        **_CONTENT,
    ),
    "Revision": _object(
        "Durable.",
        revision=_text("Index of the change; those of a key only grow."),
        existed={"type": "boolean", "description": "When deleted: whether there was an entry."},
    ),
    "Entry": _object(
        "What stands under a key; empty where nothing does.",
        message=_ref("Content"),
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
    "GroupSettings": _object(
        "What is a group's own; null, when it is changed, is the topic's again.",
        **_ATTEMPTS,
    ),
    "Backoff": _object(
        "How long a message waits after a failed attempt.",
        delaysMs=_list({"type": "string"}, "After the first attempt, the second, and so on."),
        factor=_number("By which the last one grows; 1 to 10."),
        capMs=_text("The longest."),
        jitterPercent=_number("Chance takes off up to so much."),
    ),
    "NewGroup": _object(
        "A group to be made. No other field is taken.",
        "name",
        name=_text("1 to 200 characters of A-Z a-z 0-9 . _ -"),
        start=_text("`beginning`, `now`, or a moment: 2027-01-01T09:00:00Z."),
        settings=_ref("GroupSettings"),
    ),
    "Seek": _object(
        "Where a group goes on: `to`, or `partition` and `offset`. No other field is taken.",
        to=_text("`beginning`, `now`, or a moment, for all partitions."),
        partition=_text("Id of the only partition that is moved."),
        offset=_text("The first that is handed out there.", format=_BYTES),
    ),
    "ConsumeRequest": _object(
        "What to take; all partitions of the topic unless some are named.",
        "group",
        "consumer",
        group=_text("Name of the group; it is made if there is none."),
        consumer=_text("Name of the consumer."),
        partitions=_list({"type": "string"}, "Ids."),
        **_CHANNEL,
        countMax=_number("At most so many messages: 1 to 10,000; 1,000 by default."),
        bytesMax=_text("None is added once they hold so many bytes: up to 1 MiB, the default."),
        waitMs=_text("If nothing is ready: how long to wait for the first, up to 60 s."),
        start=_text(
            "Where a group begins that is made.", enum=["START_BEGINNING", "START_NOW"]
        ),
        ackTimeoutMs=_text("The leases last so long; by default as the group has it."),
    ),
    "Deliveries": _object(
        "What was ready.", deliveries=_list(_ref("Delivery"), "Empty if nothing was.")
    ),
    "Delivery": _object(
        "Messages of one partition under one lease.",
        partition=_text("Its id."),
        partitionNumber=_number("Its place in the topic: for outcomes."),
        token=_text("Names the lease in outcomes."),
        attempt=_number("1 the first time."),
        leaseMs=_text("The lease ends after so long, unless it is extended."),
        deadLetter=_object(
            "What they were, if they are dead letters.",
            group=_text("The group that gave them up."),
            attempts=_number("Counted attempts."),
            reason=_text("Why."),
        ),
        messages=_list(_ref("Message")),
    ),
    "SettleRequest": _object(
        "Outcomes under the tokens of deliveries.",
        "group",
        "outcomes",
        **_GROUP,
        outcomes=_list(_ref("Outcome"), "Up to 1,000."),
    ),
    "Outcome": _object(
        "What became of a delivery, or of some of its messages.",
        "token",
        "kind",
        partitionNumber=_number("As in the delivery; 0 by default."),
        token=_text("As in the delivery."),
        kind=_text(
            "What it is.",
            enum=["OUTCOME_ACK", "OUTCOME_NACK", "OUTCOME_RELEASE", "OUTCOME_DEAD"],
        ),
        places=_list(
            {"type": "integer"},
            "Pairs: place of a first message in the delivery, from 0, and a count. All that are"
            " open by default.",
        ),
        delayMs=_text("Of a nack: again after so long; the group's backoff by default."),
        reason=_text("Of a nack, or of a dead letter: up to 1 KiB."),
    ),
    "SettleReply": _object(
        "Durable, each without an error.",
        outcomes=_list(_ref("OutcomeReply"), "One for each outcome, in order."),
    ),
    "OutcomeReply": _object("Empty, or what was refused.", error=_ref("ItemError")),
    "ExtendLeasesRequest": _object(
        "Leases to be kept.",
        "group",
        "extends",
        **_GROUP,
        extends=_list(_ref("Extend"), "Up to 1,000."),
    ),
    "Extend": _object(
        "A lease to be kept.",
        "token",
        "leaseMs",
        partitionNumber=_number("As in the delivery; 0 by default."),
        token=_text("As in the delivery."),
        leaseMs=_text("From now on; up to 12 hours."),
    ),
    "ExtendLeasesReply": _object(
        "One for each lease, in order.", extends=_list(_ref("ExtendReply"))
    ),
    "ExtendReply": _object(
        "When it ends, or what was refused.",
        token=_text("Which it is."),
        leaseEndsMs=_text("Unix ms."),
        error=_ref("ItemError"),
    ),
    "ItemError": _object(
        "An error of one item alone.",
        code=_number("The number of the gRPC code."),
        message=_text("What is wrong."),
        reason=_text("Its code: `LEASE_LOST`, `NOT_FOUND`, ..."),
        field=_text("Which field is wrong."),
        retryAfterMs=_text("When to try again."),
        isResultUnknown={"type": "boolean"},
    ),
    "DeadLetters": _object(
        "A page, in the order of death.",
        letters=_list(_ref("DeadLetter")),
        **_NEXT_PAGE,
    ),
    "DeadLetter": _object(
        "A dead letter, and what it was.",
        letter=_ref("StoredMessage"),
        group=_text("The group that gave it up."),
        channel=_text("The channel from which it came."),
        attempts=_number("Counted attempts."),
        reason=_text("Why."),
        originalOffset=_text("Where it stood.", format=_BYTES),
    ),
    "StoredMessage": _object(
        "A message as it is stored.",
        partition=_text("Id of its partition."),
        offset=_text("Its offset.", format=_BYTES),
        index=_text("Place in the order of production."),
        dueMs=_text("When it is due, or died: Unix ms."),
        producedMs=_text("Unix ms."),
        sizeBytes=_number("Of the whole message."),
        message=_ref("Content"),
    ),
    "Content": _object(
        "What was produced; where it was asked for.",
        key=_text("", format=_BYTES),
        clusteringKey=_text("", format=_BYTES),
        value=_text("", format=_BYTES),
        id=_text(""),
        headers=_list(_ref("Header")),
    ),
    "DeadLetterCount": _object(
        "All of them, and by group; what is 0 is left out.",
        count=_text("How many."),
        sizeBytes=_text("Bytes of their messages."),
        groups=_list(
            _object(
                "Of one group and channel.",
                group=_text("Its name."),
                channel=_text("The channel."),
                count=_text("How many."),
            ),
            "The most first.",
        ),
    ),
    "TakeDeadLetters": _object(
        "Which dead letters; all of them if nothing is given. No other field is taken.",
        group=_text("Only what this group gave up."),
        channel=_text("Only what was read in this channel."),
        reason=_text("Only those with this reason."),
        places=_list(
            _object(
                "Where one stands.",
                partition=_text("Id of its partition."),
                offset=_text("Its offset there.", format=_BYTES),
            ),
            "These, instead of a filter's; up to 1,000.",
        ),
        limit=_text("No more than so many."),
        beforeMs=_text("Only what died before: Unix ms."),
    ),
    "Taken": _object(
        "Durable; what is 0 is left out.",
        count=_text("How many."),
        skippedCount=_text("Not redriven, because their group is gone."),
        beforeMs=_text("What died from then on was left alone; give it again with a `limit`."),
    ),
    "Pending": _object(
        "A page of messages that are not due yet, in their order.",
        messages=_list(_ref("StoredMessage")),
        **_NEXT_PAGE,
    ),
    "PendingCount": _object(
        "How many messages are not due yet.",
        count=_text("0 is left out."),
        isLowerBound={"type": "boolean", "description": "There are more."},
        nextDueMs=_text("When the first is due: Unix ms."),
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
        code=_number("The number of the gRPC code."),
    ),
}
