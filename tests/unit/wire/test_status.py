import grpc
import grpc.aio
import pytest

from sandglass import errors
from sandglass.errors import NotFoundError, SandglassError
from sandglass.wire import status
from sandglass.wire.v1 import broker_pb2

KINDS = [
    # class, gRPC code, HTTP status
    (errors.InvalidError, grpc.StatusCode.INVALID_ARGUMENT, 400),
    (errors.NotFoundError, grpc.StatusCode.NOT_FOUND, 404),
    (errors.ConflictError, grpc.StatusCode.ALREADY_EXISTS, 409),
    (errors.LeaseLostError, grpc.StatusCode.ABORTED, 409),
    (errors.NotLeaderError, grpc.StatusCode.UNAVAILABLE, 503),
    (errors.PreconditionError, grpc.StatusCode.FAILED_PRECONDITION, 412),
    (errors.OutOfRangeError, grpc.StatusCode.OUT_OF_RANGE, 400),
    (errors.UnsupportedError, grpc.StatusCode.UNIMPLEMENTED, 501),
    (errors.DeniedError, grpc.StatusCode.PERMISSION_DENIED, 403),
    (errors.UnauthenticatedError, grpc.StatusCode.UNAUTHENTICATED, 401),
    (errors.BusyError, grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
    (errors.NoSpaceError, grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
    (errors.UnavailableError, grpc.StatusCode.UNAVAILABLE, 503),
    (errors.CorruptError, grpc.StatusCode.DATA_LOSS, 500),
    (errors.InternalError, grpc.StatusCode.INTERNAL, 500),
]


def seen(error: SandglassError) -> tuple[object, ...]:
    return (
        type(error),
        error.message,
        error.field,
        error.retry_after_ms,
        error.is_result_unknown,
    )


def details_of(error: SandglassError) -> bytes:
    [(key, value)] = status.grpc_metadata_of(error)
    assert status.DETAILS_KEY == key
    return value


def test_every_kind_has_a_code():
    listed = {kind for kind, _, _ in KINDS}

    def below(kind: type[SandglassError]) -> set[type[SandglassError]]:
        return {kind}.union(*(below(each) for each in kind.__subclasses__()))

    named = {kind for kind in below(SandglassError) if kind.__module__ == "sandglass.errors"}
    assert named - {SandglassError} == listed


@pytest.mark.parametrize(("kind", "code", "http"), KINDS)
def test_an_error_has_its_code_and_its_http_status(kind, code, http):
    error = kind("text")

    assert (code, http) == (status.grpc_code_of(error), status.http_status_of(error))
    assert code.value[0] == status.grpc_number_of(error)


@pytest.mark.parametrize(("kind", "code", "http"), KINDS)
def test_an_error_survives_the_way_over_grpc(kind, code, http):
    error = kind("text", field="f", retry_after_ms=1234, is_result_unknown=True)

    back = status.from_grpc(code, "text", details_of(error))

    assert seen(error) == seen(back)


@pytest.mark.parametrize(("kind", "code", "http"), KINDS)
def test_an_error_survives_the_way_through_a_frame(kind, code, http):
    error = kind("text", field="f", retry_after_ms=1234, is_result_unknown=True)

    wire = broker_pb2.Error.FromString(status.to_wire(error).SerializeToString())

    assert code.value[0] == wire.code
    assert seen(error) == seen(status.from_wire(wire))


def test_a_bare_error_carries_no_more_than_it_says():
    error = errors.NotFoundError("gone")

    assert seen(error) == seen(
        status.from_grpc(grpc.StatusCode.NOT_FOUND, "gone", details_of(error))
    )
    assert seen(error) == seen(status.from_wire(status.to_wire(error)))


def test_a_subclass_made_elsewhere_has_the_code_of_its_parent():
    class Special(errors.BusyError):
        pass

    assert grpc.StatusCode.RESOURCE_EXHAUSTED is status.grpc_code_of(Special("x"))


@pytest.mark.parametrize(
    ("code", "kind", "is_unknown"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidError, False),
        (grpc.StatusCode.UNAVAILABLE, errors.UnavailableError, True),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.UnavailableError, True),
        (grpc.StatusCode.CANCELLED, errors.UnavailableError, True),
        (grpc.StatusCode.UNAUTHENTICATED, errors.UnauthenticatedError, False),
        (grpc.StatusCode.UNKNOWN, errors.InternalError, True),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.BusyError, False),
    ],
)
@pytest.mark.parametrize("details", [None, b"", b"\xff\xff"])
def test_a_status_of_somebody_else_goes_by_its_code(code, kind, is_unknown, details):
    error = status.from_grpc(code, "text", details)

    assert (kind, "text", is_unknown) == (type(error), error.message, error.is_result_unknown)


def test_a_request_too_large_for_grpc_is_not_worth_a_repeat():
    text = "SERVER: Received message larger than max (6000000 vs. 5242880)"

    error = status.from_grpc(grpc.StatusCode.RESOURCE_EXHAUSTED, text, None)

    assert errors.InvalidError is type(error)
    assert "5242880" in error.message


def test_details_of_another_domain_are_not_ours():
    details = status.status_pb2.Status(code=5)
    info = status.error_details_pb2.ErrorInfo(reason="BUSY", domain="elsewhere")
    details.details.add().Pack(info)

    error = status.from_grpc(grpc.StatusCode.NOT_FOUND, "x", details.SerializeToString())

    assert errors.NotFoundError is type(error)


def test_a_reason_of_a_newer_version_goes_by_its_code():
    wire = broker_pb2.Error(code=5, reason="NEWER", message="x")

    assert errors.NotFoundError is type(status.from_wire(wire))
    assert errors.InternalError is type(status.from_wire(broker_pb2.Error(code=999)))


def test_a_failed_call_becomes_its_error():
    error = errors.BusyError("wait", retry_after_ms=20)
    failed = grpc.aio.AioRpcError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(*status.grpc_metadata_of(error)),
        details="wait",
        debug_error_string="",
    )

    assert seen(error) == seen(status.from_rpc_error(failed))


def test_a_failed_call_without_metadata_becomes_an_error_too():
    failed = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(),
        details="",
        debug_error_string="",
    )

    error = status.from_rpc_error(failed)

    assert errors.UnavailableError is type(error)
    assert "UNAVAILABLE" in error.message


@pytest.mark.parametrize("letter", ["x", "é", "漢", "\udc80"])
def test_a_long_text_is_cut_to_what_trailers_can_carry(letter):
    error = errors.InvalidError(letter * 100_000, field="f" * 100_000)

    text = status.grpc_text_of(error)

    assert len(text.encode()) <= status.MESSAGE_BYTES_MAX
    assert text.endswith("...")
    assert len(details_of(error)) < 3000
    assert text == status.to_wire(error).message


def test_a_text_at_the_limit_is_whole():
    text = "x" * status.MESSAGE_BYTES_MAX

    assert text == status.grpc_text_of(errors.InvalidError(text))


@pytest.mark.parametrize("text", ["group 'a\x1b[31m'", "group '\x9d\n'", "half \ud800"])
def test_no_text_carries_what_is_not_to_be_shown(text: str) -> None:
    error = NotFoundError(text)

    for shown in (status.grpc_text_of(error), status.to_wire(error).message):
        assert shown.isprintable()
