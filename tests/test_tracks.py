"""Tracks: who is who from one frame to the next."""

from __future__ import annotations

import pytest

from edge_stra.live.tracks import Tracker, iou_matrix
from edge_stra.spec import DataError

LEFT, RIGHT = (10, 10, 40, 40), (200, 10, 40, 40)


def moved(box: tuple[int, int, int, int], dx: int) -> tuple[int, int, int, int]:
    return box[0] + dx, box[1], box[2], box[3]


def test_overlap_is_intersection_over_union() -> None:
    boxes = [(0, 0, 10, 10), (5, 0, 10, 10), (20, 20, 1, 1)]
    assert iou_matrix(boxes[:1], boxes).round(6).tolist() == [[1.0, round(50 / 150, 6), 0.0]]
    assert iou_matrix([], boxes).shape == (0, 3)


def test_boxes_keep_their_numbers_in_any_order() -> None:
    tracker = Tracker()
    assert tracker.update([LEFT, RIGHT], 0.0) == [1, 2]
    assert tracker.update([moved(RIGHT, 5), moved(LEFT, 5)], 0.1) == [2, 1]


def test_a_new_box_gets_a_number_that_was_never_used() -> None:
    tracker = Tracker(gap_s=0.5)
    assert tracker.update([LEFT], 0.0) == [1]
    assert tracker.update([], 1.0) == []
    assert tracker.update([LEFT], 1.1) == [2], "the gap was longer than a track lives"


def test_a_track_lives_through_a_short_gap() -> None:
    tracker = Tracker(gap_s=0.5)
    tracker.update([LEFT], 0.0)
    tracker.update([], 0.2)
    assert tracker.update([LEFT], 0.4) == [1]


def test_a_moving_box_is_looked_for_where_it_should_be_by_now() -> None:
    tracker = Tracker()
    for step in range(20):  # 20 pixels a frame
        assert tracker.update([moved(LEFT, 20 * step)], 0.1 * step) == [1]
    later = moved(LEFT, 20 * 23)  # three frames were missed: 80 pixels on, twice its width
    assert iou_matrix([moved(LEFT, 20 * 19)], [later]).max() == 0
    assert tracker.update([later], 2.3) == [1]


def test_the_largest_overlap_is_joined_first() -> None:
    tracker = Tracker()
    tracker.update([(0, 0, 100, 100)], 0.0)
    assert tracker.update([(40, 0, 100, 100), (5, 0, 100, 100)], 0.1) == [2, 1]


@pytest.mark.parametrize(("dx", "number"), [(26, 1), (27, 2), (190, 2)])  # overlap 14/66, 13/67, none
def test_who_appears_elsewhere_is_somebody_else(dx: int, number: int) -> None:
    tracker = Tracker()
    assert tracker.update([LEFT], 0.0) == [1]
    assert tracker.update([moved(LEFT, dx)], 0.1) == [number]


def test_time_does_not_run_backwards() -> None:
    tracker = Tracker()
    tracker.update([LEFT], 1.0)
    with pytest.raises(DataError, match="older than the last"):
        tracker.update([LEFT], 0.9)
