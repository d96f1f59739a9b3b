"""
Every bound, with its reason. A request beyond one is refused at the door, naming field, value
and limit; the reference documents are checked against this file.
"""

import re
from typing import Final

from sandglass.errors import InvalidError

# --- names ------------------------------------------------------------------------------------

NAME_LENGTH_MAX: Final = 200
"""Topic, group, channel, consumer: long enough for a path-like name, short enough for a key."""

NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9._-]{1,200}\Z")
"""No separator, no space, no control character: names stand in keys, URLs and file names."""

# --- messages ---------------------------------------------------------------------------------

KEY_BYTES_MAX: Final = 1024
"""Key, clustering key and message id: they stand in the keys of the view."""

VALUE_BYTES_MAX: Final = 1024 * 1024
"""A queue carries references to large things, not the things."""

HEADER_COUNT_MAX: Final = 64
HEADER_BYTES_MAX: Final = 16 * 1024
"""Names and values of all headers of a message together."""

ATOM_BYTES_MAX: Final = 4 * 1024 * 1024
"""One request to one partition, columns included: what is written all or nothing."""

ATOM_MESSAGE_COUNT_MAX: Final = 65_536
"""Bounds the rows that one record can make, so that no record holds up the loop."""

REQUEST_BYTES_MAX: Final = 5 * 1024 * 1024
"""What a transport reads before anybody looks at it: an atom and what stands around it."""

FRAME_BYTES_MAX: Final = 1024 * 1024
"""Answers and frames, either way; one larger message, or produce, goes alone."""

CALL_BYTES_MAX: Final = 9 * 256 * 1024
"""A request that brings no messages: a thousand keys of the largest size, and what names them.
In small pieces it is parsed in some 50 ms, and nobody else has the loop meanwhile."""

ROW_MESSAGE_COUNT_MAX: Final = 1000
"""A row of 160,000 messages took 10 ms to parse for handing out one of them."""

ROW_BYTES_MAX: Final = 256 * 1024
"""As above, by size; one larger message makes a row alone."""

DUE_MS_MAX: Final = 253_402_300_799_999
"""The last millisecond of the year 9999."""

# --- topics and groups ------------------------------------------------------------------------

PARTITION_COUNT_MAX: Final = 1024
FOREIGN_NUMBER_MIN: Final = 1 << 30
"""Partitions that live in another node's own log have numbers from here on, while this node
runs; those below are a node's own."""

REPLICATED_NUMBER_MIN: Final = 1 << 31
"""Partitions of replicated topics have numbers from here on, the same on all nodes."""

REPLICATION_FACTOR_DEFAULT_MAX: Final = 3
REPLICATION_FACTOR_MAX: Final = 5
"""
The engine has no stream of more replicas; five outlive the loss of two, and three, the most
that a topic gets where nobody says it, that of one.
"""

TOPIC_COUNT_MAX: Final = 10_000
CHANNEL_COUNT_MAX: Final = 10_000
"""Channels per partition: each costs a row."""

GROUP_COUNT_MAX: Final = 10_000
"""Groups per partition, and groups per topic: each costs a row, and some memory."""

RETENTION_MS_DEFAULT: Final = 7 * 24 * 3600 * 1000
RETENTION_MS_MIN: Final = 1000
"""Below a second, a message could be cut before anybody was awake to be given it."""

RETENTION_MS_MAX: Final = 100 * 365 * 24 * 3600 * 1000

# --- KV topics --------------------------------------------------------------------------------

READ_KEY_COUNT_MAX: Final = 1000
"""Keys of one get or has: each is a look into the view."""

DELETE_KEY_COUNT_MAX: Final = 100
"""Keys of one delete: the loop waits while it looks whether each held something, and to look
takes 0.2 ms where the value is a large one."""

SCAN_ENTRY_COUNT_MAX: Final = 1000
"""Entries of one page of a scan."""

# --- leases and attempts ----------------------------------------------------------------------

ACK_TIMEOUT_MS_DEFAULT: Final = 10_000
ACK_TIMEOUT_MS_MIN: Final = 100
LEASE_MS_MAX: Final = 12 * 3600 * 1000
"""A lease is a promise of somebody alive; half a day is a person's."""

MAX_DELIVERIES_DEFAULT: Final = 5
MAX_DELIVERIES_MAX: Final = 1000
RELEASE_FACTOR: Final = 10
"""The (this x max_deliveries)-th release makes a dead letter: a message nobody begins on."""

NACK_DELAY_MS_MAX: Final = 10 * 365 * 24 * 3600 * 1000
"""Also of a backoff: whoever means longer means a schedule."""

