"""
A model of the engine that carries a replicated log: a stream, and a key with compare-and-set.

It does what the real one was seen to do, and no better: a publish is stored and the answer is
lost, or comes late; one overtakes another; one lies about for seconds and is stored then, if it
still fits; while the stream elects a leader nothing is answered, and what was sent may be lost
or not. Of the three things that it promises, it keeps two for good: an answer tells the truth,
and what `expected_last_sequence` refuses isn't stored. The third, that what is stored stays,
`rewind` and `make_anew` break: a power cut without sync, an operator's mistake.

Who is called back may be gone by then: that is for `Caller` to know.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from sandglass.core import limits
from sandglass.replication.writer import Outgoing
from sandglass.testing.seen import Violation
from sandglass.testing.world import World

FENCE_HELD = 0.3
"""How often a candidate's fence waits until another leads: it is late, and takes a place."""


class Caller(Protocol):
    """A process that uses the engine. It has connections, and may be cut off."""

    number: int

    def hear(self, act: Callable[[], None]) -> Callable[[], None]:
        """`act`, to be called when something arrives: later if it stands still, or never."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """To a publish: where it is stored, or 0 if it was refused."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Key:
    """The key of the catalog at a revision: who leads, in which epoch."""

    revision: int = 0
    holder: int = 0
    """0: nobody; it was handed back."""
    epoch: int = 0


@dataclass(slots=True)
class Stream:
    """Messages by sequence: 1, 2, 3, ..."""

    name: str
    raws: list[bytes] = field(default_factory=list[bytes])
    first_sequence: int = 1
    is_fit_first: bool = False
    """A repeat that expects what has passed is refused, not answered as a repeat: so does a
    single server of version 2.15; three of them do the other thing."""
    ids: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """Sequence, and when it was stored, of each message id."""

    @property
    def last_sequence(self) -> int:
        """The highest ever given out."""
        return len(self.raws)

    def at(self, sequence: int) -> bytes | None:
        """What stands there, if that is kept."""
        is_kept = self.first_sequence <= sequence <= self.last_sequence
        return self.raws[sequence - 1] if is_kept else None

    def publish(self, outgoing: Outgoing, now_ms: int) -> tuple[Answer, bool]:
        """Stores it, if it fits and is not there; the answer, and whether it was stored now."""
        is_misfit = outgoing.expected_last_sequence not in {None, self.last_sequence}
        sequence, at_ms = self.ids.get(outgoing.message_id, (0, 0))
        is_repeat = sequence > 0 and now_ms - at_ms <= limits.DUPLICATE_WINDOW_MS
        if is_repeat and not (is_misfit and self.is_fit_first):
            return Answer(sequence), False
        if is_misfit:
            return Answer(0), False
        self.raws.append(outgoing.raw)
        self.ids[outgoing.message_id] = (self.last_sequence, now_ms)
        return Answer(self.last_sequence), True


