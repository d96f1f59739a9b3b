"""Who is let in, and for how long."""

import asyncio

import pytest

from sandglass.core import limits
from sandglass.errors import UnauthenticatedError
from sandglass.security.guard import MISSING, REVOKED, UNKNOWN, Guard
from sandglass.security.tokens import digest_of

TOKEN = "sg_one"
TOKENS = {digest_of(TOKEN): "one", digest_of("sg_two"): "two"}


def refusal(guard: Guard, *values: str | bytes) -> str:
    with pytest.raises(UnauthenticatedError) as caught:
        guard.admit(values)
    return caught.value.message


@pytest.mark.parametrize(
    "value",
    ["Bearer sg_one", "bearer sg_one", "BEARER   sg_one ", b"Bearer sg_one"],
)
def test_a_known_token_is_let_in_under_its_name(value: str | bytes) -> None:
    guard = Guard(TOKENS)

    assert guard.admit([value]).name == "one"
    assert guard.refused_count == 0


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        ["sg_one"],
        ["Bearer"],
        ["Bearer "],
        ["Basic sg_one"],
        ["Bearer sg_one", "Bearer sg_one"],
        ["Bearer " + "x" * (limits.TOKEN_LENGTH_MAX + 1)],
    ],
)
def test_what_is_not_one_token_is_refused_as_missing(values: list[str]) -> None:
    guard = Guard(TOKENS)

    assert refusal(guard, *values) == MISSING
    assert guard.refused_count == 1


@pytest.mark.parametrize(
    "token", ["sg_One", "sg_one.", "sg_on", "x" * limits.TOKEN_LENGTH_MAX, "\udcff"]
)
def test_an_unknown_token_is_refused_and_not_repeated(token: str) -> None:
    said = refusal(Guard(TOKENS), f"Bearer {token}")

    assert said == UNKNOWN
    assert token not in said


def test_the_hash_of_a_token_lets_nobody_in() -> None:
    assert refusal(Guard(TOKENS), f"Bearer {digest_of(TOKEN).hex()}") == UNKNOWN
    assert refusal(Guard(TOKENS), f"Bearer sha256:{digest_of(TOKEN).hex()}") == UNKNOWN


def test_an_admission_doesn_t_show_its_digest() -> None:
    assert repr(Guard(TOKENS).admit(["Bearer sg_one"])) == "Admission(name='one')"


async def test_a_revoked_token_ends_what_is_held_and_nothing_else() -> None:
    guard = Guard(TOKENS)
    steps: list[str] = []

    async def hold(token: str) -> None:
        async with guard.held(guard.admit([f"Bearer {token}"])):
            steps.append(f"{token} in")
            await asyncio.Event().wait()

    one, other = asyncio.create_task(hold("sg_one")), asyncio.create_task(hold("sg_two"))
    while len(steps) < 2:
        await asyncio.sleep(0)

    assert guard.replace({digest_of("sg_two"): "two"}) == ["one"]
    with pytest.raises(UnauthenticatedError, match=REVOKED) as ended:
        await one
    assert ended.value.is_result_unknown
    assert not other.done()
    assert refusal(guard, "Bearer sg_one") == UNKNOWN
    other.cancel()
    with pytest.raises(asyncio.CancelledError):
        await other


async def test_a_token_revoked_between_its_admission_and_the_hold_is_refused() -> None:
    guard = Guard(TOKENS)
    admission = guard.admit(["Bearer sg_one"])
    guard.replace({})

    with pytest.raises(UnauthenticatedError, match=REVOKED) as refused:
        async with guard.held(admission):
            pytest.fail("nobody comes in")
    assert not refused.value.is_result_unknown


async def test_a_new_token_under_an_old_name_revokes_the_old_one() -> None:
    guard = Guard(TOKENS)

    assert guard.replace({digest_of("sg_new"): "one"}) == ["one", "two"]

    assert guard.admit(["Bearer sg_new"]).name == "one"
    assert refusal(guard, "Bearer sg_one") == UNKNOWN


async def test_another_s_cancellation_passes() -> None:
    guard = Guard(TOKENS)

    async def hold() -> None:
        async with guard.held(guard.admit(["Bearer sg_one"])):
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await asyncio.sleep(0)
    task.cancel()
    guard.replace({})

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_was_left_is_not_cancelled_by_a_later_revocation() -> None:
    guard = Guard(TOKENS)

    async with guard.held(guard.admit(["Bearer sg_one"])):
        pass
    guard.replace({})

    await asyncio.sleep(0)
