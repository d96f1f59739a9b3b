"""Outcomes on their way to leaders that come and go, without a network."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from sandglass.core.topic import PartitionRef, Topic, TopicKind, TopicSettings
from sandglass.errors import (
    BusyError,
    LeaseLostError,
    NotFoundError,
    NotLeaderError,
    SandglassError,
    UnavailableError,
)
from sandglass.rpc.relaying import settling as module
from sandglass.rpc.relaying.links import OnOutcome
from sandglass.rpc.relaying.parted import Part, Parted
from sandglass.rpc.relaying.requests import RETRY_MS, WAIT_MS
from sandglass.rpc.relaying.settling import Settling
from sandglass.rpc.relaying.upstream import Sent
from sandglass.wire import status
from sandglass.wire.v1 import broker_pb2 as pb
from tests.unit.rpc.relaying.test_parted import Seen, delivery

TOPIC = Topic(
    "t", TopicKind.TIMER, (PartitionRef("p0", 0), PartitionRef("p1", 1)), 3, 0, TopicSettings()
)
MOVED = NotLeaderError("led elsewhere", leader="elsewhere:1")


@dataclass
class Way:
    """To another node: what was sent, and is unanswered."""

    is_open: bool = True
    outcomes: dict[int, Sent] = field(default_factory=dict[int, Sent])
    extends: dict[int, int] = field(default_factory=dict[int, int])
    sent: list[pb.Outcome] = field(default_factory=list[pb.Outcome])
    extended: list[pb.Extend] = field(default_factory=list[pb.Extend])
    address: str = "other:1"

    def settle(self, sent: Sent) -> None:
        self.sent.append(sent.item)
        if sent.item.request_id:
            self.outcomes[sent.item.request_id] = sent

    def extend(self, item: pb.Extend) -> None:
        self.extended.append(item)
        self.extends[item.request_id] = item.token

    def answered(self) -> None:
        """There may be room again."""


@dataclass
class Here:
    """This node's own stream."""

    errors: list[SandglassError] = field(default_factory=list[SandglassError])
    """What the next outcomes are answered with."""
    settled: list[int] = field(default_factory=list[int])
    extended: list[pb.Extend] = field(default_factory=list[pb.Extend])

    def settle(self, items: list[pb.Outcome], part_id: int, answered: OnOutcome) -> None:
        for item in items:
            error = self.errors.pop(0) if self.errors else None
            self.settled.append(item.request_id)
            answered(item, error)

    def extend(self, item: pb.Extend, part_id: int) -> None:
        self.extended.append(item)


class Table:
    """
    `Links` of which all is seen, and subscription 7 with a part for each partition; if the
    client has `claims` of the first one, that has no leader yet.
    """

    def __init__(self, *claims: pb.Claim) -> None:
        self.now = 1000
        self.stream: Any = Here()
        self.replies: list[Any] = []
        self.seen = Seen()
        item = pb.Subscribe(
            subscription_id=7, topic="t", group="g", credit_count=600, claims=claims
        )
        item.credit_bytes = 1 << 20
        self.parted = Parted(item, TOPIC, range(2), self.seen)
        links: Any = self
        self.settling = Settling(links, {7: self.parted})
        self.way = Way()
        self.near = self.part(-2, 1, None)
        self.parted.delivered(self.near, delivery(6, 1, count=4), self.now)
        if not claims:
            self.far = self.part(1, 0, self.way)
            self.parted.delivered(self.far, delivery(5, 0, count=4), self.now)

    def now_ms(self) -> int:
        return self.now

    def look_soon(self) -> None:
        """Somebody looks, at the test's word."""

    def answer(self, reply: Any) -> None:
        self.replies.append(reply)

    def part(self, part_id: int, place: int, way: Any, *claims: pb.Claimed) -> Part:
        """A part that is open, and has answered what was claimed."""
        part = Part(part_id, way, {place})
        self.parted.add(part)
        self.parted.request(part)
        self.settling.opened(self.parted, part, self.parted.opened(part, claims))
        return part

    def lost(self, part: Part) -> None:
        places = set(part.places)
        self.parted.lost(part, MOVED, places)
        self.settling.put_off(part, places)

    def ack(self, request_id: int, place: int = 0, places: tuple[int, ...] = ()) -> None:
        item = pb.Outcome(
            request_id=request_id,
            subscription_id=7,
            partition_number=place,
            token=5 + place,
            kind=pb.OUTCOME_ACK,
            places=places,
        )
        self.settling.outcomes(self.parted, [item])

    def answered(self, request_id: int, error: SandglassError | None = None) -> None:
        """The other node has said so."""
        reply = pb.OutcomeReply(request_id=request_id)
        if error is not None:
            reply.error.CopyFrom(status.to_wire(error))
        self.settling.settled(self.far.upstream or self.way, reply)  # pyright: ignore[reportArgumentType] - a fake

    @property
    def told(self) -> dict[int, str]:
        """The reason in each answer, by request; empty if it counted."""
        return {each.request_id: each.error.reason for each in self.replies}

    @property
    def open_places(self) -> list[int]:
        return [place for each in self.parted.holdings.of({0}) for place in each.places]


