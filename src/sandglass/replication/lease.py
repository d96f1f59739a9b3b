"""
The leader's lease: when a leader may serve, and when another may take over.

The lease is a key of the catalog that the leader renews, and each renewal raises the key's
revision. No clock is shared. The holder counts from *before* it sent a renewal; a watcher from
when it saw the revision, which is after. So as long as two monotonic clocks don't part by more
than the margin within a lease, the holder has stopped before a watcher may begin.

The lease only says who serves: hands out, reads, answers. Who may write is decided in the log,
by its fences. So a leader whose renewals fail stops serving, and keeps the log: if nobody has
opened another epoch meanwhile, it goes on with the next renewal.

The *close promise* of a replicated log is the end of the lease: whoever takes over waited for
it anyway, so the promise costs it nothing.

Times are monotonic milliseconds of one machine, handed in; wall times say so.
"""

from dataclasses import dataclass
from typing import Final

from sandglass.core import limits

LENGTH_MS: Final = limits.LEADER_LEASE_MS


@dataclass(slots=True)
class LeaseWatch:
    """
    A watcher's side: has the holder stopped?

    Invariant: `_since_ms` is not before the last change of `revision` that was seen.
    """

    length_ms: int = LENGTH_MS
    revision: int = 0
    """The last one seen; 0 before the first."""
    _since_ms: int | None = None
    _looked_ms: int = 0

    def saw(self, revision: int, now_ms: int) -> None:
        """The key stands at `revision`, so the catalog says."""
        self._look(now_ms)
        if revision > self.revision or self._since_ms is None:
            self.revision, self._since_ms = revision, now_ms

    def restarted(self) -> None:
        """The watch broke, and begins anew: what was renewed meanwhile wasn't seen."""
        self._since_ms = None

    def left_ms(self, now_ms: int) -> int:
        """
        How long the holder may still serve, as far as was seen; 0: the lease is over.

        Asked at least every `LEADER_LOOK_MS`, after what came in was handed to `saw`: after a
        longer pause of the watcher itself it counts anew.
        """
        self._look(now_ms)
        if self._since_ms is None:
            return self.length_ms
        return max(0, self._since_ms + self.length_ms - now_ms)

    def is_over(self, now_ms: int) -> bool:
        """May another take over? Whether it does, the catalog's compare-and-set decides."""
        return self.left_ms(now_ms) == 0

    def _look(self, now_ms: int) -> None:
        if now_ms - self._looked_ms > limits.LEADER_LOOK_MS and self._since_ms is not None:
            self._since_ms = now_ms
        self._looked_ms = max(self._looked_ms, now_ms)


@dataclass(slots=True)
class HeldLease:
    """The holder's side. It begins without one."""

    length_ms: int = LENGTH_MS
    margin_ms: int = limits.LEADER_LEASE_MARGIN_MS
    _until_ms: int | None = None
    _sent_ms: int | None = None

    def sending(self, now_ms: int) -> int:
        """A renewal is about to be sent; what it returns goes to `renewed` with the answer."""
        self._sent_ms = now_ms
        return now_ms

    def renewed(self, sent_ms: int) -> None:
        """The catalog has taken the renewal that was sent then."""
        until_ms = sent_ms + self.length_ms - self.margin_ms
        self._until_ms = max(self._until_ms or until_ms, until_ms)

    def given_up(self) -> None:
        """It was handed over, or another holds it."""
        self._until_ms = None

    def is_valid(self, now_ms: int) -> bool:
        """
        May the holder serve? To be asked in each turn before anything leaves, and first of all
        after a pause.
        """
        return self.left_ms(now_ms) > 0

    def left_ms(self, now_ms: int) -> int:
        """For how long it may still serve."""
        return 0 if self._until_ms is None else max(0, self._until_ms - now_ms)

    def renew_in_ms(self, now_ms: int) -> int:
        """When to send the next renewal: from one to the next, answered or not."""
        if self._sent_ms is None:
            return 0
        return max(0, self._sent_ms + limits.LEADER_RENEW_MS - now_ms)
