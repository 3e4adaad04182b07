"""The picture with its faces framed, named, and every label's probability as a bar. OpenCV's drawing only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from edge_stra.apps.panel import (
    DARK,
    Drawing,
    Rgb,
    color_of,
    frame_width,
    panel_picture,
    panel_size,
    rounded,
    row_height,
    tag_picture,
    tag_size,
)
from edge_stra.apps.placement import clipped, place_panel, place_tag
from numpy.typing import NDArray

from edge_stra.artifact import write_with
from edge_stra.detections import Detection, RectXywh, check_picture
from edge_stra.faces import Expression
from edge_stra.spec import DataError, OutputError

SUBPIXEL_BITS = 4
SPILL = 3  # pixels outside a box that the frame's dark rim and its smoothing reach, at any line width
MAX_SIDE = 8192  # of an enlarged picture
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def draw_expressions(rgb_u8: NDArray[np.uint8], expressions: Sequence[Expression]) -> NDArray[np.uint8]:
    """A copy of the picture, uint8 [H, W, 3], with a frame, a label and a panel of bars for each face.

    Only the pixels of `layout` change. A label or panel that does not fit is left out (see `enlarged` for small
    crops). Raises DataError where the picture is none.
    """
    size_hw = check_picture(rgb_u8)
    result: NDArray[np.uint8] = rgb_u8.copy()
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
    gap = max(3, row // 3)
    boxes = [expression.face.box_xywh for expression in expressions]
    frames = [clipped((x - SPILL, y - SPILL, w + 2 * SPILL, h + 2 * SPILL), size_hw) for x, y, w, h in boxes]
    tags = [place_tag(f, tag_size(e, row), size_hw, gap // 2) for f, e in zip(frames, expressions, strict=True)]
    panels: list[RectXywh | None] = []
    for index, (frame, expression) in enumerate(zip(frames, expressions, strict=True)):
        others = [other for i, other in enumerate(frames) if i != index]
        texts = [rect for rect in (*tags, *panels) if rect is not None]
        panels.append(place_panel(frame, tags[index], panel_size(expression, row), size_hw, gap, others, texts))
    return list(zip(frames, tags, panels, strict=True))


def draw_frame(result: NDArray[np.uint8], box: RectXywh, color: Rgb, line: int) -> None:
    """A round-cornered frame on a dark one that is a little wider, so that it shows on any background. In place."""
    left, top, width, height = clipped(box, (result.shape[0], result.shape[1]))
    if min(width, height) == 0:
        return
    half = line / 2
    inner = (left + half, top + half, max(0.0, width - 1 - line), max(0.0, height - 1 - line))
    unit = 1 << SUBPIXEL_BITS
    outline = rounded(tuple(v * unit for v in inner), 0.08 * min(width, height) * unit)
    cv2.polylines(result, [outline], True, DARK, line + 2, cv2.LINE_AA, SUBPIXEL_BITS)
    cv2.polylines(result, [outline], True, color, line, cv2.LINE_AA, SUBPIXEL_BITS)


def blend(result: NDArray[np.uint8], drawing: Drawing, rect: RectXywh) -> None:
    """Lays a drawing [h, w, 4] over the pixels `rect` of a picture, of the drawing's size. In place."""
    left, top, width, height = rect
    below = result[top : top + height, left : left + width]
    seen = cv2.merge([255 - drawing[:, :, 3]] * 3)
    below[...] = cv2.add(cv2.multiply(below, seen, scale=1 / 255), drawing[:, :, :3])


def enlarged(
    rgb_u8: NDArray[np.uint8], expressions: Sequence[Expression], min_side: int = 480
) -> tuple[NDArray[np.uint8], list[Expression]]:
    """Picture and boxes, enlarged by a whole factor until the shorter side has `min_side` pixels.

    A crop of FER2013 has 48 x 48 pixels: no readable text fits on it before.
    """
    height, width = check_picture(rgb_u8)
    # A strip one pixel high would take gigabytes, and no format holds its length: it is enlarged less, or not.
    factor = min(math.ceil(min_side / min(height, width)), MAX_SIDE // max(height, width))
    if factor <= 1:
        return rgb_u8, list(expressions)
    large: Any = cv2.resize(rgb_u8, (width * factor, height * factor), interpolation=cv2.INTER_CUBIC)
    return large, [Expression(scaled(e.face, factor), e.probabilities, e.label) for e in expressions]


def scaled(face: Detection, factor: int) -> Detection:
    left, top, width, height = face.box_xywh
    return Detection((left * factor, top * factor, width * factor, height * factor), face.score)


def check_picture_path(path: Path) -> None:
    """Raises OutputError for a name that `write_picture` does not take."""
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise OutputError(
            f"{path} must end in one of {', '.join(PICTURE_SUFFIXES)}, but ends in {path.suffix or 'nothing'!r}"
        )


def write_picture(path: Path, rgb_u8: NDArray[np.uint8]) -> None:
    """Writes a picture, uint8 [H, W, 3], whole or not at all. Raises OutputError where that can't be, DataError."""
    check_picture(rgb_u8)
    check_picture_path(path)
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent} must be a folder, but there is none; make it first")
    done, data = cv2.imencode(path.suffix.lower(), cv2.cvtColor(rgb_u8, cv2.COLOR_RGB2BGR))
    if not done:
        raise DataError(f"{path} can't be encoded by OpenCV {cv2.__version__}; take another suffix")
    write_with(path, lambda temporary: data.tofile(temporary))
