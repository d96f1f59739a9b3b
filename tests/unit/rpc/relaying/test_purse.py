"""The credit of a subscription in parts: what is lent, and that it is never too much."""

import random

import pytest

from sandglass.rpc.relaying.purse import SHARE_BYTES_MAX, Purse

PARTS = ("a", "b", "c")


def purse_of(count: int, *parts: str, size_bytes: int = 1 << 20) -> Purse:
    purse = Purse(count, size_bytes)
    for part in parts:
        purse.join(part)
    return purse


def lent(purse: Purse, *parts: str) -> dict[str, int]:
    return {str(part): count for part, count, _ in purse.top_up(parts) if count}


def test_half_of_the_credit_is_laid_out_in_equal_shares() -> None:
    purse = purse_of(600, *PARTS)

    assert lent(purse, *PARTS) == {"a": 100, "b": 100, "c": 100}
    assert purse.counts.free == 300


def test_a_part_alone_is_lent_half_and_topped_up_from_the_rest() -> None:
    purse = purse_of(100, "a")
    assert lent(purse, "a") == {"a": 50}

    purse.came("a", 30, 30)
    purse.handed_on(30, 30)

    assert lent(purse, "a") == {"a": 30}
    assert purse.counts.free == 20


def test_a_share_is_topped_up_when_half_of_it_is_used_and_not_before() -> None:
    purse = purse_of(600, *PARTS)
    purse.top_up(PARTS)

    purse.came("a", 49, 49)
    purse.handed_on(49, 49)
    assert lent(purse, "a") == {}
    purse.came("a", 1, 1)
    purse.handed_on(1, 1)

    assert lent(purse, "a") == {"a": 50}


def test_one_message_of_credit_lets_every_part_send_one() -> None:
    purse = purse_of(1, *PARTS)

    assert lent(purse, *PARTS) == {"a": 1, "b": 1, "c": 1}
    assert purse.counts.free == -2


def test_what_comes_too_much_is_held_back_until_the_client_has_room() -> None:
    purse = purse_of(1, *PARTS)
    purse.top_up(PARTS)

    purse.came("a", 1, 10)
    assert purse.may_hand_on(1)
    purse.handed_on(1, 10)
    purse.came("b", 1, 10)

    assert not purse.may_hand_on(1)
    purse.grant(1, 0)
    assert purse.may_hand_on(1)


def test_without_room_nothing_is_lent() -> None:
    purse = purse_of(0, *PARTS)

    assert lent(purse, *PARTS) == {}


def test_a_part_that_leaves_gives_back_what_lay_with_it() -> None:
    purse = purse_of(600, *PARTS)
    purse.top_up(PARTS)

    purse.leave("b")

    assert purse.counts.free == 400
    purse.join("d")
    assert lent(purse, "d") == {"d": 100}


def test_bytes_that_were_overdrawn_are_made_good() -> None:
    """A message larger than the bytes left is sent all the same."""
    purse = purse_of(100, "a", "b", size_bytes=400)
    purse.top_up(["a", "b"])

    purse.came("a", 1, 1000)
    purse.handed_on(1, 1000)

    assert not purse.may_hand_on(1)
    purse.grant(0, 1000)
    purse.top_up(["a", "b"])
    assert purse.bytes.lent["a"] > 0
    assert purse.bytes.free >= 0


def test_a_share_of_bytes_is_bounded_whatever_the_client_grants() -> None:
    purse = purse_of(100, "a", size_bytes=1 << 28)

    [(_, _, size_bytes)] = purse.top_up(["a"])

    assert size_bytes == SHARE_BYTES_MAX


@pytest.mark.parametrize("seed", range(30))
def test_parts_never_have_too_much_and_none_starves(seed: int) -> None:
    """
    Random deliveries against a client that grants as ours do: again when a quarter is settled.

    What all parts may send exceeds the client's room by less than their number, what is handed
    on never does, and the only part that has messages always goes on.
    """
    chance = random.Random(seed)
    limit = chance.choice([1, 2, 3, 7, 40, 1000])
    names = [str(number) for number in range(chance.randint(1, 7))]
    purse = purse_of(limit, *names)
    purse.top_up(names)
    busy = chance.choice(names)
    available, held, total = limit, [0], 0
    for _ in range(300):
        for name in names if chance.random() < 0.2 else [busy]:
            count = min(chance.randint(1, 5), purse.counts.lent[name])
            if count > 0:
                purse.came(name, count, count)
                held.append(count)
        while len(held) > 1 and purse.may_hand_on(held[1]):
            count = held.pop(1)
            purse.handed_on(count, count)
            available -= count
            total += count
        purse.top_up(names)
        assert available == purse.counts.room >= 0
        assert purse.counts.free > -len(names)
        room = limit - available
        if room >= max(1, limit // 4):
            purse.grant(room, room)
            available += room
            purse.top_up(names)
    assert total >= 100
