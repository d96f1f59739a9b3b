"""How many connections there may be."""

import pytest

from sandglass.web.bounds import Bounds, fitting


@pytest.mark.parametrize(
    ("file_count", "connection_count"),
    [(20_000, 1000), (4000, 1000), (3999, 999), (256, 64), (4, 1), (0, 1)],
)
def test_connections_leave_three_quarters_of_the_files_to_others(
    file_count: int, connection_count: int
) -> None:
    assert connection_count == fitting(Bounds(), file_count).connection_count_max
