"""Activations of an ML Program in 8 bits: pairs of quantize and dequantize around what int8 hardware runs.

    conv -> relu6 -> conv          conv -> relu6 -> quantize -> dequantize -> conv

A pair stands after each tensor that a conv, a linear or a sum of a residual stream reads, and after those sums. Stem,
first block and the next expansion, and attention's products, softmaxes and modes stay in half floats, as in the recipe
`int8` (calibration/recipes.py says why). A tensor that is never negative becomes uint8 and any other int8, zero staying
0 in both: the scheme that Apple's hardware takes (coremltools.optimize.torch.quantization, symmetric).

coremltools' own post-hoc quantization of activations needs macOS to run the model, and keeps the range of the last
picture only (9.0, `_update_tensor_range` sets before it compares).
"""

from __future__ import annotations

import itertools
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from edge_stra.calibration.ranges import Range, choose_ranges, collect_histograms, find_extremes
from edge_stra.converters.coreml_package import operations, write_package
from edge_stra.converters.coreml_weights import EARLY, EXACT
from numpy.typing import NDArray

from edge_stra.mil import load_executor
from edge_stra.targets.coreml import INPUT

RANGES = "mse"
"""As in the recipe `int8`; edge_stra.calibration.ranges says what it is."""
RESIDUAL = re.compile(r"network_features_\d+_conv_\d+_weight")


def argument(op: Any, name: str) -> str:
    """The name of the value that an operation of MIL's protobuf reads; "" where it is written out in place."""
    return str(op.inputs[name].arguments[0].name)


def quantized_tensors(program: Any) -> list[str]:
    """Names of the tensors that get a pair, in order. program: MIL's protobuf Program, in float."""
    found: dict[str, None] = {}
    convs = [op for op in operations(program) if op.type == "conv"]
    projected = {op.outputs[0].name for op in convs if RESIDUAL.match(argument(op, "weight"))}
    for op in operations(program):
        if op.type in ("conv", "linear"):
            weight = argument(op, "weight")
            if not EARLY.match(weight) and not EXACT.match(weight):
                found[argument(op, "x")] = None
        if op.type == "add" and projected & {argument(op, "x"), argument(op, "y")}:
            found |= dict.fromkeys((argument(op, "x"), argument(op, "y"), op.outputs[0].name))
    return list(found)


def measure(model: Any, weights: Path, pictures: list[NDArray[np.uint8]]) -> dict[str, Range]:
    """The range of each tensor that gets a pair, on the executor. model, weights: the program in float; saved first.

    pictures: as the program takes them, [H, W, 3] or [H, W]. A tensor of one single value has none.
    """
    names = quantized_tensors(model.mlProgram)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.mlpackage"
        write_package(path, model, weights)
        executor = load_executor(path)

        def tensors() -> Iterator[tuple[str, NDArray[np.float32]]]:
            for picture in pictures:
                values = executor.run({INPUT: picture}, wanted=names)
                for name in names:
                    yield name, np.asarray(values[name], np.float32)

        extremes = find_extremes(tensors())
        return choose_ranges(RANGES, collect_histograms(extremes, tensors()))


def quantize_activations(program: Any, ranges: dict[str, Range]) -> Any:
    """An MLModel in half floats with a pair after each named tensor.

    `_apply_graph_pass` is how coremltools' own compression works on a converted model; there is no public one.
    """
    from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
    from coremltools.converters.mil.mil.passes.helper import block_context_manager
    from coremltools.models.utils import _apply_graph_pass

    class InsertPairs(AbstractGraphPass):  # type: ignore[misc]
        def apply(self, prog: Any) -> None:
            for function in prog.functions.values():
                block_context_manager(insert_pairs)(function, ranges)

    return _apply_graph_pass(program, InsertPairs())


def insert_pairs(block: Any, ranges: dict[str, Range]) -> None:
    """Puts quantize and dequantize after each named tensor of a block of coremltools' program, for all that read it."""
    from coremltools.converters.mil.mil import Builder

    found = list(block.operations)
    for op, following in itertools.pairwise(found):
        for tensor in op.outputs:
            if tensor.name not in ranges:
                continue
            dtype, scale = levels(ranges[tensor.name])
            quantized = Builder.quantize(input=tensor, scale=scale, output_dtype=dtype, before_op=following)
            back = Builder.dequantize(input=quantized, scale=scale, before_op=following)
            block.replace_uses_of_var_after_op(anchor_op=back.op, old_var=tensor, new_var=back)


def levels(found: Range) -> tuple[str, np.float16]:
    """Type and step of 8 bits that hold a range, zero staying 0."""
    low, high = found
    return ("uint8", np.float16(high / 255)) if low >= 0 else ("int8", np.float16(max(-low, high) / 127))
