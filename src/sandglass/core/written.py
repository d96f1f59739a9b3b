"""What records have carried of a leader's state."""

from dataclasses import dataclass

from sandglass.core.record import Head


@dataclass(slots=True)
class Written:
    """
    This goes into the view, so that replay gives the same bytes. The leader's own state is
    ahead of it.
    """

    closed: int = 0
    now_ms: int = 0
    reached_ms: int = 0
    steady_ms: int = 0
    epoch: int = 0

    def take(self, head: Head) -> None:
        """A record with this head is applied."""
        self.closed = max(self.closed, head.closed)
        self.now_ms = max(self.now_ms, head.now_ms)
        self.reached_ms = max(self.reached_ms, head.reached_ms)
        self.steady_ms = max(self.steady_ms, head.steady_ms)
        self.epoch = max(self.epoch, head.epoch)
