"""What befalls a simulated cluster whose topics move, besides that its nodes die."""

from dataclasses import dataclass

from sandglass.cluster.switch import SWITCHES, Switch, switch_key
from sandglass.testing.moving_logs import LogWatch
from sandglass.testing.simulated_bucket import Bucket, Network
from sandglass.testing.simulated_clients import Scene
from sandglass.testing.simulated_stream import Streams


@dataclass(slots=True)
class Mishaps:
    """By chance, each on its own."""

    scene: Scene
    network: Network
    bucket: Bucket
    streams: Streams
    watch: LogWatch
    shifts_ms: dict[str, int]
    """What each node's wall clock is off by, if nobody sets it."""
    steps_ms: tuple[int, ...]
    """What clocks are set by, from time to time."""

    def set_clock(self) -> None:
        """Somebody sets a clock, or sets it right again."""
        host = self.scene.loop.chance.choice(self.scene.hosts)
        step_ms = self.scene.loop.chance.choice(self.steps_ms)
        host.clock.shift_ms = self.shifts_ms[host.name] + step_ms

    def cut_off(self) -> None:
        """A node reaches nothing for a while."""
        name = self.scene.loop.chance.choice(self.scene.hosts).name
        self.network.cut.add(name)
        self.scene.loop.call_later(
            self.scene.chances(100, 1000, 3500), lambda: self.network.cut.discard(name)
        )

    def let_lag(self) -> None:
        """It hears nothing for a while of what others change."""
        name = self.scene.loop.chance.choice(self.scene.hosts).name
        self.network.lagging.add(name)
        self.scene.loop.call_later(
            self.scene.chances(100, 1000, 2500), lambda: self.network.lagging.discard(name)
        )

    def elect(self) -> None:
        """Nobody is answered while the engine elects."""
        for_ms = self.scene.loop.chance.choice((100, 700, 2500))
        self.network.electing_until_ms = self.scene.loop.now_ms + for_ms

    def take_back(self) -> None:
        """
        Somebody wants no more that a topic moves, one that is sealed if any is; it may have
        moved by then.
        """
        switches = [key for key in self.bucket.entries if key.startswith(SWITCHES)]
        sealed = {switch_key(name) for name in self.watch.sealed}
        switches = [key for key in switches if key in sealed] or switches
        if switches and not self.scene.is_calm:
            key = self.scene.loop.chance.choice(switches)
            switch = Switch.decode(self.bucket.entries[key].value)
            for placed in (switch.source, switch.target):
                # Nobody takes its streams away then: no node does such a thing.
                self.streams.excused.update(ref.number for ref in placed.topic.partitions)
            self.bucket.put(key, None, None)