GRANTED = pb.Claimed(token=50, places=[0, 4], lease_ms=9000)


@pytest.fixture
def table() -> Table:
    return Table()


def test_an_outcome_goes_to_the_leader_and_its_answer_to_the_client(table: Table) -> None:
    table.ack(1, places=(0, 3))
    table.ack(2, place=1)

    assert [(1, 5, [0, 3])] == [
        (each.subscription_id, each.token, list(each.places)) for each in table.way.sent
    ]
    assert ([2], {2: ""}, [0, 4]) == (table.stream.settled, table.told, table.open_places)
    table.answered(1)
    assert ({1: "", 2: ""}, [3, 1]) == (table.told, table.open_places)


def test_what_is_refused_stays_open(table: Table) -> None:
    table.ack(1)
    table.ack(2)
    table.answered(1, BusyError("later", retry_after_ms=5))
    table.answered(2, LeaseLostError("settled already"))

    assert ({1: "BUSY", 2: "LEASE_LOST"}, [0, 4]) == (table.told, table.open_places)


def test_outcomes_wait_in_line_while_nobody_leads(table: Table) -> None:
    table.lost(table.far)
    table.ack(1, places=(0, 1))
    table.ack(2)
    assert ([], {}) == (table.way.sent, table.told)

    table.far = table.part(3, 0, table.way, GRANTED)

    assert [(1, 3), (2, 3)] == [
        (each.request_id, each.subscription_id) for each in table.way.sent
    ]
    assert not table.settling.is_waiting


def test_what_comes_while_others_wait_goes_behind_them(table: Table) -> None:
    table.stream.errors = [MOVED]
    table.ack(1, place=1, places=(0, 1))
    table.ack(2, place=1)
    assert [1] == table.stream.settled

    table.settling.look()
    assert [1] == table.stream.settled, "not at once"
    table.now += RETRY_MS
    table.settling.look()

    assert ([1, 1, 2], {1: "", 2: ""}) == (table.stream.settled, table.told)


def test_nobody_waits_for_a_leader_for_ever(table: Table) -> None:
    table.lost(table.far)
    table.ack(1)

    table.now += WAIT_MS - 1
    table.settling.look()
    assert {} == table.told
    table.now += 1
    table.settling.look()

    assert {1: "UNAVAILABLE"} == table.told
    assert not table.replies[0].error.is_result_unknown
    assert not table.settling.is_waiting


@pytest.mark.parametrize(
    ("answer", "again", "expected"),
    [
        (None, None, ""),
        (None, LeaseLostError("settled already"), ""),
        (MOVED, LeaseLostError("settled already"), "LEASE_LOST"),
        (UnavailableError("?", is_result_unknown=True), LeaseLostError("settled already"), ""),
    ],
)
def test_one_that_may_have_been_taken_counts_if_the_next_leader_knows_nothing_of_it(
    table: Table, answer: SandglassError | None, again: SandglassError | None, expected: str
) -> None:
    """`answer` is what the leader before said, if anything."""
    table.ack(1)
    if answer is not None:
        table.answered(1, answer)
    table.lost(table.far)
    table.now += RETRY_MS

    table.far = table.part(3, 0, table.way, pb.Claimed())
    assert 2 == len(table.way.sent)
    table.answered(1, again)

    assert {1: expected} == table.told


@pytest.mark.parametrize("was_sent", [False, True])
def test_what_is_claimed_too_late_is_lost_whatever_became_of_it(
    table: Table, *, was_sent: bool
) -> None:
    if was_sent:
        table.ack(1)
    table.lost(table.far)
    if not was_sent:
        table.ack(1)

    table.far = table.part(3, 0, table.way, pb.Claimed(is_late=True))

    assert {1: "LEASE_LOST"} == table.told
    assert was_sent == table.replies[0].error.is_result_unknown


@pytest.mark.parametrize(
    ("answer", "again", "expected"),
    [
        (pb.Claimed(), LeaseLostError("settled already"), ""),
        (GRANTED, None, ""),
        (pb.Claimed(is_late=True), None, "LEASE_LOST"),
    ],
)
def test_the_clients_own_claim_that_nobody_has_answered_may_have_had_its_outcome(
    answer: pb.Claimed, again: SandglassError | None, expected: str
) -> None:
    """By way of the node before, which is gone. The claim's answer tells."""
    table = Table(pb.Claim(token=5, run_due_ms=[1], run_first_index=[1], run_count=[4]))
    assert [5] == [each.token for each in table.seen.announced[0].claims]
    table.ack(1)

    table.far = table.part(3, 0, table.way, answer)
    if not answer.is_late:
        table.answered(1, again)

    assert {1: expected} == table.told
    assert answer.is_late == table.replies[0].error.is_result_unknown
    assert not table.parted.unsure, "what comes later is sure"


