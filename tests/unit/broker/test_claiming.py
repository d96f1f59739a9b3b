"""Sessions that come to a node by one way after the other, and go on with what they held."""

import asyncio

import pytest

from sandglass.broker.subscription import Session
from sandglass.core.claim import Claim
from sandglass.core.dispatch import Delivery
from sandglass.core.lease import Places
from sandglass.core.record import Ending
from sandglass.errors import ConflictError, LeaseLostError, NotLeaderError
from tests.unit.broker.shell import Consumer, Shell, running

CLIENT = "client-session"


def session_at(shell: Shell, *, owner: str = "") -> Session:
    """One that another node opens for the client."""
    session, _ = shell.broker.consumers.open_session("", "client", owner=owner)
    return session


async def come(
    shell: Shell,
    session: Session,
    *claims: Claim,
    credit_count: int = 1000,
    subscription_id: int = 1,
    connection: int = 0,
) -> Consumer:
    consumer = Consumer(None)  # pyright: ignore[reportArgumentType] - set below
    number = shell.t.partitions[0].number
    consumer.subscription = await shell.broker.consumers.subscribe(
        session,
        consumer,
        subscription_id=subscription_id,
        topic=shell.t,
        refs=shell.t.partitions,
        channel="",
        group="g",
        consumer="c",
        credit_count=credit_count,
        credit_bytes=1 << 20,
        claims=[(number, claim) for claim in claims],
        reader=CLIENT,
        reader_connection=connection,
    )
    return consumer


async def handed(shell: Shell, session: Session, *values: bytes) -> tuple[Consumer, Delivery]:
    consumer = await come(shell, session)
    await shell.produce(*values)
    await shell.until(lambda: consumer.deliveries)
    return consumer, consumer.deliveries[0]


def held(delivery: Delivery, places: Places | None = None) -> Claim:
    lease = delivery.lease
    return Claim(lease.token, 1, 0, 0, lease.dues, lease.indexes, lease.counts, places or [])


async def test_what_a_session_held_by_one_way_it_has_by_the_next(shell: Shell) -> None:
    before, after = session_at(shell), session_at(shell)
    first, delivery = await handed(shell, before, b"1", b"2")

    second = await come(shell, after, held(delivery))
    shell.broker.consumers.close_session(before, is_goodbye=False)
    await shell.quiet()

    [lease] = second.subscription.claimed
    assert lease is delivery.lease
    assert [] == second.values
    answer = shell.settle(second, delivery)
    await shell.until(lambda: answer.told)
    assert [None] == answer.told
    assert [b"1", b"2"] == first.values


async def test_what_it_does_not_claim_comes_again_by_the_next_way(shell: Shell) -> None:
    before, after = session_at(shell), session_at(shell)
    _, delivery = await handed(shell, before, b"1", b"2")

    second = await come(shell, after, credit_count=1000)
    assert not before.is_attached, "nothing more is handed out that way"
    shell.broker.consumers.close_session(before, is_goodbye=False)
    await shell.until(lambda: second.values)

    assert [b"1", b"2"] == second.values
    assert second.deliveries[0].lease.token > delivery.lease.token


async def test_nothing_is_handed_out_by_the_way_before(shell: Shell) -> None:
    before, after = session_at(shell), session_at(shell)
    first, delivery = await handed(shell, before, b"1")
    second = await come(shell, after, held(delivery))

    await shell.produce(b"2")
    await shell.until(lambda: second.values)

    assert ([b"1"], [b"2"]) == (first.values, second.values)


async def test_another_owner_gets_nothing_and_ends_nothing(shell: Shell) -> None:
    before, other = session_at(shell, owner="one"), session_at(shell, owner="two")
    first, delivery = await handed(shell, before, b"1")

    second = await come(shell, other, held(delivery))

    assert [None] == second.subscription.claimed
    assert {0} == second.subscription.late_claims
    assert before.is_attached
    answer = shell.settle(first, delivery)
    await shell.until(lambda: answer.told)
    assert [None] == answer.told


