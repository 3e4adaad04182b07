"""Which box of this frame is which of the last ones: by overlap with where each track should be by now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_stra.detections import RectXywh
from edge_stra.spec import DataError

MIN_OVERLAP = 0.2  # intersection over union; boxes of faces jump by a part of their side between slow frames
GAP_S = 1.0  # a track that was not seen for longer is over
VELOCITY_WEIGHT = 0.3  # of the newest displacement: boxes tremble, so a velocity is averaged


@dataclass
class Track:
    """A box followed over time. centre_xy moves on by velocity_xy, in pixels a second, until it is seen again."""

    number: int
    box_xywh: RectXywh
    velocity_xy: NDArray[np.float64]
    seen_s: float

    def expected(self, time_s: float) -> RectXywh:
        left, top, width, height = self.box_xywh
        dx, dy = self.velocity_xy * (time_s - self.seen_s)
        return round(left + dx), round(top + dy), width, height


class Tracker:
    """Gives each box the number of its track, from 1; numbers are never used again."""

    def __init__(self, gap_s: float = GAP_S) -> None:
        self.gap_s = gap_s
        self.tracks: dict[int, Track] = {}
        self._next, self._time_s = 1, -np.inf

    def update(self, boxes: Sequence[RectXywh], time_s: float, blind_s: float = 0.0) -> list[int]:
        """The track's number for each box of a frame, in order. Raises DataError where time runs backwards.

        `blind_s`: how much of the time since the last frame nobody looked; no track is over for that. Pairs with the
        largest overlap are joined first; what is left over begins a track of its own.
        """
        if time_s < self._time_s:
            raise DataError(f"a frame must not be older than the last, but is by {self._time_s - time_s:.3f} s")
        self._time_s = time_s
        self.tracks = {n: t for n, t in self.tracks.items() if time_s - t.seen_s <= self.gap_s + blind_s}
        numbers: list[int | None] = [None] * len(boxes)
        candidates = list(self.tracks.values())
        overlaps = iou_matrix([track.expected(time_s) for track in candidates], boxes)  # (tracks, boxes)
        while overlaps.size and overlaps.max() >= MIN_OVERLAP:
            row, column = divmod(int(overlaps.argmax()), overlaps.shape[1])
            numbers[column] = candidates[row].number
            self._move(candidates[row], boxes[column], time_s)
            overlaps[row], overlaps[:, column] = -1, -1
        return [self._begin(box, time_s) if n is None else n for n, box in zip(numbers, boxes, strict=True)]

    def _move(self, track: Track, box: RectXywh, time_s: float) -> None:
        if (passed := time_s - track.seen_s) > 0:
            displacement = (centre(box) - centre(track.box_xywh)) / passed
            track.velocity_xy = track.velocity_xy + VELOCITY_WEIGHT * (displacement - track.velocity_xy)
        track.box_xywh, track.seen_s = box, time_s

    def _begin(self, box: RectXywh, time_s: float) -> int:
        number, self._next = self._next, self._next + 1
        self.tracks[number] = Track(number, box, np.zeros(2), time_s)
        return number


def centre(box: RectXywh) -> NDArray[np.float64]:
    return np.array([box[0] + box[2] / 2, box[1] + box[3] / 2])


def iou_matrix(first: Sequence[RectXywh], second: Sequence[RectXywh]) -> NDArray[np.float64]:
    """Intersection over union of each box of `first` with each of `second`, [len(first), len(second)]."""
    a = np.array(first, np.float64).reshape(-1, 1, 4)
    b = np.array(second, np.float64).reshape(1, -1, 4)
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    common = np.clip(high - low, 0, None).prod(-1)
    union = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - common
    result: NDArray[np.float64] = common / np.maximum(union, 1e-9)
    return result
