"""What is in a .tflite file: operators, tensors and their quantization, read without running it.

Needs ai-edge-litert's schema alone: no interpreter, no torch. The file is not trusted: it is read lazily, and what is
read in all is bounded by its size. A flatbuffer is a graph of offsets, so a small file whose tables share their
children could unfold into billions of values.
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_stra.artifact import FORMAT, MAX_ARTIFACT_BYTES, MAX_JSON_BYTES, manifest_path, open_artifact
from edge_stra.extras import install_command
from edge_stra.quiet import shown
from edge_stra.spec import ArtifactError, MissingError
from edge_stra.targets.tflite import INNER_SPEC, UNREADABLE

T = TypeVar("T")
OURS = FORMAT.partition("/")[0].encode()  # what a manifest of any version holds
MAX_ITEMS = 65_536
"""Operators, tensors, buffers, scales of one tensor. MobileNetV2 has some hundreds."""
MAX_RANK, MAX_CONNECTIONS, MAX_NAME, MAX_VALUES_BYTES = 16, 1024, 4096, 1024
MAX_ELEMENTS = 1 << 40
SHARED = 4
"""How often, on average, a value of the file may be read: converters let small constants share a buffer."""
# What the flatbuffers package raises on damaged bytes: struct.error and IndexError outside the file, TypeError and
# AttributeError where a table is missing.
DAMAGED = (struct.error, IndexError, ValueError, TypeError, AttributeError, KeyError, OverflowError)

ITEM_BITS = {
    "float64": 64, "int64": 64, "uint64": 64, "complex64": 64, "float32": 32, "int32": 32, "uint32": 32,
    "float16": 16, "bfloat16": 16, "int16": 16, "uint16": 16, "int8": 8, "uint8": 8, "bool": 8, "int4": 4, "int2": 2,
}  # fmt: skip
INTEGERS: dict[str, np.dtype[Any]] = {"int32": np.dtype("<i4"), "int64": np.dtype("<i8")}
ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")
ACTIVATION = "FusedActivationFunction"

CONV = ("Padding", "StrideH", "StrideW", "DilationHFactor", "DilationWFactor", ACTIVATION)
POOL = ("Pool2DOptions", ("Padding", "StrideH", "StrideW", "FilterHeight", "FilterWidth", ACTIVATION))
REDUCE = ("ReducerOptions", ("KeepDims",))
# Operator -> its table of options in the schema, and the fields that any rule looks at, by the schema's names.
OPTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ADD": ("AddOptions", (ACTIVATION,)),
    "AVERAGE_POOL_2D": POOL,
    "BATCH_MATMUL": ("BatchMatMulOptions", ("AdjX", "AdjY")),
    "CONCATENATION": ("ConcatenationOptions", ("Axis", ACTIVATION)),
    "CONV_2D": ("Conv2DOptions", CONV),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", (*CONV, "DepthMultiplier")),
    "DEPTH_TO_SPACE": ("DepthToSpaceOptions", ("BlockSize",)),
    "DIV": ("DivOptions", (ACTIVATION,)),
    "FULLY_CONNECTED": ("FullyConnectedOptions", ("WeightsFormat", "KeepNumDims", ACTIVATION)),
    "LEAKY_RELU": ("LeakyReluOptions", ("Alpha",)),
    "MAX_POOL_2D": POOL,
    "MEAN": REDUCE,
    "MIRROR_PAD": ("MirrorPadOptions", ("Mode",)),
    "MUL": ("MulOptions", (ACTIVATION,)),
    "PACK": ("PackOptions", ("Axis",)),
    "REDUCE_MAX": REDUCE,
    "REDUCE_MIN": REDUCE,
    "RESIZE_BILINEAR": ("ResizeBilinearOptions", ("AlignCorners", "HalfPixelCenters")),
    "SOFTMAX": ("SoftmaxOptions", ("Beta",)),
    "SPACE_TO_DEPTH": ("SpaceToDepthOptions", ("BlockSize",)),
    "STRIDED_SLICE": (
        "StridedSliceOptions",
        ("BeginMask", "EndMask", "EllipsisMask", "NewAxisMask", "ShrinkAxisMask", "Offset"),
    ),
    "SUB": ("SubOptions", (ACTIVATION,)),
    "SUM": REDUCE,
    "TRANSPOSE_CONV": ("TransposeConvOptions", ("Padding", "StrideH", "StrideW", ACTIVATION)),
}


@dataclass(frozen=True)
class Quantization:
    """Affine: real = scale * (stored - zero point). Several scales are one for each slice along `dimension`."""

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    dimension: int

    @property
    def per_channel(self) -> bool:
        return len(self.scales) > 1


@dataclass(frozen=True)
class Tensor:
    """A tensor of the graph. bytes: its size in memory, by dtype and shape. values: of small integer constants."""

    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    constant: bool
    quantization: Quantization | None
    values: tuple[int, ...] | None = field(default=None, repr=False)

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return -(-self.elements * ITEM_BITS.get(self.dtype, 8) // 8)


@dataclass(frozen=True)
class Operator:
    """One operator. An input that is left out is None. options: by the schema's names, of the fields in `OPTIONS`."""

    index: int
    name: str
    version: int
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: Mapping[str, float]

    @property
    def activation(self) -> str:
        code = int(self.options.get(ACTIVATION, 0))
        return ACTIVATIONS[code] if 0 <= code < len(ACTIVATIONS) else str(code)