BACKOFF_DELAY_COUNT_MAX: Final = 32
"""A list that a person writes; beyond it the last delay repeats, or grows."""

BACKOFF_FACTOR_MAX: Final = 10
"""How much longer each further delay is: ten times is a day after five steps from a second."""

REASON_BYTES_MAX: Final = 1024

SESSION_GRACE_MS_DEFAULT: Final = 2000
SESSION_GRACE_MS_MAX: Final = 60_000

# --- credit, inboxes, turns -------------------------------------------------------------------

OPEN_LEASE_COUNT_MAX: Final = 32_768
"""Leases that one frame lists to a session that is resumed, of 30 bytes at most each; others
come in further ones."""

CREDIT_COUNT_MAX: Final = 1_000_000
"""Messages in flight to one subscription."""

CREDIT_BYTES_MAX: Final = 256 * 1024 * 1024
OUTBOX_BYTES_MAX: Final = 8 * 1024 * 1024
"""Deliveries that wait for a session's client to read: beyond it nothing more is handed out."""

OUTGOING_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of the whole node: read or handed out, and not yet taken by clients; an eighth of it for the
calls of one connection. Buffers below us hold up to four times as much."""

OUTGOING_WAIT_MS: Final = 30_000
"""A call that reads waits so long for room, and is refused then."""

CLAIM_COUNT_MAX: Final = 10_000
"""Deliveries that a session claims with one subscription: each costs a few looks into the view.
What it holds beyond them is due again."""

SUBSCRIPTION_COUNT_MAX: Final = 1000
"""Per session."""

PULL_COUNT_DEFAULT: Final = 1000
PULL_COUNT_MAX: Final = 10_000
"""Messages in the answer of a Consume or a Fetch: their columns fit into it, too."""

PULL_BYTES_MAX: Final = FRAME_BYTES_MAX
"""Of the messages in such an answer; or one larger message."""

PULL_WAIT_MS_MAX: Final = 60_000
"""A call that waits for longer looks dead to whatever stands in between."""

PULL_ITEM_COUNT_MAX: Final = 1000
"""Outcomes, or leases to extend, in one call: each outcome is a record."""

IN_FLIGHT_BYTES_MAX: Final = 64 * 1024 * 1024
"""Produced, not yet durable, per node: beyond it producers are told to wait."""

BUSY_RETRY_MS: Final = 20

DELIVERY_BYTES_MAX: Final = 512 * 1024
"""What goes under one lease, so that columns fit into its frame; or one larger message."""

DELIVERY_MESSAGE_COUNT_MAX: Final = 10_000
"""As above in messages, which may be as small as two bytes: with every other one acked, a lease
of 260,000 took seconds to settle. An outcome names no more stretches either."""

TURN_DELIVERY_BYTES_MAX: Final = 4 * 1024 * 1024
"""What one dispatch of a partition hands out, and the group that goes beyond it."""

TURN_ROW_COUNT_MAX: Final = 500
"""As above in rows: a row a message is the costliest shape to hand out, some 3 µs each."""

TURN_DELIVERY_COUNT_MAX: Final = 100
"""Deliveries of one partition to all its groups, a turn: some 50 µs each."""

TURN_PARTITION_COUNT_MAX: Final = 200
"""Partitions that have their turn before others have the loop."""

TURN_CUT_COUNT_MAX: Final = 250
"""Partitions that retention looks at, each second: two reads of the view each."""

TURN_APPEND_COUNT_MAX: Final = 500
"""Records that go with one sync, and are applied together: some 20 µs each."""

GROUP_ENDING_COUNT_MAX: Final = 2 * TURN_APPEND_COUNT_MAX
"""A group's outcomes on their way to the log, beyond which it is given nothing more: two turns'
worth. Whoever ends messages one by one would otherwise bring more while a sync lasts than turns
can take, without end."""

TURN_APPEND_BYTES_MAX: Final = 8 * 1024 * 1024
"""As above in bytes, and the record that goes beyond it: what log and view write in a turn."""

TURN_APPEND_ROW_COUNT_MAX: Final = 5000
"""As above in rows, and the record that goes beyond it: some 2 µs each."""

TURN_ANSWER_COUNT_MAX: Final = 5000
"""As above in requests that are answered, and the record that goes beyond it: a µs each."""

TURN_ENDING_BYTES_MAX: Final = 4 * 1024 * 1024
"""Dead letters made by a mass ending, a turn: each is a copy."""

REPLAY_ROW_COUNT: Final = 20_000
"""Rows that recovery holds before it writes them to the view."""

TURN_ENDING_COUNT_MAX: Final = 500
"""Leases ended by expiry or by a broken session, a turn: a mass ending comes in slices. That of
a retry takes some 40 µs, in which its row is looked for."""

LOOK_ROW_COUNT_MAX: Final = 1000
"""Rows that an operator's look reads before others have the loop: some milliseconds."""

