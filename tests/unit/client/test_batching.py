"""What goes into one request, and when it goes."""

from sandglass.client.batching import BATCH_BYTES_MAX, BATCH_COUNT_MAX, Batcher

ROUTE = ("t", "", "")
OTHER = ("t", "", "c")


def add(
    batcher: Batcher,
    part: bytes = b"m",
    *,
    route: tuple[str, str, str] = ROUTE,
    time_ms: int = 0,
    is_delay: bool = False,
    deadline_ms: int = 1000,
) -> None:
    batcher.add(
        route, part, time_ms=time_ms, is_delay=is_delay, sink=part, deadline_ms=deadline_ms
    )


def test_a_lone_message_goes_at_once() -> None:
    batcher = Batcher()
    add(batcher)

    (batch,) = batcher.cut()

    assert [b"m"] == batch.parts
    assert [] == batcher.cut()


def test_messages_gather_while_an_answer_is_awaited() -> None:
    batcher = Batcher()
    add(batcher)
    batcher.cut()
    for part in (b"1", b"2", b"3"):
        add(batcher, part)

    meanwhile = batcher.cut()
    batcher.answered(ROUTE)
    (batch,) = batcher.cut()

    assert [] == meanwhile
    assert [b"1", b"2", b"3"] == batch.parts


def test_routes_do_not_wait_for_each_other() -> None:
    batcher = Batcher()
    add(batcher)
    batcher.cut()
    add(batcher, route=OTHER)

    assert [OTHER] == [batch.route for batch in batcher.cut()]


def test_a_full_batch_waits_for_nobody_and_is_exactly_full() -> None:
    batcher = Batcher()
    add(batcher)
    batcher.cut()
    for _ in range(BATCH_COUNT_MAX + 1):
        add(batcher)

    (batch,) = batcher.cut()

    assert BATCH_COUNT_MAX == len(batch.parts)


def test_a_batch_is_full_by_bytes_too_and_a_larger_message_goes_alone() -> None:
    batcher = Batcher()
    add(batcher)
    batcher.cut()
    add(batcher, bytes(BATCH_BYTES_MAX))
    exactly = batcher.cut()
    add(batcher, b"x")
    add(batcher, bytes(BATCH_BYTES_MAX + 1))
    add(batcher, b"y")

    sizes = [batch.size_bytes for batch in batcher.cut()]

    assert [] == exactly
    assert [BATCH_BYTES_MAX, 1, BATCH_BYTES_MAX + 1] == sizes


def test_order_within_a_route_is_kept_when_a_batch_is_full() -> None:
    batcher = Batcher()
    for number in range(BATCH_COUNT_MAX + 2):
        add(batcher, str(number).encode())

    (full,) = batcher.cut()
    batcher.answered(ROUTE)
    (rest,) = batcher.cut()

    assert b"0" == full.parts[0]
    assert [b"1000", b"1001"] == rest.parts


def test_messages_for_now_have_no_column() -> None:
    batcher = Batcher()
    add(batcher)
    add(batcher)

    produce = batcher.cut()[0].to_produce()

    assert ([], []) == (list(produce.due_ms), list(produce.delay_ms))
    assert (2, b"mm") == (produce.count, produce.batch)


def test_one_time_for_all_is_one_entry() -> None:
    batcher = Batcher()
    add(batcher, time_ms=7)
    add(batcher, time_ms=7)

    produce = batcher.cut()[0].to_produce()

    assert ([7], []) == (list(produce.due_ms), list(produce.delay_ms))


def test_a_message_for_now_goes_with_either_column_as_zero() -> None:
    batcher = Batcher()
    add(batcher)
    add(batcher, time_ms=7, is_delay=True)
    add(batcher)

    produce = batcher.cut()[0].to_produce()

    assert ([], [0, 7, 0]) == (list(produce.due_ms), list(produce.delay_ms))


def test_due_times_and_delays_do_not_share_a_request() -> None:
    batcher = Batcher()
    add(batcher, time_ms=7)
    add(batcher, time_ms=7, is_delay=True)

    (first,) = batcher.cut()
    batcher.answered(ROUTE)
    (second,) = batcher.cut()

    assert [7] == list(first.to_produce().due_ms)
    assert [7] == list(second.to_produce().delay_ms)


def test_a_waiting_batch_expires_with_its_first_message() -> None:
    batcher = Batcher()
    add(batcher)
    batcher.cut()
    add(batcher, deadline_ms=500)
    add(batcher, deadline_ms=600)

    before = batcher.expire(499)
    (batch,) = batcher.expire(500)

    assert [] == before
    assert 2 == len(batch.parts)


def test_one_message_of_a_batch_can_go_alone() -> None:
    batcher = Batcher()
    add(batcher, b"a")
    add(batcher, b"b", time_ms=9, is_delay=True)
    (batch,) = batcher.cut()

    produce = batch.alone(1).to_produce()

    assert (b"b", 1, [9]) == (produce.batch, produce.count, list(produce.delay_ms))
