"""What an artifact must reach before it is kept: each limit by itself, and the measures behind them."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_stra.models.registry import get_spec
from edge_stra.parity import (
    RANDOM_TOLERANCES,
    TOLERANCES,
    Comparison,
    check,
    compare,
    cosine,
    sqnr_db,
    tolerance_of,
)

GOOD = Comparison("reference", "candidate", 32, 1e-6, 1e-6, 99.0, 1.0, 1.0)
# README, docs/coreml.md and docs/onnx.md promise SQNR in dB and top-1 agreement; between them stands
# the smallest cosine of any picture, which is what one bad picture among many fails by.
PROMISED = {
    ("tflite", "fp32"): (80, 0.99999, 1.0), ("tflite", "fp16"): (50, 0.9999, 0.96),
    ("tflite", "dynamic"): (18, 0.95, 0.90), ("tflite", "int8"): (18, 0.95, 0.90),
    ("tflite", "int8-full"): (15, 0.93, 0.88), ("onnx", "fp16"): (45, 0.9999, 0.96),
    ("coreml", "fp16"): (45, 0.9999, 0.96), ("coreml", "w8"): (18, 0.95, 0.90), ("coreml", "w8a8"): (18, 0.95, 0.90),
    ("coreml", "palette6"): (18, 0.95, 0.90), ("coreml", "palette4"): (6, 0.80, 0.70),
}  # fmt: skip
# Of random weights, which amplify the noise of few bits (edge_stra/parity.py): no promise, but no row is to be nothing.
RANDOM = {
    "fp32": (80, 0.99999, 1.0), "fp16": (30, 0.99, 0.9), "dynamic": (12, 0.8, 0.7), "int8": (10, 0.8, 0.7),
    "int8-full": (5, 0.5, 0.6), "w8": (12, 0.8, 0.7), "w8a8": (10, 0.8, 0.7), "palette6": (10, 0.8, 0.7),
    "palette4": (0, 0.3, 0.3),
}  # fmt: skip


def artifact(target: str, quantize: str, model: str = "mobilenetv2_stra.fer") -> Any:
    return SimpleNamespace(target=target, quantize=quantize, spec=get_spec(model))


@pytest.mark.parametrize(("target", "quantize"), PROMISED)
def test_each_limit_fails_by_itself(target: str, quantize: str) -> None:
    sqnr, cosine, top1 = PROMISED[target, quantize]
    limits = tolerance_of(target, quantize, random_weights=False)
    assert (limits.sqnr_db, limits.cosine, limits.top1) == (sqnr, cosine, top1)
    held = artifact(target, quantize)
    assert check(held, GOOD, replace(GOOD, sqnr_db=sqnr, cosine=cosine, top1=top1)) == []
    spoilt = {
        "SQNR must be": replace(GOOD, sqnr_db=sqnr - 0.1),
        "cosine must be": replace(GOOD, cosine=cosine - 1e-5),
        "top-1 agreement must be": replace(GOOD, top1=top1 - 0.01),
    }
    for said, produced in spoilt.items():
        (failure,) = check(held, GOOD, produced)
        assert said in failure
    (failure,) = check(held, replace(GOOD, relative=1.1e-4), GOOD)
    assert "reformulated: error must be <= 0.0001" in failure


def test_every_row_is_held_to_what_is_written_here() -> None:
    named = {f"{target} {quantize}": quantize for target, quantize in PROMISED}
    assert {both if both in TOLERANCES else alone for both, alone in named.items()} == set(TOLERANCES)
    found = {name: (row.sqnr_db, row.cosine, row.top1) for name, row in RANDOM_TOLERANCES.items()}
    assert found == RANDOM


def test_numbers_that_are_none_fail_everywhere() -> None:
    nothing = replace(GOOD, relative=math.nan, sqnr_db=math.nan, cosine=math.nan, top1=math.nan)
    assert len(check(artifact("tflite", "int8"), nothing, nothing)) == 4
    assert len(check(artifact("tflite", "int8"), GOOD, replace(GOOD, top1=None))) == 1
    people = artifact("tflite", "int8", "mobilenetv2_stra.reid")
    assert check(people, GOOD, replace(GOOD, top1=None)) == [], "an embedder has no first choice"


def test_outputs_near_nothing_have_no_direction() -> None:
    """Logits of two labels are (z, -z): near z = 0 the sign may turn, and SQNR and top-1 are what counts."""
    reference = np.array([[4.0, -4.0]] * 31 + [[0.05, -0.05]])
    candidate = reference + np.array([-0.12, 0.12])
    assert cosine(reference, candidate) == pytest.approx(1.0)
    assert compare(("a", "b"), reference, candidate, classifier=True).top1 == pytest.approx(31 / 32)
    candidate[3] *= -1
    assert cosine(reference, candidate) == pytest.approx(-1.0)


def test_measures_by_hand() -> None:
    reference = np.array([[3.0, 4.0], [1.0, 0.0]], np.float32)
    candidate = np.array([[3.0, 4.0], [1.0, 1.0]], np.float32)
    assert cosine(reference, candidate) == pytest.approx(1 / math.sqrt(2)), "the worst picture's, not the mean"
    assert sqnr_db(reference, candidate) == pytest.approx(10 * math.log10(26))
    found = compare(("a", "b"), reference, candidate, classifier=True)
    assert (found.max_abs, found.top1, found.count) == (1.0, 1.0, 2)
    assert found.relative == pytest.approx(1 / reference.std())
    assert compare(("a", "b"), reference, candidate[::-1], classifier=True).top1 == 0.0
