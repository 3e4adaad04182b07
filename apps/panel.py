"""The drawn parts of an overlay: colours, text, the label and the panel of bars."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_stra.drawing import CAP_HEIGHT, FONT, drawable
from edge_stra.faces import Expression

Rgb = tuple[int, int, int]
Drawing = NDArray[np.uint8]  # [h, w, 4], RGB multiplied by alpha, alpha 0..255
RectFloat = tuple[float, ...]  # left, top, width, height
COLORS: Mapping[str, Rgb] = {
    "anger": (255, 107, 99),
    "disgust": (126, 211, 110),
    "fear": (190, 150, 255),
    "happiness": (255, 206, 84),
    "sadness": (104, 176, 255),
    "surprise": (255, 158, 92),
    "neutral": (200, 208, 220),
}
OTHER_COLOR: Rgb = (94, 220, 214)  # for labels that are not FER's
DARK: Rgb = (16, 19, 26)
LIGHT: Rgb = (242, 244, 248)
QUIET: Rgb = (176, 183, 194)
TRACK: Rgb = (80, 86, 99)
PANEL_ALPHA, SOLID = 212, 255  # of 255: the picture stays visible behind a panel
ROW_MIN, ROW_MAX = 13, 64  # height of one bar's row in pixels; below 13 its text can't be read


def row_height(size_hw: tuple[int, int]) -> int:
    """The height of a bar's row, in pixels: the one measure from which all others follow."""
    return min(ROW_MAX, max(ROW_MIN, round(min(size_hw) / 32)))


def fineness(row: int) -> int:
    """How many times larger labels and panels are drawn before they are reduced: OpenCV's small text is ragged."""
    return 4 if row < 20 else 2


def frame_width(row: int) -> int:
    return max(1, round(row / 8))


def color_of(label: str) -> Rgb:
    return COLORS.get(label, OTHER_COLOR)


def text_scale(height: float) -> float:
    """The font's scale for capitals of `height` pixels."""
    return height / CAP_HEIGHT


def text_width(text: str, row: int) -> int:
    """The width in pixels of a text in a row of `row` pixels."""
    fine_row = row * fineness(row)
    size, _ = cv2.getTextSize(drawable(text), FONT, text_scale(0.5 * fine_row), text_weight(fine_row))
    return math.ceil(size[0] / fineness(row))


def text_weight(fine_row: int) -> int:
    return max(1, round(fine_row / 20))


def put_text(canvas: NDArray[np.uint8], text: str, left: float, middle: float, row: int, color: Rgb) -> None:
    """Text on a fine canvas, its capitals centred on `middle`; `left`, `middle` and `row` are in final pixels."""
    fine = row * fineness(row)
    origin = (round(left * fineness(row)), round(middle * fineness(row) + 0.25 * fine))
    cv2.putText(
        canvas, drawable(text), origin, FONT, text_scale(0.5 * fine), (*color, SOLID), text_weight(fine), cv2.LINE_AA
    )


def rounded(rect: RectFloat, radius: float) -> NDArray[np.int32]:
    """The outline [40, 2] of a rectangle xywh with round corners."""
    left, top, width, height = rect
    radius = min(radius, width / 2, height / 2)
    angles = np.linspace(0, math.pi / 2, 10)
    near_x, far_x = left + radius, left + width - radius
    near_y, far_y = top + radius, top + height - radius
    centres = ((far_x, far_y), (near_x, far_y), (near_x, near_y), (far_x, near_y))
    turns = []
    for quarter, centre in enumerate(centres):
        turned = angles + quarter * math.pi / 2
        turns.append(np.stack([np.cos(turned), np.sin(turned)], 1) * radius + centre)  # (10, 2)
    return np.rint(np.concatenate(turns)).astype(np.int32)  # (40, 2)


def fill(canvas: NDArray[np.uint8], rect: RectFloat, radius: float, fine: int, rgba: Any) -> None:
    """A filled rectangle with round corners on a fine canvas; all lengths in final pixels."""
    left, top, width, height = (v * fine for v in rect)
    cv2.fillPoly(canvas, [rounded((left, top, width - 1, height - 1), radius * fine)], rgba, cv2.LINE_AA)


def tag_text(expression: Expression) -> str:
    if expression.label not in expression.probabilities:
        return expression.label  # "unsure": no label's probability to show
    return f"{expression.label} {percent(expression.probabilities[expression.label])}"


def percent(probability: float) -> str:
    return f"{100 * probability:.0f}%"


