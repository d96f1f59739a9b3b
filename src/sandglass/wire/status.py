"""
Errors and their forms on the wire, both ways, in one place.

An error travels as a gRPC status with `google.rpc` details (`ErrorInfo` with the stable code
as its reason, `BadRequest` naming the field, `RetryInfo`), as the `Error` of a session frame,
or as an HTTP status. The first two say the same: gRPC code, text, reason, field, when to retry,
and whether the request may have been carried out.
"""

from collections.abc import Iterable, Mapping
from typing import Final, cast

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc import (  # pyright: ignore[reportMissingTypeStubs]  # a namespace package
    error_details_pb2,
    status_pb2,
)

from sandglass.errors import (
    BusyError,
    ConflictError,
    CorruptError,
    DeniedError,
    InternalError,
    InvalidError,
    LeaseLostError,
    NoSpaceError,
    NotFoundError,
    NotLeaderError,
    OutOfRangeError,
    PreconditionError,
    SandglassError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
    by_code,
)
from sandglass.wire.v1 import broker_pb2

DOMAIN: Final = "sandglass"
DETAILS_KEY: Final = "grpc-status-details-bin"
RESULT_KEY: Final = "result"
RESULT_UNKNOWN: Final = "unknown"
LEADER_KEY: Final = "leader"

ADDRESS_CHARS_MAX: Final = 300

MESSAGE_BYTES_MAX: Final = 1024
"""Of an error's text: it travels twice in trailers, which gRPC bounds at 8 KiB together."""

_CODES: Final[dict[type[SandglassError], grpc.StatusCode]] = {
    InvalidError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    ConflictError: grpc.StatusCode.ALREADY_EXISTS,
    LeaseLostError: grpc.StatusCode.ABORTED,
    # Nothing was carried out, and a repeat elsewhere can work: what UNAVAILABLE says to any
    # client, even one that doesn't know our reasons. FAILED_PRECONDITION says "don't retry".
    NotLeaderError: grpc.StatusCode.UNAVAILABLE,
    PreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    OutOfRangeError: grpc.StatusCode.OUT_OF_RANGE,
    UnsupportedError: grpc.StatusCode.UNIMPLEMENTED,
    DeniedError: grpc.StatusCode.PERMISSION_DENIED,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    BusyError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    NoSpaceError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
    CorruptError: grpc.StatusCode.DATA_LOSS,
    InternalError: grpc.StatusCode.INTERNAL,
    SandglassError: grpc.StatusCode.INTERNAL,
}

_KINDS: Final[Mapping[grpc.StatusCode, type[SandglassError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: ConflictError,
    grpc.StatusCode.ABORTED: ConflictError,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionError,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRangeError,
    grpc.StatusCode.UNIMPLEMENTED: UnsupportedError,
    grpc.StatusCode.PERMISSION_DENIED: DeniedError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: BusyError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: UnavailableError,
    grpc.StatusCode.CANCELLED: UnavailableError,
    grpc.StatusCode.DATA_LOSS: CorruptError,
}
"""For a status without our details: it comes from gRPC itself, or from something in between."""

_HTTP: Final[Mapping[grpc.StatusCode, int]] = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.CANCELLED: 408,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 412,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DATA_LOSS: 500,
}

_BY_NUMBER: Final[Mapping[int, grpc.StatusCode]] = {
    each.value[0]: each for each in grpc.StatusCode
}
_NUMBERS: Final[Mapping[grpc.StatusCode, int]] = {
    code: number for number, code in _BY_NUMBER.items()
}

_RESULT_UNKNOWN_CODES: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
    }
)
"""Without our details these say nothing of what the server did before the call broke."""


# --- gRPC -------------------------------------------------------------------------------------


def grpc_code_of(error: SandglassError) -> grpc.StatusCode:
    """The gRPC code of an error: that of its class, or of the nearest class above."""
    return next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)


def grpc_text_of(error: SandglassError) -> str:
    """The error's text, cut to what a trailer can carry."""
    raw = plain(error.message).encode(errors="replace")
    if len(raw) <= MESSAGE_BYTES_MAX:
        return raw.decode()
    return raw[: MESSAGE_BYTES_MAX - 3].decode(errors="ignore") + "..."


