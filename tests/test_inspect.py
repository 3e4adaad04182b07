"""The delegate linter: what it predicts for XNNPACK is what the runtime takes; the other tables are as published."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from click.testing import CliRunner, Result

from edge_stra.artifact import Artifact
from edge_stra.cli import main
from edge_stra.delegates.graph import OPTIONS, Graph, Operator, Reader, Tensor, read_graph
from edge_stra.delegates.partitions import Findings, count_macs, examine, inspect, partition, report
from edge_stra.delegates.rules import DELEGATES, EDGE_TPU, GPU, XNNPACK
from edge_stra.runtime import Predictor, delegated
from edge_stra.spec import ArtifactError, InputSpec, ModelSpec
from edge_stra.synthetic import face_pictures

if TYPE_CHECKING:
    from edge_stra.export import Exported

Shape = tuple[int, ...]
MAP = (1, 4, 4, 8)
LIMITED_NUMPY = {"FLOAT32": np.float32, "FLOAT16": np.float16, "INT8": np.int8, "UINT8": np.uint8, "INT16": np.int16,
                 "INT32": np.int32, "INT64": np.int64}  # fmt: skip


class Tiny:
    """A .tflite file of a few operators. `tensor` and `constant` give indices; `save` writes it."""

    def __init__(self) -> None:
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.subgraphs, self.model.operatorCodes = 3, [self.graph], []
        self.model.buffers = [schema.BufferT()]
        self.graph.tensors, self.graph.operators, self.graph.inputs, self.graph.outputs = [], [], [], []

    def tensor(self, shape: Shape, dtype: str = "FLOAT32", scale: Any = None, zero: int = 0, dim: int = 0) -> int:
        made = schema.TensorT()
        made.shape, made.type, made.buffer = list(shape), getattr(schema.TensorType, dtype), 0
        made.name = f"tensor{len(self.graph.tensors)}"
        if scale is None and dtype in ("INT8", "UINT8", "INT16"):
            scale = 0.1
        if scale is not None:
            scales = [float(v) for v in np.atleast_1d(scale)]
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = scales, [zero] * len(scales)
            made.quantization.quantizedDimension = dim
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def input(self, shape: Shape, dtype: str = "FLOAT32", scale: Any = None, zero: int = 0) -> int:
        index = self.tensor(shape, dtype, scale, zero)
        self.graph.inputs.append(index)
        return index

    def constant(self, value: Any, dtype: str = "INT32", scale: Any = None, zero: int = 0, dim: int = 0) -> int:
        array = np.asarray(value).astype(LIMITED_NUMPY[dtype])
        index = self.tensor(array.shape, dtype, scale, zero, dim)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(array.tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        self.graph.tensors[index].buffer = len(self.model.buffers) - 1
        return index

    def add(self, name: str, inputs: list[int], outputs: list[int], number: int = 1, **options: Any) -> int:
        """An operator with its options, by the names of the schema's objects; gives its first output."""
        code, made = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode, code.version = getattr(schema.BuiltinOperator, name), number
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        self.model.operatorCodes.append(code)
        made.opcodeIndex, made.inputs, made.outputs = len(self.model.operatorCodes) - 1, inputs, outputs
        kind = {"MAXIMUM": "MaximumMinimumOptions", "MINIMUM": "MaximumMinimumOptions"}.get(name)
        kind = kind or (OPTIONS[name][0] if name in OPTIONS else options.pop("kind", None))
        if kind:
            made.builtinOptionsType, made.builtinOptions = (
                getattr(schema.BuiltinOptions, kind),
                getattr(schema, f"{kind}T")(),
            )
            for key, value in options.items():
                assert hasattr(made.builtinOptions, key), key
                setattr(made.builtinOptions, key, value)
        self.graph.operators.append(made)
        return outputs[0]

    def save(self, path: Path, *outputs: int) -> Path:
        self.graph.outputs = list(outputs)
        path.write_bytes(pack(self.model))
        return path


def pack(model: Any) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


Build = Callable[[Tiny], list[int]]


def unary(name: str, dtype: str, shape: Shape = MAP, out: str = "", scale: float = 0.1, **options: Any) -> Build:
    """zero points and scales as TFLite's own kernels ask for."""
    fixed = {"LOGISTIC": (1 / 256, -128), "SOFTMAX": (1 / 256, -128), "TANH": (1 / 128, 0)}.get(name, (scale, 0))

    def build(tiny: Tiny) -> list[int]:
        x = tiny.input(shape, dtype)
        target = out or dtype
        zero = fixed[1] + (128 if target == "UINT8" and name in ("LOGISTIC", "SOFTMAX", "TANH") else 0)
        y = tiny.tensor(shape, target, fixed[0] if "INT8" in target else None, zero)
        return [tiny.add(name, [x], [y], **options)]

    return build


def binary(
    name: str, dtype: str, shapes: tuple[Shape, Shape] = (MAP, MAP), out_scale: float = 0.1, **options: Any
) -> Build:
    def build(tiny: Tiny) -> list[int]:
        a, b = (tiny.input(shape, dtype) for shape in shapes)
        scale = out_scale if "INT8" in dtype else None
        return [tiny.add(name, [a, b], [tiny.tensor(np.broadcast_shapes(*shapes), dtype, scale)], **options)]

    return build


def conv(
    depthwise: bool = False, dtype: str = "FLOAT32", weight: str = "", scale: Any = 0.01, fixed: bool = True,
    zero: int = 0, activation: int = 0, bias: bool = True,
) -> Build:  # fmt: skip
    """3x3, 8 channels; `fixed`: constant weights."""
    name, dim, shape = ("DEPTHWISE_CONV_2D", 3, (1, 3, 3, 8)) if depthwise else ("CONV_2D", 0, (8, 3, 3, 8))
    kind = weight or dtype

    def build(tiny: Tiny) -> list[int]:
        x, quantized = tiny.input(MAP, dtype), scale if "INT" in kind else None
        w = (
            tiny.constant(np.zeros(shape), kind, quantized, zero, dim if np.ndim(scale) else 0)
            if fixed
            else tiny.input(shape, kind, quantized)
        )
        ints = dtype != "FLOAT32"
        scales = 0.1 * np.asarray(scale) if ints else None
        biases = [tiny.constant(np.zeros(8), "INT32" if ints else "FLOAT32", scales)] if bias else []
        steps = {"strideH": 1, "strideW": 1, "fusedActivationFunction": activation}
        extra = {"depthMultiplier": 1} if depthwise else {}
        return [tiny.add(name, [x, w, *biases], [tiny.tensor(MAP, dtype)], number=5, **steps, **extra)]

    return build


