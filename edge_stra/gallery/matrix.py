"""The embeddings of a gallery in memory, and the exact scan over them. numpy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SPARE = 16  # candidates beyond k: float32 products of near vectors may come out in another order than distances


class Matrix:
    """Rows of length 1 with the number of each, in ascending order; room is added by half, so that appending is cheap.

    numbers: int64 [n]. sites: int32 [n], codes that the owner gives.
    """

    def __init__(self, dimension: int, room: int = 0) -> None:
        self._rows = np.empty((room, dimension), np.float32)
        self._numbers, self._sites = np.empty(room, np.int64), np.empty(room, np.int32)
        self.count = 0

    @property
    def numbers(self) -> NDArray[np.int64]:
        return self._numbers[: self.count]

    def append(self, numbers: list[int], sites: list[int], rows: NDArray[np.float32]) -> None:
        """Rows [m, K] with numbers larger than all before."""
        end = self.count + len(numbers)
        if end > len(self._rows):
            self._resize(max(end, len(self._rows) * 3 // 2))
        self._rows[self.count : end], self._numbers[self.count : end] = rows, numbers
        self._sites[self.count : end] = sites
        self.count = end

    def keep(self, numbers: NDArray[np.int64]) -> None:
        """Drops the rows whose numbers are not among these, and wipes them from memory."""
        stays = np.isin(self.numbers, numbers, assume_unique=True)
        if stays.all():
            return
        left = int(stays.sum())
        self._rows[:left] = self._rows[: self.count][stays]
        self._numbers[:left] = self._numbers[: self.count][stays]
        self._sites[:left] = self._sites[: self.count][stays]
        self._rows[left : self.count] = 0
        self.count = left

    def nearest(self, unit: NDArray[np.float32], k: int, site: int | None) -> list[tuple[int, float]]:
        """(number, Euclidean distance) of the k rows nearest to a vector [K] of length 1, nearest first."""
        if not self.count:
            return []
        likeness = self._rows[: self.count] @ unit  # (n,)
        if site is not None:
            likeness[self._sites[: self.count] != site] = -np.inf
        most = min(self.count, k + SPARE)
        places = np.argpartition(likeness, self.count - most)[self.count - most :]
        places = places[np.isfinite(likeness[places])]
        distances = np.linalg.norm(self._rows[places].astype(np.float64) - unit.astype(np.float64), axis=1)
        order = np.lexsort((self._numbers[places], distances))[:k]
        return [(int(self._numbers[places[i]]), float(distances[i])) for i in order]

    def _resize(self, room: int) -> None:
        rows, numbers, sites = self._rows, self._numbers, self._sites
        self._rows = np.empty((room, rows.shape[1]), np.float32)
        self._numbers, self._sites = np.empty(room, np.int64), np.empty(room, np.int32)
        self._rows[: self.count], self._numbers[: self.count] = rows[: self.count], numbers[: self.count]
        self._sites[: self.count] = sites[: self.count]
