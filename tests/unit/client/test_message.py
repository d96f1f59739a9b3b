"""Times and names as users give them; what `import sandglass` loads."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone

import pytest

import sandglass
from sandglass import AsyncClient, InvalidError, NotFoundError
from sandglass.client.message import moment_ms, span_ms
from sandglass.core import limits


def test_a_span_is_rounded_up_to_milliseconds() -> None:
    spans = [timedelta(microseconds=each) for each in (0, 1, 1000, 1001)]

    assert [0, 1, 1, 2] == [span_ms(each, field="delay", low=0, high=10) for each in spans]


def test_a_span_is_taken_within_its_bounds() -> None:
    assert 10 == span_ms(timedelta(milliseconds=10), field="delay", low=0, high=10)
    for wrong in (timedelta(milliseconds=11), timedelta(milliseconds=-1)):
        with pytest.raises(InvalidError, match="delay"):
            span_ms(wrong, field="delay", low=0, high=10)


def test_a_moment_needs_a_time_zone() -> None:
    with pytest.raises(InvalidError, match="no time zone"):
        moment_ms(datetime(2026, 1, 1), field="due_at")  # noqa: DTZ001 - that is the test


def test_a_moment_beyond_the_last_year_is_refused_by_name() -> None:
    last = datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)

    assert limits.DUE_MS_MAX == moment_ms(last, field="due_at")
    with pytest.raises(InvalidError, match="due_at in Unix ms is 253402300800000"):
        moment_ms(datetime.max.replace(tzinfo=UTC), field="due_at")
    with pytest.raises(InvalidError, match="due_at is 9999"):
        moment_ms(datetime.max, field="due_at")  # noqa: DTZ901 - that is the test


def test_a_moment_is_unix_time_wherever_it_was_said() -> None:
    east = datetime(1970, 1, 1, 2, 0, 1, tzinfo=timezone(timedelta(hours=2)))
    before = datetime(1960, 1, 1, tzinfo=UTC)

    assert (1000, 0) == (moment_ms(east, field="due_at"), moment_ms(before, field="due_at"))


@pytest.mark.parametrize(
    "address", ["", ":7170", "host:", "host:0", "host:65536", "http://x:1"]
)
def test_an_address_is_host_and_port(address: str) -> None:
    with pytest.raises(InvalidError, match="address"):
        AsyncClient(address)


@pytest.mark.parametrize(
    "address", ["host", "host:7170", "127.0.0.1:1", "[::1]:65535", "[::1]"]
)
def test_an_address_may_leave_out_the_port(address: str) -> None:
    AsyncClient(address)


def test_a_file_of_certificates_must_be_there() -> None:
    with pytest.raises(NotFoundError, match=r"/nowhere/ca\.pem can't be read"):
        AsyncClient(tls="/nowhere/ca.pem")


def test_a_timeout_is_positive() -> None:
    with pytest.raises(InvalidError, match="timeout"):
        AsyncClient(timeout=timedelta(0))


def test_every_public_name_is_there() -> None:
    names = [name for name in dir(sandglass) if name[0].isupper()]

    assert "AsyncClient" in names
    assert [] == [name for name in names if getattr(sandglass, name, None) is None]
    with pytest.raises(AttributeError, match="Nobody"):
        _ = sandglass.Nobody


def test_the_core_is_imported_without_grpc() -> None:
    code = "import sys, sandglass.core.partition; sys.exit('grpc' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)

    assert 0 == done.returncode
