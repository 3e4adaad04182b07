"""What a .onnx file says of itself, read without onnx or onnxruntime, and before either sees the file.

A .onnx file is one protobuf message, ModelProto (onnx.proto3 of github.com/onnx/onnx, whose field numbers stand
below); the specification and the labels are among its metadata_props. Its tensors may point to other files, or to
addresses of memory, which onnxruntime reads while it loads: such a file is refused here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from edge_stra.artifact import MAX_ARTIFACT_BYTES, MAX_JSON_BYTES, inner_spec, parse_inner, sha256_of
from edge_stra.spec import ArtifactError, ModelSpec

SPEC_KEY, LABELS_KEY = "edge_stra.json", "labels"
MAX_DEPTH = 64
"""Messages inside messages; a graph without control flow has 4 levels."""
# message -> field number -> the message that the field holds: all ways from a model to its tensors.
MESSAGES: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {},
}
GRAPH, METADATA, KEY, VALUE = 7, 14, 1, 2
EXTERNAL_DATA, DATA_LOCATION = 13, 14


def write_varint(value: int) -> bytes:
    """A number in base 128, the lowest digits first."""
    digits = [value & 127]
    while value := value >> 7:
        digits[-1] |= 128
        digits.append(value & 127)
    return bytes(digits)


def write_field(number: int, value: bytes) -> bytes:
    return write_varint(number << 3 | 2) + write_varint(len(value)) + value


def embed(model: bytes, spec: ModelSpec, quantize: str) -> bytes:
    """A .onnx file with specification and labels among its metadata: a protobuf message may be added to at its end."""
    entries = {SPEC_KEY: json.dumps(inner_spec(spec, "onnx", quantize))}
    if spec.labels:
        entries[LABELS_KEY] = "\n".join(spec.labels) + "\n"
    for key, value in entries.items():
        model += write_field(METADATA, write_field(KEY, key.encode()) + write_field(VALUE, value.encode()))
    return model


def read_varint(data: memoryview, start: int) -> tuple[int, int]:
    """A base-128 number and the place after it."""
    value = 0
    for index in range(10):
        byte = data[start + index]
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value, start + index + 1
    raise ValueError("a number of more than 10 bytes")


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of a message: a number, or bytes; fixed-width numbers come as their bytes.

    Raises ValueError or IndexError for what is no message.
    """
    place = 0
    while place < len(data):
        tag, place = read_varint(data, place)
        if not 0 < tag >> 3 < 1 << 29:  # protobuf's own reader cuts a tag down to 32 bits: it would see another field
            raise ValueError(f"a field of number {tag >> 3}")
        kind = tag & 7
        if kind == 0:
            value, place = read_varint(data, place)
            yield tag >> 3, value
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"a field of kind {kind}")
        size, place = read_varint(data, place) if kind == 2 else ({1: 8, 5: 4}[kind], place)
        if size > len(data) - place:
            raise ValueError(f"a field of {size} bytes where {len(data) - place} are left")
        yield tag >> 3, data[place : place + size]
        place += size


def has_external_data(data: memoryview, message: str = "ModelProto", depth: int = 0) -> bool:
    """Whether any tensor of a message lies outside it. Raises ValueError or IndexError for what is no message."""
    if depth > MAX_DEPTH:
        raise ValueError(f"more than {MAX_DEPTH} messages inside each other")
    children = MESSAGES[message]
    for number, value in fields(data):
        if message == "TensorProto" and (number == EXTERNAL_DATA or (number == DATA_LOCATION and value != 0)):
            return True
        if number in children:
            if isinstance(value, int):
                raise ValueError(f"a number where a {children[number]} must be")
            if has_external_data(value, children[number], depth + 1):
                return True
    return False


def read_metadata(data: memoryview) -> dict[str, bytes]:
    """The metadata_props of a ModelProto. Raises ValueError or IndexError where there is no model."""
    metadata, numbers = {}, set()
    for number, value in fields(data):
        numbers.add(number)
        if number == METADATA and not isinstance(value, int):
            entry = dict(fields(value))
            metadata[as_bytes(entry.get(KEY)).decode()] = as_bytes(entry.get(VALUE))
    if GRAPH not in numbers:
        raise ValueError("no graph")
    return metadata


def as_bytes(value: int | memoryview | None) -> bytes:
    return bytes(value) if isinstance(value, memoryview) else b""


def read_onnx(path: Path) -> tuple[bytes, dict[str, bytes]]:
    """A .onnx file and its metadata. Raises ArtifactError for one that is absent, too large, damaged or in pieces."""
    if not path.is_file():
        raise ArtifactError(f"{path} must be a .onnx file, but there is no such file")
    if path.stat().st_size > MAX_ARTIFACT_BYTES:
        raise ArtifactError(f"{path} must be a .onnx file of at most {MAX_ARTIFACT_BYTES >> 20} MiB, but is larger")
    data = path.read_bytes()
    try:
        metadata, external = read_metadata(memoryview(data)), has_external_data(memoryview(data))
    except (ValueError, IndexError) as error:
        raise ArtifactError(f"{path} is damaged, or no .onnx file: {error}; export it again") from error
    if external:
        raise ArtifactError(f"{path} must hold all its tensors itself, but points to data outside; export it again")
    return data, metadata


def read_embedded(path: Path) -> tuple[ModelSpec, str]:
    """Specification and quantization from inside a .onnx file. Raises ArtifactError."""
    _, metadata = read_onnx(path)
    if SPEC_KEY not in metadata:
        raise ArtifactError(f"{path} is not from edge-stra export: no specification inside; export it again")
    if len(metadata[SPEC_KEY]) > MAX_JSON_BYTES:
        raise ArtifactError(f"{path} carries a specification of more than {MAX_JSON_BYTES >> 20} MiB; refused")
    try:
        inner = json.loads(metadata[SPEC_KEY])
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} must carry a specification in JSON, but: {error!r}; export it again") from error
    spec, quantize = parse_inner(path, inner)
    labels = tuple(metadata[LABELS_KEY].decode("utf-8", "replace").splitlines()) if LABELS_KEY in metadata else ()
    if labels != spec.labels:
        raise ArtifactError(f"{path} must have the labels {spec.labels} of its specification, but has {labels}")
    return spec, quantize


def digest(path: Path) -> str:
    return sha256_of(path)
