"""The words that the tables of `edge_stra.delegates.rules` are written in.

A condition takes an operator and gives None where it holds, else the reason why a delegate leaves the operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from edge_stra.delegates.graph import Operator, Tensor

Condition = Callable[[Operator], str | None]
Places = tuple[str, ...]
"""Tensors of an operator: "in0" is its first input, "out0" its first output, "in" all inputs, "out" all outputs."""

EVERY = ("in", "out")
F32 = frozenset({"float32"})
FLOAT = F32 | {"float16"}
Q8 = frozenset({"int8", "uint8"})
MIN_NORMAL = 2.0**-126
"""The smallest normal float32: scales below are refused."""


def pick(operator: Operator, places: Places) -> list[tuple[str, Tensor]]:
    """(what to call it, tensor) of each tensor at the places that is there."""
    sides = {"in": ("input", operator.inputs), "out": ("output", operator.outputs)}
    found = []
    for place in places:
        side = place.rstrip("0123456789")
        word, tensors = sides[side]
        for index, tensor in enumerate(tensors):
            if tensor is not None and place in (side, f"{side}{index}"):
                found.append((f"{word} {index}", tensor))
    return found


def tensor_at(operator: Operator, place: str) -> Tensor | None:
    found = pick(operator, (place,))
    return found[0][1] if found else None


def counts(least: int, most: int, outputs: int | None = 1) -> Condition:
    """So many inputs, left-out ones counted, and so many outputs."""

    def check(operator: Operator) -> str | None:
        if not least <= len(operator.inputs) <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            return f"{len(operator.inputs)} inputs; {wanted} are taken"
        if outputs is not None and len(operator.outputs) != outputs:
            return f"{len(operator.outputs)} outputs; {outputs} are taken"
        return None

    return check


def computed(most: int) -> Condition:
    """At most so many inputs that are no constants."""

    def check(operator: Operator) -> str | None:
        count = sum(1 for tensor in operator.inputs if tensor is not None and not tensor.constant)
        return f"{count} inputs are computed; at most {most} may be" if count > most else None

    return check


def no_constants(operator: Operator) -> str | None:
    return "an input is constant" if any(t is not None and t.constant for t in operator.inputs) else None


def version(most: int) -> Condition:
    """The operator's version in the file."""

    def check(operator: Operator) -> str | None:
        return f"version {operator.version}; at most {most} is taken" if operator.version > most else None

    return check


def not_version(number: int) -> Condition:
    return lambda operator: f"version {number}" if operator.version == number else None


def kind(places: Places, allowed: Collection[str]) -> Condition:
    """Tensors of these dtypes; 8-bit ones quantized with one scale for the tensor."""

    def check(operator: Operator) -> str | None:
        for name, tensor in pick(operator, places):
            if tensor.dtype not in allowed:
                return f"{name} is {tensor.dtype}; taken: {', '.join(sorted(allowed))}"
            if tensor.dtype in Q8 and (problem := not_per_tensor(tensor)):
                return f"{name} {problem}"
        return None

    return check


def not_per_tensor(tensor: Tensor) -> str | None:
    if tensor.quantization is None:
        return "has no scale"
    if tensor.quantization.per_channel or tensor.quantization.dimension != 0:
        return "is quantized per channel; one scale is taken"
    return None


def integers(places: Places, allowed: Collection[str] = ("int32",)) -> Condition:
    """Plain integers, without a scale: axes, shapes, paddings."""

    def check(operator: Operator) -> str | None:
        for name, tensor in pick(operator, places):
            if tensor.dtype not in allowed:
                return f"{name} is {tensor.dtype}; taken: {', '.join(allowed)}"
        return None

    return check


def same_kind(places: Places) -> Condition:
    def check(operator: Operator) -> str | None:
        dtypes = {tensor.dtype for _, tensor in pick(operator, places)}
        return f"mixed types: {', '.join(sorted(dtypes))}" if len(dtypes) > 1 else None

    return check


def rank(places: Places, least: int, most: int) -> Condition:
    """So many dimensions, none of them empty."""

    def check(operator: Operator) -> str | None:
        for name, tensor in pick(operator, places):
            if not least <= tensor.rank <= most:
                wanted = f"rank {least}" if least == most else f"rank {least} to {most}"
                return f"{name} has rank {tensor.rank}; {wanted} is taken"
            if 0 in tensor.shape:
                return f"{name} is empty"
        return None

    return check


def static(places: Places) -> Condition:
    def check(operator: Operator) -> str | None:
        for name, tensor in pick(operator, places):
            if not tensor.constant:
                return f"{name} is computed; it must be constant"
        return None

    return check


def weights(channel: int, allowed: Collection[str] = ("float32", "int8", "uint8")) -> Condition:
    """Input 1, constant: one scale for the tensor, or one for each slice along dimension `channel`."""

    def check(operator: Operator) -> str | None:
        tensor = tensor_at(operator, "in1")
        if tensor is None or tensor.dtype not in allowed:
            return f"weights are {tensor.dtype if tensor else 'absent'}; taken: {', '.join(sorted(allowed))}"
        if tensor.dtype not in FLOAT and (problem := bad_scales(tensor, channel)):
            return f"weights {problem}"
        return static(("in1",))(operator)

    return check


