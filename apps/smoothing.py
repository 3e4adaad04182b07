"""Steady labels from one frame to the next: probabilities averaged over time, one state for each face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_stra.spec import DataError

TAU_S = 0.5  # after this long a new expression weighs 63 %; a chosen compromise between flicker and delay
GAP_S = 1.0  # a face that was away for longer is met anew
SUM_TOLERANCE = 1e-2  # seven float16 probabilities add up to 1 within 2e-3


@dataclass(frozen=True)
class Smoothed:
    """What smoothing remembers between two frames: probabilities, float64 [K], and when they were taken."""

    probabilities: NDArray[np.float64]
    time_s: float


def smooth(
    last: Smoothed | None,
    probabilities: NDArray[np.floating],
    time_s: float,
    tau_s: float = TAU_S,
    gap_s: float = GAP_S,
) -> Smoothed:
    """The exponential moving average of probabilities [K], with a time constant in seconds.

    The new frame weighs 1 - exp(-dt / tau_s), so that the result does not depend on the frame rate; tau_s 0 switches
    smoothing off. It starts anew without a last state and after more than `gap_s` without a frame. Raises DataError
    where the numbers are no probabilities or changed in number, where time runs backwards, or where tau or the gap
    is negative or not finite.
    """
    if not np.isfinite([tau_s, gap_s, time_s]).all() or tau_s < 0 or gap_s < 0:
        raise DataError(
            f"time, tau and gap must be finite seconds, tau and gap not below 0, but are {time_s}, {tau_s} and {gap_s}"
        )
    new = checked(probabilities)
    if last is None:
        return Smoothed(new, time_s)
    if len(last.probabilities) != len(new):
        raise DataError(
            f"the number of probabilities must stay {len(last.probabilities)}, but is {len(new)}; "
            "start without a state when the model changes"
        )
    passed_s = time_s - last.time_s
    if passed_s < 0:
        raise DataError(
            f"a frame must not be older than the last, but is by {-passed_s} s; pass a clock that never runs backwards"
        )
    if passed_s > gap_s:
        return Smoothed(new, time_s)
    weight = 1.0 if tau_s == 0 else 1.0 - np.exp(-passed_s / tau_s)
    return Smoothed(last.probabilities + weight * (new - last.probabilities), time_s)


def checked(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probabilities [K] in float64. Raises DataError where they are none."""
    wide = np.asarray(probabilities, np.float64)
    if wide.ndim != 1 or not len(wide) or not (wide >= 0).all() or not abs(wide.sum() - 1) <= SUM_TOLERANCE:
        raise DataError(
            f"probabilities must be a vector of numbers from 0 with the sum 1, but are {str(probabilities)[:60]}; "
            "pass the softmax's result"
        )
    return wide
