"""The weight file of a package: bounds checked, mapped instead of read, sub-byte types unpacked.

The format (StorageFormat.hpp and BlobDataType.hpp of apple/coremltools, mlmodel/src/MILBlob/Blob): a header of 64
bytes, then for each tensor 64 bytes of metadata {uint32 sentinel, uint32 type, uint64 bytes, uint64 offset of the
data}, all little-endian. A program points to the metadata.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stra.spec import ArtifactError

SENTINEL = 0xDEADBEEF
METADATA = struct.Struct("<IIQQ")
ALIGNMENT = 64
BLOB_TYPES = {
    1: "float16", 2: "float32", 3: "uint8", 4: "int8", 6: "int16", 7: "uint16", 8: "int4", 9: "uint1", 10: "uint2",
    11: "uint4", 12: "uint3", 13: "uint6", 14: "int32", 15: "uint32",
}  # fmt: skip
SUB_BYTE_BITS = {"uint1": 1, "uint2": 2, "uint3": 3, "uint4": 4, "uint6": 6, "int4": 4}
MAX_ELEMENTS = 1 << 30
MAX_RANK = 8


def count_elements(shape: tuple[int, ...], what: str) -> int:
    """The product of a shape. Raises ArtifactError where no tensor can have it."""
    elements = math.prod(shape)
    if len(shape) > MAX_RANK or elements > MAX_ELEMENTS or not all(0 <= size <= MAX_ELEMENTS for size in shape):
        raise ArtifactError(
            f"{what} must be of rank {MAX_RANK} or less and {MAX_ELEMENTS} elements or less, but claims {shape}"
        )
    return elements


def count_bytes(dtype: str, elements: int) -> int:
    """How many bytes the elements of a MIL type take in a file; those below a byte are packed."""
    bits = SUB_BYTE_BITS.get(dtype) or np.dtype(dtype).itemsize * 8
    return (elements * bits + 7) // 8


def unpack(raw: Any, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """The elements in a buffer of exactly `count_bytes`; those below a byte as uint8 or int8, lowest bits first."""
    if dtype in SUB_BYTE_BITS:
        packed = np.frombuffer(raw, np.uint8)
        flat = unpack_bits(packed, SUB_BYTE_BITS[dtype], math.prod(shape), dtype == "int4")
    else:
        flat = np.frombuffer(raw, np.dtype(dtype).newbyteorder("<"))
    made: NDArray[Any] = flat.reshape(shape)
    return made


def unpack_bits(packed: NDArray[np.uint8], bits: int, count: int, signed: bool = False) -> NDArray[Any]:
    """[count] integers of `bits` bits each, packed one after the other from the lowest bit of the first byte."""
    flat = np.unpackbits(packed, bitorder="little")[: count * bits].reshape(count, bits)
    values: NDArray[Any] = (flat << np.arange(bits, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)
    if signed:
        values = np.where(values >> (bits - 1), values.astype(np.int16) - (1 << bits), values).astype(np.int8)
    return values


@dataclass(frozen=True)
class Blob:
    """A mapped weight file."""

    name: str
    data: Any  # mmap, or bytes of an empty file

    def read(self, offset: int, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """The tensor whose metadata lie at `offset`; a view of the file where a type has whole bytes.

        Raises ArtifactError where the offset, the type or the size do not fit the file.
        """
        where, size = f"{self.name} at byte {offset}", len(self.data)
        if offset % ALIGNMENT or offset + METADATA.size > size:
            raise ArtifactError(f"a weight must lie in {self.name} of {size} bytes, but starts at byte {offset}")
        sentinel, kind, length, start = METADATA.unpack_from(self.data, offset)
        if sentinel != SENTINEL or BLOB_TYPES.get(kind) != dtype:
            raise ArtifactError(
                f"{where} must hold {dtype} weights, but holds {BLOB_TYPES.get(kind, 'something else')}"
            )
        wanted = count_bytes(dtype, count_elements(shape, where))
        if length != wanted:
            raise ArtifactError(f"{where} must hold {wanted} bytes for {dtype} {shape}, but holds {length}")
        if start + length > size:
            raise ArtifactError(f"{where} must end within {size} bytes, but ends at {start + length}: a cut file")
        return unpack(memoryview(self.data)[start : start + length], dtype, shape)


def open_blob(path: Path) -> Blob:
    """Maps a weight file. Raises ArtifactError where there is none."""
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
            return Blob(path.name, mapped)
    except OSError as error:
        raise ArtifactError(f"the program needs the weight file {path}, but it can't be read: {error}") from error
