"""Smoothing over time: its formula, that the frame rate does not matter, when it starts anew, what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from edge_stra.apps.smoothing import GAP_S, TAU_S, Smoothed, smooth
from numpy.typing import NDArray

from edge_stra.spec import DataError

A = np.array([1.0, 0.0, 0.0])
B = np.array([0.0, 0.25, 0.75])


def after(seconds: float, steps: int, tau_s: float) -> NDArray[np.float64]:
    """The state that long after a change from A to B, seen in so many frames."""
    state = smooth(None, A, 10.0)
    for step in range(1, steps + 1):
        state = smooth(state, B, 10.0 + seconds * step / steps, tau_s)
    return state.probabilities


def test_the_first_frame_stands_as_it_is() -> None:
    state = smooth(None, B.astype(np.float32), 3.0)
    assert state.probabilities.tolist() == B.tolist() and state.time_s == 3.0
    assert state.probabilities.dtype == np.float64


@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("tau_s", [0.1, 0.5, 2.0])
def test_a_change_comes_in_with_the_time_constant(seconds: float, tau_s: float) -> None:
    left = math.exp(-seconds / tau_s)
    assert after(seconds, 1, tau_s) == pytest.approx(left * A + (1 - left) * B, abs=1e-12)


@pytest.mark.parametrize("steps", [2, 7, 60])
def test_the_frame_rate_does_not_matter(steps: int) -> None:
    assert after(1.0, steps, TAU_S) == pytest.approx(after(1.0, 1, TAU_S), abs=1e-12)


def test_without_tau_the_new_frame_stands() -> None:
    assert smooth(smooth(None, A, 0.0), B, 0.1, tau_s=0).probabilities.tolist() == B.tolist()


@pytest.mark.parametrize(("passed_s", "anew"), [(GAP_S, False), (GAP_S + 1e-6, True)])
def test_a_gap_starts_anew(passed_s: float, anew: bool) -> None:
    state = smooth(smooth(None, A, 0.0), B, passed_s)
    assert (state.probabilities.tolist() == B.tolist()) is anew


def test_the_sum_stays_one_and_the_state_is_left_alone() -> None:
    first = smooth(None, A, 0.0)
    second = smooth(first, B, 0.2)
    assert second.probabilities.sum() == pytest.approx(1, abs=1e-12)
    assert first.probabilities.tolist() == A.tolist() and second is not first


NO_PROBABILITIES = {
    "below 0": [1.5, -0.5],
    "sum": [0.5, 0.52],
    "nan": [float("nan"), 1.0],
    "none": [],
    "infinite": [float("inf"), 0.0],
}


@pytest.mark.parametrize("case", NO_PROBABILITIES)
def test_what_is_no_probabilities_is_refused(case: str) -> None:
    with pytest.raises(DataError, match="probabilities must be a vector"):
        smooth(None, np.array(NO_PROBABILITIES[case]), 0.0)
    with pytest.raises(DataError, match="probabilities must be a vector"):
        smooth(None, B[None], 0.0)


@pytest.mark.parametrize(
    ("name", "value"), [("tau_s", -1.0), ("tau_s", math.nan), ("gap_s", -0.1), ("gap_s", math.inf)]
)
def test_bad_times_are_refused(name: str, value: float) -> None:
    with pytest.raises(DataError, match="must be finite seconds"):
        smooth(None, A, 0.0, **{name: value})
    with pytest.raises(DataError, match="must be finite seconds"):
        smooth(None, A, math.nan)


def test_what_half_precision_rounds_is_taken() -> None:
    row = np.array([0.5, 0.495], np.float16)
    assert smooth(None, row, 0.0).probabilities.tolist() == row.astype(float).tolist()


def test_a_clock_that_runs_backwards_and_another_model_are_refused() -> None:
    state = Smoothed(A, 5.0)
    with pytest.raises(DataError, match=r"must not be older than the last, but is by 0\.5 s"):
        smooth(state, B, 4.5)
    with pytest.raises(DataError, match="must stay 3, but is 2"):
        smooth(state, np.array([0.5, 0.5]), 5.1)