def plain(text: str) -> str:
    """A text that may end on somebody's terminal: with escapes for what is not to be shown."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def grpc_metadata_of(error: SandglassError) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata that carries the details."""
    info = error_details_pb2.ErrorInfo(reason=error.code, domain=DOMAIN)
    if error.is_result_unknown:
        info.metadata[RESULT_KEY] = RESULT_UNKNOWN
    if isinstance(error, NotLeaderError) and error.leader:
        info.metadata[LEADER_KEY] = error.leader[:ADDRESS_CHARS_MAX]
    details = [_packed(info)]
    text = grpc_text_of(error)
    if error.field:
        bad = error_details_pb2.BadRequest()
        bad.field_violations.add(field=error.field[:200], description=text[:200])
        details.append(_packed(bad))
    if error.retry_after_ms > 0:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(error.retry_after_ms)
        details.append(_packed(retry))
    status = status_pb2.Status(
        code=_NUMBERS[grpc_code_of(error)], message=text, details=details
    )
    return ((DETAILS_KEY, status.SerializeToString()),)


def from_grpc(code: grpc.StatusCode, text: str, details: bytes | None) -> SandglassError:
    """
    The error that a status stands for.

    Args:
        details: the value of `DETAILS_KEY` in the trailing metadata, if it was there.
    """
    status = _parsed(details)
    if status is not None:
        error = _from_details(status)
        if error is not None:
            return error
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
        # gRPC's own refusal of a large request: waiting doesn't help.
        return InvalidError(f"request is too large: {text}")
    kind = _KINDS.get(code, InternalError)
    return kind(
        text or f"the call ended with {code.name}",
        is_result_unknown=code in _RESULT_UNKNOWN_CODES,
    )


def from_rpc_error(error: grpc.aio.AioRpcError) -> SandglassError:
    """The error that a failed call stands for; raise it `from` the original."""
    # The stubs take metadata for a mapping with one type of value; it iterates as pairs.
    pairs = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    found = dict(pairs).get(DETAILS_KEY)
    return from_grpc(
        error.code(), error.details() or "", found if isinstance(found, bytes) else None
    )


def _packed(detail: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed


def _parsed(details: bytes | None) -> status_pb2.Status | None:
    if not details:
        return None
    try:
        return status_pb2.Status.FromString(details)
    except DecodeError:
        return None


def _from_details(status: status_pb2.Status) -> SandglassError | None:
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        for target in (info, bad, retry):
            detail.Unpack(target)
    if info.domain != DOMAIN:
        return None
    error = by_code(info.reason)(
        status.message,
        field=bad.field_violations[0].field if bad.field_violations else "",
        retry_after_ms=retry.retry_delay.ToMilliseconds(),
        is_result_unknown=info.metadata.get(RESULT_KEY) == RESULT_UNKNOWN,
    )
    return _led_at(error, info.metadata.get(LEADER_KEY, ""))


def _led_at(error: SandglassError, leader: str) -> SandglassError:
    if isinstance(error, NotLeaderError):
        error.leader = leader
    return error


# --- session frames ---------------------------------------------------------------------------


def to_wire(error: SandglassError) -> broker_pb2.Error:
    """The error as an item of a session carries it."""
    return broker_pb2.Error(
        code=_NUMBERS[grpc_code_of(error)],
        message=grpc_text_of(error),
        reason=error.code,
        field=error.field[:200],
        retry_after_ms=error.retry_after_ms,
        is_result_unknown=error.is_result_unknown,
        leader=error.leader[:ADDRESS_CHARS_MAX] if isinstance(error, NotLeaderError) else "",
    )


def from_wire(error: broker_pb2.Error) -> SandglassError:
    """The error that a session's item stands for; an unknown reason goes by its gRPC code."""
    kind = by_code(error.reason)
    if kind is InternalError and error.reason != InternalError.code:
        code = _BY_NUMBER.get(error.code, grpc.StatusCode.INTERNAL)
        kind = _KINDS.get(code, InternalError)
    found = kind(
        error.message,
        field=error.field,
        retry_after_ms=error.retry_after_ms,
        is_result_unknown=error.is_result_unknown,
    )
    return _led_at(found, error.leader)


# --- HTTP -------------------------------------------------------------------------------------


def http_status_of(error: SandglassError) -> int:
    """The HTTP status of an error."""
    return _HTTP[grpc_code_of(error)]


def grpc_number_of(error: SandglassError) -> int:
    """The number of the gRPC code, for bodies that carry it."""
    return _NUMBERS[grpc_code_of(error)]
