"""A .tflite with equal vectors stored once.

A flatbuffer is a graph of offsets, so several tables may point at one vector; the tools write one for each. Channels
of int8 weights bring a zero point of 64 bits each, always 0, in vectors of a few different lengths: half of all that
is not weights. Nothing that a reader sees changes.

      before                              after
      tensor 1 -> [0 0 0 ... 0]           tensor 1 -+
      tensor 2 -> [0 0 0 ... 0]           tensor 2 -+-> [0 0 0 ... 0]
      tensor 3 -> [0 0 0 ... 0]           tensor 3 -+
"""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

ALIGNMENT = 16
"""Of a vector's first byte: the schema asks it of constants (schema.fbs, `Buffer.data`, force_align)."""


class SharingBuilder(flatbuffers.Builder):  # type: ignore[misc]
    """Writes a vector or a string that it wrote before as the place of the first one."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.known: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: NDArray[Any]) -> int:
        key = (x.dtype.str, x.tobytes())
        if key not in self.known:
            if x.dtype == np.uint8:
                self.Prep(ALIGNMENT, x.size)
            self.known[key] = super().CreateNumpyVector(x)
        return self.known[key]

    def CreateString(self, s: Any, encoding: str = "utf-8", errors: str = "strict") -> int:
        text = s if isinstance(s, bytes) else s.encode(encoding, errors)
        key = ("string", text)
        if key not in self.known:
            self.known[key] = super().CreateString(text)
        return self.known[key]


def compact(model: bytes) -> bytes:
    """The same graph, smaller; equal input gives equal bytes."""
    return pack(parse(model))


def parse(model: bytes) -> Any:
    """The file as the schema's `ModelT`, all constants in its buffers' `data`."""
    parsed = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
    for buffer in parsed.buffers:
        if buffer.offset > 1:  # a constant after the flatbuffer, as the tools write the larger ones
            buffer.data = np.frombuffer(model, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return parsed


def pack(parsed: Any) -> bytes:
    """The inverse of `parse`."""
    builder = SharingBuilder(1 << 20)
    builder.Finish(parsed.Pack(builder), b"TFL3")
    return bytes(builder.Output())
