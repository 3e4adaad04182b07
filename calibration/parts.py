"""What a recipe really does in 8 bits, read from a file that it quantized: rules and tool may differ in their view."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from edge_stra.calibration.quantize import computed_tensors, quantize
from edge_stra.calibration.recipes import ATTENTION
from numpy.typing import NDArray
from torch import nn

from edge_stra.spec import Recipe, Statistics
from edge_stra.targets.tflite_schema import parse

WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
CLIPPED = (*WEIGHTED, "ADD")
"""Operators whose outputs may be clipped. All others have ranges by construction (softmax, tanh, sigmoid), pass on
that of their input (PAD, RESHAPE), or are constants of 0 and 1."""


@dataclass(frozen=True)
class Parts:
    """weights: digests of the weights that are int8 (see `digest`); tensors: names of the int8 tensors whose range is
    free to choose. Inputs, outputs, attention, whatever feeds a softmax and all that is int16 too are not among them.
    """

    weights: frozenset[str]
    tensors: frozenset[str]

    def layers(self, network: nn.Module) -> set[str]:
        """The convs and linears of the network, by module name, whose weights are among the int8 ones."""
        modules = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
        return {name for name, module in modules.items() if digest(stored_weight(module)) in self.weights}


@dataclass(frozen=True)
class Operator:
    kind: str
    output: str
    output_type: int
    weight_type: int | None
    weight: NDArray[np.uint8] | None


def digest(data: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(data).tobytes()).hexdigest()


def stored_weight(module: nn.Conv2d | nn.Linear) -> NDArray[np.float32]:
    """A layer's weight as a .tflite stores it: [out, in], [out, h, w, in / groups] or, depthwise, [1, h, w, out]."""
    weight = module.weight.detach()
    if isinstance(module, nn.Conv2d):
        depthwise = module.groups == module.in_channels > 1
        weight = weight.permute(1, 2, 3, 0) if depthwise else weight.permute(0, 2, 3, 1)
    result: NDArray[np.float32] = weight.float().contiguous().numpy()
    return result


def read_operators(model: bytes) -> Iterator[Operator]:
    """The operators of the first subgraph, in order of execution."""
    parsed = parse(model)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    codes = [names[max(c.builtinCode, c.deprecatedBuiltinCode)] for c in parsed.operatorCodes]
    tensors = parsed.subgraphs[0].tensors
    for op in parsed.subgraphs[0].operators:
        kind, output = codes[op.opcodeIndex], tensors[op.outputs[0]]
        weight = tensors[op.inputs[1]] if kind in WEIGHTED else None
        data = None if weight is None else parsed.buffers[weight.buffer].data
        yield Operator(kind, output.name.decode(), output.type, None if weight is None else weight.type, data)


def find_parts(model: bytes, recipe: Recipe) -> Parts:
    """Quantizes a float32 .tflite, with any ranges, and looks at what became int8."""
    int8, int16 = schema.TensorType.INT8, schema.TensorType.INT16
    anything = Statistics(dict.fromkeys(computed_tensors(model), (-1.0, 1.0)), {}, {})
    done = list(read_operators(quantize(model, recipe, anything)))
    weighted = {op.output.removesuffix("_quantized") for op in done if op.weight_type == int8}
    eight, sixteen = (
        {op.output.removesuffix("_quantized") for op in done if op.output_type == kind} for kind in (int8, int16)
    )
    before = list(read_operators(model))
    weights = {digest(op.weight) for op in before if op.output in weighted and op.weight is not None}
    # The last operator gives the graph's output: a clipped logit could lose its lead.
    free = {op.output for op in before if op.kind in CLIPPED and not re.match(ATTENTION, op.output)}
    return Parts(frozenset(weights), frozenset((free & eight) - sixteen - {before[-1].output}))
