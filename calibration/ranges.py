"""Ranges of 8-bit activations: which part of the measured values the 256 levels cover, and what is clipped for it.

Sources: Wu et al., arXiv 2004.09602, section 3.3 (max, percentile and entropy calibration compared); Banner et al.,
arXiv 1810.05723, section 3.1 (clipping error + rounding error, the latter step^2 / 12; there for a Gaussian or Laplace
density and found in closed form, here for the histogram itself and found by trying all pairs of ends).

A range always holds 0, as ai-edge-quantizer makes it: zero padding and ReLU must stay exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_stra.spec import ModelError

RANGES = ("minmax", "percentile", "mse")
BINS = 2048
"""Bins between the smallest and the largest value: 16 KiB for a tensor, however many pictures there are."""
CANDIDATES = 256
"""Ends of a range that are tried, evenly spread: one for each of the 256 levels. Divides BINS."""
STEPS = 255
"""Steps between the levels of 8 bits."""
PERCENTILE = 99.99
"""At each end of a range, 100 minus this percentage of the values may be clipped."""

Range = tuple[float, float]


def find_extremes(tensors: Iterable[tuple[str, NDArray[np.float32]]]) -> dict[str, Range]:
    """Smallest and largest value by name."""
    extremes: dict[str, Range] = {}
    for name, value in tensors:
        low, high = extremes.get(name, (np.inf, -np.inf))
        extremes[name] = (min(low, float(value.min())), max(high, float(value.max())))
    return extremes


@dataclass
class Histogram:
    """How often values fell into BINS equal bins between `low` and `high`.

    Exact zeros are counted apart: whatever the range, they are kept without an error.
    """

    low: float
    high: float
    zeros: int = 0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, values: NDArray[np.float32]) -> None:
        """Counts an array of any shape; what lies outside low and high counts at the end it is beyond."""
        zeros = values.size - int(np.count_nonzero(values))
        self.counts += np.bincount(self.bins(values), minlength=BINS)
        if zeros:
            self.counts[self.bins(np.zeros(1, np.float32))] -= zeros
            self.zeros += zeros

    def bins(self, values: NDArray[np.float32]) -> NDArray[np.int32]:
        """The bin of each value, in float32: next to an edge it may be the neighbour."""
        places = (values.ravel() - np.float32(self.low)) * np.float32(BINS / (self.high - self.low))
        result: NDArray[np.int32] = places.astype(np.int32).clip(0, BINS - 1)
        return result


def minmax_range(histogram: Histogram) -> Range:
    return histogram.low, histogram.high


def percentile_range(histogram: Histogram, percentile: float = PERCENTILE) -> Range:
    """The narrowest range of whole bins that clips at most 100 - percentile of all values at each end."""
    allowed = (1 - percentile / 100) * (histogram.counts.sum() + histogram.zeros)
    edges = np.linspace(histogram.low, histogram.high, BINS + 1)
    below = np.concatenate([[0], histogram.counts.cumsum()])  # values below each edge
    low = edges[below <= allowed][-1]
    high = edges[below[-1] - below <= allowed][0]
    return with_zero((float(low), float(high)), histogram)


def mse_range(histogram: Histogram) -> Range:
    """The range with the least mean squared error in 8 bits, of all pairs of CANDIDATES + 1 ends.

    A clipped value's error is its distance to the end, taken from the middle of its bin; the squared error of any
    other one is step^2 / 12. Where a pair gains nothing, the wider one is taken.
    """
    low, high = histogram.low, histogram.high
    edges, centres = np.linspace(low, high, BINS + 1), low + (np.arange(BINS) + 0.5) * (high - low) / BINS
    moments = [np.concatenate([[0], (histogram.counts * centres**k).cumsum()]) for k in range(3)]
    ends = np.arange(0, BINS + 1, BINS // CANDIDATES)
    lows = ends[edges[ends] <= 0] if low < 0 else ends[:1]
    highs = ends[edges[ends] >= 0][::-1] if high > 0 else ends[-1:]  # widest first, as argmin takes the first of equals
    below = squared_distance([m[lows] for m in moments], edges[lows])
    above = squared_distance([m[-1] - m[highs] for m in moments], edges[highs])
    inside = moments[0][highs][None, :] - moments[0][lows][:, None]
    step = (np.maximum(edges[highs], 0)[None, :] - np.minimum(edges[lows], 0)[:, None]) / STEPS
    error = below[:, None] + above[None, :] + inside * step**2 / 12  # (lows, highs)
    i, j = np.unravel_index(error.argmin(), error.shape)
    return float(edges[lows[i]]), float(edges[highs[j]])


def squared_distance(moments: list[NDArray[np.float64]], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of (x - end)^2 from the sums of 1, x and x^2."""
    total: NDArray[np.float64] = moments[2] - 2 * end * moments[1] + end**2 * moments[0]
    return total


def with_zero(chosen: Range, histogram: Histogram) -> Range:
    """The chosen range, widened to 0 where clipping went past it; never wider than what was measured."""
    low, high = chosen
    return max(histogram.low, min(low, 0.0)), min(histogram.high, max(high, 0.0))


CHOICES = {"minmax": minmax_range, "percentile": percentile_range, "mse": mse_range}


def collect_histograms(
    extremes: dict[str, Range], tensors: Iterable[tuple[str, NDArray[np.float32]]]
) -> dict[str, Histogram]:
    """By name, from one (name, value) for each tensor and picture; none for a tensor of one single value.

    extremes: smallest and largest value of each, from a first pass.
    """
    histograms: dict[str, Histogram] = {}
    for name, value in tensors:
        low, high = extremes[name]
        if low < high:
            histograms.setdefault(name, Histogram(low, high)).add(value)
    return histograms


def choose_ranges(kind: str, histograms: dict[str, Histogram]) -> dict[str, Range]:
    """The range of each tensor. Raises ModelError for a kind that is none of RANGES."""
    if kind not in CHOICES:
        raise ModelError(f"unknown ranges {kind!r}; they are {', '.join(RANGES)}")
    return {name: CHOICES[kind](histogram) for name, histogram in histograms.items()}
