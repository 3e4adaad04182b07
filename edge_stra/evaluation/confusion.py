"""A confusion matrix as a picture, drawn with OpenCV alone, so that a device without matplotlib can draw it."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_stra.drawing import (
    FINE,
    INK,
    MARGIN,
    PAPER,
    QUIET,
    Picture,
    Rgb,
    blank,
    put_text,
    reduced,
    shortened,
    text_width,
)

PALE, DEEP = (240, 246, 252), (8, 64, 140)  # 0 % and 100 % of a row
CELL, GAP = 78, 2  # pixels
MOST_DRAWN = 40  # labels: drawn four times as large, 40 take half a gigabyte


def shade(share: float) -> Rgb:
    """The colour of a cell that holds this share of its row, 0 to 1."""
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(PALE, DEEP, strict=True))
    return red, green, blue


def draw_confusion(counts: NDArray[np.int64], labels: Sequence[str], title: str) -> Picture:
    """Counts [truth, choice] as a picture, uint8 [H, W, 3] in RGB.

    Shades and percentages are of the row (the recall of each class stands on the diagonal); counts stand below.
    """
    number = len(labels)
    left = MARGIN + 30 + max(int(text_width(label, 9)) for label in labels) + 12
    top, side = MARGIN + 40, number * CELL
    width = left + side + MARGIN
    canvas = blank(top + side + 70, width)
    put_text(canvas, shortened(title, width - 2 * MARGIN, 11), width / 2, MARGIN + 6, 11)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for (row, column), share in np.ndenumerate(shares):
        x, y = left + column * CELL, top + row * CELL
        corners = ((x * FINE, y * FINE), ((x + CELL - GAP) * FINE - 1, (y + CELL - GAP) * FINE - 1))
        cv2.rectangle(canvas, *corners, shade(float(share)), cv2.FILLED)
        strong, weak = (PAPER, (222, 232, 246)) if share > 0.5 else (INK, QUIET if share < 0.2 else INK)
        centre = x + (CELL - GAP) / 2
        put_text(canvas, f"{100 * share:.0f}%", centre, y + 0.4 * CELL, 11, strong)
        put_text(canvas, str(counts[row, column]), centre, y + 0.68 * CELL, 7, weak)
    for index, label in enumerate(labels):
        middle = (index + 0.5) * CELL - GAP / 2
        put_text(canvas, label, left - 12, top + middle, 9, align=1)
        put_text(canvas, shortened(label, CELL, 8), left + middle, top + side + 16, 8)
    put_text(canvas, "chosen, % of the row and pictures", left + side / 2, top + side + 46, 8, QUIET)
    picture = reduced(canvas)
    upright = reduced(upright_text("labelled", side))
    picture[top : top + side, MARGIN : MARGIN + upright.shape[1]] = upright
    return picture


def upright_text(text: str, length: int) -> Picture:
    """A text that reads upwards, in the middle of a strip of this length, `FINE` times larger."""
    strip = blank(20, length)
    put_text(strip, text, length / 2, 10, 8, QUIET)
    return np.ascontiguousarray(np.rot90(strip))
