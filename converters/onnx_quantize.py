"""A float32 .onnx -> static int8, as pairs of QuantizeLinear and DequantizeLinear, through onnxruntime.quantization.

What becomes int8 is what the recipe `int8` makes int8 in a .tflite (`edge_stra.calibration.recipes`): convs, linears
and sums of streams. Float stay stem, first block and the expansion that reads it, the products and softmaxes of
attention, and mode attention. Ranges and corrections are those of `edge_stra.calibration`, so the statistics that
travel with shipped weights serve both targets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from edge_stra.calibration.bias import apply_corrections, measure_corrections
from edge_stra.calibration.ranges import choose_ranges, collect_histograms, find_extremes
from edge_stra.converters.onnx import INPUT, POOLED, convert, finish, load_tools
from numpy.typing import NDArray
from torch import nn

from edge_stra.extras import install_command
from edge_stra.layers import module_path
from edge_stra.quiet import quiet_tools
from edge_stra.spec import DataError, MissingError, ModelSpec, Recipe, Statistics
from edge_stra.targets.onnx_runtime import open_session

Array = NDArray[np.float32]
FLOAT = re.compile(r"features\.(0|1|2\.conv\.0)(\.|$)|.*\.neighbours$")
"""Convs that stay float: stem, first block, the expansion that reads it, and attention's constant 0/1 kernel."""
STREAM = re.compile(r"features\.\d+$")
"""A sum of the residual stream, the only Add outside attention."""
ATTENTION = re.compile(r".*\.(logit_hidden|logit|value)$")
"""Convs inside attention: what they give feeds a softmax or products in float, and is not clipped."""


@dataclass(frozen=True)
class Parts:
    """nodes: names of the nodes that become int8. tensors: those whose ranges are measured; free: those of them that
    may be clipped; bounded: what tanh gives, between -1 and 1 by construction."""

    nodes: tuple[str, ...]
    tensors: tuple[str, ...]
    free: frozenset[str]
    bounded: frozenset[str]


def find_parts(model: Any) -> Parts:
    """What becomes int8 in a model of `edge_stra.converters.onnx.convert`, read from the names of its nodes."""
    constants = {tensor.name for tensor in model.graph.initializer}
    outputs = {value.name for value in model.graph.output}
    clips = {node.input[0]: node for node in model.graph.node if node.op_type == "Clip"}
    nodes, free = [], set()
    bounded = {node.output[0] for node in model.graph.node if node.op_type == "Tanh"}
    tensors: dict[str, None] = {}  # a set in order
    for node in model.graph.node:
        weighted = node.op_type in ("Conv", "Gemm") and not FLOAT.match(node.name)
        if not weighted and not (node.op_type == "Add" and STREAM.match(node.name)):
            continue
        last = clips.get(node.output[0], node)  # ReLU6 becomes the end of the range
        nodes += [node.name, last.name] if last is not node else [node.name]
        tensors |= dict.fromkeys(name for name in node.input if name not in constants | bounded)
        if last.output[0] not in outputs:
            tensors[last.output[0]] = None
            free |= set() if ATTENTION.match(node.name) else {last.output[0]}
    return Parts(tuple(nodes), tuple(tensors), frozenset(free), frozenset(bounded))


def int8_layers(network: nn.Module) -> list[str]:
    """The convs and linears of a network, by module name, whose weights become int8."""
    layers = (name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear))
    return [name for name in layers if not FLOAT.match(name)]


def read_tensors(model: bytes, inputs: Iterable[Array], names: Iterable[str]) -> Iterator[tuple[str, Array]]:
    """(name, value) of each tensor named, for each input [1, H, W, 3]."""
    onnx, _ = load_tools()
    parsed, names = onnx.load_from_string(model), list(names)
    given = {value.name for value in parsed.graph.output}
    parsed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in given)
    session = open_session(parsed.SerializeToString())
    for x in inputs:
        values = session.run(names, {INPUT: np.ascontiguousarray(x.transpose(0, 3, 1, 2))})
        yield from zip(names, values, strict=True)


def measure_statistics(
    recipe: Recipe, spec: ModelSpec, network: nn.Module, inputs: list[Array], source: dict[str, Any]
) -> tuple[bytes, Statistics]:
    """The float32 .onnx, with corrections where the recipe has them, and its statistics.

    network: as `edge_stra.export.rewrite` gives it; inputs: [1, H, W, 3] each, normalised, read more than once.
    """
    onnx, _ = load_tools()
    corrections = measure_corrections(network, inputs, int8_layers(network)) if recipe.correct_bias else {}
    graph = convert(apply_corrections(network, corrections), spec)
    parts = find_parts(onnx.load_from_string(graph))
    ranges = find_extremes(read_tensors(graph, inputs, parts.tensors))
    if recipe.ranges != "minmax":
        ranges |= choose_ranges(recipe.ranges, collect_histograms(ranges, read_tensors(graph, inputs, parts.free)))
    return graph, Statistics(ranges, corrections, source, recipe.settings)


def by_module(statistics: Statistics) -> Statistics:
    """Statistics by the names of a .tflite's tensors -> by the names of ours, those of modules.

    A module's tensors are its constants, then what it computes; the last one is what it gives.
    """
    ranges = {module_path(name): pair for name, pair in statistics.low_high.items()}
    ranges |= {POOLED: ranges.get("", (np.nan, np.nan))}
    return Statistics(ranges, statistics.corrections, statistics.source, statistics.settings)


def quantize(model: bytes, statistics: Statistics) -> bytes:
    """A float32 .onnx of `convert` -> int8: weights with one scale for each output channel, activations with one.

    statistics: by the names of tensors. Raises DataError where a tensor has no range, MissingError where onnxruntime is
    not installed.
    """
    with quiet_tools():
        onnx, _ = load_tools()
        try:
            from onnxruntime.quantization import QDQQuantizer, QuantType
            from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
        except ImportError as error:
            raise MissingError(f"int8 needs onnxruntime; run: {install_command('onnx')}") from error
        parsed = onnx.load_from_string(model)
        parts = find_parts(parsed)
        if missing := [name for name in parts.tensors if not np.isfinite(statistics.low_high.get(name, np.nan)).all()]:
            raise DataError(
                f"the calibration statistics must cover {len(parts.tensors)} tensors, but {len(missing)} are missing "
                f"(such as {missing[0]}): they are of another version of model or tools; give --calibration FOLDER"
            )
        pairs = {name: statistics.low_high[name] for name in parts.tensors} | dict.fromkeys(parts.bounded, (-1.0, 1.0))
        clips = (node for node in parsed.graph.node if node.op_type == "Clip" and node.name in parts.nodes)
        pairs |= {node.input[0]: pairs[node.output[0]] for node in clips}  # the end of the range does what they did
        ranges = {name: tuple(np.array(end, np.float32) for end in pair) for name, pair in pairs.items()}
        tool = QDQQuantizer(
            parsed,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
            nodes_to_quantize=list(parts.nodes),
            nodes_to_exclude=[],
            op_types_to_quantize=["Conv", "Gemm", "Add", "Clip"],
            # The last linear gives float32: no rounding of the logits, and the kernel gives them for nothing.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
        )
        tool.quantize_model()
        tool.model.topological_sort()
        return finish(tool.model.model, parsed.graph.name)