async def test_an_outcome_whose_answer_was_lost_is_no_loss(shell: Shell) -> None:
    before, after = session_at(shell), session_at(shell)
    first, delivery = await handed(shell, before, b"1", b"2")
    answer = shell.settle(first, delivery)
    await shell.until(lambda: answer.told)

    second = await come(shell, after, held(delivery))

    assert [None] == second.subscription.claimed
    assert set() == second.subscription.late_claims


async def test_what_was_given_back_meanwhile_is_too_late(shell: Shell) -> None:
    before, after = session_at(shell), session_at(shell)
    first, delivery = await handed(shell, before, b"1")
    shell.settle(first, delivery, Ending.RELEASED)
    await shell.quiet()

    second = await come(shell, after, held(delivery))

    assert {0} == second.subscription.late_claims


async def test_groups_know_a_session_until_it_is_there_by_no_way(shell: Shell) -> None:
    """The end of one way must not make the next leader wait for nobody, or forget somebody."""
    before, after = session_at(shell), session_at(shell)
    await come(shell, before)
    await come(shell, after)

    def attached() -> int:
        return len(list(shell.store.range(b"s", b"t")))

    shell.broker.consumers.close_session(before, is_goodbye=True)
    await shell.quiet()
    assert 1 == attached()
    shell.broker.consumers.close_session(after, is_goodbye=True)
    await shell.until(lambda: not attached())


async def test_a_partition_that_is_led_elsewhere_has_lost_no_lease(shell: Shell) -> None:
    """What is claimed there goes on: so an outcome isn't refused for good."""
    consumer, delivery = await handed(shell, session_at(shell), b"1")

    consumer.subscription.drop(delivery.partition)

    with pytest.raises(NotLeaderError):
        shell.settle(consumer, delivery)
    with pytest.raises(NotLeaderError):
        shell.broker.outcomes.extend(
            consumer.subscription,
            delivery.partition,
            delivery.lease.token,
            lease_ms=1000,
            begun_count=0,
        )


async def test_a_partition_that_was_never_read_has_no_lease(shell: Shell) -> None:
    consumer, delivery = await handed(shell, session_at(shell), b"1")

    del consumer.subscription.groups[delivery.partition]

    with pytest.raises(LeaseLostError):
        shell.settle(consumer, delivery)


async def test_a_session_that_reads_twice_is_not_in_its_own_way() -> None:
    async with running(Shell()) as shell:
        session = session_at(shell)
        first, delivery = await handed(shell, session, b"1")
        second = await come(shell, session, held(delivery), subscription_id=2)

        assert session.is_attached
        assert [delivery.lease] == second.subscription.claimed
        assert [b"1"] == first.values


async def test_a_way_that_the_client_has_left_takes_nothing_back(shell: Shell) -> None:
    """What the node that it left still asked for comes behind what the next one asked for."""
    left, here = session_at(shell), session_at(shell)
    _, delivery = await handed(shell, left, b"1")
    consumer = await come(shell, here, held(delivery), connection=2)

    with pytest.raises(ConflictError):
        await come(shell, left, held(delivery), subscription_id=2, connection=1)

    assert here.is_attached
    assert consumer.subscription.consumer.key == delivery.lease.consumer
    await come(shell, left, held(delivery), subscription_id=2, connection=3)
    assert not here.is_attached


async def test_what_was_claimed_by_a_way_that_broke_is_there_for_the_next(shell: Shell) -> None:
    """It broke between the claim and the record that the group knows the session."""
    before, broken, after = (session_at(shell) for _ in range(3))
    _, delivery = await handed(shell, before, b"1")
    shell.log.hold_sync()
    coming = asyncio.create_task(come(shell, broken, held(delivery)))
    await shell.until(lambda: broken.attached)

    coming.cancel()
    await asyncio.wait([coming])
    shell.log.release_sync()
    again = await come(shell, after, held(delivery))

    assert [delivery.lease] == again.subscription.claimed
    answer = shell.settle(again, delivery)
    await shell.until(lambda: answer.told)
    assert [None] == answer.told
