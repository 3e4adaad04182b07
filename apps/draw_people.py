"""The picture with its people framed and named. OpenCV's drawing only."""

from __future__ import annotations

import colorsys
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from edge_stra.apps.overlay import SPILL, blend, draw_frame
from edge_stra.apps.panel import QUIET, Rgb, draw_tag, frame_width, row_height, text_width
from edge_stra.apps.placement import clipped, moved_inside, place_tag
from numpy.typing import NDArray

from edge_stra.detections import RectXywh, check_picture, common_area

UNKNOWN = "unknown"
MAX_NAME = 24  # characters that are drawn of a name
TAIL = 9  # of those at its end, where it is longer
NOTICE_COLOR: Rgb = (255, 206, 84)


@dataclass(frozen=True)
class Named:
    """A person as they are drawn: identity is None for somebody unknown, distance None before any search."""

    box_xywh: RectXywh
    identity: str | None
    distance: float | None


def draw_people(rgb_u8: NDArray[np.uint8], people: Sequence[Named], notice: str = "") -> NDArray[np.uint8]:
    """A copy of the picture, uint8 [H, W, 3], with a frame and a label for each person, and a notice at the top.

    Raises DataError where the picture is none.
    """
    size_hw = check_picture(rgb_u8)
    result: NDArray[np.uint8] = rgb_u8.copy()
    row = row_height(size_hw)
    taken: list[RectXywh] = []
    if notice:
        put_tag(result, notice, NOTICE_COLOR, row, (row // 2, row // 2, 0, 0), taken)
    for person in people:
        draw_frame(result, person.box_xywh, color_of(person.identity), frame_width(row))
    for person in sorted(people, key=lambda person: person.identity is None):  # names get the better places
        put_tag(result, text_of(person), color_of(person.identity), row, person.box_xywh, taken)
    return result


def put_tag(result: NDArray[np.uint8], text: str, color: Rgb, row: int, box: RectXywh, taken: list[RectXywh]) -> None:
    """A label above the box, below or inside it, off the labels in `taken` where that can be; it joins them.

    In place. Left out where the picture is smaller than the label, or where the box lies outside.
    """
    size_hw = (result.shape[0], result.shape[1])
    left, top, width, height = box
    frame = clipped((left - SPILL, top - SPILL, width + 2 * SPILL, height + 2 * SPILL), size_hw)
    tag_hw = (round(1.25 * row), text_width(text, row) + row)
    place = place_tag(frame, tag_hw, size_hw, row // 6)
    if place is None or min(frame[2:]) == 0:
        return
    below = (frame[0], frame[1] + frame[3] + row // 6, tag_hw[1], tag_hw[0])
    inside = (frame[0], frame[1] + row // 6, tag_hw[1], tag_hw[0])
    places = [place, *(moved_inside(other, size_hw) for other in (below, inside))]
    place = next((p for p in places if not any(common_area(p, other) for other in taken)), place)
    taken.append(place)
    blend(result, draw_tag(text, color, row, tag_hw), place)


def text_of(person: Named) -> str:
    if person.identity is None:
        return UNKNOWN
    name = person.identity
    if len(name) > MAX_NAME:  # the end of a stranger's name is what tells it from others
        name = f"{name[: MAX_NAME - TAIL - 3]}...{name[-TAIL:]}"
    return name if person.distance is None else f"{name} {person.distance:.2f}"


def color_of(identity: str | None) -> Rgb:
    """One bright colour for each name, the same in every run; grey for somebody unknown."""
    if identity is None:
        return QUIET
    hue = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:2], "big") / 65536
    red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(hue, 0.7, 0.85))
    return red, green, blue
