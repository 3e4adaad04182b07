"""Where each mode looks, drawn over the faces of a live picture."""

from __future__ import annotations

import cv2
import numpy as np
from edge_stra.apps.modes import MODE_COLORS
from numpy.typing import NDArray

from edge_stra.detections import RectXywh

STRENGTH = 0.6  # of a mode's colour where its mask is largest


def draw_masks(rgb_u8: NDArray[np.uint8], region_xywh: RectXywh, masks: NDArray[np.float32]) -> None:
    """Lays the masks [G, h, w] over the region that the model saw, each in its mode's colour. In place.

    The region may reach over the border.

    Each mask is scaled to its own largest value; where several modes look, their colours mix.
    """
    first_column, first_row, width, height = region_xywh
    peaks = masks / np.maximum(masks.max(axis=(1, 2), keepdims=True), 1e-12)  # (g, h, w), 0..1
    colors = np.array([MODE_COLORS[g % len(MODE_COLORS)] for g in range(len(masks))], np.float32)
    color = np.tensordot(peaks, colors, ((0,), (0,))) / np.maximum(peaks.sum(0), 1e-6)[..., None]  # (h, w, 3)
    drawn = np.dstack([color, peaks.max(0)]).astype(np.float32)
    drawn = np.asarray(cv2.resize(drawn, (width, height), interpolation=cv2.INTER_LINEAR))  # (height, width, 4)
    rows = np.arange(max(0, first_row), min(rgb_u8.shape[0], first_row + height))
    columns = np.arange(max(0, first_column), min(rgb_u8.shape[1], first_column + width))
    if not (len(rows) and len(columns)):
        return
    part = drawn[np.ix_(rows - first_row, columns - first_column)]
    below = rgb_u8[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    alpha = STRENGTH * part[..., 3:]
    below[...] = np.rint(part[..., :3] * alpha + below * (1 - alpha)).astype(np.uint8)