@dataclass(slots=True)
class Engine:
    """
    The stream and the key, at the other end of a network.

    `on_stored` is told of every message that is stored, at once; `on_key` of each new value of
    the key. Both know more than any process does.
    """

    world: World
    stream: Stream = field(default_factory=lambda: Stream("made first"))
    key: Key = field(default_factory=Key)
    on_stored: Callable[[int, bytes], None] = lambda *_: None
    on_key: Callable[[Key], None] = lambda _: None
    on_held: Callable[[int], None] = lambda _: None
    """A candidate's fence waits: told with the caller's number."""
    electing_until_ms: int = 0
    cut: set[int] = field(default_factory=set[int])
    """Callers that reach nothing."""
    keyless: set[int] = field(default_factory=set[int])
    """Callers that don't reach the key."""
    is_calm: bool = False
    """Nothing is lost any more, and nothing is late."""
    held: dict[int, list[Callable[[], None]]] = field(
        default_factory=dict[int, list[Callable[[], None]]]
    )
    """What callers have sent on a connection that stands still."""
    _stored_ms: dict[str, int] = field(default_factory=dict[str, int])
    """When each message id was last stored; an election may make the engine forget them."""
    _arrivals_ms: dict[int, int] = field(default_factory=dict[int, int])
    """When the last publish on a caller's connection arrives."""

    # --- the stream ---------------------------------------------------------------------------

    def publish(
        self, caller: Caller, outgoing: Outgoing, answered: Callable[[Answer], None]
    ) -> None:
        """Sends it off. An answer may come, once."""
        is_fence = outgoing.n == 0
        if is_fence and not self.is_calm and self.world.chance.random() < FENCE_HELD:
            self.hold(caller.number)
            self.on_held(caller.number)
        if caller.number in self.held:
            act = partial(self._published, caller, outgoing, answered)
            self.held[caller.number].append(act)
            return
        lot = 1.0 if self.is_calm else self.world.chance.random()
        if lot < 0.01:
            return
        delay_ms = self._delay_ms()
        if lot < 0.03:  # it lies about in a connection that broke
            delay_ms = self.world.chance.choice((60, 400, 1500, 3000, 4000))
        else:
            at_ms = max(self.world.now_ms + delay_ms, self._arrivals_ms.get(caller.number, 0))
            self._arrivals_ms[caller.number] = at_ms
            delay_ms = at_ms - self.world.now_ms
        self._arrive(delay_ms, caller, lambda: self._published(caller, outgoing, answered))

    def _published(
        self, caller: Caller, outgoing: Outgoing, answered: Callable[[Answer], None]
    ) -> None:
        answer, is_stored = self.stream.publish(outgoing, self.world.now_ms)
        if is_stored:
            self._check_stored_once(outgoing)
            self.on_stored(answer.sequence, outgoing.raw)
            self._stir(caller, is_fence=outgoing.n == 0)
        self._reply(caller, lambda: answered(answer))

    def _check_stored_once(self, outgoing: Outgoing) -> None:
        before_ms = self._stored_ms.get(outgoing.message_id)
        now_ms = self._stored_ms[outgoing.message_id] = self.world.now_ms
        if before_ms is not None and now_ms - before_ms <= limits.DUPLICATE_WINDOW_MS:
            raise Violation(f"entry {outgoing.message_id} is stored twice")

    def ask_end(self, caller: Caller, answered: Callable[[int], None]) -> None:
        """Asks the stream's leader for the last sequence."""

        def arrived() -> None:
            last = self.stream.last_sequence
            self._reply(caller, lambda: answered(last))

        if caller.number not in self.held:
            self._arrive(self._delay_ms(), caller, arrived)

    def ask(
        self,
        caller: Caller,
        act: Callable[[], object],
        answered: Callable[[Any], None],
        *,
        may_lie: bool = False,
    ) -> None:
        """Any other request: `act` is what it does here. With `may_lie` it may lie about."""

        def arrived() -> None:
            found = act()
            self._reply(caller, lambda: answered(found))

        if caller.number in self.held:
            self.held[caller.number].append(arrived)
            return
        delay_ms = self._delay_ms()
        if may_lie and not self.is_calm and self.world.chance.random() < 0.25:
            delay_ms = self.world.chance.choice((60, 150, 400, 1500))
        self._arrive(delay_ms, caller, arrived)

    def hold(self, number: int) -> None:
        """A caller's connection to the stream stands still; what it sends waits."""
        self.held.setdefault(number, [])

    def release(self, number: int) -> None:
        """It goes on: all that waited arrives, in order."""
        acts = self.held.pop(number, [])
        if acts and self.world.chance.random() < 0.3:
            acts.insert(1, self._forget)
        for act in acts:
            self.world.after(0, act, is_world=True)

    def _stir(self, caller: Caller, *, is_fence: bool) -> None:
        """What waits comes when it hurts most: behind a fence, or amid others' entries."""
        for number in [each for each in self.held if each != caller.number]:
            if self.world.chance.random() < (0.5 if is_fence else 0.2):
                self.world.after(
                    self.world.chance.choice((0, 0, 1, 3)),
                    partial(self.release, number),
                    is_world=True,
                )

    def trim(self, sequence: int) -> None:
        """Everything up to `sequence` goes."""
        self.stream.first_sequence = max(self.stream.first_sequence, sequence + 1)

    # --- the key ------------------------------------------------------------------------------

    def put(
        self, caller: Caller, revision: int, key: Key, answered: Callable[[bool, Key], None]
    ) -> None:
        """
        Writes the key if it stands at `revision`. The answer says whether it was written, and
        how it stands then.
        """

        def arrived() -> None:
            is_written = self.key.revision == revision
            if is_written:
                self.key = Key(revision + 1, key.holder, key.epoch)
                self.on_key(self.key)
            shown = self.key
            if caller.number not in self.keyless:
                self._reply(caller, lambda: answered(is_written, shown))

        if caller.number not in self.keyless:
            self._arrive(self._delay_ms(), caller, arrived)

    def tell(self, caller: Caller, told: Callable[[Key], None]) -> None:
        """What a watch of the key shows the caller, a little later."""
        shown = self.key
        if caller.number not in self.keyless:
            self._reply(caller, lambda: told(shown))

    def elect(self, for_ms: int) -> None:
        """The stream has no leader for so long; the next may have forgotten message ids."""
        self.electing_until_ms = self.world.now_ms + for_ms
        if self.world.chance.random() < 0.5:
            self._forget()

    def _forget(self) -> None:
        self.stream.ids.clear()
        self._stored_ms.clear()

    # --- breaking its word --------------------------------------------------------------------

    def rewind(self, count: int) -> None:
        """The last messages are gone, and nobody is told."""
        last = max(0, self.stream.last_sequence - count)
        del self.stream.raws[last:]
        self._forget()

    def make_anew(self) -> None:
        """Another stream stands under the same name."""
        before = self.stream
        self.stream = Stream(before.name + ", and again", is_fit_first=before.is_fit_first)
        self._forget()

    # --- the network --------------------------------------------------------------------------

    def _delay_ms(self) -> int:
        return self.world.chance.choice((0, 1, 1, 2, 3, 6))

    def _arrive(self, delay_ms: int, caller: Caller, act: Callable[[], None]) -> None:
        """Calls `act` at the engine, unless what was sent is lost on the way."""
        if caller.number in self.cut:
            return

        def arrived() -> None:
            if self.world.now_ms >= self.electing_until_ms:
                act()
            elif self.world.chance.random() < 0.5:
                wait_ms = self.electing_until_ms - self.world.now_ms
                self.world.after(wait_ms, act, is_world=True)

        self.world.after(delay_ms, arrived, is_world=True)

    def _reply(self, caller: Caller, act: Callable[[], None]) -> None:
        lot = 1.0 if self.is_calm else self.world.chance.random()
        if lot < 0.01 or caller.number in self.cut:
            return
        delay_ms = self._delay_ms()
        if lot < 0.02:
            delay_ms = self.world.chance.choice((100, 500, 2500))
        self.world.after(delay_ms, caller.hear(act), is_world=True)
