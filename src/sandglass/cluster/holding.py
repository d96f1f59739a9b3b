"""
What a node holds: the replicas that the catalog gives to it, and what they do when they lead.

It carries out no step of a replica: that is for `sandglass.cluster.replica`, or for whatever
else `make` gives, over a log of another kind.
"""

from collections.abc import Callable

from sandglass.broker.loops import Loops
from sandglass.broker.node_loop import NodeLoop
from sandglass.cluster.catalog import ClusterCatalog
from sandglass.cluster.coming import is_made, make_log
from sandglass.cluster.leaders import Leaders
from sandglass.cluster.reconciling import free, reconcile
from sandglass.cluster.replica import Replica, State
from sandglass.errors import SandglassError


class Holding:
    """
    All calls run in the event loop's thread. `replicas` is what `leaders` goes by.

    `make` gives the replica of a number, not yet started; `wipe` takes its rows away, once it
    has stopped; `on_led` is told that one leads from here on.
    """

    def __init__(
        self,
        catalog: ClusterCatalog,
        leaders: Leaders,
        replicas: dict[int, Replica],
        loops: Loops,
        *,
        make: Callable[[int], Replica],
        wipe: Callable[[int], None],
        whereabouts: Callable[[int], SandglassError],
        on_led: Callable[[], None],
        on_ended: Callable[[], None],
    ) -> None:
        self.catalog = catalog
        self.leaders = leaders
        self.replicas = replicas
        self.loops = loops
        self._make = make
        self._wipe = wipe
        self._whereabouts = whereabouts
        self._on_led = on_led
        self._on_ended = on_ended

    async def hold(self) -> None:
        """The replicas that the catalog gives to this node, and no others."""
        wanted = self.catalog.held_by(self.leaders.me)
        for number in sorted(wanted - self.replicas.keys()):
            if not is_made(self.catalog, number):
                continue
            replica = self.replicas[number] = self._make(number)
            replica.start()
        for number in sorted(self.replicas.keys() - wanted):
            is_deleted = self.catalog.placed_of(number) is None
            if not is_deleted and self.leaders.has_to_stay(self.replicas[number]):
                continue
            replica = self.replicas.pop(number)
            if is_deleted:
                # Nobody takes it over, and its stream may be gone already.
                replica.drop()
            await replica.stop()
            self._wipe(number)

    async def reconcile_all(self) -> None:
        """
        What is led here is what the catalog says.

        Raises:
            UnavailableError: no quorum; or another leads.
        """
        for replica in [*self.replicas.values()]:
            if replica.state is State.LEADING and replica.loop is not None:
                await free(self.catalog, replica.number, replica.loop)
                await reconcile(self.catalog, replica.number, replica.loop)

    def drop_all(self) -> None:
        """This node was declared over: it leads nothing, from now on."""
        for replica in self.replicas.values():
            replica.drop()

    async def began(self, replica: Replica) -> None:
        """A replica leads: it serves once it is what the catalog says."""
        if replica.loop is not None:
            await reconcile(self.catalog, replica.number, replica.loop)
            self.loops.add(replica.number, replica.loop)
        self._on_led()

    def ended(self, replica: Replica) -> None:
        """It leads no longer."""
        self.loops.remove(replica.number, self._whereabouts(replica.number))
        self._on_ended()

    # --- logs, as `sandglass.cluster.switching` has them --------------------------------------

    def led(self, number: int) -> NodeLoop | None:
        """The loop of a log that this node leads; None if it doesn't."""
        replica = self.replicas.get(number)
        if replica is None or replica.state is not State.LEADING:
            return None
        return replica.loop

    def is_made(self, number: int) -> bool:
        """Is a log to which a topic moves there?"""
        return is_made(self.catalog, number)

    async def make(self, number: int, factor: int, *, epoch: int) -> None:
        """One is there from here on, led by this node to begin with, above this epoch."""
        await make_log(self.catalog, number, factor, epoch=epoch)

    async def delete(self, number: int, factor: int) -> None:
        """One goes, with its snapshots, and with the entry that says who leads it."""
        await self.catalog.delete_log(number, factor)