def linear(dtype: str = "FLOAT32", weight: str = "", scale: Any = 0.01, fixed: bool = True, number: int = 5) -> Build:
    kind = weight or dtype

    def build(tiny: Tiny) -> list[int]:
        x, quantized = tiny.input((1, 16), dtype), scale if "INT" in kind else None
        w = tiny.constant(np.zeros((8, 16)), kind, quantized) if fixed else tiny.input((8, 16), kind, quantized)
        return [tiny.add("FULLY_CONNECTED", [x, w, -1], [tiny.tensor((1, 8), dtype)], number=number)]

    return build


def product(
    a: str = "FLOAT32", b: str = "", scale: Any = None, dim: int = 0, zero: int = 0, fixed: bool = False, rank: int = 3
) -> Build:
    ones = (1,) * (rank - 3)

    def build(tiny: Tiny) -> list[int]:
        x, kind = tiny.input((*ones, 2, 4, 8), a), b or a
        y = (
            tiny.constant(np.ones((*ones, 2, 8, 4)), kind, scale, zero, dim)
            if fixed
            else tiny.input((*ones, 2, 8, 4), kind, scale, zero)
        )
        return [tiny.add("BATCH_MATMUL", [x, y], [tiny.tensor((*ones, 2, 4, 4), a)], number=2)]

    return build


def joined(count: int, dtype: str = "FLOAT32") -> Build:
    def build(tiny: Tiny) -> list[int]:
        inputs = [tiny.input((1, 4, 4, 2), dtype) for _ in range(count)]
        return [tiny.add("CONCATENATION", inputs, [tiny.tensor((1, 4, 4, 2 * count), dtype)], number=2, axis=3)]

    return build


def shaped(
    name: str, shape: Shape, out: Shape, constants: list[Any], dtype: str = "FLOAT32", ints: str = "INT32",
    fixed: bool = True, out_scale: float = 0.1, number: int = 2, parts: int = 1, axis_first: bool = False,
    **options: Any,
) -> Build:  # fmt: skip
    """Operators that take their arguments as constants: pads, slices, reductions."""

    def build(tiny: Tiny) -> list[int]:
        x = tiny.input(shape, dtype)
        given = [tiny.constant(c, ints) if fixed else tiny.input(np.shape(c), ints) for c in constants]
        outs = [tiny.tensor(out, dtype, out_scale if "INT8" in dtype else None) for _ in range(parts)]
        number_here = 1 if name == "RESHAPE" else number
        tiny.add(name, [*given, x] if axis_first else [x, *given], outs, number=number_here, **options)
        return outs

    return build


