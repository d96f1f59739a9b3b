"""The model of what members agree on does what the engine was seen to do, and no better."""

import asyncio
import random
from collections.abc import Coroutine

import pytest

from sandglass.errors import ConflictError, UnavailableError
from sandglass.testing.simulated_bucket import LATE_MS, Bucket, BucketView, Network
from sandglass.testing.virtual_time import Life, VirtualLoop


class Scene:
    """Two processes, and a network on which nothing is lost unless a test says so."""

    def __init__(self) -> None:
        self.loop = VirtualLoop(random.Random(1))
        self.network = Network(self.loop, self.loop.chance, is_calm=True)
        self.bucket = Bucket()
        self.lives = [Life(self.loop, name) for name in "ab"]
        self.a, self.b = (BucketView(self.bucket, self.network, life) for life in self.lives)

    async def as_a(self, work: "Coroutine[None, None, object]") -> object:
        return await self.lives[0].call(work)


def test_a_change_is_known_at_once_to_who_made_it_and_later_to_others() -> None:
    scene = Scene()

    async def play() -> tuple[bool, bool]:
        scene.network.lagging.add("b")
        await scene.as_a(scene.a.set("key", b"value", 0))
        before = "key" in scene.b.entries
        scene.network.lagging.clear()
        await asyncio.sleep(1)
        return before, "key" in scene.b.entries

    assert (False, True) == scene.loop.play(play())


def test_what_expects_another_revision_is_refused() -> None:
    scene = Scene()

    async def play() -> None:
        first = await scene.as_a(scene.a.set("key", b"first", 0))
        assert isinstance(first, int)
        await scene.as_a(scene.a.set("key", b"second", first))
        with pytest.raises(ConflictError):
            await scene.as_a(scene.a.set("key", b"third", first))

    scene.loop.play(play())
    assert scene.bucket.entries["key"].value == b"second"


def test_who_is_cut_off_has_no_answer() -> None:
    scene = Scene()
    scene.network.cut.add("a")

    async def play() -> None:
        with pytest.raises(UnavailableError) as caught:
            await scene.as_a(scene.a.set("key", b"value", 0))
        assert caught.value.is_result_unknown

    scene.loop.play(play())
    assert not scene.bucket.entries


def test_what_lies_about_is_carried_out_though_its_sender_is_dead() -> None:
    scene = Scene()
    scene.network.is_calm = False

    async def play() -> None:
        put = scene.network.ask(lambda: scene.bucket.put("key", b"value", 0), late=1.0)
        asked = asyncio.create_task(scene.as_a(put))
        await asyncio.sleep(0.05)
        scene.lives[0].end()
        await asyncio.gather(asked, return_exceptions=True)
        assert not scene.bucket.entries
        await asyncio.sleep(max(LATE_MS) / 1000)

    scene.loop.play(play())
    assert scene.bucket.entries["key"].value == b"value"
