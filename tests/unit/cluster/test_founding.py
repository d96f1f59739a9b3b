"""Which cluster a node's data belong to, and which they never join."""

import json

import pytest

from sandglass.adapters.memory_placement import MemoryPlacement
from sandglass.adapters.system import SystemEntropy
from sandglass.cluster.founding import CLUSTER, Identity, settle_id
from sandglass.errors import NotFoundError, PreconditionError
from sandglass.ports import Entry

NONE = bytes(16)


class Node:
    def __init__(self, placement: MemoryPlacement, cluster_id: bytes = NONE) -> None:
        self.saved: list[bytes] = []
        self.placement = placement
        self.identity = Identity(b"n" * 16, cluster_id, self.saved.append)

    async def settle(self, *, is_founder: bool = False) -> None:
        await settle_id(
            self.placement, self.identity, is_founder=is_founder, entropy=SystemEntropy()
        )


@pytest.fixture
def placement() -> MemoryPlacement:
    return MemoryPlacement()


async def enter(placement: MemoryPlacement, **fields: object) -> None:
    entry = {"version": 1, "id": (b"c" * 16).hex(), **fields}
    await placement.set(CLUSTER, json.dumps(entry).encode())


async def test_the_founder_gives_an_id_and_others_take_it(placement: MemoryPlacement) -> None:
    other, founder = Node(placement), Node(placement)

    with pytest.raises(NotFoundError, match="nobody has founded the cluster yet"):
        await other.settle()
    await founder.settle(is_founder=True)
    await other.settle()

    assert any(founder.identity.cluster_id)
    assert other.saved == founder.saved == [founder.identity.cluster_id]
    await founder.settle(is_founder=True)
    assert len(founder.saved) == 1


async def test_of_two_founders_the_first_one_s_id_holds(placement: MemoryPlacement) -> None:
    class Late(MemoryPlacement):
        """It has not heard yet of what others have entered."""

        @property
        def entries(self) -> dict[str, Entry]:
            return {}

        async def set(self, key: str, value: bytes, revision: int | None = None) -> int:
            return await placement.set(key, value, revision)

    first, second = Node(placement), Node(Late())
    await first.settle(is_founder=True)

    with pytest.raises(NotFoundError, match="another node founds the cluster"):
        await second.settle(is_founder=True)
    assert second.saved == [], "it belongs to no cluster yet"
    second.placement = placement
    await second.settle(is_founder=True)

    assert second.identity.cluster_id == first.identity.cluster_id


async def test_data_of_another_cluster_do_not_join(placement: MemoryPlacement) -> None:
    await enter(placement)
    node = Node(placement, b"d" * 16)

    with pytest.raises(PreconditionError, match=f"belong to cluster {(b'd' * 16).hex()}"):
        await node.settle(is_founder=True)

    assert node.saved == []


async def test_a_newer_cluster_is_not_joined(placement: MemoryPlacement) -> None:
    await enter(placement, version=2)
    node = Node(placement)

    with pytest.raises(PreconditionError, match="of version 2, this program knows up to 1"):
        await node.settle()

    assert node.saved == []


async def test_data_that_were_removed_do_not_join(placement: MemoryPlacement) -> None:
    await enter(placement)
    node = Node(placement, b"c" * 16)
    await placement.set(node.identity.removed_key, b"{}")

    with pytest.raises(PreconditionError, match="were removed from the cluster"):
        await node.settle()
