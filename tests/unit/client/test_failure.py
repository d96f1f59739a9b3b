"""Errors of the wire become errors of Sandglass."""

import grpc
import grpc.aio
import pytest
from google.protobuf.any_pb2 import Any as AnyDetail
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from sandglass import errors
from sandglass.client import failure
from sandglass.wire.v1 import broker_pb2 as pb


def rpc_error(
    code: grpc.StatusCode, details: str = "text", packed: tuple[object, ...] = ()
) -> grpc.aio.AioRpcError:
    trailing: tuple[tuple[str, bytes], ...] = ()
    if packed:
        anys: list[AnyDetail] = []
        for each in packed:
            detail = AnyDetail()
            detail.Pack(each)  # pyright: ignore[reportArgumentType] - messages without stubs
            anys.append(detail)
        raw = status_pb2.Status(code=code.value[0], message=details, details=anys)
        trailing = (("grpc-status-details-bin", raw.SerializeToString()),)
    return grpc.aio.AioRpcError(
        code,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(*trailing),
        details,
        None,
    )


def test_an_error_of_a_session_keeps_all_it_says() -> None:
    error = failure.from_wire(
        pb.Error(
            code=8,
            message="too much",
            reason="BUSY",
            field="batch",
            retry_after_ms=20,
            is_result_unknown=True,
        )
    )

    assert isinstance(error, errors.BusyError)
    assert ("too much", "batch", 20, True) == (
        error.message,
        error.field,
        error.retry_after_ms,
        error.is_result_unknown,
    )


def test_a_reason_of_a_newer_version_is_internal_and_no_reason_goes_by_code() -> None:
    assert errors.InternalError is type(failure.from_wire(pb.Error(code=5, reason="NEWER")))
    assert errors.NotFoundError is type(failure.from_wire(pb.Error(code=5)))


def test_details_of_a_status_are_read() -> None:
    error = failure.from_rpc(
        rpc_error(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "full",
            (
                error_details_pb2.ErrorInfo(reason="NO_SPACE", metadata={"result": "unknown"}),
                error_details_pb2.BadRequest(
                    field_violations=[error_details_pb2.BadRequest.FieldViolation(field="f")]
                ),
                error_details_pb2.RetryInfo(retry_delay=Duration(nanos=5_000_000)),
            ),
        )
    )

    assert errors.NoSpaceError is type(error)
    assert ("full", "f", 5, True) == (
        error.message,
        error.field,
        error.retry_after_ms,
        error.is_result_unknown,
    )


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidError),
        (grpc.StatusCode.NOT_FOUND, errors.NotFoundError),
        (grpc.StatusCode.ALREADY_EXISTS, errors.ConflictError),
        (grpc.StatusCode.UNAVAILABLE, errors.UnavailableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.UnavailableError),
        (grpc.StatusCode.UNAUTHENTICATED, errors.UnauthenticatedError),
        (grpc.StatusCode.UNKNOWN, errors.InternalError),
    ],
)
def test_a_status_without_details_goes_by_its_code(
    code: grpc.StatusCode, kind: type[errors.SandglassError]
) -> None:
    assert kind is type(failure.from_rpc(rpc_error(code)))


def test_details_that_are_no_status_are_left_aside() -> None:
    broken = grpc.aio.AioRpcError(
        grpc.StatusCode.NOT_FOUND,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(("grpc-status-details-bin", b"\xff\xff")),
        "text",
        None,
    )

    assert errors.NotFoundError is type(failure.from_rpc(broken))


@pytest.mark.parametrize(
    "end", ["connect: Connection refused (111)", "remote host: Connection refused"]
)
def test_the_cause_of_a_failed_connection_is_said_in_a_few_words(end: str) -> None:
    start = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: "

    error = rpc_error(grpc.StatusCode.UNAVAILABLE, start + end)

    assert "connection refused" == failure.cause_of(error)
    assert failure.is_unsent(error)


@pytest.mark.parametrize(
    "details",
    [
        "errors resolving a:1: [field:hostname lookup error: Domain name not found]",
        "DNS resolution failed for a:1: C-ares: Domain name not found",
    ],
)
def test_a_host_that_does_not_exist_is_said_in_a_few_words(details: str) -> None:
    error = rpc_error(grpc.StatusCode.UNAVAILABLE, details)

    assert "no such host" == failure.cause_of(error)
    assert failure.is_unsent(error)


def test_a_connection_that_broke_may_have_sent_something() -> None:
    error = rpc_error(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    assert not failure.is_unsent(error)
    assert "Socket closed" == failure.cause_of(error)


HANDSHAKE = (
    "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Tls handshake"
    " failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d:SSL routines:"
    "OPENSSL_internal:{}: OK"
)


@pytest.mark.parametrize(
    ("details", "cause"),
    [
        (
            HANDSHAKE.format(
                "CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate"
            ),
            "the node's certificate is not trusted: unable to get local issuer certificate",
        ),
        (
            HANDSHAKE.format("CERTIFICATE_VERIFY_FAILED: certificate has expired"),
            "the node's certificate is not trusted: certificate has expired",
        ),
        (HANDSHAKE.format("WRONG_VERSION_NUMBER: Invalid"), "the node doesn't speak TLS"),
        (HANDSHAKE.format("NO_SHARED_CIPHER"), "TLS failed: no shared cipher"),
        (HANDSHAKE.partition(" Tls")[0] + " Socket closed", failure.CLOSED),
    ],
)
def test_a_handshake_that_failed_says_why(details: str, cause: str) -> None:
    error = rpc_error(grpc.StatusCode.UNAVAILABLE, details)

    assert cause == failure.cause_of(error)