LOOK_BYTES_MAX: Final = 4 * 1024 * 1024
"""As above, in bytes."""

PAGE_COUNT_DEFAULT: Final = 100
PAGE_COUNT_MAX: Final = 1000
"""Messages, topics, groups or partitions on a page."""

PAGE_BYTES_MAX: Final = 768 * 1024
"""As above, in bytes, so that a page with its columns fits into an answer; or one of them."""

COUNT_ROW_COUNT_MAX: Final = 200_000
"""Rows that a count of what is pending goes through; beyond it the count is a lower bound."""

# --- time -------------------------------------------------------------------------------------

PROMISE_MS: Final = 250
"""How far ahead of the clock a node may hand out; after a crash it is the longest wait."""

CLOCK_STEP_MS: Final = 5000
"""A forward step beyond this is not believed until it has been stable for CLOCK_STABLE_MS."""

CLOCK_STABLE_MS: Final = 60_000

PAUSE_MS: Final = 500
"""A turn later than planned by more than this is a pause: it is added to every lease."""

CUT_INTERVAL_MS: Final = 1000
"""Retention cuts a partition at most this often: range tombstones make seeks slow."""

# --- replicated logs --------------------------------------------------------------------------

ENTRY_BYTES_TARGET: Final = 256 * 1024
"""Records are packed into a log entry up to this. Beyond it an entry is no faster, and late."""

ENTRY_BYTES_MIN: Final = 64 * 1024
"""While log entries are under way, less than this waits for more, so that many small records
share an entry: one costs nodes and engines some 300 µs, however small it is."""

ENTRY_WAIT_MS: Final = 4
"""And it waits at most so long: about what an entry takes to be stored."""

ENTRY_BYTES_MAX: Final = 6 * 1024 * 1024
"""An atom with the columns that a record adds, alone in its log entry; a message of the engine
may have 8 MB."""

ENTRY_FLIGHT_COUNT_MAX: Final = 16
"""Log entries that are published and not committed: 8 to 16 fill the line, more only wait."""

ENTRY_FLIGHT_BYTES_MAX: Final = 4 * 1024 * 1024
"""As above in bytes, and the log entry that goes beyond it."""

DUPLICATE_WINDOW_MS: Final = 120_000
"""How long the engine remembers message ids; half of it is trusted."""

SNAPSHOT_BYTES_DEFAULT: Final = 256 * 1024 * 1024
SNAPSHOT_BYTES_MIN: Final = 64 * 1024
SNAPSHOT_BYTES_MAX: Final = 1 << 40
"""A replicated log grows by so much from one snapshot to the next (setting `snapshot_bytes`). A
replica that begins anew has up to twice of it to read beside the snapshot."""

SNAPSHOT_ENTRY_BYTES: Final = 1024
"""What an entry of the stream counts for at least: a reader takes some 20,000 a second, however
small they are."""

SNAPSHOT_PART_BYTES_TARGET: Final = 2 * 1024 * 1024
"""A part of a snapshot, on average; at most twice as much, or one row. Smaller ones make the
manifest long, and with larger ones more is sent for a change."""

SNAPSHOT_MANIFEST_BYTES_MAX: Final = 6 * 1024 * 1024
"""Some 30,000 parts, so 60 GiB of one partition: a manifest is one message of the engine."""

SNAPSHOT_SLICE_BYTES: Final = 256 * 1024
SNAPSHOT_SLICE_ROW_COUNT: Final = 500
"""Rows are read and written so many at a time, and then others have the loop."""

SNAPSHOT_AHEAD_BYTES: Final = 16 * 1024 * 1024
"""Parts that a node fetches before they are written, of all replicas together that begin at a
snapshot; beside the one that each of them writes."""

MOVED_KEY_COUNT_MAX: Final = 100_000
"""So many keys are noted that are written while a topic is copied to other logs; beyond that
all rows are compared once more."""

LEADER_LEASE_MS: Final = 2000
"""A leader that is gone is missed after this. Above the pauses of a loaded machine, and with
LEADER_LOOK_MS below what a failover may take."""

LEADER_LEASE_MARGIN_MS: Final = 200
"""So much sooner the holder stops: two monotonic clocks part by less, and a check comes a
little before what it allows has left."""

