"""Batches as the door cuts them, whichever way they go."""

from collections.abc import Sequence

from sandglass.core.message import Batch
from sandglass.wire import convert


def cut_batch(
    batch: bytes, count: int, due_ms: Sequence[int] = (), delay_ms: Sequence[int] = ()
) -> Batch:
    """A serialized `MessageBatch` with its columns, checked and cut into rows."""
    content = (batch, count, due_ms, delay_ms)
    return convert.cut_plain(*content) or convert.cut(convert.check_batch(*content))
