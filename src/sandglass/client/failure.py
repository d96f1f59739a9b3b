"""
Errors as the wire carries them, into errors of `sandglass.errors`.

A session carries an `Error` message; a unary call a status, with the same facts in its details
(`google.rpc.ErrorInfo`, `BadRequest`, `RetryInfo`), which stand in the trailing metadata.
"""

import re
from collections.abc import Iterable
from typing import Final, cast

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyDetail
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # pyright: ignore[reportMissingTypeStubs] - it ships none

from sandglass import errors
from sandglass.errors import SandglassError
from sandglass.wire.v1 import broker_pb2

_DETAILS_KEY: Final = "grpc-status-details-bin"
_LAST_CAUSE: Final = re.compile(r"([^:]+?)\s*(?:\(\d+\))?\Z")

_UNSENT: Final = ("failed to connect", "errors resolving", "DNS resolution failed")
_NO_HOST: Final = "Domain name not found"

CLOSED: Final = "socket closed"
"""The cause of a connection that the node closed without a word."""

_TLS_CAUSE: Final = re.compile(r"OPENSSL_internal:([A-Z_0-9]+)(?:: ([^:]+))?")
_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST"})

_BY_CODE: Final[dict[int, type[SandglassError]]] = {
    1: errors.UnavailableError,  # CANCELLED: by the other side
    3: errors.InvalidError,
    4: errors.UnavailableError,  # DEADLINE_EXCEEDED
    5: errors.NotFoundError,
    6: errors.ConflictError,
    7: errors.DeniedError,
    8: errors.BusyError,
    9: errors.PreconditionError,
    10: errors.ConflictError,  # ABORTED
    11: errors.OutOfRangeError,
    12: errors.UnsupportedError,
    13: errors.InternalError,
    14: errors.UnavailableError,
    15: errors.CorruptError,
    16: errors.UnauthenticatedError,
}


def from_wire(error: broker_pb2.Error) -> SandglassError:
    """The error that a session's item carries."""
    kind = _BY_CODE.get(error.code, errors.InternalError)
    if error.reason:
        kind = errors.by_code(error.reason)
    found = kind(
        error.message or f"the node answered with status {error.code}",
        field=error.field,
        retry_after_ms=error.retry_after_ms,
        is_result_unknown=error.is_result_unknown,
    )
    return _led_at(found, error.leader)


def from_rpc(failure: grpc.aio.AioRpcError) -> SandglassError:
    """The error that a call's status means."""
    number = number_of(failure)
    kind = _BY_CODE.get(number, errors.InternalError)
    field, leader, retry_after_ms, is_result_unknown = "", "", 0, False
    for detail in _details_of(failure):
        info = error_details_pb2.ErrorInfo()
        request = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            kind = errors.by_code(info.reason) if info.reason else kind
            is_result_unknown = info.metadata.get("result") == "unknown"
            leader = info.metadata.get("leader", "")
        elif detail.Unpack(request) and request.field_violations:
            field = request.field_violations[0].field
        elif detail.Unpack(retry):
            retry_after_ms = retry.retry_delay.ToMilliseconds()
    found = kind(
        failure.details() or f"the call failed with status {number}",
        field=field,
        retry_after_ms=retry_after_ms,
        is_result_unknown=is_result_unknown,
    )
    return _led_at(found, leader)


def _led_at(error: SandglassError, leader: str) -> SandglassError:
    if isinstance(error, errors.NotLeaderError):
        error.leader = leader
    return error


def number_of(failure: grpc.aio.AioRpcError) -> int:
    """A status code as gRPC numbers them."""
    return int(failure.code().value[0])


def is_unsent(failure: grpc.aio.AioRpcError) -> bool:
    """Whether nothing was sent, since no connection came about."""
    details = failure.details() or ""
    return number_of(failure) == 14 and any(each in details for each in _UNSENT)


def is_told(failure: grpc.aio.AioRpcError) -> bool:
    """Whether a node said so itself: none that breaks off tells why."""
    return bool(_details_of(failure))


def is_absent(failure: grpc.aio.AioRpcError) -> bool:
    """Whether nobody listens there, or there is no such host."""
    details = failure.details() or ""
    return is_unsent(failure) and ("Connection refused" in details or _NO_HOST in details)


def cause_of(failure: BaseException) -> str:
    """In a few words, why a connection failed: for people."""
    if isinstance(failure, grpc.aio.AioRpcError):
        details = failure.details() or failure.code().name.lower()
        if (tls := _tls_cause_of(details)) and is_unsent(failure):
            return tls
        if _NO_HOST in details and is_unsent(failure):
            return "no such host"
        found = _LAST_CAUSE.search(details) if is_unsent(failure) else None
        return found.group(1).strip().lower() if found else details
    if isinstance(failure, TimeoutError):
        return "no answer"
    return str(failure) or type(failure).__name__


def _tls_cause_of(details: str) -> str:
    """Why a handshake failed; empty if none did."""
    if "ostname" in details and "erification" in details:
        return "the node's certificate is for another name"
    found = _TLS_CAUSE.search(details)
    if found is None:
        return ""
    name, more = found.group(1), found.group(2)
    if name == "CERTIFICATE_VERIFY_FAILED":
        return f"the node's certificate is not trusted: {more or 'verification failed'}"
    if name in _NO_TLS:
        return "the node doesn't speak TLS"
    return f"TLS failed: {name.lower().replace('_', ' ')}"


def _details_of(failure: grpc.aio.AioRpcError) -> list[AnyDetail]:
    # The stubs call this a single entry; it is a sequence of pairs, or None.
    metadata = cast("Iterable[tuple[str, str | bytes]] | None", failure.trailing_metadata())
    for key, value in metadata or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                status = status_pb2.Status.FromString(value)
            except DecodeError:
                return []
            return list(cast("Iterable[AnyDetail]", status.details))
    return []
