"""
What becomes of a partition of which a rule is broken, or whose rows cannot be read: it stands
still, and nothing is lost.

The record that it can't carry out, and those behind it, are set aside in the view, in the very
write that brings the view past them. So the log can be trimmed as ever, and a restart finds the
partition as it was: stopped. Each start tries once to carry out what was set aside; when that
succeeds (a newer version knows how, or the fault lay in memory), the partition goes on as if
nothing had happened. Deleting its topic removes it with all the rest.
"""

import logging
from itertools import groupby

from sandglass.core import codec, keys
from sandglass.core.machine import Machine
from sandglass.core.record import Record
from sandglass.core.view import Changes, Overlay
from sandglass.errors import CorruptError

logger = logging.getLogger(__name__)


def keep(record: Record, position: int, reason: str, machine: Machine) -> Changes:
    """The row that sets a record aside; none if its topic is gone."""
    changes = Changes()
    if record.partition in machine.refs:
        key = keys.quarantine_key(record.partition, position)
        changes.rows[key] = keys.quarantine_value(reason, codec.encode(record))
    return changes


def read(view: Overlay) -> list[tuple[int, bytes, str]]:
    """(partition number, key, reason) of all that is set aside, in order."""
    prefix = keys.QUARANTINE_PREFIX
    return [
        (keys.partition_of(key), key, keys.read_quarantine(value)[0])
        for key, value in view.range(prefix, keys.after_prefix(prefix))
    ]


def release(machine: Machine, view: Overlay) -> list[int]:
    """Tries what was set aside; returns the partitions that go on, their changes laid."""
    released: list[int] = []
    for number, rows in groupby(read(view), key=lambda row: row[0]):
        trial = Overlay(view)
        try:
            for _, key, _ in rows:
                value = view.get(key)
                assert value is not None, "what was read a moment ago"
                record = codec.decode(keys.read_quarantine(value)[1])
                trial.lay(machine.apply(record, trial))
                trial.changes.rows[key] = None
        except (AssertionError, CorruptError) as error:
            logger.critical("partition %d stays stopped: %s", number, error)
            machine.restore(number, view)
            continue
        logger.warning("partition %d goes on", number)
        view.lay(trial.take())
        released.append(number)
    return released
