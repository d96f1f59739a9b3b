"""
Which cluster a node's data belong to: the founder gives it an id, and everybody keeps it.

1. The id is entered in the bucket by compare-and-set, and taken into a node's own data from
   there: of two founders the first one's holds.
2. Data that have an id never join a cluster with another one, nor one of a newer version; those
   of a removed node join none.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from sandglass.cluster.steward import REMOVED
from sandglass.errors import ConflictError, NotFoundError, PreconditionError
from sandglass.ports import Entropy, Placement

CLUSTER: Final = "cluster"
CLUSTER_VERSION: Final = 1
"""
Of all that stands in the bucket. Steps for changing it: let this program read both versions,
and write the old one, for a whole release; raise it in the next, by whoever finds that all
members know it.
"""

REMOVED_TEXT: Final = (
    "these data were removed from the cluster; its own topics are served, and nothing else."
    " Start the node with an empty data directory to let it join anew"
)


@dataclass(slots=True)
class Identity:
    """
    Whose data these are; `save` keeps the cluster's id with them, and `mark_removed` that they
    were removed from it, durably.
    """

    node_id: bytes
    cluster_id: bytes
    save: Callable[[bytes], None] = field(repr=False)
    is_removed: bool = False
    mark_removed: Callable[[], None] = field(default=lambda: None, repr=False)

    @property
    def removed_key(self) -> str:
        """The entry that says that these data were removed."""
        return REMOVED + self.node_id.hex()

    def keep(self, cluster_id: bytes) -> None:
        """These data are this cluster's."""
        self.save(cluster_id)
        self.cluster_id = cluster_id


async def settle_id(
    placement: Placement, identity: Identity, *, is_founder: bool, entropy: Entropy
) -> None:
    """
    Takes the cluster's id into the node's data, or gives it one.

    Raises:
        NotFoundError: nobody has founded it yet; ask again.
        PreconditionError: these data don't belong to it, or this program is too old for it.
        UnavailableError: no quorum.
    """
    entry = placement.entries.get(CLUSTER)
    if identity.removed_key in placement.entries:
        raise PreconditionError(REMOVED_TEXT)
    if entry is None:
        await _found(placement, identity, is_founder=is_founder, entropy=entropy)
        return
    found = json.loads(entry.value)
    if found["version"] > CLUSTER_VERSION:
        raise PreconditionError(
            f"the cluster is of version {found['version']}, this program knows up to"
            f" {CLUSTER_VERSION}: start the newer version"
        )
    mine, theirs = identity.cluster_id, bytes.fromhex(found["id"])
    if any(mine) and mine != theirs:
        raise PreconditionError(
            f"the data of this node belong to cluster {mine.hex()}, and the cluster here is"
            f" {theirs.hex()}: its own topics are served, and nothing is merged. Start it with"
            " an empty data directory to let it join"
        )
    if mine != theirs:
        identity.keep(theirs)


async def _found(
    placement: Placement, identity: Identity, *, is_founder: bool, entropy: Entropy
) -> None:
    if not is_founder:
        raise NotFoundError("nobody has founded the cluster yet")
    mine = identity.cluster_id
    if not any(mine):
        mine = entropy.token_bytes(len(mine))
    fields = {"version": CLUSTER_VERSION, "id": mine.hex()}
    try:
        await placement.set(CLUSTER, json.dumps(fields).encode(), 0)
    except ConflictError:
        raise NotFoundError("another node founds the cluster") from None
    identity.keep(mine)
