"""What a consuming request asks for."""

import pytest
from starlette.requests import Request

from sandglass.core import limits
from sandglass.errors import InvalidError
from sandglass.web.bounds import Bounds
from sandglass.web.stream import is_for_events, wait_s_of


def request(query: str = "", accept: str = "*/*") -> Request:
    return Request(
        {
            "type": "http",
            "query_string": query.encode(),
            "headers": [(b"accept", accept.encode())],
            "state": {"bounds": Bounds()},
        }
    )


@pytest.mark.parametrize(
    ("query", "wait_s"),
    [
        ("", 0),
        ("wait=", 0),
        ("wait=0s", 0),
        ("wait=250ms", 0.25),
        ("wait=60s", 60),
        ("wait=1m", 60),
    ],
)
def test_a_wait_is_a_length_of_time_up_to_its_limit(query: str, wait_s: float) -> None:
    assert wait_s == wait_s_of(request(query))
    assert 60_000 == limits.HTTP_WAIT_MS_MAX


@pytest.mark.parametrize("wait", ["60001ms", "1h", "60", "-1s", "s", "1e3s", "9" * 1000 + "s"])
def test_a_wait_of_another_form_or_beyond_its_limit_is_refused(wait: str) -> None:
    with pytest.raises(InvalidError) as caught:
        wait_s_of(request(f"wait={wait}"))

    assert "wait" == caught.value.field
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("accept", "is_asked_for"),
    [
        ("text/event-stream", True),
        ("application/json, Text/Event-Stream;q=0.9", True),
        ("*/*", False),
        ("", False),
    ],
)
def test_events_are_sent_to_whoever_asks_for_them(accept: str, is_asked_for: bool) -> None:
    assert is_asked_for is is_for_events(request(accept=accept))
