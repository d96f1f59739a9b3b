"""What is printed, acknowledged and held, delivery by delivery."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from sandglass.cli.ctl import consume, output


@dataclass
class FakeMessage:
    value: bytes
    is_acked: bool = False

    async def ack(self) -> None:
        self.is_acked = True


@dataclass
class FakeBatch:
    """Stands in for a delivery; `outcomes` are those of the whole."""

    messages: list[FakeMessage]
    size_bytes: int = 10
    outcomes: list[str] = field(default_factory=list)

    @property
    def values(self) -> list[bytes]:
        return [each.value for each in self.messages]

    def __len__(self) -> int:
        return len(self.messages)

    async def ack(self) -> None:
        self.outcomes.append("ack")

    async def release(self) -> None:
        self.outcomes.append("release")


def batch(*values: bytes) -> Any:
    return FakeBatch([FakeMessage(value) for value in values])


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What goes to stdout."""
    found: list[bytes] = []

    async def write(content: bytes) -> None:
        found.append(content)

    monkeypatch.setattr(output, "write", write)
    return found


async def test_a_delivery_is_written_and_then_acknowledged(written: list[bytes]) -> None:
    printer = consume._Printer(0, is_json=False, is_acking=True)
    taken = batch(b"a", b"b\xff")

    await printer.take(taken)

    assert written == [b"a\nb\xff\n"]
    assert taken.outcomes == ["ack"]
    assert not printer.is_done


async def test_a_delivery_that_could_not_be_written_is_not_acknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def write(content: bytes) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(output, "write", write)
    printer = consume._Printer(0, is_json=False, is_acking=True)
    taken = batch(b"a")

    with pytest.raises(BrokenPipeError):
        await printer.take(taken)

    assert taken.outcomes == []


async def test_of_a_delivery_with_too_many_the_rest_is_given_back(written: list[bytes]) -> None:
    printer = consume._Printer(3, is_json=False, is_acking=True)
    first, second = batch(b"a", b"b"), batch(b"c", b"d", b"e")

    await printer.take(first)
    assert not printer.is_done
    await printer.take(second)

    assert written == [b"a\nb\n", b"c\n"]
    assert [each.is_acked for each in second.messages] == [True, False, False]
    assert (first.outcomes, second.outcomes) == (["ack"], ["release"])
    assert printer.is_done


@pytest.mark.parametrize(("limit", "most"), [("HELD_COUNT_MAX", 4), ("HELD_BYTES_MAX", 20)])
async def test_without_acknowledging_it_ends_when_no_more_can_be_held(
    limit: str,
    most: int,
    written: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(consume, limit, most)
    printer = consume._Printer(0, is_json=False, is_acking=False)
    taken = batch(b"a", b"b")

    await printer.take(taken)
    assert not printer.is_done
    await printer.take(taken)

    assert printer.is_done
    assert taken.outcomes == []
    assert capsys.readouterr().err == (
        "sandctl: stopped after 4 messages: no more can be held without acknowledging\n"
    )
