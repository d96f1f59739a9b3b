"""How a batch is appended: where in time its messages come to stand, and its rows."""

from operator import add

from sandglass.core import keys, limits
from sandglass.core.dispatch import Moment
from sandglass.core.message import Batch
from sandglass.core.record import Append
from sandglass.core.view import Changes


def place_batch(
    batch: Batch, *, now_ms: int, moment: Moment
) -> tuple[list[int], list[bool], list[int]]:
    """Final due times, which rows are scheduled, and the waits of those that have one."""
    wall_ms = moment.wall_ms
    asked = batch.dues
    if batch.is_delay:
        asked = [wall_ms + delay_ms if delay_ms else 0 for delay_ms in asked]
        asked = [min(due_ms, limits.DUE_MS_MAX) for due_ms in asked]
    if min(asked) > now_ms:
        return asked, [True] * len(asked), []
    dues = [due_ms if due_ms > now_ms else now_ms for due_ms in asked]
    scheduled = [due_ms > wall_ms for due_ms in asked]
    waits: list[int] = []
    if now_ms > wall_ms and any(wall_ms < due_ms <= now_ms for due_ms in asked):
        # The clock was stepped back: now has passed this due time, the clock has not.
        steady_ms = moment.steady_ms
        waits = [
            steady_ms + due_ms - wall_ms if wall_ms < due_ms <= now_ms else 0
            for due_ms in asked
        ]
    return dues, scheduled, waits


def write_rows(partition: int, append: Append, changes: Changes) -> None:
    """Puts the messages of an append into the view."""
    rows, prefix = changes.rows, keys.rows_prefix(partition, append.channel)
    columns = [
        keys.row_columns(append.produced_ms, is_scheduled=flag, origin=append.origin)
        for flag in (False, True)
    ]
    places = keys.row_keys(prefix, append.dues, append.first_index, append.counts)
    starts = [columns[flag] for flag in append.scheduled]
    for number, wait_until_ms in enumerate(append.waits):
        if wait_until_ms:
            starts[number] = keys.row_columns(
                append.produced_ms, is_scheduled=True, wait_until_ms=wait_until_ms
            )
    rows.update(zip(places, map(add, starts, append.bodies), strict=True))
