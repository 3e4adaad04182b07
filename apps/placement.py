"""Where the labels and panels of an overlay go: beside their face, inside the picture, off the other faces."""

from __future__ import annotations

from collections.abc import Sequence

from edge_stra.faces import RectXywh

MAX_HIDDEN = 0.30  # a panel that would lie on other faces, labels or panels with more than this part is left out


def overlap(a: RectXywh, b: RectXywh) -> int:
    """The common area of two rectangles, in pixels."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(0, width) * max(0, height)


def clipped(rect: RectXywh, size_hw: tuple[int, int]) -> RectXywh:
    """The part of a rectangle that lies in the picture; width and height may come out 0."""
    left, top = min(max(rect[0], 0), size_hw[1]), min(max(rect[1], 0), size_hw[0])
    right, bottom = min(rect[0] + rect[2], size_hw[1]), min(rect[1] + rect[3], size_hw[0])
    return left, top, max(0, right - left), max(0, bottom - top)


def moved_inside(rect: RectXywh, size_hw: tuple[int, int]) -> RectXywh:
    """The rectangle, moved as little as needed to lie in the picture; it must fit."""
    left = min(max(rect[0], 0), size_hw[1] - rect[2])
    top = min(max(rect[1], 0), size_hw[0] - rect[3])
    return left, top, rect[2], rect[3]


def fits(tag_or_panel_hw: tuple[int, int], size_hw: tuple[int, int]) -> bool:
    return tag_or_panel_hw[0] <= size_hw[0] and tag_or_panel_hw[1] <= size_hw[1]


def place_tag(box: RectXywh, tag_hw: tuple[int, int], size_hw: tuple[int, int], gap: int) -> RectXywh | None:
    """Above the box, else below it, else inside its top; None where the picture is smaller than the label."""
    if not fits(tag_hw, size_hw):
        return None
    height, width = tag_hw
    above, below = box[1] - gap - height, box[1] + box[3] + gap
    if above >= 0:
        top = above
    elif below + height <= size_hw[0]:
        top = below
    else:
        top = box[1] + gap
    return moved_inside((box[0], top, width, height), size_hw)


def candidates(box: RectXywh, panel_hw: tuple[int, int], gap: int) -> list[RectXywh]:
    """Right of the box, left, below and above, each along the start, the middle and the end of the side; best first."""
    height, width = panel_hw
    left, top, box_width, box_height = box
    tops = (top, top + (box_height - height) // 2, top + box_height - height)
    lefts = (left, left + (box_width - width) // 2, left + box_width - width)
    beside = [(x, y) for x in (left + box_width + gap, left - gap - width) for y in tops]
    stacked = [(x, y) for y in (top + box_height + gap, top - gap - height) for x in lefts]
    return [(x, y, width, height) for x, y in beside + stacked]


def place_panel(
    box: RectXywh, panel_hw: tuple[int, int], size_hw: tuple[int, int], gap: int, taken: Sequence[RectXywh]
) -> RectXywh | None:
    """The candidate, moved inside the picture, that hides least of what is `taken` and then of its own face.

    None where the picture is smaller than the panel, or where even the best hides too much of the others: in a
    crowd the label says enough. A face that fills the picture is covered by its own panel, at the border.
    """
    if not fits(panel_hw, size_hw):
        return None
    places = [moved_inside(place, size_hw) for place in candidates(box, panel_hw, gap)]
    hidden = [sum(overlap(place, other) for other in taken) for place in places]
    costs = [3 * others + overlap(place, box) for others, place in zip(hidden, places, strict=True)]
    best = costs.index(min(costs))
    return None if hidden[best] > MAX_HIDDEN * panel_hw[0] * panel_hw[1] else places[best]
