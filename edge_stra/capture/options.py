"""What a user may ask of a source, and how its pictures are turned as asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_stra.preprocess import resize_exact
from edge_stra.spec import DataError

MAX_SIDE = 16384  # no camera or video gives more; a typing error in a size does
TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


@dataclass(frozen=True)
class CaptureOptions:
    """What a user asks of a source.

    size_wh: asked of a camera; what comes larger, from any source, is scaled down to fit within it, its aspect kept.
    fps: asked of a camera; at most this many frames a second are handed out; the rate of a folder's pictures.
    rotate: degrees clockwise, 0, 90, 180 or 270, after the scaling. mirror: left and right exchanged, at last.
    loop: a file or folder begins again at its end. realtime: a file plays at its own rate, and only the newest frame
    counts, as from a camera. timeout_s: how long opening and each reading of a stream may take. tell: takes a line when
    a live source drops and when it is back.
    Raises DataError for a value that makes no sense.
    """

    size_wh: tuple[int, int] | None = None
    fps: float | None = None
    rotate: int = 0
    mirror: bool = False
    loop: bool = False
    realtime: bool = False
    tell: Callable[[str], None] | None = None
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if self.size_wh is not None and not 1 <= min(self.size_wh) <= max(self.size_wh) <= MAX_SIDE:
            raise DataError(f"a size must be 1 to {MAX_SIDE} pixels a side, but is {self.size_wh}; give it as 640x480")
        if self.rotate not in (0, *TURNS):
            raise DataError(f"pictures can be rotated by 0, 90, 180 or 270 degrees, but not by {self.rotate}")
        for name, value in (("fps", self.fps), ("timeout_s", self.timeout_s)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise DataError(f"{name} must be a finite number above 0, but is {value}; leave it out or correct it")


def prepared(bgr_u8: NDArray[np.uint8], options: CaptureOptions) -> NDArray[np.uint8]:
    """A camera's picture [H, W, 3] in BGR as RGB, scaled down, rotated and mirrored as asked."""
    picture = cv2.cvtColor(bgr_u8, cv2.COLOR_BGR2RGB)
    if options.size_wh is not None:
        height, width = picture.shape[:2]
        scale = min(options.size_wh[0] / width, options.size_wh[1] / height)
        if scale < 1:
            size_hw = (max(1, round(height * scale)), max(1, round(width * scale)))
            picture = resize_exact(picture, size_hw)  # type: ignore[arg-type]
    if options.rotate:
        picture = cv2.rotate(picture, TURNS[options.rotate])
    if options.mirror:
        picture = cv2.flip(picture, 1)
    return picture  # type: ignore[return-value]
