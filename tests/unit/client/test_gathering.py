"""Callers that were answered are waited for, for as long as that is worth it."""

import threading
import time

import pytest

from sandglass.client._sync import gathering
from sandglass.client._sync.gathering import TRY_COUNT, Gathering


def _told(waited: Gathering, count: int) -> bool:
    for _ in range(count):
        waited.told()
    return waited.is_worth_it()


def test_a_lone_caller_is_not_waited_for() -> None:
    waited = Gathering(lambda: 0)

    assert not _told(waited, 0)
    assert not _told(waited, 1)
    assert not _told(waited, 1), "those of earlier answers count no longer"
    assert _told(waited, 2)


def test_the_wait_ends_when_all_have_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "WAIT_S", 60)
    messages = ["from others"]
    waited = Gathering(messages.__len__)
    assert _told(waited, 3)

    def call() -> None:
        while waited._wanted_count != 4:
            time.sleep(0)
        for _ in range(3):
            messages.append("again")
            waited.came()

    caller = threading.Thread(target=call)
    caller.start()
    waited.wait()
    caller.join()

    assert 4 == len(messages)
    assert _told(waited, 2), "they are waited for the next time, too"


def test_who_does_not_ask_again_is_waited_for_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gathering, "WAIT_S", 0)
    waited = Gathering(lambda: 0)
    assert _told(waited, 4)
    waited.wait()

    tries = [_told(waited, 4) for _ in range(TRY_COUNT)]

    assert [False] * (TRY_COUNT - 1) + [True] == tries


def test_one_that_comes_when_nobody_waits_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gathering, "WAIT_S", 0)
    waited = Gathering(lambda: 9)
    waited.came()
    waited._wanted_count = 9
    waited.came()
    waited._wanted_count = 9
    waited.came()
    assert _told(waited, 4)

    waited.wait()

    assert not _told(waited, 4), "what was laid down before is not taken for theirs"
