"""The figures of a node: looked up within bounds."""

import asyncio

import pytest

from sandglass.broker import figures
from sandglass.broker.figures import read_figures
from sandglass.broker.groups import Start
from sandglass.broker.shared_catalog import ClusterSeen, LogSeen, SnapshotsSeen
from sandglass.core import limits
from sandglass.core.record import Ending
from sandglass.telemetry import NAMES, OTHER_TOPICS, PREFIX, HttpCounts
from sandglass.web.metrics import Scrapes, scrape
from tests.unit.broker.shell import Shell

GROUP = ("t", "master", "g")


async def value(shell: Shell, name: str, *labels: str) -> float:
    return (await read_figures(shell.broker)).values[name][labels]


async def test_each_message_is_pending_ready_leased_waiting_or_done(shell: Shell) -> None:
    consumer = await shell.consume(credit_count=4)
    await shell.produce(*[b"%d" % number for number in range(6)])
    await shell.produce(b"later", b"too", due_ms=shell.clock.wall_ms() + 60_000)
    await shell.until(lambda: len(consumer.values) == 4)
    (delivery,) = consumer.deliveries
    settle = shell.broker.outcomes.settle
    for place, ending in ((0, Ending.ACKED), (1, Ending.NACKED)):
        settle(
            consumer.subscription,
            delivery.partition,
            delivery.lease.token,
            [(place, 1)],
            ending,
            None,
            delay_ms=60_000 if ending is Ending.NACKED else 0,
        )
    await shell.quiet()

    found = (await read_figures(shell.broker)).values

    assert found.keys() <= NAMES
    assert 2 == found["pending_messages"]["t",]
    assert 2 == found["ready_messages"][GROUP]
    assert 2 == found["leased_messages"][GROUP]
    assert 1 == found["waiting_messages"][GROUP]
    assert 8 == found["produced_messages"]["t",]
    assert 4 == found["delivered_messages"]["t",]
    assert 1 == found["outcomes"]["t", "ack"]
    assert 1 == found["outcomes"]["t", "nack"]
    assert 0 == found["lower_bounds"][()]
    assert 1 == found["subscriptions"][()]


async def test_messages_before_a_groups_start_are_skipped(shell: Shell) -> None:
    consumer = await shell.consume()
    await shell.produce(b"a", b"b", b"c")
    await shell.until(lambda: consumer.values)
    before = await value(shell, "skipped_messages", *GROUP)

    await shell.broker.groups.seek(shell.t, "g", Start(is_now=True))

    assert (0, 3) == (before, await value(shell, "skipped_messages", *GROUP))
    ((_, status),) = [each async for each in shell.broker.status.parts(shell.t)]
    assert 3 == status.skipped_count


async def test_a_group_that_nobody_reads_is_shown_and_not_kept_in_memory(shell: Shell) -> None:
    consumer = await shell.consume(credit_count=0)
    shell.broker.consumers.leave(consumer.subscription)
    await shell.produce(b"a", b"b")
    partition = shell.loop.partition(shell.t.partitions[0].number)
    partition.groups.loaded.clear()

    assert 2 == await value(shell, "ready_messages", *GROUP)
    assert {} == partition.groups.loaded


async def test_more_rows_than_one_look_may_take_make_a_lower_bound(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "LOOK_ROW_COUNT_MAX", 3)
    at_ms = shell.clock.wall_ms() + 60_000
    for number in range(2):
        await shell.produce(b"x", due_ms=at_ms + number)

    assert (2, 0) == (
        await value(shell, "pending_messages", "t"),
        await value(shell, "lower_bounds"),
    )
    for number in range(2, 4):
        await shell.produce(b"x", due_ms=at_ms + number)
    assert (3, 1) == (
        await value(shell, "pending_messages", "t"),
        await value(shell, "lower_bounds"),
    )


