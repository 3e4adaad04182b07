"""The curves behind a distance threshold as one self-contained SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_stra.data import spread_indices
from edge_stra.gallery.pairs import PairCounts, Searches
from edge_stra.svg import WIDTH, frame, label, path

LEFT, RIGHT, TOP, BOTTOM = 70, WIDTH - 36, 46, 450  # user units; the frame around the curves
LEAST = 1e-4  # of false accepts, at the left edge; the axis is logarithmic
MOST_STEPS = 250  # of the curve of searches
STYLE = (
    "<style>svg{font:14px system-ui,sans-serif;background:#fff}text{fill:#21252b}.q{fill:#5c6470}"
    "path{fill:none}.grid{stroke:#dee2e8}.pairs{stroke:#084a8c;stroke-width:2.5}"
    ".searches{stroke:#b3541e;stroke-width:2.5}.mark{fill:#b3541e}.t1{fill:#084a8c}.t2{fill:#b3541e}</style>"
)


def draw_curves(pairs: PairCounts, searches: Searches, threshold: float, wanted: float) -> str:
    """An SVG: true against false accepts of pairs, and named against false accepts of searches; the threshold marked.

    wanted: the share of false accepts that the threshold was chosen for.
    """
    _, wrong, right = pairs.roc()
    unknown, named = search_curve(searches)
    at = (share_below(searches.other[:, -1], threshold), named_share(searches, threshold))
    parts = [STYLE, *axes()]
    parts.append(path("pairs", line(wrong, right)) + path("searches", line(unknown, named)))
    parts.append(f'<circle class="mark" cx="{across(at[0]):.1f}" cy="{up(at[1]):.1f}" r="6"/>')
    parts.append(label("pairs: two crops of one person, seen by two cameras", LEFT, 18, "t1"))
    people = searches.people[-1]
    parts.append(label(f"searches in a gallery of {people} people: named rightly", LEFT, 37, "t2"))
    chosen = f"threshold {threshold:.3f}, chosen for {100 * wanted:g} % false accepts"
    parts.append(label(chosen, RIGHT, 37, "q", "end"))
    return frame(BOTTOM + 50, "".join(parts), "False and true accepts of pairs and of searches")


def search_curve(searches: Searches) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares of unknown who are named and of known who are named rightly, ascending.

    For thresholds at the nearest wrong answer of each probe and just below it: what lies between changes no share of
    the unknown.
    """
    nearest = np.unique(searches.other[:, -1][np.isfinite(searches.other[:, -1])])
    nearest = nearest[spread_indices(len(nearest), MOST_STEPS)]
    thresholds = np.stack([np.nextafter(nearest, 0), nearest], 1).reshape(-1)
    unknown = np.array([share_below(searches.other[:, -1], t) for t in thresholds])
    return unknown, np.array([named_share(searches, t) for t in thresholds])


def named_share(searches: Searches, threshold: float) -> float:
    known = np.isfinite(searches.same)
    right = (searches.same < searches.other[:, -1]) & (searches.same <= threshold)
    return float(right[known].mean()) if known.any() else 0.0


def share_below(values: NDArray[np.float64], threshold: float) -> float:
    return float((values <= threshold).mean())


def across(share: float) -> float:
    """The place of a share of false accepts on the logarithmic axis."""
    return LEFT + (1 - math.log10(max(share, LEAST)) / math.log10(LEAST)) * (RIGHT - LEFT)


def up(share: float) -> float:
    return BOTTOM - share * (BOTTOM - TOP)


def line(x: Sequence[float] | NDArray[np.float64], y: Sequence[float] | NDArray[np.float64]) -> str:
    """Path data through the points from the frame's left edge on, without those that the next one covers."""
    points = [(across(a), up(b)) for a, b in zip(x, y, strict=True) if a >= LEAST] or [(across(1), up(1))]
    kept = [p for i, p in enumerate(points) if i in (0, len(points) - 1) or p != points[i + 1]]
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in kept)


def axes() -> list[str]:
    parts = []
    for power in range(round(math.log10(LEAST)), 1):
        x = across(10.0**power)
        parts.append(path("grid", f"M{x:.1f} {TOP}V{BOTTOM}"))
        parts.append(label(f"{100 * 10.0**power:g} %", x, BOTTOM + 18, "q", "middle"))
    for tenth in range(0, 11, 2):
        y = up(tenth / 10)
        parts.append(path("grid", f"M{LEFT} {y:.1f}H{RIGHT}"))
        parts.append(label(f"{10 * tenth} %", LEFT - 8, y + 5, "q", "end"))
    parts.append(label("false accepts", (LEFT + RIGHT) / 2, BOTTOM + 40, "q", "middle"))
    return parts
