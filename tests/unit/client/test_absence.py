"""When a client says that nobody is there."""

import grpc
import pytest

from sandglass.client.absence import Absence
from tests.unit.client.test_failure import rpc_error

REFUSED = rpc_error(
    grpc.StatusCode.UNAVAILABLE,
    "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: connect:"
    " Connection refused (111)",
)
NO_HOST = rpc_error(
    grpc.StatusCode.UNAVAILABLE,
    "errors resolving a:1: [field:hostname lookup error:address lookup failed for a:1: Domain"
    " name not found]",
)
UNREACHABLE = rpc_error(
    grpc.StatusCode.UNAVAILABLE,
    "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:1: connect: No"
    " route to host (113)",
)


@pytest.mark.parametrize("error", [REFUSED, NO_HOST])
def test_where_nobody_listens_nobody_is_waited_for(error: BaseException) -> None:
    absence = Absence(["a:1"], is_waiting=False)

    assert absence.is_hopeless("a:1", error)


@pytest.mark.parametrize("error", [UNREACHABLE, TimeoutError()])
def test_where_somebody_may_be_an_answer_is_waited_for(error: BaseException) -> None:
    absence = Absence(["a:1"], is_waiting=False)

    assert not absence.is_hopeless("a:1", error)


def test_all_addresses_are_tried() -> None:
    absence = Absence(["a:1", "b:1"], is_waiting=False)

    assert not absence.is_hopeless("a:1", REFUSED)
    assert not absence.is_hopeless("a:1", REFUSED)
    assert absence.is_hopeless("b:1", REFUSED)


def test_the_last_try_of_an_address_counts() -> None:
    absence = Absence(["a:1", "b:1"], is_waiting=False)

    assert not absence.is_hopeless("a:1", REFUSED)
    assert not absence.is_hopeless("a:1", TimeoutError())
    assert not absence.is_hopeless("b:1", REFUSED)
    assert absence.is_hopeless("a:1", REFUSED)


def test_whoever_wants_to_wait_does() -> None:
    absence = Absence(["a:1"], is_waiting=True)

    assert not absence.is_hopeless("a:1", REFUSED)


def test_who_was_served_once_waits_for_the_node_to_come_back() -> None:
    absence = Absence(["a:1"], is_waiting=False)
    assert absence.is_hopeless("a:1", REFUSED)

    absence.served()

    assert not absence.is_hopeless("a:1", REFUSED)
