"""What a package is made of, and what a run of it gave: values for JSON, and lines for a terminal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_stra.mil.package import Feature, Package
from edge_stra.mil.program import Constant, Operation
from edge_stra.mil.weights import count_bytes

PROVES = (
    "It shows what the saved program computes: float32 arithmetic, rounded to float16 after each operator that gives "
    "float16, weights decompressed as the program says."
)
PROVES_NOT = (
    "It does not show Apple's kernels: the order of their sums, what the Neural Engine rounds inside an operator, how "
    "fast it is. For these, run it with --compare on a Mac."
)
SHOWN_VALUES = 4


@dataclass(frozen=True)
class Weights:
    """Constants of one kind: how many tensors, their bytes in the package and when decompressed."""

    kind: str
    count: int
    stored_bytes: int
    dense_bytes: int


def weights_of(package: Package) -> list[Weights]:
    """Constants by kind, the largest first: a MIL type for plain ones, else the operator that decompresses them."""
    counts: Counter[str] = Counter()
    stored: Counter[str] = Counter()
    dense: Counter[str] = Counter()
    for operation in package.function.operations:
        if not operation.is_constant:
            continue
        constants = [given for inputs in operation.inputs.values() for given in inputs if isinstance(given, Constant)]
        if operation.kind == "const" and not isinstance(constants[0].value, np.ndarray):
            continue
        kind = constants[0].dtype if operation.kind == "const" else operation.kind
        counts[kind] += 1
        stored[kind] += sum(constant.stored_bytes for constant in constants)
        dense[kind] += _bytes_of(operation)
    made = [Weights(kind, counts[kind], stored[kind], dense[kind]) for kind in counts]
    return sorted(made, key=lambda weights: -weights.stored_bytes)


def _bytes_of(operation: Operation) -> int:
    """Of the last output: the values, where a mask comes first."""
    declared = operation.outputs[-1].type
    if declared.dtype in ("other", "string"):
        return 0
    return count_bytes(declared.dtype, math.prod(size or 0 for size in declared.shape))


def precisions_of(package: Package) -> Counter[str]:
    """How many operators give each type first."""
    operations = package.function.operations
    return Counter(o.outputs[0].type.dtype for o in operations if o.outputs and not o.is_constant)


def describe(package: Package) -> dict[str, Any]:
    """The package for JSON."""
    return {
        "package": package.path.name,
        "specification_version": package.specification_version,
        "minimum_os": package.minimum_os,
        "opset": package.function.opset,
        "inputs": [_feature(feature) for feature in package.inputs],
        "outputs": [_feature(feature) for feature in package.outputs],
        "metadata": {**{key: text for key, text in package.description.items() if text}, **package.metadata},
        "operators": dict(package.operators.most_common()),
        "precisions": dict(precisions_of(package).most_common()),
        "weights": [vars(weights) for weights in weights_of(package)],
    }


def _feature(feature: Feature) -> dict[str, Any]:
    return {key: value for key, value in vars(feature).items() if value not in ("", (), False, 0.0)}


def listing(package: Package) -> list[dict[str, Any]]:
    """Every operator in order, for JSON."""
    return [
        {"kind": o.kind, "name": o.name, "inputs": _names(o), "outputs": [_output(o, n) for n in range(len(o.outputs))]}
        for o in package.function.operations
        if not o.is_constant
    ]


def _names(operation: Operation) -> dict[str, list[str]]:
    named = {key: [given for given in inputs if isinstance(given, str)] for key, inputs in operation.inputs.items()}
    return {key: names for key, names in named.items() if names}


def _output(operation: Operation, index: int) -> dict[str, Any]:
    output = operation.outputs[index]
    return {"name": output.name, "dtype": output.type.dtype, "shape": list(output.type.shape)}


def summarise(value: Any) -> dict[str, Any]:
    """An output for JSON: type, shape and range of an array, a label as it is, a classifier's likeliest classes."""
    if isinstance(value, dict):
        shares = {str(key): share for key, share in value.items() if math.isfinite(share)}
        best = sorted(shares, key=lambda key: -shares[key])[:SHOWN_VALUES]
        likeliest = {key: shares[key] for key in best}
        return {"classes": len(value), "likeliest": likeliest, "not_finite": len(value) - len(shares)}
    if not isinstance(value, np.ndarray):
        return {"label": value}
    made: dict[str, Any] = {"dtype": str(value.dtype), "shape": list(value.shape)}
    finite = value[np.isfinite(value)] if value.dtype.kind == "f" else value
    if finite.size:
        low, high, mean = finite.min(), finite.max(), finite.mean(dtype=np.float64)
        made |= {"min": float(low), "max": float(high), "mean": float(mean)}
    return made | {"not_finite": int(value.size - finite.size)}


def render(package: Package, operators: bool) -> list[str]:
    """The package for people; `operators` lists every one."""
    kinds = package.operators
    precisions = ", ".join(f"{dtype} {count}" for dtype, count in precisions_of(package).most_common())
    lines = [
        f"{package.path.name}: ML Program, specification version {package.specification_version}, "
        f"from {package.minimum_os}; {sum(precisions_of(package).values())} operators ({precisions}); kinds with those "
        f"that decompress weights: {len(kinds)}"
    ]
    for title, features in (("input", package.inputs), ("output", package.outputs)):
        lines += [f"{title:<8}{feature.name:<24}{_shown(feature)}" for feature in features]
    for weights in weights_of(package):
        dense = f", {_kilobytes(weights.dense_bytes)} kB dense" if weights.dense_bytes != weights.stored_bytes else ""
        lines.append(
            f"weights {weights.kind:<32}{weights.count:>4} tensors, {_kilobytes(weights.stored_bytes)} kB{dense}"
        )
    lines.append("kinds   " + ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()))
    if operators:
        lines += ["", *(_line(operation) for operation in package.function.operations if not operation.is_constant)]
    return lines


def _shown(feature: Feature) -> str:
    if feature.kind == "array":
        return f"{feature.dtype} {list(feature.shape)}" + (
            " or other shapes" if feature.shapes or feature.sizes else ""
        )
    if feature.kind == "image":
        return f"image {feature.colour}, {feature.shape[0]} high, {feature.shape[1]} wide"
    return feature.kind


def _line(operation: Operation) -> str:
    given = " ".join(name for names in _names(operation).values() for name in names)
    made = " ".join(f"{o.name}:{o.type.dtype}{list(o.type.shape)}" for o in operation.outputs)
    return f"{operation.kind:<24}{given} -> {made}"


def render_output(name: str, summary: Mapping[str, Any]) -> str:
    return f"{name:<32}" + ", ".join(f"{key} {_number(value)}" for key, value in summary.items())


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _kilobytes(count: int) -> str:
    return f"{count / 1000:.1f}"
