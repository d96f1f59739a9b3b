"""What all tests share."""

import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

# Imported before any test runs. Its plugin would import it at the very end otherwise, and on
# Python 3.11 parsing that much after gRPC's loops have run can fail with a SystemError.
import hypothesis
import pytest

from tests import visitors

# Who runs us in the background may have us ignore Ctrl-C, and so all that we start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No timed assertions: how long an example takes says what else the machine does. Nor does a run
# of the tests depend on chance: the examples are always the same, and `make fuzz` tries others.
PATIENT: Any = {
    "deadline": None,
    "suppress_health_check": [hypothesis.HealthCheck.too_slow],
    "print_blob": True,
}
hypothesis.settings.register_profile("sandglass", **PATIENT, derandomize=True, database=None)
hypothesis.settings.register_profile("fuzz", **PATIENT, derandomize=False)
hypothesis.settings.load_profile("sandglass")


@pytest.fixture(scope="session")
def engine_configs(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[list[visitors.EngineConfig]]:
    """Of three engines that run until the last test."""
    with visitors.running(tmp_path_factory.mktemp("engines")) as configs:
        yield configs


@pytest.fixture
async def visitor(
    engine_configs: list[visitors.EngineConfig],
) -> AsyncIterator[visitors.Visitor]:
    """For a test that leaves them as they are: `connect`, and make streams."""
    async with visitors.visiting(engine_configs) as found:
        yield found
