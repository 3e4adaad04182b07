"""An ML Program as frozen values: typed operations in order, constants decoded, every claim of size checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stra.mil.schema import DATA_TYPES
from edge_stra.mil.weights import Blob, count_bytes, count_elements, unpack
from edge_stra.quiet import shown
from edge_stra.spec import ArtifactError

OpenBlob = Callable[[str], Blob]
# Which field of TensorValue holds an immediate value, by MIL type; all others are packed into bytes.
FIELDS = {
    "float32": "floats", "float64": "doubles", "int32": "ints", "int16": "ints", "uint16": "ints", "uint32": "ints",
    "int64": "longInts", "bool": "bools", "string": "strings",
}  # fmt: skip


@dataclass(frozen=True)
class Type:
    """A tensor's type. `shape` has None where a dimension is known only when running; no tensor: dtype "other"."""

    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Named:
    name: str
    type: Type


@dataclass(frozen=True)
class Constant:
    """A value of the file: an array, a str, or a tuple of Python values for a list. stored_bytes: as packed there."""

    dtype: str
    value: Any
    stored_bytes: int


@dataclass(frozen=True)
class Operation:
    """`inputs` has, by parameter, names of earlier values and constants; attributes are among them."""

    kind: str
    name: str
    inputs: Mapping[str, tuple[str | Constant, ...]]
    outputs: tuple[Named, ...]

    @property
    def is_constant(self) -> bool:
        """Whether it gives stored numbers, compressed ones too, and computes nothing of the inputs."""
        return self.kind == "const" or self.kind.startswith("constexpr_")


@dataclass(frozen=True)
class Function:
    name: str
    opset: str
    inputs: tuple[Named, ...]
    outputs: tuple[str, ...]
    operations: tuple[Operation, ...]


def read_function(program: Any, name: str, open_blob: OpenBlob) -> Function:
    """One function of a parsed program, the block that its operator set asks for. Raises ArtifactError."""
    functions = {entry.key: entry.value for entry in program.functions}
    if name not in functions:
        raise ArtifactError(f"the program must have the function {name!r}, but has {sorted(functions)}")
    function = functions[name]
    blocks = {entry.key: entry.value for entry in function.block_specializations}
    if function.opset not in blocks:
        raise ArtifactError(f"the function {name!r} must have a block for {function.opset!r}, but has {sorted(blocks)}")
    block = blocks[function.opset]
    return Function(
        name,
        function.opset,
        tuple(_named(item) for item in function.inputs),
        tuple(block.outputs),
        tuple(_operation(item, open_blob) for item in block.operations),
    )


def _operation(item: Any, open_blob: OpenBlob) -> Operation:
    outputs = tuple(_named(output) for output in item.outputs)
    inputs: dict[str, tuple[str | Constant, ...]] = {}
    # Up to iOS 17 the constants of constexpr operators are attributes, later inputs; `const` has its "val" as one.
    for entry in item.attributes:
        inputs[entry.key] = (read_value(entry.value, open_blob),)
    name = inputs.pop("name", ())
    for entry in item.inputs:
        inputs[entry.key] = tuple(
            read_value(binding.value, open_blob) if binding.HasField("value") else binding.name
            for binding in entry.value.arguments
        )
    named = [str(given.value) for given in name if isinstance(given, Constant)]
    label = (named or [output.name for output in outputs] or [""])[0]
    made = Operation(shown(item.type), shown(label), inputs, outputs)
    _check_form(made)
    return made


def _check_form(operation: Operation) -> None:
    """Raises ArtifactError where an operator has no outputs, an input without values, or a `const` not one value."""
    what = f"the operator {operation.kind} {operation.name!r}"
    if operation.kind == "const":
        if [type(given) for given in operation.inputs.get("val", ())] != [Constant] or len(operation.outputs) != 1:
            raise ArtifactError(f"{what} must have one value and one output, but has none or several; save it again")
    elif not operation.outputs:
        raise ArtifactError(f"{what} must have an output, but has none; save it again")
    empty = sorted(parameter for parameter, given in operation.inputs.items() if not given)
    if empty:
        raise ArtifactError(f"{what} must have a value for each of its inputs, but lacks {empty[0]!r}; save it again")


def _named(item: Any) -> Named:
    return Named(item.name, _type(item.type, item.name))


def _type(item: Any, what: str) -> Type:
    if not item.HasField("tensorType"):
        return Type("other", ())
    tensor = item.tensorType
    if tensor.dataType not in DATA_TYPES:
        raise ArtifactError(f"{what} must be of a known type, but is of MIL's type number {tensor.dataType}")
    shape = tuple(d.constant.size if d.HasField("constant") else None for d in tensor.dimensions)
    if tensor.rank != len(shape):
        raise ArtifactError(f"{what} must have {tensor.rank} dimensions by its rank, but has {len(shape)}")
    count_elements(tuple(size for size in shape if size is not None), f"the tensor {what!r}")
    return Type(DATA_TYPES[tensor.dataType], shape)


def read_value(item: Any, open_blob: OpenBlob) -> Constant:
    """A constant of the file, decoded. Raises ArtifactError where its form is unknown or its size not its type's."""
    if item.type.HasField("listType") and item.immediateValue.HasField("list"):
        parts = [read_value(part, open_blob) for part in item.immediateValue.list.values]
        plain = tuple(part.value.item() if isinstance(part.value, np.ndarray) else part.value for part in parts)
        return Constant("list", plain, sum(part.stored_bytes for part in parts))
    declared = _type(item.type, "a constant")
    shape = tuple(size for size in declared.shape if size is not None)
    if declared.dtype == "other" or len(shape) != len(declared.shape):
        raise ArtifactError("a constant must be a tensor of known shape or a list, but is something else")
    elements = count_elements(shape, "a constant")
    if item.HasField("blobFileValue"):
        blob = open_blob(item.blobFileValue.fileName)
        value = blob.read(item.blobFileValue.offset, declared.dtype, shape)
        return Constant(declared.dtype, value, count_bytes(declared.dtype, elements))
    return _immediate(item.immediateValue.tensor, declared.dtype, shape, elements)


def _immediate(tensor: Any, dtype: str, shape: tuple[int, ...], elements: int) -> Constant:
    # 16- and 32-bit integers were written into either field, by the version of the converter
    field = "bytes" if tensor.HasField("bytes") else FIELDS.get(dtype, "bytes")
    values = getattr(tensor, field).values
    if field == "strings":
        if len(values) != elements:
            raise ArtifactError(f"a constant of {elements} strings must have as many, but has {len(values)}")
        text: Any = tuple(values) if shape else values[0]
        return Constant(dtype, text, sum(map(len, values)))
    wanted = count_bytes(dtype, elements)
    if field == "bytes":
        if len(values) != wanted:
            raise ArtifactError(f"a constant {dtype} {shape} must have {wanted} bytes, but has {len(values)}")
        return Constant(dtype, unpack(values, dtype, shape), wanted)
    if len(values) != elements:
        raise ArtifactError(f"a constant {dtype} {shape} must have {elements} values, but has {len(values)}")
    array: NDArray[Any] = np.array(values, np.int64 if field == "ints" else None)
    return Constant(dtype, array.astype(dtype).reshape(shape), wanted)
