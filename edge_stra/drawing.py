"""Text and sheets for pictures of results, by OpenCV alone: a device has no matplotlib."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Rgb = tuple[int, int, int]
Picture = NDArray[np.uint8]

FINE = 4  # drawings are made so many times larger, then reduced: OpenCV's small text is ragged
FONT, CAP_HEIGHT = cv2.FONT_HERSHEY_DUPLEX, 22.0  # of FONT at scale 1, in pixels
PAPER, INK, QUIET = (255, 255, 255), (33, 37, 43), (110, 116, 126)
MARGIN = 24  # pixels


def blank(height: int, width: int) -> Picture:
    """An empty sheet, `FINE` times larger than the picture will be."""
    return np.full((height * FINE, width * FINE, 3), PAPER, np.uint8)


def reduced(canvas: Picture) -> Picture:
    size = (canvas.shape[1] // FINE, canvas.shape[0] // FINE)
    return cv2.resize(canvas, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def text_width(text: str, capitals: float) -> float:
    """In pixels, for capitals so many pixels high."""
    return cv2.getTextSize(drawable(text), FONT, FINE * capitals / CAP_HEIGHT, weight(capitals))[0][0] / FINE


def drawable(text: str) -> str:
    """OpenCV's font has ASCII only, and would draw a question mark for each byte of another letter, not one."""
    return text.encode("ascii", "replace").decode()


def weight(capitals: float) -> int:
    return max(1, round(FINE * capitals / 11))


def put_text(
    canvas: Picture, text: str, x: float, middle: float, capitals: float, color: Rgb = INK, align: float = 0.5
) -> None:
    """A line of text around (x, middle), in pixels; align 0 begins at x, 0.5 is centred, 1 ends there. In place."""
    left = x - align * text_width(text, capitals)
    origin = (round(left * FINE), round((middle + capitals / 2) * FINE))
    scale = FINE * capitals / CAP_HEIGHT
    cv2.putText(canvas, drawable(text), origin, FONT, scale, color, weight(capitals), cv2.LINE_AA)


def shortened(text: str, width: float, capitals: float) -> str:
    """The text, cut with dots where it is wider than so many pixels."""
    if text_width(text, capitals) <= width:
        return text
    while text and text_width(text + "...", capitals) > width:
        text = text[:-1]
    return text + "..."