LEADER_RENEW_MS: Final = 500
"""From one renewal to the next: three may fail."""

LEADER_SETTLE_MS: Final = 3000
"""A member that came back has been there for so long, with all that it holds read, before it is
handed what it should lead."""

LEADER_LOOK_MS: Final = 250
"""A watcher looks at least so often. One that didn't was paused, and what it saw before counts
no more: a renewal may wait unread."""

# --- who is let in ----------------------------------------------------------------------------

TOKEN_COUNT_MAX: Final = 1000
"""In a token file: one for each program, not one for each of its users."""

TOKEN_PER_NAME_COUNT_MAX: Final = 2
"""The one in use, and the one that takes its place."""

TOKEN_FILE_BYTES_MAX: Final = 512 * 1024
"""The largest number of the longest lines, and room for comments. It is read every second."""

TOKEN_LENGTH_MAX: Final = 512
"""Characters of a token as it is sent; those made by `sandglass token add` have 46."""

SECURITY_REREAD_MS: Final = 1000
"""How often token file and certificates are looked at again."""

REVOKED_WITHIN_MS: Final = 5000
"""A token that was taken out of the file works no longer than this, on open streams too."""

TLS_FILE_BYTES_MAX: Final = 1024 * 1024
"""Of a certificate chain, a key, or a file of authorities: a whole system's is 230 KiB."""

# --- gRPC ---------------------------------------------------------------------------------

GRPC_CONNECTION_COUNT_MAX: Final = 10_000
"""At a time, or half of the files that the process may open; each costs a file and 15 KiB. One
more is closed without a word: there is none in the protocol."""

GRPC_CALL_COUNT_MAX: Final = 10_000
"""At a time, over all connections; a session is one. Each costs some 40 KiB."""

GRPC_STREAM_COUNT_MAX: Final = 1000
"""Calls at a time on one connection; a client waits for more, or opens another."""

GRPC_HANDSHAKE_MS_MAX: Final = 10_000
"""From the connection's begin to the end of TLS and of the first settings."""

GRPC_IDLE_MS_MAX: Final = 600_000
"""A connection without a call; clients open another by themselves when they need one."""

# --- HTTP -------------------------------------------------------------------------------------

HTTP_CONNECTION_COUNT_MAX: Final = 1000
"""At a time, or a quarter of the files that the process may open; each costs a file and some
50 KiB. One more is told 503 and closed."""

HTTP_HEAD_BYTES_MAX: Final = 16 * 1024
"""Request line and headers together: a browser's are 2 KiB, a token's 600 bytes."""

HTTP_HEADER_COUNT_MAX: Final = 64
"""Lines of headers; a browser behind two proxies sends some 30."""

HTTP_HEAD_MS_MAX: Final = 10_000
"""From the first byte of a request, or the connection's begin, to the end of its headers."""

HTTP_BODY_MS_MAX: Final = 30_000
"""For a whole body, however it trickles: 5 MiB at 1.4 Mbit/s."""

HTTP_CHUNK_COUNT_MAX: Final = 10_000
"""Of a chunked body: each is parsed by itself, and one may hold a single byte."""

HTTP_IDLE_MS_MAX: Final = 15_000
"""A connection that is kept, between two requests."""

HTTP_STALL_MS_MAX: Final = 30_000
"""A client that takes nothing of its answer for so long is cut off."""

HTTP_REQUEST_MS_MAX: Final = 60_000
"""Until a request is answered, streams apart: a sync of a sick disk takes seconds."""

HTTP_WAIT_MS_MAX: Final = 60_000
"""A consuming call may wait so long for its first message; proxies cut idle ones sooner."""

HTTP_JSON_ITEM_COUNT_MAX: Final = 50_000
"""Commas, colons and opening brackets of a body: they, not bytes, are what parsing costs."""

# --- metrics ----------------------------------------------------------------------------------

METRICS_TOPIC_COUNT_MAX: Final = 1000
"""Topics that have lines of their own in /metrics; the others stand together as `_other`."""

METRICS_PARTITION_COUNT_MAX: Final = 10_000
"""Partitions that one scrape looks at."""

METRICS_GROUP_COUNT_MAX: Final = 2000
"""Groups, one for each partition and channel, that one scrape looks at."""

METRICS_ROW_COUNT_MAX: Final = 20_000
"""Rows of the view that one scrape counts; beyond them a figure is a lower bound."""

# --- relations --------------------------------------------------------------------------------

