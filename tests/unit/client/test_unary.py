"""What a call that a node didn't carry out is said to have come to."""

import grpc
import pytest
from google.rpc import error_details_pb2

from sandglass.client import failure
from sandglass.client._async.connection import endpoint_of
from sandglass.client._async.unary import Unary
from sandglass.client.entry import Entry
from tests.unit.client.test_failure import rpc_error

SAID = error_details_pb2.ErrorInfo(reason="UNAVAILABLE")
IN_DOUBT = error_details_pb2.ErrorInfo(reason="UNAVAILABLE", metadata={"result": "unknown"})


@pytest.mark.parametrize(
    ("details", "said", "is_result_unknown"),
    [
        ((SAID,), "no quorum", False),
        ((IN_DOUBT,), "no quorum", True),
        ((), "no Sandglass node answered at nowhere:1 within 10 s: broke off", True),
    ],
)
async def test_a_node_that_answered_is_not_said_to_be_silent(
    details: tuple[object, ...], said: str, *, is_result_unknown: bool
) -> None:
    error = rpc_error(grpc.StatusCode.UNAVAILABLE, "no quorum", details)
    unary = Unary(endpoint_of(("nowhere:1",), Entry(None, None), None))

    known = unary._judge(error, "broke off", is_unsent=failure.is_unsent(error), is_read=False)

    assert known is not None
    assert (known.message, known.is_result_unknown) == (said, is_result_unknown)
