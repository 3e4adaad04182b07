"""Lists of pictures."""

from __future__ import annotations

from pathlib import Path

from edge_stra.data import spread, spread_indices


def test_pictures_are_taken_from_the_whole_list() -> None:
    """A folder is sorted by class: its first pictures would all be of one."""
    paths = [Path(str(i)) for i in range(10)]
    assert [p.name for p in spread(paths, 4)] == ["0", "3", "6", "9"]
    assert spread(paths, 10) == spread(paths, 99) == paths
    assert spread(paths, 1) == paths[:1]
    assert spread_indices(2, 4).tolist() == [0, 1] and spread_indices(0, 4).tolist() == []
