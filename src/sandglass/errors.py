"""
Every public error, by what the caller should do about it.

One class a kind, and a kind is an advice: fix the request, look again, wait, retry, call the
operator. A new class is made only where a caller would act differently. `code` is the stable
name that travels on the wire (`google.rpc.ErrorInfo.reason`) and stands in the reference.
"""

from typing import ClassVar


class SandglassError(Exception):
    """
    What all errors of Sandglass have in common.

    Args:
        message: one sentence for people; it names topic, partition and numbers, never a
        payload. field: the field of the request that is wrong, if one is. retry_after_ms: when
        a repeat makes sense, for the kinds that say so. is_result_unknown: the request may have
        been carried out; only the log knows.
    """

    code: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        retry_after_ms: int = 0,
        is_result_unknown: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_ms = retry_after_ms
        self.is_result_unknown = is_result_unknown


class InvalidError(SandglassError):
    """The request is wrong; fix `field` and send it again."""

    code = "INVALID"


class NotFoundError(SandglassError):
    """No such topic, partition, group or message."""

    code = "NOT_FOUND"


class ConflictError(SandglassError):
    """It exists already, or has changed meanwhile; look again."""

    code = "CONFLICT"


class LeaseLostError(ConflictError):
    """The message is settled or was given out again; stop working on it."""

    code = "LEASE_LOST"


class NotLeaderError(SandglassError):
    """Another node leads the partition; go there: `leader` is its address, if it is known."""

    code = "NOT_LEADER"

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        retry_after_ms: int = 0,
        is_result_unknown: bool = False,
        leader: str = "",
    ) -> None:
        super().__init__(
            message,
            field=field,
            retry_after_ms=retry_after_ms,
            is_result_unknown=is_result_unknown,
        )
        self.leader = leader


class PreconditionError(SandglassError):
    """Something else has to change first; the message says what."""

    code = "PRECONDITION"


class OutOfRangeError(SandglassError):
    """What was asked for is no longer kept, or not yet there; start later."""

    code = "OUT_OF_RANGE"


class UnsupportedError(SandglassError):
    """This node cannot do that."""

    code = "UNSUPPORTED"


class DeniedError(SandglassError):
    """The caller has no right to this; get it."""

    code = "DENIED"


class UnauthenticatedError(DeniedError):
    """The node doesn't know who is calling: no token, or none that it knows (any more)."""

    code = "UNAUTHENTICATED"


class BusyError(SandglassError):
    """Too much at once, or no room; wait `retry_after_ms` and repeat."""

    code = "BUSY"


class NoSpaceError(BusyError):
    """The disk is full: producing waits for room, consuming and settling go on."""

    code = "NO_SPACE"


class UnavailableError(SandglassError):
    """Nobody answered; retry. `is_result_unknown` says whether a repeat may double."""

    code = "UNAVAILABLE"


class CorruptError(SandglassError):
    """What is on the disk is damaged; the message names the place. Call the operator."""

    code = "CORRUPT"


class InternalError(SandglassError):
    """A defect of Sandglass; report it."""

    code = "INTERNAL"


def by_code(code: str) -> type[SandglassError]:
    """The class whose `code` this is; `InternalError` for a code of a newer version."""
    return _BY_CODE.get(code, InternalError)


_BY_CODE: dict[str, type[SandglassError]] = {
    kind.code: kind
    for kind in (
        InvalidError,
        NotFoundError,
        ConflictError,
        LeaseLostError,
        NotLeaderError,
        PreconditionError,
        OutOfRangeError,
        UnsupportedError,
        DeniedError,
        UnauthenticatedError,
        BusyError,
        NoSpaceError,
        UnavailableError,
        CorruptError,
        InternalError,
    )
}
