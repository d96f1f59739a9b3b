from collections.abc import AsyncIterator

import pytest

from tests.unit.broker.shell import Shell, running


@pytest.fixture
async def shell() -> AsyncIterator[Shell]:
    """A started node with the topic `t` of one partition."""
    async with running(Shell()) as started:
        yield started