@dataclass(frozen=True)
class Graph:
    """The first subgraph, the one that runs, with its operators in order of execution."""

    operators: tuple[Operator, ...]
    tensors: tuple[Tensor, ...]
    subgraphs: int


def read_graph(path: Path) -> Graph:
    """An artifact, verified against its manifest, or any other .tflite file. Raises ArtifactError, MissingError."""
    if is_ours(path):
        open_artifact(path)
    elif not path.is_file():
        raise ArtifactError(f"{path} must be a .tflite file, but there is no such file")
    elif path.stat().st_size > MAX_ARTIFACT_BYTES:
        raise ArtifactError(f"{path} must have at most {MAX_ARTIFACT_BYTES >> 20} MiB; refused")
    try:
        return Reader(path.read_bytes()).graph()
    except OSError as error:
        raise ArtifactError(f"{path} can't be read: {error.strerror or error}") from error
    except DAMAGED as error:
        raise ArtifactError(f"{path} must be a whole .tflite file, but: {str(error)[:120] or repr(error)}") from error


def is_ours(path: Path) -> bool:
    """Whether a file has a manifest of this project beside it or a specification inside: then it must verify.

    Any other NAME.json beside NAME.tflite, a file of labels, say, is none of ours.
    """
    if not path.is_file():
        return False
    beside = manifest_path(path)
    if beside.is_file():
        with beside.open("rb") as file:
            if OURS in file.read(MAX_JSON_BYTES):
                return True
    try:
        with zipfile.ZipFile(path) as archive:
            return INNER_SPEC in archive.namelist()
    except UNREADABLE:
        return False