@pytest.mark.parametrize(
    ("limit", "at_most", "is_short"),
    [("METRICS_TOPIC_COUNT_MAX", 2, 0), ("METRICS_TOPIC_COUNT_MAX", 1, 1)],
)
async def test_topics_beyond_the_limit_stand_together(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, limit: str, at_most: int, is_short: int
) -> None:
    await shell.broker.catalog.create_topic("a")
    await shell.produce(b"x")
    monkeypatch.setattr(limits, limit, at_most)

    found = (await read_figures(shell.broker)).values

    assert is_short == found["lower_bounds"][()]
    assert 1 == found["produced_messages"][OTHER_TOPICS if is_short else "t",]


async def test_partitions_beyond_the_limit_are_left_out(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shell.broker.catalog.create_topic("a", partition_count=2)
    budget = figures._Budget
    for count, is_short in ((3, 0), (2, 1)):
        monkeypatch.setattr(
            figures,
            "_Budget",
            lambda count=count: budget(partition_count=count),
        )
        assert is_short == await value(shell, "lower_bounds")


async def test_who_asks_while_a_scrape_runs_is_given_the_same(shell: Shell) -> None:
    scrapes, http = Scrapes(shell.broker), HttpCounts([], [])

    one, other = await asyncio.gather(scrapes.text(http), scrapes.text(http))
    await shell.produce(b"x")
    later = await scrapes.text(http)

    assert one is other
    assert b'produced_messages_total{topic="t"} 1.0' in later
    assert one != later


async def test_groups_and_rows_beyond_the_limit_are_left_out(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shell.produce(b"x")
    for group in ("g", "h"):
        await shell.consume(group=group, credit_count=0)
    monkeypatch.setattr(limits, "METRICS_GROUP_COUNT_MAX", 2)
    budget = figures._Budget
    for count, is_short in ((3, 0), (2, 1), (1, 1)):

        def few(count: int = count) -> figures._Budget:
            return budget(group_count=count)

        monkeypatch.setattr(figures, "_Budget", few)
        assert is_short == await value(shell, "lower_bounds")
    monkeypatch.setattr(figures, "_Budget", lambda: budget(row_count=0))
    assert 1 == await value(shell, "lower_bounds")


async def test_a_deleted_topic_takes_nothing_off_the_sums(shell: Shell) -> None:
    await shell.produce(b"x", b"y")

    await shell.broker.catalog.delete_topic("t")

    assert 2 == await value(shell, "produced_messages", OTHER_TOPICS)


async def test_a_topic_may_go_while_it_is_looked_at(shell: Shell) -> None:
    await shell.produce(b"x")
    for group in ("g", "h"):
        await shell.consume(group=group, credit_count=0)

    reading = asyncio.create_task(read_figures(shell.broker))
    await asyncio.sleep(0)
    await shell.broker.catalog.delete_topic("t")

    assert "lower_bounds" in (await reading).values


async def test_a_scrape_shows_every_metric_with_its_kind(shell: Shell) -> None:
    await shell.produce(b"x")
    await shell.consume()
    http = HttpCounts([], [])
    http.answered(200)

    text = (await scrape(shell.broker, http)).decode()

    for name in NAMES:
        assert f"# HELP {PREFIX}{name}" in text
    assert f'{PREFIX}http_answers_total{{code="200"}} 1.0' in text
    assert f"{PREFIX}lateness_seconds_count 1.0" in text
    assert f'{PREFIX}lateness_seconds_bucket{{le="+Inf"}} 1.0' in text


async def test_snapshots_show_with_their_topics(shell: Shell) -> None:
    logs = (LogSeen("t", 7, 2000), LogSeen("t", 5, 9000), LogSeen("gone", 1, None))
    seen = ClusterSeen(snapshots=SnapshotsSeen(3, 1, 4096, 2, logs))
    shell.broker.loops.look_around = lambda: seen

    found = (await read_figures(shell.broker)).values

    assert {(): 3} == found["snapshots"]
    assert {(): 1} == found["snapshot_failures"]
    assert {(): 4096} == found["snapshot_sent_bytes"]
    assert {(): 2} == found["snapshot_restores"]
    assert {("t",): 12, (OTHER_TOPICS,): 1} == found["log_trimmed_entries"]
    assert {("t",): 9} == found["snapshot_age_seconds"]