def tag_size(expression: Expression, row: int) -> tuple[int, int]:
    """Height and width of a label, in pixels."""
    return round(1.25 * row), text_width(tag_text(expression), row) + row


def tag_picture(expression: Expression, row: int) -> Drawing:
    """The label as a drawing [h, w, 4]."""
    return draw_tag(tag_text(expression), color_of(expression.label), row, tag_size(expression, row))


@lru_cache(maxsize=128)
def draw_tag(text: str, color: Rgb, row: int, size_hw: tuple[int, int]) -> Drawing:
    height, width = size_hw
    fine = fineness(row)
    canvas = np.zeros((height * fine, width * fine, 4), np.uint8)
    fill(canvas, (0, 0, width, height), 0.35 * row, fine, (*color, SOLID))
    put_text(canvas, text, 0.5 * row, 0.5 * height, row, DARK)
    return reduced_drawing(canvas, size_hw)


def panel_columns(expression: Expression, row: int) -> tuple[int, int, int]:
    """The widths of names, bars and numbers, in pixels."""
    return max(text_width(label, row) for label in expression.probabilities), 5 * row, text_width("100%", row)


def panel_size(expression: Expression, row: int) -> tuple[int, int]:
    """Height and width of a panel, in pixels."""
    pad, gap = round(0.6 * row), round(0.5 * row)
    return len(expression.probabilities) * row + 2 * pad, sum(panel_columns(expression, row)) + 2 * gap + 2 * pad


def panel_picture(expression: Expression, row: int) -> Drawing:
    """The panel as a drawing [h, w, 4]: one row for each label; the top one bright and in its colour.

    Drawing text finely takes milliseconds, and a live picture has a panel for each face of each frame: so each row is
    kept as it was drawn for its label and its percentage, of which there are few.
    """
    columns = panel_columns(expression, row)
    height, width = panel_size(expression, row)
    pad = round(0.6 * row)
    result: Drawing = panel_ground((height, width), row).copy()
    for index, (label, probability) in enumerate(expression.probabilities.items()):
        first = pad + index * row
        top = label == expression.label
        result[first : first + row] = panel_row(label, round(100 * probability), top, row, columns, width)
    return result


@lru_cache(maxsize=16)
def panel_ground(size_hw: tuple[int, int], row: int) -> Drawing:
    """A panel without its rows."""
    height, width = size_hw
    fine = fineness(row)
    canvas = np.zeros((height * fine, width * fine, 4), np.uint8)
    fill(canvas, (0, 0, width, height), 0.5 * row, fine, (*DARK, PANEL_ALPHA))
    return reduced_drawing(canvas, size_hw)


@lru_cache(maxsize=512)  # 12 KB each at 480 pixels of height
def panel_row(label: str, hundredths: int, top: bool, row: int, columns: tuple[int, int, int], width: int) -> Drawing:
    """One row of a panel, [row, width, 4]: name, bar and number."""
    names, bars, _ = columns
    pad, gap, fine = round(0.6 * row), round(0.5 * row), fineness(row)
    canvas = np.zeros((row * fine, width * fine, 4), np.uint8)
    canvas[:] = (*DARK, PANEL_ALPHA)
    color, thickness = (color_of(label), 0.5 * row) if top else (QUIET, 0.36 * row)
    put_text(canvas, label, pad, row / 2, row, color if top else QUIET)
    bar = (pad + names + gap, (row - thickness) / 2, float(bars), thickness)
    fill(canvas, bar, thickness / 2, fine, (*TRACK, SOLID))
    if hundredths * bars >= 50:  # less than half a pixel is an empty bar, not a dot
        fill(canvas, (bar[0], bar[1], hundredths / 100 * bars, thickness), thickness / 2, fine, (*color, SOLID))
    number = percent(hundredths / 100)
    put_text(canvas, number, width - pad - text_width(number, row), row / 2, row, LIGHT if top else QUIET)
    return reduced_drawing(canvas, (row, width))


def reduced_drawing(fine_rgba: NDArray[np.uint8], size_hw: tuple[int, int]) -> Drawing:
    """A fine RGBA drawing at its final size, colours multiplied by alpha: what `overlay.blend` lays over a picture."""
    # Before the reduction, not after: else the empty corners would darken a rounded edge.
    alpha = fine_rgba[:, :, 3:].astype(np.float32) / 255
    weighted = np.concatenate([fine_rgba[:, :, :3] * alpha, fine_rgba[:, :, 3:]], 2)
    small = cv2.resize(weighted, size_hw[::-1], interpolation=cv2.INTER_AREA)
    result: Drawing = np.rint(small).astype(np.uint8)
    return result