PADDING = [[0, 0], [1, 1], [1, 1], [0, 0]]
POOLED = {"strideH": 2, "strideW": 2, "filterHeight": 2, "filterWidth": 2}
CHANNELS = [0.01] * 8
# What XNNPACK of ai-edge-litert 2.3.0 takes (True) and leaves (False). The runtime is the judge of both columns.
XNNPACK_CASES: dict[str, tuple[bool, Build]] = {
    **{f"{name} float32": (True, unary(name, "FLOAT32")) for name in (
        "ABS", "CEIL", "COS", "ELU", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LOGISTIC", "NEG", "RELU", "RELU6",
        "RELU_N1_TO_1", "ROUND", "RSQRT", "SIN", "SQRT", "SQUARE", "TANH")},
    **{f"{name} int8": (False, unary(name, "INT8")) for name in (
        "ABS", "EXP", "GELU", "HARD_SWISH", "NEG", "RELU", "RELU6", "RELU_N1_TO_1", "RSQRT", "SQRT")},
    **{f"{name} {dtype}": (True, unary(name, dtype)) for name in ("LOGISTIC", "TANH") for dtype in ("INT8", "UINT8")},
    "ELU int8": (True, unary("ELU", "INT8")),
    "LOG": (True, unary("LOG", "FLOAT32")),
    "SIGN": (False, unary("SIGN", "FLOAT32")),
    "DEQUANTIZE int16": (False, unary("DEQUANTIZE", "INT16", out="FLOAT32")),
    "TANH rank 6": (True, unary("TANH", "FLOAT32", (1, 1, 2, 2, 2, 2))),
    "TANH rank 7": (False, unary("TANH", "FLOAT32", (1, 1, 1, 2, 2, 2, 2))),
    "LEAKY_RELU": (True, unary("LEAKY_RELU", "FLOAT32", alpha=0.1)),
    "LEAKY_RELU int8": (True, unary("LEAKY_RELU", "INT8", alpha=0.1)),
    "LEAKY_RELU flat": (False, unary("LEAKY_RELU", "FLOAT32", alpha=0.0)),
    "LEAKY_RELU int8 slope too small": (False, unary("LEAKY_RELU", "INT8", alpha=0.001)),
    "SOFTMAX": (True, unary("SOFTMAX", "FLOAT32", beta=1.0)),
    "SOFTMAX beta": (False, unary("SOFTMAX", "FLOAT32", beta=2.0)),
    "SOFTMAX int8": (False, unary("SOFTMAX", "INT8", beta=1.0)),
    "QUANTIZE": (True, unary("QUANTIZE", "FLOAT32", out="INT8")),
    "QUANTIZE again": (True, unary("QUANTIZE", "INT8", scale=0.2)),
    "QUANTIZE far": (False, unary("QUANTIZE", "INT8", scale=1e-4)),
    "QUANTIZE to another type": (False, unary("QUANTIZE", "UINT8", out="INT8")),
    "DEQUANTIZE": (True, unary("DEQUANTIZE", "INT8", out="FLOAT32")),
    **{f"{name} {dtype}": (True, binary(name, dtype))
       for name in ("ADD", "SUB", "MUL") for dtype in ("FLOAT32", "INT8", "UINT8")},
    "ADD int32": (False, binary("ADD", "INT32")),
    "ADD fused TANH": (False, binary("ADD", "FLOAT32", fusedActivationFunction=4)),
    "ADD fused RELU6": (True, binary("ADD", "FLOAT32", fusedActivationFunction=3)),
    "ADD scales far apart": (False, binary("ADD", "INT8", out_scale=1e-4)),
    "ADD rank 6": (True, binary("ADD", "FLOAT32", ((1, 1, 2, 2, 2, 2), (1, 1, 2, 2, 2, 2)))),
    "ADD scalar": (True, binary("ADD", "FLOAT32", (MAP, ()))),
    "MUL scales far apart": (False, binary("MUL", "INT8", out_scale=1e3)),
    "DIV": (True, binary("DIV", "FLOAT32")),
    "MAXIMUM": (True, binary("MAXIMUM", "FLOAT32")),
    "MAXIMUM int8": (False, binary("MAXIMUM", "INT8")),
    "SQUARED_DIFFERENCE": (True, binary("SQUARED_DIFFERENCE", "FLOAT32", kind="SquaredDifferenceOptions")),
    "CONV_2D": (True, conv()),
    "CONV_2D int8": (True, conv(dtype="INT8")),
    "CONV_2D int8 per channel": (True, conv(dtype="INT8", scale=CHANNELS)),
    "CONV_2D uint8": (True, conv(dtype="UINT8")),
    "CONV_2D dynamic": (True, conv(weight="INT8", scale=CHANNELS)),
    "CONV_2D computed weights": (False, conv(fixed=False)),
    "CONV_2D fused TANH": (False, conv(activation=4)),
    "CONV_2D scale of 0": (False, conv(dtype="INT8", scale=[*CHANNELS[:7], 0.0])),
    "DEPTHWISE_CONV_2D": (True, conv(True)),
    "DEPTHWISE_CONV_2D int8 per channel": (True, conv(True, "INT8", scale=CHANNELS)),
    "DEPTHWISE_CONV_2D dynamic": (False, conv(True, weight="INT8", scale=CHANNELS)),
    "DEPTHWISE_CONV_2D no bias": (False, conv(True, bias=False)),
    "FULLY_CONNECTED": (True, linear()),
    "FULLY_CONNECTED int8": (True, linear("INT8")),
    "FULLY_CONNECTED int8 per channel": (True, linear("INT8", scale=CHANNELS)),
    "FULLY_CONNECTED dynamic": (True, linear(weight="INT8", scale=CHANNELS, number=12)),
    "FULLY_CONNECTED computed weights": (False, linear(fixed=False)),
    "FULLY_CONNECTED sparse version": (False, linear(number=8)),
    "BATCH_MATMUL": (True, product()),
    "BATCH_MATMUL rank 5": (True, product(rank=5)),
    "BATCH_MATMUL constant": (True, product(fixed=True)),
    "BATCH_MATMUL int8": (True, product("INT8")),
    "BATCH_MATMUL int8 zero point": (False, product("INT8", zero=-2)),
    "BATCH_MATMUL dynamic": (True, product(b="INT8", scale=[0.1] * 4, dim=2, fixed=True)),
    "BATCH_MATMUL dynamic, scales along the batch": (False, product(b="INT8", scale=[0.1] * 2, dim=0, fixed=True)),
    "BATCH_MATMUL int8 per channel": (False, product("INT8", scale=[0.1] * 4, dim=2, fixed=True)),
    "CONCATENATION of 1": (False, joined(1)),
    "CONCATENATION of 5": (True, joined(5)),
    "CONCATENATION of 6": (False, joined(6)),
    "CONCATENATION int8": (True, joined(2, "INT8")),
    "CONCATENATION int32": (False, joined(2, "INT32")),
    "PAD": (True, shaped("PAD", MAP, (1, 6, 6, 8), [PADDING])),
    "PAD int8": (True, shaped("PAD", MAP, (1, 6, 6, 8), [PADDING], "INT8")),
    "PAD computed": (False, shaped("PAD", MAP, (1, 6, 6, 8), [PADDING], fixed=False)),
    "PAD int64": (False, shaped("PAD", MAP, (1, 6, 6, 8), [PADDING], ints="INT64")),
    "RESHAPE": (True, shaped("RESHAPE", MAP, (1, 16, 8), [[1, 16, 8]])),
    "RESHAPE int8": (True, shaped("RESHAPE", MAP, (1, 16, 8), [[1, 16, 8]], "INT8")),
    "RESHAPE int8 other scale": (False, shaped("RESHAPE", MAP, (1, 16, 8), [[1, 16, 8]], "INT8", out_scale=0.2)),
    "RESHAPE int32": (False, shaped("RESHAPE", MAP, (1, 16, 8), [[1, 16, 8]], "INT32")),
    "RESHAPE rank 6": (True, shaped("RESHAPE", MAP, (1, 1, 1, 16, 4, 2), [[1, 1, 1, 16, 4, 2]])),
    "RESHAPE rank 7": (False, shaped("RESHAPE", MAP, (1, 1, 1, 1, 16, 4, 2), [[1, 1, 1, 1, 16, 4, 2]])),
    "RESHAPE computed": (False, shaped("RESHAPE", MAP, (1, 16, 8), [[1, 16, 8]], fixed=False)),
    **{f"{name} {dtype}": (True, shaped(name, MAP, (1, 8), [[1, 2]], dtype))
       for name in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN") for dtype in ("FLOAT32", "INT8")},
    "MEAN kept dimensions": (True, shaped("MEAN", MAP, (1, 1, 1, 8), [[1, 2]], keepDims=True)),
    "MEAN computed axes": (False, shaped("MEAN", MAP, (1, 4, 4), [[3]], fixed=False)),
    "REDUCE_PROD": (False, shaped("REDUCE_PROD", MAP, (1, 8), [[1, 2]], kind="ReducerOptions")),
    "SLICE": (True, shaped("SLICE", MAP, (1, 2, 4, 8), [[0, 1, 0, 0], [1, 2, 4, 8]])),
    "SLICE int64": (True, shaped("SLICE", MAP, (1, 2, 4, 8), [[0, 1, 0, 0], [1, 2, 4, 8]], ints="INT64")),
    "SLICE to the end": (False, shaped("SLICE", MAP, (1, 3, 4, 8), [[0, 1, 0, 0], [1, -1, 4, 8]])),
    "SLICE computed": (False, shaped("SLICE", MAP, (1, 2, 4, 8), [[0, 1, 0, 0], [1, 2, 4, 8]], fixed=False)),
    "STRIDED_SLICE": (True, shaped("STRIDED_SLICE", MAP, (1, 2, 4, 8), [[0, 1, 0, 0], [1, 3, 4, 8], [1] * 4])),
    "STRIDED_SLICE by 2": (False, shaped("STRIDED_SLICE", MAP, (1, 2, 4, 8), [[0] * 4, [1, 4, 4, 8], [1, 2, 1, 1]])),
    "STRIDED_SLICE that shrinks": (False, shaped(
        "STRIDED_SLICE", MAP, (1, 4, 8), [[0, 1, 0, 0], [1, 2, 4, 8], [1] * 4], shrinkAxisMask=2)),
    "STRIDED_SLICE end mask": (True, shaped(
        "STRIDED_SLICE", MAP, (1, 2, 4, 8), [[0, 1, 0, 0], [9, 3, 9, 9], [1] * 4], endMask=13)),
    "STRIDED_SLICE beyond the end": (True, shaped(
        "STRIDED_SLICE", MAP, (1, 2, 4, 8), [[0, 2, 0, 0], [1, 9, 4, 8], [1] * 4])),
    "TRANSPOSE": (True, shaped("TRANSPOSE", MAP, (1, 8, 4, 4), [[0, 3, 1, 2]])),
    "TRANSPOSE int8": (True, shaped("TRANSPOSE", MAP, (1, 8, 4, 4), [[0, 3, 1, 2]], "INT8")),
    "TRANSPOSE int32": (False, shaped("TRANSPOSE", MAP, (1, 8, 4, 4), [[0, 3, 1, 2]], "INT32")),
    "TRANSPOSE computed": (False, shaped("TRANSPOSE", MAP, (1, 8, 4, 4), [[0, 3, 1, 2]], fixed=False)),
    **{f"SPLIT in {count}": (count < 8, shaped(
        "SPLIT", MAP, (1, 4, 4, 8 // count), [3], parts=count, axis_first=True, kind="SplitOptions", numSplits=count))
       for count in (2, 4, 8)},
    "RESIZE_BILINEAR": (True, shaped("RESIZE_BILINEAR", MAP, (1, 8, 8, 8), [[8, 8]])),
    "RESIZE_BILINEAR int8": (True, shaped("RESIZE_BILINEAR", MAP, (1, 8, 8, 8), [[8, 8]], "INT8")),
    "RESIZE_NEAREST_NEIGHBOR": (False, shaped("RESIZE_NEAREST_NEIGHBOR", MAP, (1, 8, 8, 8), [[8, 8]])),
    "AVERAGE_POOL_2D": (True, shaped("AVERAGE_POOL_2D", MAP, (1, 2, 2, 8), [], **POOLED)),
    "AVERAGE_POOL_2D int8": (False, shaped("AVERAGE_POOL_2D", MAP, (1, 2, 2, 8), [], "INT8", **POOLED)),
    "MAX_POOL_2D int8": (True, shaped("MAX_POOL_2D", MAP, (1, 2, 2, 8), [], "INT8", **POOLED)),
    "MAX_POOL_2D stride above window": (False, shaped(
        "MAX_POOL_2D", MAP, (1, 2, 2, 8), [], **POOLED | {"filterHeight": 1, "filterWidth": 1})),
    "DEPTH_TO_SPACE": (True, shaped("DEPTH_TO_SPACE", MAP, (1, 8, 8, 2), [], number=1, blockSize=2)),
    "SPACE_TO_DEPTH": (True, shaped("SPACE_TO_DEPTH", MAP, (1, 2, 2, 32), [], number=1, blockSize=2)),
    "EXPAND_DIMS": (False, shaped("EXPAND_DIMS", MAP, (1, 1, 4, 4, 8), [[1]], number=1)),
    "GATHER_ND": (False, shaped("GATHER_ND", (4, 8), (2, 8), [[[0], [2]]], number=1)),
    "TILE": (False, shaped("TILE", (4, 8), (8, 8), [[2, 1]], number=1)),
}  # fmt: skip


def predicted(path: Path) -> list[frozenset[int]]:
    return [frozenset(part.operators) for part in examine(read_graph(path), XNNPACK).partitions]


def assert_as_the_runtime_says(path: Path) -> tuple[frozenset[int], ...]:
    """The same partitions, of the same operators; gives them."""
    seen = delegated(path)
    assert seen.parts is not None and seen.operators == len(read_graph(path).operators)
    assert predicted(path) == list(seen.parts)
    return seen.parts


@pytest.mark.parametrize("case", XNNPACK_CASES)
def test_xnnpack_takes_what_the_rules_say(case: str, tmp_path: Path) -> None:
    taken, build = XNNPACK_CASES[case]
    tiny = Tiny()
    path = tiny.save(tmp_path / "a.tflite", *build(tiny))
    assert assert_as_the_runtime_says(path) == ((frozenset({0}),) if taken else ())


def test_every_row_of_xnnpack_has_a_case_that_is_taken() -> None:
    tested = {case.split(" ")[0] for case, (taken, _) in XNNPACK_CASES.items() if taken}
    untested = {name for row in XNNPACK.rows for name in row.operators} - tested
    assert untested == {"MINIMUM", "PRELU"}  # as MAXIMUM and DIV


def chain(tiny: Tiny, names: str, start: int) -> int:
    """TANH for t, SIGN, which is not taken, for s, one after the other."""
    for name in names:
        start = tiny.add({"t": "TANH", "s": "SIGN"}[name], [start], [tiny.tensor(MAP)])
    return start


def test_partitions_are_those_of_the_runtime(tmp_path: Path) -> None:
    """Broken in the middle; and two branches, of which the runtime runs what is ready before it breaks."""
    tiny = Tiny()
    path = tiny.save(tmp_path / "a.tflite", chain(tiny, "ttstts", tiny.input(MAP)))
    assert assert_as_the_runtime_says(path) == (frozenset({0, 1}), frozenset({3, 4}))
    tiny = Tiny()
    x = tiny.input(MAP)
    a, b = chain(tiny, "tst", x), chain(tiny, "tt", x)  # operators 0 1 2 and 3 4
    path = tiny.save(tmp_path / "b.tflite", tiny.add("ADD", [a, b], [tiny.tensor(MAP)]))
    assert assert_as_the_runtime_says(path) == (frozenset({0, 3, 4}), frozenset({2, 5}))


def runs_by_definition(graph: Graph, left: set[int]) -> list[tuple[tuple[int, ...], bool]]:
    """The first operator whose inputs are there decides the kind of a run; round and round until none joins it."""
    waiting, runs = list(graph.operators), []
    while waiting:
        absent = {tensor.index for operator in waiting for tensor in operator.outputs}
        kind = next(o.index not in left for o in waiting if not absent & {t.index for t in o.inputs if t})
        run: list[int] = []
        while joining := [
            operator
            for operator in waiting
            if (operator.index not in left) == kind and not absent & {t.index for t in operator.inputs if t}
        ]:
            run += [operator.index for operator in joining]
            waiting = [operator for operator in waiting if operator not in joining]
            absent = {tensor.index for operator in waiting for tensor in operator.outputs}
        runs.append((tuple(sorted(run)), kind))
    return runs


@pytest.mark.parametrize("seed", range(20))
def test_runs_of_drawn_graphs_are_those_of_their_definition(seed: int) -> None:
    """Operators in any order, each with up to three inputs from before it: in a row, in branches, twice the same."""
    random = np.random.default_rng(seed)
    tensors = [Tensor(i, str(i), "float32", (1,), False, None) for i in range(40)]
    rows = [
        (tuple(tensors[j] for j in random.integers(0, i, random.integers(1, 4))), (tensors[i],)) for i in range(1, 40)
    ]
    drawn = [rows[i] for i in random.permutation(len(rows))] if seed % 2 else rows
    graph = Graph(tuple(Operator(i, "ADD", 1, *row, {}) for i, row in enumerate(drawn)), tuple(tensors), 1)
    left = {int(i) for i in np.flatnonzero(random.random(39) < 0.4)}
    assert list(partition(graph, left)) == runs_by_definition(graph, left)


def test_operators_that_wait_for_each_other_are_refused() -> None:
    a, b = (Tensor(i, str(i), "float32", (1,), False, None) for i in range(2))
    circle = Graph((Operator(0, "ADD", 1, (a,), (b,), {}), Operator(1, "ADD", 1, (b,), (a,), {})), (a, b), 1)
    with pytest.raises(ArtifactError, match="some wait for each other"):
        list(partition(circle, ()))


def test_an_unpacked_constant_goes_where_its_readers_go(tmp_path: Path) -> None:
    """float16 weights: the DEQUANTIZE is XNNPACK's where all readers are, and the plain kernels' where one is not."""
    for names, taken in (("TANH", {0, 1, 2}), ("SIGN", {1})):
        tiny = Tiny()
        x, w = tiny.input(MAP), tiny.tensor(MAP)
        tiny.add("DEQUANTIZE", [tiny.constant(np.ones(MAP), "FLOAT16")], [w])
        y = tiny.add("MUL", [x, w], [tiny.tensor(MAP)])
        z = tiny.add(names, [w], [tiny.tensor(MAP)])
        path = tiny.save(tmp_path / f"{names}.tflite", y, z)
        assert assert_as_the_runtime_says(path) == (frozenset(taken),)
    whole = report(inspect(tmp_path / "TANH.tflite"))
    (part,) = whole["delegates"]["xnnpack"]["partitions"]
    numbers = 4 * 4 * 8  # of a map; x and both results are activations, the weights that are unpacked are none
    assert whole["activation_bytes"] == part["activation_bytes"] == 3 * 4 * numbers
    assert whole["weight_bytes"] == part["weight_bytes"] == 2 * numbers


def edit(source: Path, target: Path, change: Callable[[Any, Any], None]) -> Path:
    """Reads a file into objects, lets `change(model, subgraph)` break it, writes it."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(source.read_bytes(), 0))
    change(model, model.subgraphs[0])
    target.write_bytes(pack(model))
    return target


def rename(model: Any, graph: Any, old: str, new: str) -> None:
    for code in model.operatorCodes:
        if code.builtinCode == getattr(schema.BuiltinOperator, old):
            code.builtinCode = getattr(schema.BuiltinOperator, new)
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)


def test_the_float_artifact_is_one_partition_and_broken_ones_are_not(exported: Exported, tmp_path: Path) -> None:
    assert len(assert_as_the_runtime_says(exported.path)) == 1
    unsupported = edit(exported.path, tmp_path / "a.tflite", lambda m, g: rename(m, g, "RSQRT", "SIGN"))
    assert len(assert_as_the_runtime_says(unsupported)) == 3

    def cool(_: Any, graph: Any) -> None:
        for operator in graph.operators:
            if operator.builtinOptionsType == schema.BuiltinOptions.SoftmaxOptions:
                operator.builtinOptions.beta = 0.5

    assert len(assert_as_the_runtime_says(edit(exported.path, tmp_path / "b.tflite", cool))) > 1


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    for index, picture in enumerate(face_pictures(32, (64, 64), seed=4)):
        cv2.imwrite(str(folder / f"{index:03d}.png"), picture)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mobilenetv2_stra.fer", "mobilenetv2.fer"])
@pytest.mark.parametrize("quantize", ["fp32", "fp16", "dynamic", "int8", "int8-full"])
def test_every_type_of_artifact_is_predicted(model: str, quantize: str, calibration: Path, tmp_path: Path) -> None:
    from edge_stra.export import Request, export
    from edge_stra.models.macs import count_macs as count_of_model
    from edge_stra.models.registry import create_model, get_spec

    pictures = calibration if quantize.startswith("int8") else None
    made = export(Request(model, quantize, tmp_path, weights="random", calibration=pictures))
    parts = assert_as_the_runtime_says(made.path)
    assert len(parts) == 1 or quantize == "int8-full"
    if model == "mobilenetv2.fer":
        counted = sum(count_macs(operator) for operator in read_graph(made.path).operators)
        assert counted == count_of_model(create_model(model).eval(), get_spec(model).input.size_hw)


def examined(build: Build, table: Any, folder: Path) -> Findings:
    tiny = Tiny()
    return examine(read_graph(tiny.save(folder / "a.tflite", *build(tiny))), table)


ROW = (1, 1, 1, 8)
# Each known limitation of the published tables once met (None) and once not: a word of the reason.
EDGE_CASES: dict[str, tuple[str | None, Build]] = {
    "float": ("8-bit tensors", unary("RELU", "FLOAT32")),
    "8 bits": (None, unary("RELU", "INT8")),
    "DEQUANTIZE": ("not in this table", unary("DEQUANTIZE", "INT8", out="FLOAT32")),
    "four dimensions above 1": ("last 3", unary("RELU", "INT8", (2, 4, 4, 8))),
    "softmax of a row": (None, unary("SOFTMAX", "INT8", ROW, beta=1.0)),
    "softmax of a map": ("last 1", unary("SOFTMAX", "INT8", beta=1.0)),
    "softmax of many": ("16000", unary("SOFTMAX", "INT8", (1, 16001), beta=1.0)),
    "mean of a map": (None, shaped("MEAN", MAP, (1, 8), [[1, 2]], "INT8")),
    "mean of 6 channels": ("multiple of 4", shaped("MEAN", (1, 4, 4, 6), (1, 4, 4), [[3]], "INT8")),
    "mean of the batch": ("batch", shaped("MEAN", MAP, (4, 4, 8), [[-4]], "INT8")),
    "pad": (None, shaped("PAD", MAP, (1, 6, 6, 8), [PADDING], "INT8")),
    "pad of the batch": ("batch", shaped("PAD", (1, 4, 8), (2, 4, 8), [[[0, 1], [0, 0], [0, 0]]], "INT8")),
    "conv": (None, conv(dtype="INT8", scale=CHANNELS)),
    "computed weights": ("constant", linear("INT8", fixed=False)),
    "BATCH_MATMUL": ("not in this table", product("INT8")),
    "pool with activation": ("fused", shaped("MAX_POOL_2D", MAP, (1, 2, 2, 8), [], "INT8", fusedActivationFunction=1)),
    "slice by 2": ("strides", shaped(
        "STRIDED_SLICE", MAP, (1, 2, 4, 8), [[0] * 4, [1, 4, 4, 8], [1, 2, 1, 1]], "INT8")),
    "squeeze of the end": ("leading", shaped("SQUEEZE", (1, 5, 1, 8), (5, 8), [], "INT8")),
    "squeeze of the start": (None, shaped("SQUEEZE", (1, 1, 5, 8), (5, 8), [], "INT8")),
}  # fmt: skip
GPU_CASES: dict[str, tuple[str | None, Build]] = {
    "float": (None, unary("TANH", "FLOAT32")),
    "8 bits": (None, unary("TANH", "INT8")),
    "int32": ("int32", binary("SUB", "INT32")),
    "rank 5": ("rank 5", unary("TANH", "FLOAT32", (1, 1, 2, 2, 2))),
    "rank 5 constant": ("rank 5", shaped("RESHAPE", MAP, (1, 1, 4, 4, 8), [[1, 1, 4, 4, 8]])),
    "CEIL": ("not in this table", unary("CEIL", "FLOAT32")),
    "linear of a new version": ("version 12", linear(weight="INT8", number=12)),
    "slice of rank 2": ("rank 2", shaped("SLICE", (4, 8), (2, 8), [[0, 0], [2, 8]])),
    "slice": (None, shaped("SLICE", MAP, (1, 2, 4, 8), [[0, 1, 0, 0], [1, 2, 4, 8]])),
    "product with a constant of rank 3": ("rank 3", product(fixed=True)),
    "product": (None, product()),
    "broadcast of rank 3 to a batch": ("operands", binary("ADD", "FLOAT32", ((2, 4, 4, 8), (4, 4, 8)))),
    "broadcast of rank 3": (None, binary("ADD", "FLOAT32", (MAP, (4, 4, 8)))),
    "pad of rank 2": ("paddings", shaped("PAD", (4, 8), (6, 8), [[[1, 1], [0, 0]]])),
}  # fmt: skip


@pytest.mark.parametrize(
    ("table", "case"),
    [*((EDGE_TPU, c) for c in EDGE_CASES), *((GPU, c) for c in GPU_CASES)],
    ids=lambda v: getattr(v, "name", v),
)
def test_the_published_tables(table: Any, case: str, tmp_path: Path) -> None:
    word, build = (EDGE_CASES if table is EDGE_TPU else GPU_CASES)[case]
    found = examined(build, table, tmp_path)
    assert [reason.operator for reason in found.reasons] == ([] if word is None else [0])
    assert word is None or word in found.reasons[0].text
    assert all(reason.source.startswith("https://") for reason in found.reasons)


def test_one_partition_is_all_that_the_edge_tpu_and_the_gpu_run(tmp_path: Path) -> None:
    """The first one, and the largest one; what is left says so."""

    def build(tiny: Tiny) -> list[int]:
        x = tiny.input(MAP, "INT8")
        for name in ("RELU", "CEIL", "RELU6", "RELU"):
            x = tiny.add(name, [x], [tiny.tensor(MAP, "INT8")])
        return [x]

    for table, kept in ((EDGE_TPU, (0,)), (GPU, (2, 3))):
        found = examined(build, table, tmp_path)
        assert [part.operators for part in found.partitions] == [kept]
        left = {reason.operator: reason.text for reason in found.reasons}
        assert sorted(left) == sorted({0, 1, 2, 3} - set(kept))
        assert all("one partition alone" in text for index, text in left.items() if index != 1)


def test_tables_name_real_operators_and_their_sources() -> None:
    for delegate in DELEGATES.values():
        names = [name for row in delegate.rows for name in row.operators]
        assert len(set(names)) == len(names)
        assert {name for name in names if not hasattr(schema.BuiltinOperator, name)} == set()
        assert all(row.source.startswith("https://") for row in delegate.rows)
        assert not delegate.common or delegate.common_source.startswith("https://")
        assert delegate.keeps == "all" or delegate.keeps_source.startswith("https://")


def test_macs_and_bytes(tmp_path: Path) -> None:
    """By hand: 4x4 outputs of 8 channels; a product of [2, 4, 8] and [2, 8, 4]; a linear layer of 16 to 8."""
    expected = {conv(): 16 * 8 * 9 * 8, conv(True): 16 * 8 * 9, product(): 2 * 4 * 4 * 8, linear(): 16 * 8}
    for build, macs in expected.items():
        (part,) = examined(build, XNNPACK, tmp_path).partitions
        assert part.macs == macs
    (part,) = examined(conv(dtype="INT8", scale=CHANNELS), XNNPACK, tmp_path).partitions
    assert part.weight_bytes == 8 * 9 * 8 + 8 * 4  # int8 weights, int32 bias
    assert part.activation_bytes == 2 * 16 * 8


def one_operator(folder: Path) -> Path:
    tiny = Tiny()
    return tiny.save(folder / "a.tflite", *conv()(tiny))


def test_what_is_no_whole_tflite_file_is_refused(tmp_path: Path) -> None:
    whole = one_operator(tmp_path).read_bytes()
    wrong = {
        "text": b"hello", "empty": b"", "zeros": b"\0" * 1000, "no identifier": whole[:4] + b"XXXX" + whole[8:],
        "half": whole[: len(whole) // 2], "identifier alone": b"\x08\0\0\0TFL3",
    }  # fmt: skip
    for name, data in wrong.items():
        path = tmp_path / "b.tflite"
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match=r"whole \.tflite file"):
            read_graph(path)
            pytest.fail(name)
    with pytest.raises(ArtifactError, match="no such file"):
        read_graph(tmp_path / "none.tflite")


def test_damaged_bytes_raise_nothing_else(tmp_path: Path) -> None:
    whole, random = one_operator(tmp_path).read_bytes(), np.random.default_rng(0)
    head = len(whole) - 2600  # without the weights, whose bytes mean nothing here
    refused = 0
    for _ in range(300):
        data = np.frombuffer(whole, np.uint8).copy()
        data[random.integers(8, max(head, 1000), 3)] = random.integers(0, 256, 3)
        path = tmp_path / "b.tflite"
        path.write_bytes(data.tobytes())
        try:
            report(inspect(path))
        except ArtifactError:
            refused += 1
    assert refused > 30


def test_names_of_a_file_do_not_reach_the_terminal_as_they_are(tmp_path: Path) -> None:
    def rewrite(model: Any, graph: Any) -> None:
        code = model.operatorCodes[0]
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode = "X\x1b[2J\nXNNPACK   1 of 1"

    path = edit(one_operator(tmp_path), tmp_path / "forged.tflite", rewrite)
    for words in (["--delegate", "all"], ["--operators"], ["--fail-on", "undelegated"]):
        told = edge_stra(path, *words).output
        assert "\x1b" not in told and "X\ufffd[2J\ufffdXNNPACK" in told


def test_a_long_name_that_many_tensors_share_is_refused_at_once(tmp_path: Path) -> None:
    data = one_operator(tmp_path).read_bytes()
    reader = Reader(data)
    name = b"n" * len(data)
    assert len(reader.text(name)) == min(len(name), 4096)
    with pytest.raises(ValueError, match="share more values"):
        for _ in range(1_000):
            reader.text(name)


def test_a_file_that_shares_its_tables_is_refused_at_once(tmp_path: Path) -> None:
    """20,000 tensors that are one, of 20,000 scales: 160 KB that would unfold into 400 million numbers."""
    count, b = 20_000, flatbuffers.Builder(1 << 20)
    scales = b.CreateNumpyVector(np.ones(count, np.float32))
    schema.QuantizationParametersStart(b)
    schema.QuantizationParametersAddScale(b, scales)
    quantization = schema.QuantizationParametersEnd(b)
    schema.TensorStart(b)
    schema.TensorAddQuantization(b, quantization)
    tensor = schema.TensorEnd(b)
    schema.SubGraphStartTensorsVector(b, count)
    for _ in range(count):
        b.PrependUOffsetTRelative(tensor)
    tensors = b.EndVector()
    schema.SubGraphStart(b)
    schema.SubGraphAddTensors(b, tensors)
    subgraph = schema.SubGraphEnd(b)
    schema.BufferStart(b)
    buffer = schema.BufferEnd(b)
    lists = []
    for start, item in ((schema.ModelStartSubgraphsVector, subgraph), (schema.ModelStartBuffersVector, buffer)):
        start(b, 1)
        b.PrependUOffsetTRelative(item)
        lists.append(b.EndVector())
    schema.ModelStart(b)
    schema.ModelAddSubgraphs(b, lists[0])
    schema.ModelAddBuffers(b, lists[1])
    b.Finish(schema.ModelEnd(b), b"TFL3")
    (tmp_path / "a.tflite").write_bytes(bytes(b.Output()))
    with pytest.raises(ArtifactError, match="share more values"):
        read_graph(tmp_path / "a.tflite")


def test_an_artifact_of_ours_must_match_its_manifest(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "a.tflite").write_bytes(exported.path.read_bytes())
    assert isinstance(read_graph(tmp_path / "a.tflite"), Graph)
    (tmp_path / "a.json").write_text(json.dumps(exported.manifest | {"sha256": "0" * 64}))
    with pytest.raises(ArtifactError, match="SHA-256"):
        read_graph(tmp_path / "a.tflite")


def test_a_conv_without_its_input_is_read(tmp_path: Path) -> None:
    tiny = Tiny()
    output = tiny.tensor(MAP)
    weight, bias = tiny.constant(np.zeros((4, 1, 1, 4)), "FLOAT32"), tiny.constant(np.zeros(4), "FLOAT32")
    tiny.add("CONV_2D", [-1, weight, bias], [output], strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1)
    result = edge_stra(tiny.save(tmp_path / "a.tflite", output), "--delegate", "all")
    assert result.exit_code == 0, result.output
    assert "an input or the output is absent" in result.output


def test_a_foreign_file_may_have_any_json_beside_it(tmp_path: Path) -> None:
    tiny = Tiny()
    path = tiny.save(tmp_path / "ssd.tflite", chain(tiny, "t", tiny.input(MAP)))
    (tmp_path / "ssd.json").write_text('["person", "bicycle"]')
    assert len(read_graph(path).operators) == 1
    (tmp_path / "ssd.json").write_text('{"format": "edge-stra.artifact/1"')
    with pytest.raises(ArtifactError):
        read_graph(path)


def edge_stra(*words: object) -> Result:
    return CliRunner().invoke(main, ["inspect", *map(str, words)])


def test_the_command_shows_partitions_and_reasons(tmp_path: Path) -> None:
    tiny = Tiny()
    path = tiny.save(tmp_path / "a.tflite", chain(tiny, "ttst", tiny.input(MAP)))
    result = edge_stra(path, "--operators")
    assert result.exit_code == 0, result.output
    assert "3 of 4" in result.output and "partition 2" in result.output
    assert "1 not taken: not in this table of rules, so counted as not taken\n    SIGN #2\n" in result.output
    assert [line.split()[-1] for line in result.output.splitlines()[-4:]] == ["p1", "p1", "-", "p2"]
    assert "partition 3" not in result.output
    assert result.output.count("Coral Edge TPU") == 1
    assert edge_stra(path, "--delegate", "all").output.count("Coral Edge TPU") == 2


def test_the_command_writes_json(tmp_path: Path) -> None:
    found = json.loads(edge_stra(one_operator(tmp_path), "--json").stdout)
    (operator,) = found["operators"]
    assert operator["operator"] == "CONV_2D" and operator["left_by"] == ["edgetpu"]
    assert [tensor["constant"] for tensor in operator["inputs"]] == [False, True, True]
    assert found["tensors"]["by_rank"] == {"1": 1, "4": 3}
    assert found["delegates"]["xnnpack"]["partitions"][0]["macs"] == found["macs"] == 9216
    (left,) = found["delegates"]["edgetpu"]["undelegated"]
    assert left["index"] == 0 and "float32" in left["reason"] and left["source"].startswith("https://coral.ai/")


def test_fail_on_undelegated_names_the_first_operator(tmp_path: Path) -> None:
    tiny = Tiny()
    path = tiny.save(tmp_path / "a.tflite", chain(tiny, "tsts", tiny.input(MAP)))
    assert edge_stra(path).exit_code == 0
    result = edge_stra(path, "--fail-on", "undelegated")
    assert result.exit_code == 1
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    assert "2 of 4 operators do not, first SIGN #1" in error
    good = one_operator(tmp_path)
    assert edge_stra(good, "--fail-on", "undelegated").exit_code == 0
    assert edge_stra(good, "--fail-on", "undelegated", "--delegate", "edgetpu").exit_code == 1
    assert edge_stra(good, "--fail-on", "undelegated", "--delegate", "all").exit_code == 1


def test_a_file_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.tflite").write_text("no model")
    result = edge_stra(tmp_path / "a.tflite")
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("CONV_2D", [MAP]),
        ("CONV_2D", [MAP, ()]),
        ("DEPTHWISE_CONV_2D", [MAP, (8,)]),
        ("BATCH_MATMUL", [(), ()]),
        ("BATCH_MATMUL", [(4,), (4,)]),
        ("FULLY_CONNECTED", []),
    ],
)
def test_operators_without_their_inputs_or_axes_count_nothing(name: str, shapes: list[Shape]) -> None:
    inputs = tuple(Tensor(i, "", "float32", shape, False, None) for i, shape in enumerate(shapes))
    operator = Operator(0, name, 1, inputs, (Tensor(9, "", "float32", MAP, False, None),), {"AdjX": True})
    assert count_macs(operator) == 0


# --- graphs that a Predictor must refuse: what the runtime loads, but is no network of ours


def mean(tiny: Tiny, x: int, out: Shape, axes: list[int]) -> int:
    return tiny.add("MEAN", [x, tiny.constant(axes)], [tiny.tensor(out)], keepDims=False)


def two_inputs(tiny: Tiny) -> list[int]:
    x = tiny.input(MAP3)
    return [mean(tiny, tiny.add("ADD", [x, tiny.input(MAP3)], [tiny.tensor(MAP3)]), (1, 3), [1, 2])]


def two_outputs(tiny: Tiny) -> list[int]:
    x = tiny.input(MAP3)
    return [mean(tiny, x, (1, 3), [1, 2]), mean(tiny, x, (1, 3), [1, 2])]


def of_bytes(which: str) -> Build:
    """Bytes without a scale go in or come out: the runtime gives 0 for it."""

    def build(tiny: Tiny) -> list[int]:
        inner, outer = tiny.tensor(MAP3), tiny.tensor((1, 3), "UINT8")
        x = tiny.input(MAP3, "UINT8") if which == "input" else tiny.input(MAP3)
        for tensor in tiny.graph.tensors:
            tensor.quantization = None
        y = mean(tiny, tiny.add("CAST", [x], [inner], kind="CastOptions"), (1, 3), [1, 2])
        return [y if which == "input" else tiny.add("CAST", [y], [outer], kind="CastOptions")]

    return build


def of_bools(tiny: Tiny) -> list[int]:
    x = tiny.tensor(MAP3)
    tiny.add("CAST", [tiny.input(MAP3, "BOOL")], [x], kind="CastOptions")
    return [mean(tiny, x, (1, 3), [1, 2])]


def by_index(tiny: Tiny) -> list[int]:
    """Takes elements of a row at the places that the input names."""
    places, taken = tiny.tensor(MAP3, "INT32"), tiny.tensor(MAP3)
    tiny.add("CAST", [tiny.input(MAP3)], [places], kind="CastOptions")
    tiny.add("GATHER", [tiny.constant(np.arange(4), "FLOAT32"), places], [taken], kind="GatherOptions")
    return [mean(tiny, taken, (1, 3), [1, 2])]


MAP3 = (1, 2, 2, 3)
REFUSED: dict[str, tuple[Build, str]] = {
    "two inputs": (two_inputs, "must have one input, but has 2"),
    "two outputs": (two_outputs, "must have one output, but has 2"),
    "scalar output": (lambda t: [mean(t, t.input(MAP3), (), [0, 1, 2, 3])], r"must give an output of \(1, K\), but"),
    "output of rank 3": (lambda t: [mean(t, t.input(MAP3), (1, 2, 3), [1])], r"must give an output of \(1, K\), but"),
    "bool input": (of_bools, "must have an input of float32, int8, uint8, int16, but has bool"),
    "input without scale": (of_bytes("input"), "must have a positive scale for its uint8 input, but has 0"),
    "output without scale": (of_bytes("output"), "must have a positive scale for its uint8 output, but has 0"),
}  # fmt: skip


def load(tmp_path: Path, build: Build) -> Predictor:
    tiny = Tiny()
    path = tiny.save(tmp_path / "a.tflite", *build(tiny))
    spec = ModelSpec("tiny", "fer", InputSpec((2, 2), "rgb"), ("a", "b", "c"), "logits")
    return Predictor(Artifact(path, spec, "tflite", "none", "", None))


@pytest.mark.parametrize("case", REFUSED)
def test_a_predictor_refuses_what_it_can_not_run(case: str, tmp_path: Path) -> None:
    build, words = REFUSED[case]
    with pytest.raises(ArtifactError, match=words) as caught:
        load(tmp_path, build)
    assert "\n" not in str(caught.value)


def test_an_operator_that_fails_while_it_runs_is_one_line(tmp_path: Path) -> None:
    predictor = load(tmp_path, by_index)
    assert predictor(np.ones(MAP3, np.float32)).tolist() == [[1, 1, 1]]
    with pytest.raises(ArtifactError, match="can't be run: ") as caught:
        predictor(np.full(MAP3, 9, np.float32))
    assert "\n" not in str(caught.value)


def test_inspection_needs_the_schema_alone(tmp_path: Path) -> None:
    """What a Raspberry Pi has: no torch; and nothing is run, so no OpenCV either."""
    code = (
        "import sys; from pathlib import Path; from edge_stra.delegates import partitions, table; "
        "table.render(partitions.inspect(Path(sys.argv[1])), ['xnnpack'], True); "
        "print(*{m.split('.')[0] for m in sys.modules})"
    )
    words = [sys.executable, "-c", code, str(one_operator(tmp_path))]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert not {"torch", "cv2", "ai_edge_quantizer", "litert_torch"} & set(done.stdout.split())