assert VALUE_BYTES_MAX + 3 * KEY_BYTES_MAX + HEADER_BYTES_MAX < ATOM_BYTES_MAX
assert ATOM_BYTES_MAX < REQUEST_BYTES_MAX
assert ROW_BYTES_MAX <= DELIVERY_BYTES_MAX < FRAME_BYTES_MAX <= ATOM_BYTES_MAX
assert ROW_MESSAGE_COUNT_MAX < 65_536, "a row's count is two bytes of its key"
assert ATOM_BYTES_MAX < TURN_APPEND_BYTES_MAX < IN_FLIGHT_BYTES_MAX
assert ROW_MESSAGE_COUNT_MAX <= DELIVERY_MESSAGE_COUNT_MAX
assert READ_KEY_COUNT_MAX * 2 * (KEY_BYTES_MAX + 8) < CALL_BYTES_MAX < REQUEST_BYTES_MAX
assert ATOM_MESSAGE_COUNT_MAX * 16 + 8 * NAME_LENGTH_MAX < CALL_BYTES_MAX, "offsets of a mark"
assert DELIVERY_BYTES_MAX < TURN_ENDING_BYTES_MAX < TURN_APPEND_BYTES_MAX
assert PAGE_BYTES_MAX < FRAME_BYTES_MAX
assert OPEN_LEASE_COUNT_MAX * 30 < FRAME_BYTES_MAX
assert OUTBOX_BYTES_MAX < OUTGOING_BYTES_MAX
assert PAGE_COUNT_DEFAULT <= PAGE_COUNT_MAX
assert DUE_MS_MAX < 1 << 48, "an offset holds six bytes of milliseconds"
assert TOKEN_COUNT_MAX * (NAME_LENGTH_MAX + 73) < TOKEN_FILE_BYTES_MAX
assert 2 * SECURITY_REREAD_MS < REVOKED_WITHIN_MS
assert ENTRY_BYTES_MIN < ENTRY_BYTES_TARGET
assert ENTRY_BYTES_TARGET <= ENTRY_FLIGHT_BYTES_MAX // ENTRY_FLIGHT_COUNT_MAX
assert ATOM_BYTES_MAX < ENTRY_BYTES_MAX < 8_000_000
assert SNAPSHOT_MANIFEST_BYTES_MAX <= ENTRY_BYTES_MAX
assert SNAPSHOT_SLICE_BYTES < SNAPSHOT_PART_BYTES_TARGET
assert 2 * SNAPSHOT_PART_BYTES_TARGET < ENTRY_BYTES_MAX
assert 4 * SNAPSHOT_PART_BYTES_TARGET <= SNAPSHOT_AHEAD_BYTES
assert SNAPSHOT_BYTES_MIN <= SNAPSHOT_BYTES_DEFAULT <= SNAPSHOT_BYTES_MAX
assert 3 * LEADER_RENEW_MS < LEADER_LEASE_MS - LEADER_LEASE_MARGIN_MS
assert LEADER_LOOK_MS < LEADER_LEASE_MS // 2
assert ACK_TIMEOUT_MS_MIN <= ACK_TIMEOUT_MS_DEFAULT <= LEASE_MS_MAX


def check_name(name: str, *, field: str) -> str:
    """
    A name as users may give one.

    Raises:
        InvalidError: other characters than `A-Z a-z 0-9 . _ -`, empty, too long, `.`, `..`, or
        a
            leading `_`, which is Sandglass's own.
    """
    if not NAME_PATTERN.match(name) or name in {".", ".."}:
        shown = name if len(name) <= 40 else name[:40] + "..."
        raise InvalidError(
            f"ErrInvalidTopicName: {field} {shown!r} is not a name: 1 to {NAME_LENGTH_MAX}"
            " characters of A-Z a-z 0-9 . _ -, not . or .."
            if field == "topic"
            else f"{field} {shown!r} is not a name: 1 to {NAME_LENGTH_MAX} characters of"
            " A-Z a-z 0-9 . _ -, not . or ..",
            field=field,
        )
    if name.startswith("_"):
        raise InvalidError(f"{field} {name!r} starts with _, which is reserved", field=field)
    return name


def check_range(value: int, *, field: str, low: int, high: int) -> int:
    """
    A whole number within `[low, high]`.

    Raises:
        InvalidError: it is outside.
    """
    if not low <= value <= high:
        raise InvalidError(f"{field} is {value}; it must be {low} to {high}", field=field)
    return value


def check_count(count: int, *, field: str, high: int) -> None:
    """
    How many items a field has, `high` at most.

    Raises:
        InvalidError: it has more.
    """
    if count > high:
        raise InvalidError(f"{field} has {count} items; the limit is {high}", field=field)
