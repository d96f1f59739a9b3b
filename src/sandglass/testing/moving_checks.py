"""
What clients of a simulated cluster see of topics that move.

`MovingHistory` is told by clients what they send, what they are answered, and what they are
given; partitions go by their ids, which stay the same wherever a topic lives. It raises
`Violation` at what must not be.

Of the invariants of the guarantees: I1, I2, I3, I5, I6, I7, I8, I9 and I10, the last ones
within one generation of a group; and M: a group that was moved by a seek, a dead letter that
was redriven or purged, and what retention has cut stay so, wherever their topic goes.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from sandglass.core.lease import TOKEN_BITS
from sandglass.core.offset import INDEX_BITS
from sandglass.core.record import Ending
from sandglass.testing.moving_seen import (
    MAX_DELIVERIES,
    Given,
    GroupSeen,
    Holding,
    Place,
    Seek,
    Sent,
    Take,
)
from sandglass.testing.seen import Violation
from sandglass.testing.virtual_time import START_MS

COPY_FIRST = 1 << 40
"""Messages that came back are numbered from here on."""


class MovingHistory:
    """All that was produced, and what became of it. Clocks may differ by `spread_ms`."""

    def __init__(self, spread_ms: int) -> None:
        self.spread_ms = spread_ms
        self.sent: dict[int, Sent] = {}
        self.at: dict[tuple[str, int], int] = {}
        self.groups: dict[tuple[str, str], GroupSeen] = {}
        """By topic and name."""
        self.cuts: dict[str, int] = {}
        """Below this retention has removed what there was, it was said; by partition."""
        self.cutting: dict[str, int] = {}
        """Below this it may have."""
        self.passed: dict[str, int] = {}
        self.tokens: dict[str, int] = {}
        self.trace: list[str] = []
        self.delivered_count = 0

    def group(self, topic: str, name: str) -> GroupSeen:
        """A group, as far as anybody has seen it."""
        return self.groups.setdefault((topic, name), GroupSeen())

    # --- producing ----------------------------------------------------------------------------

    def send(self, number: int, partition: str, value: bytes, due_ms: int) -> None:
        """A produce leaves a client."""
        passed = self.passed.get(partition, -1)
        self.sent[number] = Sent(partition, value, due_ms, passed)

    def answer(self, number: int, offset: int) -> None:
        """It is durable, it is said."""
        self._place(self.sent[number].partition, number, offset)
        self.sent[number].is_answered = True

    def refuse(self, number: int) -> None:
        """Nothing was taken, it is said."""
        if self.sent[number].offset is not None:
            raise Violation(f"I2: message {number} was refused, and is there")
        self.sent[number].is_refused = True

    def _place(self, partition: str, number: int, offset: int) -> Sent:
        message = self.sent.get(number)
        if message is None or message.is_refused:
            raise Violation(f"I2: message {number} is there, and nobody produced it")
        if message.partition != partition:
            raise Violation(f"I2: message {number} is in another partition")
        if message.offset is not None and message.offset != offset:
            raise Violation(f"I9: message {number} was at {message.offset:x}, now {offset:x}")
        other = self.at.setdefault((partition, offset), number)
        if other != number:
            raise Violation(f"I9: messages {other} and {number} are both at {offset:x}")
        if offset <= message.passed:
            raise Violation(f"I9: message {number} appears at {offset:x}, which was passed")
        message.offset = offset
        return message

    # --- reading ------------------------------------------------------------------------------

    def read(
        self, partition: str, found: Sequence[Given], known: Iterable[int], *, cut: int
    ) -> None:
        """
        A reader was shown a partition from its beginning; of what was `known` before, all up to
        the last one has to be there, and nothing of what was `cut` by then.
        """
        shown = {each.number for each in found}
        if len(shown) != len(found):
            raise Violation(f"I9: partition {partition} shows a message twice")
        for each in found:
            message = self._place(partition, each.number, each.offset)
            if message.value != each.value:
                raise Violation(f"I2: message {each.number} has other bytes")
            if each.offset < cut:
                raise Violation(f"M: message {each.number} was cut, and is shown")
        top = found[-1].offset if found else -1
        for number in known:
            offset = self.sent[number].offset
            if offset is None or offset > top or number in shown:
                continue
            if not self.may_be_cut(number):
                raise Violation(f"I1: message {number} at {offset:x} isn't shown any more")
        self.passed[partition] = max(self.passed.get(partition, -1), top)

    def known(self, partition: str) -> list[int]:
        """Messages that were answered."""
        return [
            number
            for number, each in self.sent.items()
            if each.partition == partition and each.is_answered
        ]

    def cut(self, partition: str, below: int, *, is_over: bool) -> None:
        """Retention removes what is below, or has done so, it is said."""
        for cuts in (self.cutting, self.cuts) if is_over else (self.cutting,):
            cuts[partition] = max(cuts.get(partition, 0), below)

    def may_be_cut(self, number: int) -> bool:
        """Can retention have removed it?"""
        message = self.sent[number]
        return (message.offset or 0) < self.cutting.get(message.partition, 0)

    def _may_be_cut_since(self, partition: str, at_ms: int) -> bool:
        """Can it have removed what came into being then?"""
        lowest = (START_MS + at_ms - self.spread_ms) << INDEX_BITS
        return lowest < self.cutting.get(partition, 0)

    # --- groups that are moved ----------------------------------------------------------------

    def seek(self, topic: str, name: str, partition: str, start: Seek) -> None:
        """Somebody moves a group."""
        place = self.group(topic, name).place(partition)
        place.seeks.append(start)
        place.asked = place.generation
        place.seek_count += 1

    def sought(
        self, topic: str, name: str, partition: str, start: Seek, generation: int
    ) -> None:
        """It was moved, it is said, and this is its generation since."""
        place = self._note(self.group(topic, name), partition, generation)
        if generation <= place.asked:
            raise Violation(f"M: {name} was moved in {partition}, and not to a new generation")
        place.start, place.seeks = start, []

    def _note(self, group: GroupSeen, partition: str, generation: int) -> Place:
        """The generation that a group shows in a partition; returns what is known of it."""
        place = group.place(partition)
        if generation < place.generation:
            raise Violation(f"M: generation {generation} in {partition} after a higher one")
        if generation > place.seek_count + 1:
            raise Violation(f"M: generation {generation}, which nobody has asked for")
        if generation > place.generation:
            assert place.seeks, "it was moved, and by nobody"
            low = min(each.low for each in place.seeks)
            high = max(each.high for each in place.seeks)
            group.begin(partition, generation, Seek(low, high), self.sent)
        return place

    def rest(self, topic: str, name: str, partition: str, generation: int) -> None:
        """All is calm: no seek is under way any more, and this is the group's generation."""
        self._note(self.group(topic, name), partition, generation).seeks = []

    # --- dead letters that go -----------------------------------------------------------------

    def take(
        self,
        topic: str,
        name: str,
        partition: str,
        letter: Given,
        *,
        is_redrive: bool,
        now_ms: int,
    ) -> Take:
        """Somebody redrives a dead letter, or purges it."""
        group = self.group(topic, name)
        take = Take(
            letter.number,
            partition,
            letter.offset,
            is_redrive,
            now_ms,
            group.place(partition).seek_count,
        )
        group.takes.append(take)
        return take

    def taken(self, topic: str, name: str, take: Take, count: int) -> None:
        """So many were taken, it is said."""
        take.is_over, take.is_taken = True, count > 0
        alike = [
            each
            for each in self.group(topic, name).takes
            if each.is_taken and (each.partition, each.letter) == (take.partition, take.letter)
        ]
        if len(alike) > 1:
            raise Violation(f"I8: the dead letter of {take.number} was taken twice")

    def _copy(self, topic: str, name: str, partition: str, each: Given) -> int:
        """The number of a message that came back to a group at this place."""
        known = self.at.get((partition, each.offset))
        if known is not None:
            return known
        group, number = self.group(topic, name), each.number
        group.copy_counts[number] += 1
        most = sum(take.is_redrive and take.number == number for take in group.takes)
        if group.copy_counts[number] > most:
            raise Violation(f"I8: message {number} comes back to {name}, redriven by nobody")
        copy = COPY_FIRST + len(self.sent)
        self.sent[copy] = Sent(partition, each.value, 0, -1, copy_of=number)
        group.copies.add(copy)
        return copy

    # --- deliveries ---------------------------------------------------------------------------

    def give(
        self,
        topic: str,
        name: str,
        partition: str,
        messages: Sequence[Given],
        *,
        token: int,
        generation: int,
        attempt: int,
        is_retry: bool,
        holder: str,
        now_ms: int,
        ends_ms: int,
        there: Collection[str],
    ) -> None:
        """
        A consumer is given messages.

        Args:
            holder: the way by which its session came; of those some are `there` still.
        """
        group = self.group(topic, name)
        start = self._note(group, partition, generation).start
        self._take_token(partition, token)
        numbers: list[int] = []
        for each in messages:
            number = each.number
            if each.is_redriven:
                number = self._copy(topic, name, partition, each)
            numbers.append(number)
            message = self._place(partition, number, each.offset)
            if message.copy_of and number not in group.copies:
                raise Violation(f"M: message {number} came back before {name} was moved")
            if each.offset < start.low and not message.copy_of:
                raise Violation(f"M: message {number} is below where {name} begins")
            if each.offset < self.cuts.get(partition, 0):
                raise Violation(f"M: message {number} was cut, and comes to {name}")
            if message.value != each.value:
                raise Violation(f"I2: message {number} has other bytes")
            early_ms = max(message.due_ms, group.not_before_ms.get(number, 0)) - now_ms
            if early_ms > 0:
                raise Violation(f"I3: message {number} comes {early_ms} ms early")
            if number in group.acked:
                raise Violation(f"I6: message {number} was acked, and comes back to {name}")
            if number in group.buried:
                raise Violation(f"I8: message {number} is dead, and comes back to {name}")
            self._check_attempt(group, number, attempt)
            self._check_alone(group, number, token, now_ms, there)
            if not is_retry and number not in group.delivered:
                at = (holder, partition, token >> TOKEN_BITS)
                if group.highest.get(at, -1) >= each.offset:
                    raise Violation(f"I9: message {number} comes out of order to {holder}")
                group.highest[at] = each.offset
            group.delivered[number] = group.delivered.get(number, 0) + 1
            group.holds[number] = Holding(token, holder, ends_ms)
            if not message.copy_of:
                passed = self.passed.get(partition, -1)
                self.passed[partition] = max(passed, each.offset)
        self.delivered_count += len(messages)
        self.trace.append(f"{now_ms} {name} {partition} {token:x} {attempt} {numbers}")

    def _take_token(self, partition: str, token: int) -> None:
        before = self.tokens.get(partition, 0)
        if token <= before:
            raise Violation(f"I7: token {token:x} of {partition} after {before:x}")
        self.tokens[partition] = token

    def _check_attempt(self, group: GroupSeen, number: int, attempt: int) -> None:
        least, most = group.nacked.get(number, 0), group.delivered.get(number, 0)
        if not least < attempt <= most + 1:
            raise Violation(
                f"I8: message {number} comes for the {attempt}th time, after {least} nacks and"
                f" {most} deliveries"
            )
        if attempt > MAX_DELIVERIES:
            raise Violation(f"I8: message {number} comes for the {attempt}th time")

    def _check_alone(
        self,
        group: GroupSeen,
        number: int,
        token: int,
        now_ms: int,
        there: Collection[str],
    ) -> None:
        held = group.holds.get(number)
        if held is None or held.is_settled or now_ms >= held.ends_ms:
            return
        is_same = held.token >> TOKEN_BITS == token >> TOKEN_BITS
        if is_same and held.holder in there:
            raise Violation(f"I7: message {number} is given out while {held.holder} holds it")

    def claim(
        self,
        topic: str,
        name: str,
        partition: str,
        numbers: Sequence[int],
        *,
        token: int,
        generation: int,
        holder: str,
        now_ms: int,
        ends_ms: int,
        there: Collection[str],
    ) -> None:
        """A session goes on with what it held, under this token: the one before, or a new."""
        group = self.group(topic, name)
        if self._note(group, partition, generation).generation > generation:
            raise Violation(f"M: {holder} claims {numbers} of an earlier generation")
        self._check_held(group, numbers, holder)
        is_new = any(group.holds[number].token != token for number in numbers)
        if any(group.holds[number].token > token for number in numbers):
            raise Violation(f"I7: {holder} claims {numbers} under {token:x}, and it was higher")
        self.tokens[partition] = max(self.tokens.get(partition, 0), token)
        for number in numbers:
            if number in group.acked or number in group.buried:
                raise Violation(f"I6: message {number} is settled, and {holder} may claim it")
            if is_new and group.holds[number].holder != holder:
                self._check_alone(group, number, token, now_ms, there)
            group.holds[number] = Holding(token, holder, ends_ms)

    def _check_held(self, group: GroupSeen, numbers: Sequence[int], who: str) -> None:
        if free := [number for number in numbers if number not in group.holds]:
            raise Violation(f"I7: {who} has nothing to say of {free}, which it was not given")

    # --- outcomes -----------------------------------------------------------------------------

    def settle(
        self,
        topic: str,
        name: str,
        numbers: Sequence[int],
        token: int,
        ending: Ending,
        *,
        generation: int,
        now_ms: int,
    ) -> None:
        """An outcome is taken; the answer is still to come."""
        group = self.group(topic, name)
        for number in numbers:
            if group.place(self.sent[number].partition).generation > generation:
                raise Violation(f"M: an outcome of {number} is taken after {name} was moved")
            self._check_held(group, [number], name)
            if group.holds[number].token != token:
                raise Violation(f"I7: an outcome of {number} is taken under an old token")
            group.holds[number].is_settled = True
            if ending is Ending.ACKED:
                group.acking.add(number)
            elif ending is Ending.DEAD:
                group.burying[number] = now_ms

    def settled(
        self,
        topic: str,
        name: str,
        numbers: Sequence[int],
        ending: Ending,
        *,
        generation: int,
        not_before_ms: int = 0,
    ) -> None:
        """It is durable, it is said."""
        group = self.group(topic, name)
        for number in numbers:
            if group.place(self.sent[number].partition).generation != generation:
                continue  # it was moved meanwhile
            if ending is Ending.ACKED:
                group.acked.add(number)
            elif ending is Ending.DEAD:
                group.buried.add(number)
            elif ending is Ending.NACKED:
                group.nacked[number] = group.nacked.get(number, 0) + 1
                group.not_before_ms[number] = not_before_ms

    def commit(
        self, topic: str, name: str, partition: str, committed: int, *, generation: int
    ) -> None:
        """A group's committed offset in a partition is shown."""
        group = self.group(topic, name)
        place = self._note(group, partition, generation)
        if committed < place.committed:
            raise Violation(f"I10: committed goes back to {committed:x} in {partition}")
        place.committed = committed
        for number, message in self.sent.items():
            if message.partition != partition or message.offset is None:
                continue
            if message.offset < committed and self._has_to_come(group, number):
                raise Violation(f"I10: message {number} is below committed of {name}")

    def _has_to_come(self, group: GroupSeen, number: int) -> bool:
        """Is it the group's, and surely not settled, nor cut?"""
        message = self.sent[number]
        if group.may_be_over(number) or self.may_be_cut(number):
            return False
        if message.copy_of:
            return number in group.copies
        return (message.offset or 0) >= group.place(message.partition).start.high

    # --- the end ------------------------------------------------------------------------------

    def left(self, topic: str, name: str, partitions: Iterable[str]) -> list[int]:
        """
        Messages that were answered, or have come back, and that the group may not be done with;
        and those that ought to have come back, and have not.
        """
        group, wanted = self.group(topic, name), {*partitions}
        found = [
            number
            for number, message in self.sent.items()
            if (message.is_answered or message.copy_of)
            and message.partition in wanted
            and self._has_to_come(group, number)
        ]
        return found + self._missing(group)

    def _missing(self, group: GroupSeen) -> list[int]:
        redriven = Counter(
            take.number
            for take in group.takes
            if take.is_redrive
            and take.is_taken
            and take.seek_count == group.place(take.partition).seek_count
            and not self._may_be_cut_since(take.partition, take.at_ms)
        )
        come = Counter(self.sent[copy].copy_of for copy in group.copies)
        return sorted((redriven - come).elements())

    def check_letters(
        self, topic: str, name: str, letters: Sequence[tuple[str, Given]]
    ) -> None:
        """In the end: all dead letters of a group, and the partition of each."""
        group = self.group(topic, name)
        taken = {(take.partition, take.letter) for take in group.takes if take.is_taken}
        for partition, each in letters:
            if (partition, each.offset) in taken:
                raise Violation(f"I8: the dead letter of {each.number} is there, and was taken")
        shown = Counter(each.number for _, each in letters)
        gone = Counter(take.number for take in group.takes if take.is_taken)
        most, least = self._deaths(group)
        for number in shown | gone:
            if shown[number] + gone[number] > most[number]:
                raise Violation(f"I8: {name} of {topic} has a dead letter of {number} too many")
        tried = {(take.partition, take.letter, take.number) for take in group.takes}
        gone = Counter(number for _, _, number in tried)
        for number, count in least.items():
            if shown[number] + gone[number] < count:
                raise Violation(f"I8: message {number} is dead, without a letter")

    def _deaths(self, group: GroupSeen) -> tuple[Counter[int], Counter[int]]:
        """
        How often each message may have died at most, and at least; what was cut, before it died
        or as a letter, counts as little as it may.
        """
        most = Counter(group.death_counts)
        for number in {*group.delivered, *group.burying}:
            most[self.sent[number].copy_of or number] += group.may_be_dead(number)
        dead = [(number, group.burying[number]) for number in group.buried]
        least = Counter(
            self.sent[number].copy_of or number
            for number, at_ms in (*group.deaths, *dead)
            if not self.may_be_cut(number)
            and not self._may_be_cut_since(self.sent[number].partition, at_ms)
        )
        return most, least
