"""What an artifact must reach before it is kept: each limit by itself, and the measures behind them."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_stra.models.registry import get_spec
from edge_stra.parity import Comparison, check, compare, cosine, sqnr_db, tolerance_of

GOOD = Comparison("reference", "candidate", 32, 1e-6, 1e-6, 99.0, 1.0, 1.0)
# As README and docs/coreml.md, docs/onnx.md promise: SQNR in dB, share of equal first choices.
PROMISED = {
    ("tflite", "fp32"): (80, 1.0), ("tflite", "fp16"): (50, 0.96), ("tflite", "dynamic"): (18, 0.90),
    ("tflite", "int8"): (18, 0.90), ("tflite", "int8-full"): (15, 0.88), ("onnx", "fp16"): (45, 0.96),
    ("coreml", "fp16"): (45, 0.96), ("coreml", "w8"): (18, 0.90), ("coreml", "palette4"): (6, 0.70),
}  # fmt: skip


def artifact(target: str, quantize: str, model: str = "mobilenetv2_stra.fer") -> Any:
    return SimpleNamespace(target=target, quantize=quantize, spec=get_spec(model))


@pytest.mark.parametrize(("target", "quantize"), PROMISED)
def test_each_limit_fails_by_itself(target: str, quantize: str) -> None:
    sqnr, top1 = PROMISED[target, quantize]
    limits = tolerance_of(target, quantize, random_weights=False)
    assert (limits.sqnr_db, limits.top1) == (sqnr, top1)
    assert limits != tolerance_of(target, quantize, random_weights=True) or quantize == "fp32"
    held = artifact(target, quantize)
    assert check(held, GOOD, replace(GOOD, sqnr_db=sqnr, cosine=limits.cosine, top1=top1)) == []
    spoilt = {
        "SQNR must be": replace(GOOD, sqnr_db=sqnr - 0.1),
        "cosine must be": replace(GOOD, cosine=limits.cosine - 1e-5),
        "top-1 agreement must be": replace(GOOD, top1=top1 - 0.01),
    }
    for said, produced in spoilt.items():
        (failure,) = check(held, GOOD, produced)
        assert said in failure
    (failure,) = check(held, replace(GOOD, relative=1.1e-4), GOOD)
    assert "reformulated: error must be <= 0.0001" in failure


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
