"""The picture with its faces framed, named, and every label's probability as a bar. OpenCV's drawing only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_stra.apps.placement import clipped, place_panel, place_tag
from edge_stra.artifact import write_with
from edge_stra.faces import Expression, Face, RectXywh, check_picture
from edge_stra.spec import DataError, OutputError

Rgb = tuple[int, int, int]
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
TRACK: Rgb = (58, 63, 74)
PANEL_ALPHA, SOLID = 196, 255  # of 255: the picture stays visible behind a panel
FONT = cv2.FONT_HERSHEY_DUPLEX
CAP_HEIGHT = 22.0  # of FONT at scale 1, in pixels
FINE = 4  # panels and labels are drawn this many times larger and then reduced: OpenCV's small text is ragged
ROW_MIN, ROW_MAX = 13, 64  # height of one bar's row in pixels; below 13 its text can't be read
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def draw_expressions(rgb_u8: NDArray[np.uint8], expressions: Sequence[Expression]) -> NDArray[np.uint8]:
    """A copy of the picture, uint8 [H, W, 3], with a frame, a label and a panel of bars for each face.

    Only the pixels of `layout` change. A label or panel that does not fit is left out (see `enlarged` for small
    crops). Raises DataError where the picture is none.
    """
    size_hw = check_picture(rgb_u8)
    result = rgb_u8.copy()
    row = row_height(size_hw)
    places = layout(size_hw, expressions)
    for expression in expressions:
        draw_frame(result, expression.face.box_xywh, color_of(expression.label), frame_width(row))
    for expression, (_, _, panel) in zip(expressions, places, strict=True):
        if panel is not None:
            blend(result, panel_picture(expression, row), panel)
    for expression, (_, tag, _) in zip(expressions, places, strict=True):
        if tag is not None:
            blend(result, tag_picture(expression, row), tag)
    return result


def layout(
    size_hw: tuple[int, int], expressions: Sequence[Expression]
) -> list[tuple[RectXywh, RectXywh | None, RectXywh | None]]:
    """For each face the rectangles of its frame (with the line), its label and its panel; None for what has no room."""
    row = row_height(size_hw)
    gap, line = max(3, row // 3), frame_width(row)
    boxes = [expression.face.box_xywh for expression in expressions]
    frames = [clipped((x - line, y - line, w + 2 * line, h + 2 * line), size_hw) for x, y, w, h in boxes]
    tags = [place_tag(f, tag_size(e, row), size_hw, gap // 2) for f, e in zip(frames, expressions, strict=True)]
    panels: list[RectXywh | None] = []
    for index, (frame, expression) in enumerate(zip(frames, expressions, strict=True)):
        others = [other for i, other in enumerate(frames) if i != index]
        taken = [rect for rect in (*others, *tags, *panels) if rect is not None]
        panels.append(place_panel(frame, panel_size(expression, row), size_hw, gap, taken))
    return list(zip(frames, tags, panels, strict=True))


def row_height(size_hw: tuple[int, int]) -> int:
    """The height of a bar's row, in pixels: the one measure from which all others follow."""
    return min(ROW_MAX, max(ROW_MIN, round(min(size_hw) / 32)))


def frame_width(row: int) -> int:
    return max(1, round(row / 8))


def color_of(label: str) -> Rgb:
    return COLORS.get(label, OTHER_COLOR)


def text_scale(height: float) -> float:
    """The font's scale for capitals of `height` pixels."""
    return height / CAP_HEIGHT


def text_width(text: str, row: int) -> int:
    """The width in pixels of a text in a row of `row` pixels."""
    fine, _ = cv2.getTextSize(text, FONT, text_scale(0.5 * row * FINE), text_weight(row * FINE))
    return math.ceil(fine[0] / FINE)


def text_weight(fine_row: int) -> int:
    return max(1, round(fine_row / 20))


def put_text(canvas: NDArray[np.uint8], text: str, left: float, middle: float, row: int, color: Rgb) -> None:
    """Text on a fine canvas, its capitals centred on `middle`; `left`, `middle` and `row` are in final pixels."""
    fine = row * FINE
    origin = (round(left * FINE), round(middle * FINE + 0.25 * fine))
    cv2.putText(canvas, text, origin, FONT, text_scale(0.5 * fine), (*color, SOLID), text_weight(fine), cv2.LINE_AA)


def rounded(rect: tuple[float, float, float, float], radius: float) -> NDArray[np.int32]:
    """The outline [40, 2] of a rectangle xywh with round corners."""
    left, top, width, height = rect
    radius = min(radius, width / 2, height / 2)
    angles = np.linspace(0, math.pi / 2, 10)
    corners = ((left + width - radius, top + height - radius), (left + radius, top + height - radius),
               (left + radius, top + radius), (left + width - radius, top + radius))  # fmt: skip
    turns = [np.stack([x + radius * np.cos(angles + i * math.pi / 2), y + radius * np.sin(angles + i * math.pi / 2)], 1)
             for i, (x, y) in enumerate(corners)]  # fmt: skip
    return np.rint(np.concatenate(turns)).astype(np.int32)


def fill(canvas: NDArray[np.uint8], rect: tuple[float, float, float, float], radius: float, rgba: Any) -> None:
    """A filled rectangle with round corners on a fine canvas; all lengths in final pixels."""
    left, top, width, height = (v * FINE for v in rect)
    cv2.fillPoly(canvas, [rounded((left, top, width - 1, height - 1), radius * FINE)], rgba, cv2.LINE_AA)


