"""How long a replica leads."""

import asyncio
from typing import cast

import pytest

from sandglass.broker.node_loop import NodeLoop
from sandglass.cluster.replica import lead_until_over
from sandglass.errors import UnavailableError

DEADLINE_S = 60


class Scene:
    """A log that is led: it is told when that is finished in order."""

    def __init__(self) -> None:
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self.unwanted = asyncio.Event()
        self.is_stopped = self.was_cut_short = False

    async def stop(self) -> None:
        self.is_stopped = True

    async def wait_in_vain(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.was_cut_short = True
            raise

    async def lead(self, *, is_begun: bool) -> None:
        beginning = asyncio.sleep(0) if is_begun else self.wait_in_vain()
        async with asyncio.timeout(DEADLINE_S):
            await lead_until_over(cast(NodeLoop, self), beginning, self.unwanted, self.failed)


@pytest.mark.parametrize("is_begun", [True, False])
async def test_a_log_that_fails_is_led_no_longer(*, is_begun: bool) -> None:
    """Also while something waits for it: what it was given comes to no end any more."""
    scene = Scene()
    leading = asyncio.create_task(scene.lead(is_begun=is_begun))
    await asyncio.sleep(0)
    scene.failed.set_result(UnavailableError("another leads"))
    await leading

    assert (False, not is_begun) == (scene.is_stopped, scene.was_cut_short)


@pytest.mark.parametrize("is_begun", [True, False])
async def test_what_is_queued_is_finished_where_another_is_to_lead(*, is_begun: bool) -> None:
    scene = Scene()
    leading = asyncio.create_task(scene.lead(is_begun=is_begun))
    await asyncio.sleep(0)
    scene.unwanted.set()
    await leading

    assert (True, not is_begun) == (scene.is_stopped, scene.was_cut_short)


async def test_a_beginning_that_fails_ends_it() -> None:
    scene = Scene()

    async def fail() -> None:
        raise UnavailableError("no quorum")

    with pytest.raises(UnavailableError):
        await lead_until_over(cast(NodeLoop, scene), fail(), scene.unwanted, scene.failed)
    assert not scene.is_stopped
