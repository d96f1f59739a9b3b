"""Room: bounded in messages and bytes, given in the order of coming, to threads too."""

import threading

import pytest

from sandglass.client import room
from sandglass.client.room import Room, Waiter


class Line:
    """Waiters by name, and who was woken."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.woken: list[str] = []

    def stand(self, name: str, count: int = 1, size_bytes: int = 1) -> Waiter:
        waiter = Waiter(count, size_bytes, lambda: self.woken.append(name))
        self.room.stand(waiter)
        return waiter


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.setattr(room, "UNANSWERED_COUNT_MAX", 2)
    monkeypatch.setattr(room, "UNANSWERED_BYTES_MAX", 100)
    return Line(Room())


def test_room_is_bounded_in_messages(line: Line) -> None:
    assert [True, True, False] == [line.room.take(1, 1) for _ in range(3)]


def test_room_is_bounded_in_bytes(line: Line) -> None:
    assert [True, False] == [line.room.take(1, each) for each in (60, 41)]
    assert line.room.take(1, 40)


def test_something_larger_than_all_room_has_it_alone(line: Line) -> None:
    assert line.room.take(1, 1000)
    assert not line.room.take(1, 0)

    line.room.give_back(1, 1000)

    assert (0, 0) == (line.room.count, line.room.size_bytes)


def test_room_is_given_in_the_order_of_coming(line: Line) -> None:
    assert line.room.take(2, 2)
    waiters = [line.stand(name) for name in "abc"]

    line.room.give_back(2, 2)

    assert ["a", "b"] == line.woken
    assert [True, True, False] == [waiter.has_room for waiter in waiters]


def test_nobody_overtakes_one_who_stands_in_line(line: Line) -> None:
    assert line.room.take(1, 60)
    line.stand("large", size_bytes=60)

    assert not line.room.take(1, 1)
    assert not line.stand("small").has_room


def test_who_leaves_the_line_makes_way(line: Line) -> None:
    assert line.room.take(1, 60)
    large = line.stand("large", size_bytes=60)
    line.stand("small")

    line.room.leave(large)

    assert ["small"] == line.woken


def test_who_leaves_with_room_gives_it_on(line: Line) -> None:
    assert line.room.take(2, 2)
    first, _ = line.stand("a", count=2), line.stand("b")
    line.room.give_back(2, 2)
    assert ["a"] == line.woken

    line.room.leave(first)

    assert ["a", "b"] == line.woken
    assert 1 == line.room.count


def test_threads_never_take_more_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "UNANSWERED_COUNT_MAX", 3)
    shared = Room()
    seen: list[int] = []

    def work() -> None:
        for _ in range(200):
            woken = threading.Event()
            if not shared.stand(Waiter(1, 1, woken.set)):
                assert woken.wait(60)
            seen.append(shared.count)
            shared.give_back(1, 1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 1600 == len(seen)
    assert max(seen) <= 3
    assert (0, 0) == (shared.count, shared.size_bytes)