def draw_frame(result: NDArray[np.uint8], box: RectXywh, color: Rgb, line: int) -> None:
    """A round-cornered frame on a dark one that is a little wider, so that it shows on any background. In place."""
    half = line // 2
    left, top, width, height = clipped((box[0], box[1], box[2], box[3]), (result.shape[0], result.shape[1]))
    outline = rounded((left + half, top + half, width - 1 - 2 * half, height - 1 - 2 * half), 0.08 * min(width, height))
    cv2.polylines(result, [outline], True, DARK, line + max(1, line // 2), cv2.LINE_AA)
    cv2.polylines(result, [outline], True, color, line, cv2.LINE_AA)


def tag_text(expression: Expression) -> str:
    return f"{expression.label} {percent(expression.probabilities[expression.label])}"


def percent(probability: float) -> str:
    return f"{100 * probability:.0f}%"


def tag_size(expression: Expression, row: int) -> tuple[int, int]:
    """Height and width of a label, in pixels."""
    return round(1.25 * row), text_width(tag_text(expression), row) + row


def tag_picture(expression: Expression, row: int) -> NDArray[np.uint8]:
    """The label as RGBA [h * FINE, w * FINE, 4]."""
    height, width = tag_size(expression, row)
    color = color_of(expression.label)
    canvas = np.zeros((height * FINE, width * FINE, 4), np.uint8)
    fill(canvas, (0, 0, width, height), 0.35 * row, (*color, SOLID))
    put_text(canvas, tag_text(expression), 0.5 * row, 0.5 * height, row, DARK)
    return canvas


def panel_columns(expression: Expression, row: int) -> tuple[int, int, int]:
    """The widths of names, bars and numbers, in pixels."""
    return max(text_width(label, row) for label in expression.probabilities), 4 * row, text_width("100%", row)


def panel_size(expression: Expression, row: int) -> tuple[int, int]:
    """Height and width of a panel, in pixels."""
    pad, gap = round(0.6 * row), round(0.5 * row)
    return len(expression.probabilities) * row + 2 * pad, sum(panel_columns(expression, row)) + 2 * gap + 2 * pad


def panel_picture(expression: Expression, row: int) -> NDArray[np.uint8]:
    """The panel as RGBA [h * FINE, w * FINE, 4]: one row for each label; the top one bright and in its colour."""
    height, width = panel_size(expression, row)
    names, bars, _ = panel_columns(expression, row)
    pad, gap = round(0.6 * row), round(0.5 * row)
    canvas = np.zeros((height * FINE, width * FINE, 4), np.uint8)
    fill(canvas, (0, 0, width, height), 0.5 * row, (*DARK, PANEL_ALPHA))
    for index, (label, probability) in enumerate(expression.probabilities.items()):
        top = label == expression.label
        middle = pad + (index + 0.5) * row
        color, thickness = (color_of(label), 0.5 * row) if top else (QUIET, 0.36 * row)
        put_text(canvas, label, pad, middle, row, color if top else QUIET)
        bar = (pad + names + gap, middle - thickness / 2, float(bars), thickness)
        fill(canvas, bar, thickness / 2, (*TRACK, SOLID))
        if probability * bars >= 0.5:  # less than half a pixel is an empty bar, not a dot
            fill(canvas, (bar[0], bar[1], max(thickness, probability * bars), thickness), thickness / 2, (*color, SOLID))
        number = percent(probability)
        put_text(canvas, number, width - pad - text_width(number, row), middle, row, LIGHT if top else QUIET)
    return canvas


def blend(result: NDArray[np.uint8], fine_rgba: NDArray[np.uint8], rect: RectXywh) -> None:
    """Reduces an RGBA drawing to `rect` and lays it over the picture. In place; `rect` lies in the picture."""
    left, top, width, height = rect
    # Colours are weighted by alpha before they are reduced: else the empty corners would darken the rounded edge.
    alpha = fine_rgba[:, :, 3:].astype(np.float32) / 255
    weighted = np.concatenate([fine_rgba[:, :, :3] * alpha, alpha], 2)
    small = cv2.resize(weighted, (width, height), interpolation=cv2.INTER_AREA)
    below = result[top : top + height, left : left + width]
    below[...] = np.rint(small[:, :, :3] + below * (1 - small[:, :, 3:])).clip(0, 255).astype(np.uint8)


def enlarged(
    rgb_u8: NDArray[np.uint8], expressions: Sequence[Expression], min_side: int = 480
) -> tuple[NDArray[np.uint8], list[Expression]]:
    """Picture and boxes, enlarged by a whole factor until the shorter side has `min_side` pixels.

    A crop of FER2013 has 48 x 48 pixels: no readable text fits on it before.
    """
    height, width = check_picture(rgb_u8)
    factor = math.ceil(min_side / min(height, width))
    if factor <= 1:
        return rgb_u8, list(expressions)
    large: Any = cv2.resize(rgb_u8, (width * factor, height * factor), interpolation=cv2.INTER_CUBIC)
    return large, [Expression(scaled(e.face, factor), e.probabilities, e.label) for e in expressions]


def scaled(face: Face, factor: int) -> Face:
    left, top, width, height = face.box_xywh
    return Face((left * factor, top * factor, width * factor, height * factor), face.score)


def write_picture(path: Path, rgb_u8: NDArray[np.uint8]) -> None:
    """Writes a picture, uint8 [H, W, 3], whole or not at all. Raises OutputError where that can't be, DataError."""
    check_picture(rgb_u8)
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise OutputError(f"{path} must end in one of {', '.join(PICTURE_SUFFIXES)}, but ends in {path.suffix or 'nothing'!r}")
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent} must be a folder, but there is none; make it first")
    done, data = cv2.imencode(path.suffix.lower(), cv2.cvtColor(rgb_u8, cv2.COLOR_RGB2BGR))
    if not done:
        raise DataError(f"{path} can't be encoded by OpenCV {cv2.__version__}; take another suffix")
    write_with(path, lambda temporary: data.tofile(temporary))
