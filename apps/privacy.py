"""Faces made unrecognisable, before a picture reaches any output."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_stra.detections import RectXywh

CELLS = 6  # of the mosaic along a face's longer side: fewer numbers than any face recogniser takes as its input
MARGIN = 0.25  # hair and ears tell too; a part of the box's side added all around


def hide(rgb_u8: NDArray[np.uint8], boxes_xywh: Sequence[RectXywh]) -> NDArray[np.uint8]:
    """A copy of the picture, uint8 [H, W, 3], whose boxes are a coarse, smooth mosaic: details are averaged away.

    A box may reach over the border.
    """
    result: NDArray[np.uint8] = rgb_u8.copy()
    for left, top, width, height in boxes_xywh:
        dx, dy = round(MARGIN * width), round(MARGIN * height)
        rows = slice(max(0, top - dy), max(0, top + height + dy))
        columns = slice(max(0, left - dx), max(0, left + width + dx))
        part = result[rows, columns]
        if part.size == 0:
            continue
        cell = max(part.shape[:2]) / CELLS
        small_wh = (max(1, round(part.shape[1] / cell)), max(1, round(part.shape[0] / cell)))
        small = cv2.resize(part, small_wh, interpolation=cv2.INTER_AREA)
        result[rows, columns] = cv2.resize(small, part.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return result
