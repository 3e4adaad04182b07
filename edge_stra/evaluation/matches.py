"""Some queries with the gallery crops nearest to each, as a picture: green frames are right, red ones wrong."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_stra.data import spread_indices
from edge_stra.drawing import FINE, INK, MARGIN, QUIET, Picture, Rgb, blank, put_text, reduced, shortened
from edge_stra.identities import JUNK, Crops
from edge_stra.preprocess import read_rgb, resize_exact

QUERIES, NEAREST = 8, 10
CROP_HW = (128, 64)  # Market-1501's crops
FRAME, GAP, CAPTION, ASIDE = 4, 8, 14, 20  # pixels
RIGHT, WRONG, ASKED = (24, 160, 88), (214, 48, 49), (120, 126, 136)


def nearest(
    vector: NDArray[np.float32], identity: int, camera: int, gallery: NDArray[np.float32], shown: Crops, most: int
) -> NDArray[np.int64]:
    """The places of the gallery crops nearest to a query [K], by the rules of the protocol, nearest first."""
    counts = (shown.identities != JUNK) & ~((shown.identities == identity) & (shown.cameras == camera))
    places = np.flatnonzero(counts)
    return places[np.argsort(-(gallery[places] @ vector), kind="stable")[:most]]


def choose_rows(asked: Crops, shown: Crops) -> list[int]:
    """At most eight queries that have something to find, evenly spread."""
    findable = [
        row
        for row, (identity, camera) in enumerate(zip(asked.identities, asked.cameras, strict=True))
        if ((shown.identities == identity) & (shown.cameras != camera)).any()
    ]
    return [findable[i] for i in spread_indices(len(findable), QUERIES)]


def draw_matches(
    query: NDArray[np.float32], asked: Crops, gallery: NDArray[np.float32], shown: Crops, title: str
) -> Picture:
    """Some queries, each with the ten crops nearest to it, as a picture, uint8 [H, W, 3] in RGB.

    query [Q, K] and gallery [N, K] are of unit length; below each crop stands the Euclidean distance.
    """
    rows = choose_rows(asked, shown)
    step_y, step_x = CROP_HW[0] + 2 * FRAME + CAPTION + GAP, CROP_HW[1] + 2 * FRAME + GAP
    top = MARGIN + 52
    width = 2 * MARGIN + (1 + NEAREST) * step_x - GAP + ASIDE
    canvas = blank(top + len(rows) * step_y + MARGIN - GAP, width)
    put_text(canvas, shortened(title, width - 2 * MARGIN, 11), width / 2, MARGIN + 6, 11)
    lefts = [MARGIN + place * step_x + (ASIDE if place else 0) for place in range(1 + NEAREST)]
    for place, left in enumerate(lefts):
        put_text(canvas, str(place) if place else "query", left + FRAME + CROP_HW[1] / 2, top - 14, 8, QUIET)
    for line, row in enumerate(rows):
        y, identity = top + line * step_y, int(asked.identities[row])
        put_crop(canvas, asked, row, (lefts[0], y), ASKED, f"id {identity}")
        found = nearest(query[row], identity, int(asked.cameras[row]), gallery, shown, NEAREST)
        for place, left in zip(found, lefts[1:], strict=False):  # a small gallery has fewer
            color = RIGHT if shown.identities[place] == identity else WRONG
            apart = float(np.linalg.norm(query[row] - gallery[place]))
            put_crop(canvas, shown, int(place), (left, y), color, f"{apart:.2f}")
    return reduced(canvas)


def put_crop(canvas: Picture, crops: Crops, place: int, corner_xy: tuple[int, int], color: Rgb, caption: str) -> None:
    """A crop in a frame of a colour, with a line below. In place."""
    left, top = corner_xy
    height, width = CROP_HW[0] + 2 * FRAME, CROP_HW[1] + 2 * FRAME
    canvas[top * FINE : (top + height) * FINE, left * FINE : (left + width) * FINE] = color
    crop = resize_exact(read_rgb(crops.paths[place]), CROP_HW)
    y, x = (top + FRAME) * FINE, (left + FRAME) * FINE
    # Each pixel as a block, so that the reduction gives it back as it was.
    canvas[y : y + CROP_HW[0] * FINE, x : x + CROP_HW[1] * FINE] = cv2.resize(
        crop, None, fx=FINE, fy=FINE, interpolation=cv2.INTER_NEAREST
    )
    put_text(canvas, caption, left + width / 2, top + height + 8, 7, INK)