def test_what_had_run_out_when_there_was_a_leader_again_is_unknown(table: Table) -> None:
    """It was not claimed, and may be somebody else's."""
    table.ack(1)
    table.lost(table.far)
    table.seen.now = 1 << 40

    table.far = table.part(3, 0, table.way)

    assert {1: "LEASE_LOST"} == table.told
    assert table.replies[0].error.is_result_unknown


def test_what_may_have_run_out_before_it_was_sent_again_is_unknown(table: Table) -> None:
    """The leader is the one before: nothing is claimed, and time may have ended the lease."""
    table.ack(1)
    table.answered(1, UnavailableError("?", is_result_unknown=True))
    table.now += RETRY_MS
    table.settling.look()
    assert 2 == len(table.way.sent)

    table.now = 1 << 40
    table.answered(1, LeaseLostError("it has ended"))

    assert {1: "LEASE_LOST"} == table.told
    assert table.replies[0].error.is_result_unknown


def test_one_that_wants_no_answer_is_not_claimed_once_it_is_sent(table: Table) -> None:
    table.ack(0, places=(0, 1))
    assert [1, 3] == table.open_places
    table.lost(table.far)
    table.ack(0, places=(1, 1))
    assert [1, 3] == table.open_places

    table.far = table.part(3, 0, table.way, GRANTED)

    assert ([2, 2], 2, []) == (table.open_places, len(table.way.sent), table.replies)


def test_a_session_that_began_anew_will_answer_nothing(table: Table) -> None:
    table.ack(1)

    table.settling.put_off_all(table.way)  # pyright: ignore[reportArgumentType] - a fake

    assert ({}, True) == (table.way.outcomes, table.settling.is_waiting)


@pytest.mark.parametrize(
    ("error", "expected"), [(MOVED, "UNAVAILABLE"), (NotFoundError("gone"), "LEASE_LOST")]
)
def test_what_waits_for_a_subscription_that_fails_is_refused(
    table: Table, error: SandglassError, expected: str
) -> None:
    table.lost(table.far)
    table.ack(1)

    table.parted.fail(error)
    table.settling.failed(table.parted, error)

    assert {1: expected} == table.told


@pytest.mark.parametrize(
    ("error", "expected"), [(MOVED, "NOT_LEADER"), (NotFoundError("gone"), "LEASE_LOST")]
)
def test_what_comes_after_it_failed_is_refused_likewise(
    table: Table, error: SandglassError, expected: str
) -> None:
    table.lost(table.far)
    table.parted.fail(error)

    table.ack(1)

    assert {1: expected} == table.told


def test_too_much_that_waits_is_refused(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNANSWERED_COUNT_MAX", 2)
    table.lost(table.far)

    for request_id in (1, 2, 3):
        table.ack(request_id, places=(request_id, 1))

    assert {3: "UNAVAILABLE"} == table.told


def test_a_client_that_is_away_says_it_again(table: Table) -> None:
    table.lost(table.far)
    table.ack(1)

    table.settling.away()

    assert not table.settling.is_waiting


def test_an_extension_is_noted_where_nobody_leads_and_loses_no_lease(table: Table) -> None:
    table.lost(table.far)
    item = pb.Extend(request_id=4, subscription_id=7, token=5, lease_ms=60_000, begun_count=2)

    table.settling.extend(table.parted, item)

    assert {4: "UNAVAILABLE"} == table.told
    (held,) = table.parted.holdings.of({0})
    assert (2, table.now + 60_000) == (held.claim.begun_count, held.ends_ms)


def test_an_extension_goes_to_the_leader(table: Table) -> None:
    for place in (0, 1):
        item = pb.Extend(request_id=place + 1, partition_number=place, token=5 + place)
        table.settling.extend(table.parted, item)

    assert ([1], [2]) == (
        [each.request_id for each in table.way.extended],
        [each.request_id for each in table.stream.extended],
    )
    way: Any = table.way
    table.settling.broken(way)
    assert {1: "UNAVAILABLE"} == table.told


def test_a_partition_that_is_not_read_has_no_leases(table: Table) -> None:
    table.ack(1, place=9)
    table.settling.extend(
        table.parted, pb.Extend(request_id=2, partition_number=9, token=3, lease_ms=1)
    )

    assert {1: "LEASE_LOST", 2: "LEASE_LOST"} == table.told


@pytest.mark.parametrize(("is_left", "expected"), [(False, None), (True, "LEASE_LOST")])
def test_a_part_that_its_node_has_ended_waits_for_the_next_and_one_that_was_left_does_not(
    table: Table, *, is_left: bool, expected: str | None
) -> None:
    """The answer overtakes the word that the part is over."""
    table.ack(1)
    if is_left:
        table.parted.unsubscribe()

    table.answered(1, NotFoundError("no subscription 1", field="subscription_id"))

    assert expected == table.told.get(1)
    assert is_left != table.settling.is_waiting