def bad_scales(tensor: Tensor, channel: int) -> str | None:
    found = tensor.quantization
    if found is None:
        return "have no scale"
    if found.per_channel and (tensor.dtype == "uint8" or found.dimension != channel):
        return f"have a scale for each slice of dimension {found.dimension}; taken: {channel}"
    if found.per_channel and len(found.scales) != tensor.shape[channel]:
        return f"have {len(found.scales)} scales for {tensor.shape[channel]} channels"
    if not all(math.isfinite(scale) and scale >= MIN_NORMAL for scale in found.scales):
        return "have a scale that is no normal positive number"
    if tensor.dtype == "int8" and any(found.zero_points):
        return "have a zero point that is not 0"
    return None


def bias(required: bool) -> Condition:
    """Input 2: constant, rank 1, float or int32 with scales."""

    def check(operator: Operator) -> str | None:
        tensor = tensor_at(operator, "in2")
        if tensor is None:
            return "no bias" if required else None
        if tensor.dtype not in FLOAT | {"int32"}:
            return f"bias is {tensor.dtype}; taken: float16, float32, int32"
        if tensor.dtype == "int32" and (tensor.quantization is None or tensor.quantization.dimension != 0):
            return "bias has no scale along dimension 0"
        return rank(("in2",), 1, 1)(operator) or static(("in2",))(operator)

    return check


def matching(dynamic: Collection[str]) -> Condition:
    """Output and weights of the input's type; or a float input with weights of the types in `dynamic`."""

    def check(operator: Operator) -> str | None:
        x, w, y = (tensor_at(operator, place) for place in ("in0", "in1", "out0"))
        if x is None or w is None or y is None:
            return "an input or the output is absent"
        if x.dtype != y.dtype:
            return f"input is {x.dtype}, but output is {y.dtype}"
        if x.dtype != w.dtype and not (x.dtype == "float32" and w.dtype in dynamic):
            return f"input is {x.dtype}, but weights are {w.dtype}"
        return None

    return check


def activation(*allowed: str) -> Condition:
    """The activation that is fused into the operator."""

    def check(operator: Operator) -> str | None:
        found = operator.activation
        return None if found == "NONE" or found in allowed else f"fused activation {found}"

    return check


def option(name: str, *allowed: float) -> Condition:
    """The option's value; the schema's default, 0, where the file does not give it."""

    def check(operator: Operator) -> str | None:
        found = operator.options.get(name, 0)
        return None if found in allowed else f"{name} is {found}; taken: {', '.join(str(v) for v in allowed)}"

    return check


def at_least(least: int, *names: str) -> Condition:
    def check(operator: Operator) -> str | None:
        for name in names:
            if operator.options.get(name, 0) < least:
                return f"{name} is {operator.options.get(name, 0)}; at least {least} is taken"
        return None

    return check


def scale_of(operator: Operator, place: str) -> float | None:
    """The one scale of an 8-bit tensor, else None."""
    tensor = tensor_at(operator, place)
    if tensor is None or tensor.dtype not in Q8 or tensor.quantization is None or tensor.quantization.per_channel:
        return None
    return tensor.quantization.scales[0]


def ratio(places: Places, least: float, below: float, closed: bool = False) -> Condition:
    """Of 8-bit tensors: the product of the scales at the places over that of the output."""

    def check(operator: Operator) -> str | None:
        scales, out = [scale_of(operator, place) for place in places], scale_of(operator, "out0")
        if out is None or None in scales:
            return None
        found = math.prod(scale for scale in scales if scale is not None) / out if out else math.inf
        if least <= found < below or (closed and found == below):
            return None
        return f"scales of input over output are {found:.3g}; taken: {least:.3g} to {below:.3g}"

    return check


def equal_quantization(operator: Operator) -> str | None:
    """8-bit input 0 and output 0 share scale and zero point."""
    x, y = tensor_at(operator, "in0"), tensor_at(operator, "out0")
    if x is None or y is None or y.dtype not in Q8 or x.quantization is None or y.quantization is None:
        return None
    same = x.quantization.scales == y.quantization.scales and x.quantization.zero_points == y.quantization.zero_points
    return None if same else "input and output have different scales"


def values(place: str, holds: Callable[[int], bool], wanted: str) -> Condition:
    """Each value of a small integer constant."""

    def check(operator: Operator) -> str | None:
        tensor = tensor_at(operator, place)
        if tensor is None or tensor.values is None or all(holds(v) for v in tensor.values):
            return None
        return f"{pick(operator, (place,))[0][0]} is {list(tensor.values)}; {wanted}"

    return check


def leading_ones(places: Places, kept: int) -> Condition:
    """All dimensions but the last `kept` are 1."""

    def check(operator: Operator) -> str | None:
        for name, tensor in pick(operator, places):
            if not tensor.constant and any(size != 1 for size in tensor.shape[: max(0, tensor.rank - kept)]):
                return f"{name} is {list(tensor.shape)}; only its last {kept} dimension(s) may be above 1"
        return None

    return check


def axes(operator: Operator, place: str, of: str) -> set[int]:
    """The axes that a constant names, from 0."""
    named, tensor = tensor_at(operator, place), tensor_at(operator, of)
    if named is None or named.values is None or tensor is None:
        return set()
    return {value % tensor.rank if tensor.rank else 0 for value in named.values}


def not_batch(place: str, of: str = "in0") -> Condition:
    """Axes (reductions, splits) that leave the first dimension alone."""

    def check(operator: Operator) -> str | None:
        return "along the batch dimension" if 0 in axes(operator, place, of) else None

    return check


def applies(operator: Operator, conditions: Collection[Condition]) -> str | None:
    """The first reason, or None where all conditions hold."""
    return next((reason for condition in conditions if (reason := condition(operator))), None)
