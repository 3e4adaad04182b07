"""What detectors hand on: boxes in pixels, and the function that finds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stra.spec import DataError

RectXywh = tuple[int, int, int, int]  # left, top, width, height in pixels; left and top may be negative


def common_area(a: RectXywh, b: RectXywh) -> int:
    """Of two rectangles, in pixels."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(0, width) * max(0, height)


@dataclass(frozen=True)
class Detection:
    """A detected face or person. The box may reach over the picture's border; score: confidence, 0 to 1, or None."""

    box_xywh: RectXywh
    score: float | None = None

    @property
    def area(self) -> int:
        return self.box_xywh[2] * self.box_xywh[3]


Detect = Callable[[NDArray[np.uint8]], list[Detection]]  # rgb_u8 [H, W, 3] -> faces or people, largest first


def largest_first(found: Iterable[Detection]) -> list[Detection]:
    """In an order that does not depend on the detector's."""
    return sorted(found, key=lambda one: (-one.area, one.box_xywh))


def check_picture(rgb_u8: NDArray[Any]) -> tuple[int, int]:
    """Height and width of a picture. Raises DataError where it is not uint8 [H, W, 3] with at least one pixel."""
    if rgb_u8.dtype != np.uint8 or rgb_u8.ndim != 3 or rgb_u8.shape[2] != 3 or rgb_u8.size == 0:
        raise DataError(
            f"a picture must be uint8 [height, width, 3] in RGB, but is {rgb_u8.dtype} {list(rgb_u8.shape)}; "
            "read it with edge_stra.preprocess.read_rgb"
        )
    return rgb_u8.shape[0], rgb_u8.shape[1]
