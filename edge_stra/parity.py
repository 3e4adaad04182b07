"""Two callables and the same inputs -> a report of how far apart their outputs are.

Absolute error alone hides faults behind small outputs, so signal-to-quantization-noise ratio and cosine stand
beside it, and for classifiers the agreement of the first choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stra.artifact import Artifact
from edge_stra.spec import ParityError

Array = NDArray[np.float32]
Function = Callable[[Array], Array]


@dataclass(frozen=True)
class Comparison:
    """How far `candidate` is from `reference`, over all pictures together.

    max_abs: largest difference; relative: the same over the reference's standard deviation; sqnr_db:
    10 log10(sum reference^2 / sum difference^2), infinite where all is equal; cosine: the smallest of any picture but
    those with hardly any output (`cosine`); top1: top-1 agreement, the share of pictures with the same first choice,
    None for an embedder.
    """

    reference: str
    candidate: str
    count: int
    max_abs: float
    relative: float
    sqnr_db: float
    cosine: float
    top1: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"sqnr_db": finite_db(self.sqnr_db)}


@dataclass(frozen=True)
class Tolerance:
    """The least that an artifact of a precision must reach; the reason stands beside each row of TOLERANCES."""

    sqnr_db: float
    cosine: float
    top1: float


# What the reformulated network and the artifacts must reach, and what was measured (tests/test_export.py and
# docs/quantization.md): the row is the requirement, not the measurement.
REFORMULATED_RELATIVE = 1e-4  # float32, whole network; measured 2e-6 to 4e-5
TOLERANCES: dict[str, Tolerance] = {
    "fp32": Tolerance(80.0, 0.99999, 1.0),
    "fp16": Tolerance(50.0, 0.9999, 0.96),
    "dynamic": Tolerance(18.0, 0.95, 0.90),
    "int8": Tolerance(18.0, 0.95, 0.90),
    "int8-full": Tolerance(15.0, 0.93, 0.88),
    # Arithmetic in half precision too, not the weights alone.
    "onnx fp16": Tolerance(45.0, 0.9999, 0.96),
    "coreml fp16": Tolerance(45.0, 0.9999, 0.96),
    "w8": Tolerance(18.0, 0.95, 0.90),
    "w8a8": Tolerance(18.0, 0.95, 0.90),
    "palette6": Tolerance(18.0, 0.95, 0.90),
    "palette4": Tolerance(6.0, 0.80, 0.70),
}

# Seeded random weights amplify the noise of few bits as no trained network does (measured on mobilenetv2_stra.fer:
# fp16 41 dB, dynamic 20, int8 18, int8-full 9; an operator that gives zeros, 0 to 1). They prove the graph in fp32,
# whose row stays, and need of the others only that they work; accuracy is judged on trained weights.
RANDOM_TOLERANCES: dict[str, Tolerance] = {
    "fp32": TOLERANCES["fp32"],
    "fp16": Tolerance(30.0, 0.99, 0.9),
    "dynamic": Tolerance(12.0, 0.8, 0.7),
    "int8": Tolerance(10.0, 0.8, 0.7),
    "int8-full": Tolerance(5.0, 0.5, 0.6),
    "w8": Tolerance(12.0, 0.8, 0.7),
    "w8a8": Tolerance(10.0, 0.8, 0.7),
    "palette6": Tolerance(10.0, 0.8, 0.7),
    "palette4": Tolerance(0.0, 0.3, 0.3),
}


def tolerance_of(target: str, quantize: str, random_weights: bool) -> Tolerance:
    """That of the target where it has one of its own, else of the precision."""
    table = RANDOM_TOLERANCES if random_weights else TOLERANCES
    return table.get(f"{target} {quantize}") or table[quantize]


def finite_db(value: float) -> float:
    """Within 999 dB either way: JSON knows no infinity."""
    return max(-999.0, min(value, 999.0))


LEAST_LENGTH = 0.1  # of the median length of a reference's rows


def sqnr_db(reference: NDArray[Any], candidate: NDArray[Any]) -> float:
    """10 log10 of signal over noise power; infinite for equal arrays, minus infinity for a silent reference."""
    signal = float(np.square(reference, dtype=np.float64).sum())
    noise = float(np.square(reference.astype(np.float64) - candidate).sum())
    if noise == 0:
        return float("inf")
    return 10 * float(np.log10(signal / noise)) if signal else float("-inf")


def cosine(reference: NDArray[Any], candidate: NDArray[Any]) -> float:
    """The smallest cosine of any row; arrays [count, K].

    A row far shorter than most (`LEAST_LENGTH`) has no direction to speak of: the logits of two labels on their border,
    say. Such rows are judged by SQNR and top-1 alone.
    """
    a, b = reference.astype(np.float64), candidate.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1)
    cosines = (a * b).sum(axis=1) / np.maximum(lengths * np.linalg.norm(b, axis=1), 1e-30)
    return float(cosines[lengths >= LEAST_LENGTH * np.median(lengths)].min())


def compare(names: tuple[str, str], reference: Array, candidate: Array, classifier: bool) -> Comparison:
    """Compares outputs [count, K]. Raises ParityError where shapes differ or numbers are not finite."""
    if reference.shape != candidate.shape:
        raise ParityError(f"{names[1]} must give {reference.shape}, like {names[0]}, but gives {candidate.shape}")
    if not (np.isfinite(reference).all() and np.isfinite(candidate).all()):
        raise ParityError(f"{names[0]} and {names[1]} must give finite numbers, but one gives NaN or infinity")
    worst = float(np.abs(reference - candidate).max())
    deviation = float(reference.std())
    return Comparison(
        reference=names[0],
        candidate=names[1],
        count=len(reference),
        max_abs=worst,
        relative=worst / deviation if deviation else float("inf"),
        sqnr_db=sqnr_db(reference, candidate),
        cosine=cosine(reference, candidate),
        top1=float((reference.argmax(1) == candidate.argmax(1)).mean()) if classifier else None,
    )


def outputs_of(function: Function, inputs: list[Array]) -> Array:
    """[count, K] from inputs [1, H, W, 3]."""
    return np.concatenate([function(x) for x in inputs])


def check(artifact: Artifact, rewritten: Comparison, produced: Comparison, random_weights: bool = False) -> list[str]:
    """The failures, a line each; empty where all tolerances hold. A number that is not a number fails.

    rewritten: reference against reformulated; produced: reference against the artifact's outputs.
    """
    quantize = artifact.quantize
    tolerance = tolerance_of(artifact.target, quantize, random_weights)
    failures = []
    if not rewritten.relative <= REFORMULATED_RELATIVE:
        failures.append(
            f"reformulated: error must be <= {REFORMULATED_RELATIVE:g} of the deviation, is {rewritten.relative:.2g}"
        )
    if not produced.sqnr_db >= tolerance.sqnr_db:
        failures.append(f"{quantize}: SQNR must be >= {tolerance.sqnr_db:g} dB, is {produced.sqnr_db:.1f}")
    if not produced.cosine >= tolerance.cosine:
        failures.append(f"{quantize}: cosine must be >= {tolerance.cosine:g}, is {produced.cosine:.5f}")
    if artifact.spec.labels and (produced.top1 is None or not produced.top1 >= tolerance.top1):
        failures.append(f"{quantize}: top-1 agreement must be >= {tolerance.top1:.0%}, is {produced.top1}")
    return failures


def render(comparisons: list[Comparison]) -> str:
    """A table for people."""
    lines = [f"{'parity':<34}{'pictures':>9}{'max abs':>10}{'SQNR dB':>9}{'cosine':>10}{'top-1':>8}"]
    for c in comparisons:
        top1 = "" if c.top1 is None else f"{c.top1:.1%}"
        title = f"{c.reference} -> {c.candidate}"
        lines.append(f"{title:<34}{c.count:>9}{c.max_abs:>10.2g}{c.sqnr_db:>9.1f}{c.cosine:>10.6f}{top1:>8}")
    return "\n".join(lines)
