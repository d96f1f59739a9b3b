import pytest

from tests.unit.rpc.fake_broker import FakeBroker


@pytest.fixture
def broker() -> FakeBroker:
    """A topic `t` of three partitions."""
    fake = FakeBroker()
    fake.add("t", 3)
    return fake
