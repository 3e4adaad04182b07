"""Where the labels and panels of an overlay go: beside their face, inside the picture, off the other faces."""

from __future__ import annotations

from collections.abc import Sequence

from edge_stra.detections import RectXywh, common_area

MAX_HIDDEN = 0.15  # the part of another face that a panel may cover
MAX_HIDDEN_OWN = 0.35  # the part of its own


def union(a: RectXywh, b: RectXywh) -> RectXywh:
    """The smallest rectangle around two."""
    left, top = min(a[0], b[0]), min(a[1], b[1])
    right, bottom = max(a[0] + a[2], b[0] + b[2]), max(a[1] + a[3], b[1] + b[3])
    return left, top, right - left, bottom - top


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
    """Right of the box, left, below and above, each at five steps along the side; then its corners."""
    height, width = panel_hw
    left, top, box_width, box_height = box
    tops = [top + (box_height - height) * step // 4 for step in range(5)]
    lefts = [left + (box_width - width) * step // 4 for step in range(5)]
    lefts_out, tops_out = (left + box_width + gap, left - gap - width), (top + box_height + gap, top - gap - height)
    beside = [(x, y) for x in lefts_out for y in tops]
    stacked = [(x, y) for y in tops_out for x in lefts]
    corners = [(x, y) for y in tops_out for x in lefts_out]
    return [(x, y, width, height) for x, y in beside + stacked + corners]


def place_panel(
    box: RectXywh,
    tag: RectXywh | None,
    panel_hw: tuple[int, int],
    size_hw: tuple[int, int],
    gap: int,
    faces: Sequence[RectXywh],
    texts: Sequence[RectXywh],
) -> RectXywh | None:
    """The candidate, moved inside the picture, that covers no text, least of other faces and then of its own.

    None where the picture is smaller than the panel, or where every candidate covers some text or too much of a
    face: in a crowd the label says enough. A face that fills the picture gets its panel over its border.
    """
    if not fits(panel_hw, size_hw):
        return None
    wanted = candidates(box, panel_hw, gap)
    if tag is not None:  # beside a face and its label taken together, where the label is in the way
        wanted += candidates(union(box, tag), panel_hw, gap)
    places = [moved_inside(place, size_hw) for place in wanted]
    costs: dict[RectXywh, int] = {}
    for place in places:
        hidden, own = [common_area(place, face) for face in faces], common_area(place, box)
        too_much = any(part > MAX_HIDDEN * face[2] * face[3] for part, face in zip(hidden, faces, strict=True))
        too_much = too_much or own > MAX_HIDDEN_OWN * box[2] * box[3]
        if not too_much and not any(common_area(place, text) for text in texts):
            costs[place] = 3 * sum(hidden) + own
    return min(costs, key=lambda place: costs[place]) if costs else None