class Reader:
    """Reads one flatbuffer. Its methods raise one of `DAMAGED`."""

    def __init__(self, data: bytes) -> None:
        self.data, self.schema = data, load_schema()
        self.left = SHARED * len(data) + MAX_ITEMS
        if data[4:8] != b"TFL3":
            raise ValueError("the identifier TFL3 is not there")
        self.model = self.schema.Model.GetRootAs(data, 0)
        self.operators = {code: name for name, code in vars(self.schema.BuiltinOperator).items() if is_code(code)}
        self.dtypes = {code: name.lower() for name, code in vars(self.schema.TensorType).items() if is_code(code)}

    def graph(self) -> Graph:
        subgraphs = self.bounded(self.model.SubgraphsLength(), "subgraphs")
        graph = self.model.Subgraphs(0) if subgraphs else None
        if graph is None:
            raise ValueError("there is no subgraph")
        codes = self.items(self.model.OperatorCodesLength(), self.model.OperatorCodes, "operator codes")
        found = enumerate(self.items(graph.TensorsLength(), graph.Tensors, "tensors"))
        tensors = tuple(self.tensor(index, tensor) for index, tensor in found)
        operators = enumerate(self.items(graph.OperatorsLength(), graph.Operators, "operators"))
        return Graph(
            tuple(self.operator(index, operator, codes, tensors) for index, operator in operators),
            tensors,
            subgraphs,
        )

    def bounded(self, count: int, what: str, most: int = MAX_ITEMS) -> int:
        if not 0 <= count <= most:
            raise ValueError(f"{count} {what}, at most {most} are read")
        self.left -= count
        if self.left < 0:
            raise ValueError("its tables share more values than a converter writes")
        return count

    def items(self, count: int, read: Callable[[int], T], what: str) -> list[T]:
        return [read(i) for i in range(self.bounded(count, what))]

    def integers(self, array: Any, what: str, most: int = MAX_ITEMS) -> tuple[int, ...]:
        """A vector; the flatbuffers package gives 0 where it is absent."""
        if not isinstance(array, np.ndarray):
            return ()
        self.bounded(array.size, what, most)
        return tuple(int(v) for v in array)

    def text(self, value: bytes | None) -> str:
        value = value or b""
        self.bounded(len(value), "bytes of a name", MAX_ARTIFACT_BYTES)  # all of it was copied
        return shown(value[:MAX_NAME].decode("utf-8", "replace"))

    def tensor(self, index: int, tensor: Any) -> Tensor:
        shape = self.integers(tensor.ShapeAsNumpy(), "dimensions", MAX_RANK)
        if min(shape, default=0) < 0 or math.prod(shape) > MAX_ELEMENTS:
            raise ValueError(f"tensor {index} of shape {shape}")
        dtype = self.dtypes.get(tensor.Type(), f"type {tensor.Type()}")
        content = self.buffer(tensor.Buffer())
        values = None
        if content is not None and dtype in INTEGERS and content.size <= MAX_VALUES_BYTES:
            values = self.integers(np.frombuffer(content.tobytes(), INTEGERS[dtype]), "values")
        name, quantization = self.text(tensor.Name()), self.quantization(tensor.Quantization())
        return Tensor(index, name, dtype, shape, content is not None, quantization, values)

    def buffer(self, index: int) -> NDArray[np.uint8] | None:
        """The bytes of a constant, or None where the tensor is computed. Raises where they are not inside the file."""
        if not 0 <= index < self.model.BuffersLength():
            raise ValueError(f"there is no buffer {index}")
        buffer = self.model.Buffers(index)
        if buffer.Offset() > 1:  # kept outside the flatbuffer, as files above 2 GiB must
            return np.frombuffer(self.data, np.uint8, buffer.Size(), buffer.Offset())
        content = buffer.DataAsNumpy()
        return content if isinstance(content, np.ndarray) and content.size else None

    def quantization(self, parameters: Any) -> Quantization | None:
        if parameters is None or not self.bounded(parameters.ScaleLength(), "scales"):
            return None
        scales = tuple(float(v) for v in parameters.ScaleAsNumpy())
        zero_points = self.integers(parameters.ZeroPointAsNumpy(), "zero points")
        return Quantization(scales, zero_points, int(parameters.QuantizedDimension()))

    def operator(self, index: int, operator: Any, codes: list[Any], tensors: tuple[Tensor, ...]) -> Operator:
        code = codes[operator.OpcodeIndex()]
        # Codes below 127 are kept in a field of one byte for old readers: the larger of the two counts.
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        name = self.operators.get(number, f"operator {number}")
        if name == "CUSTOM":
            name = f"CUSTOM {self.text(code.CustomCode())}"
        inputs = self.integers(operator.InputsAsNumpy(), "inputs of an operator", MAX_CONNECTIONS)
        outputs = self.integers(operator.OutputsAsNumpy(), "outputs of an operator", MAX_CONNECTIONS)
        if any(not -1 <= i < len(tensors) for i in inputs) or any(not 0 <= i < len(tensors) for i in outputs):
            raise ValueError(f"operator {index} names a tensor that is not there")
        return Operator(
            index,
            name,
            int(code.Version()),
            tuple(None if i < 0 else tensors[i] for i in inputs),
            tuple(tensors[i] for i in outputs),
            self.options(name, operator),
        )

    def options(self, name: str, operator: Any) -> dict[str, float]:
        table = operator.BuiltinOptions()
        if name not in OPTIONS or table is None:
            return {}
        kind, fields = OPTIONS[name]
        if operator.BuiltinOptionsType() != getattr(self.schema.BuiltinOptions, kind):
            raise ValueError(f"{name} has options of another operator")
        options = getattr(self.schema, kind)()
        options.Init(table.Bytes, table.Pos)
        return {field: getattr(options, field)() for field in fields}


def is_code(value: Any) -> bool:
    return isinstance(value, int)


def load_schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise MissingError(f"reading a graph needs ai-edge-litert; run: {install_command('pi')}") from error
    return schema_py_generated


def distinct(tensors: Iterable[Tensor | None]) -> list[Tensor]:
    """Each tensor once, in order; inputs that are left out are dropped."""
    return list({tensor.index: tensor for tensor in tensors if tensor is not None}.values())
