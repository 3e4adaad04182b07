"""Biases that int8 can't hold: of an output channel with (nearly) no weights, as pruning or BN with gamma 0 leaves it.

A bias is an int32 in units of the input's scale times the weights', and the weights' comes from the largest of them.
Beside weights of 0 a bias of 1 would take 1e13 units: the quantizer (ai-edge-quantizer 0.10.0) cuts it off at 2^31, and
may turn its sign, without a word. Such a channel gets a larger scale here, in which its bias takes 2^30 units. Its
weights lose at most half a step of that scale each, 5e-10 of the bias divided by the input's scale.

      channel    weights    scale       bias      in the file
      before     0.0        8e-12       1.0       0.0005        int32 is full
      after      0.0        3e-8        1.0       1.0
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edge_stra.targets.tflite_schema import pack, parse

FULL = 2**31 - 1
ROOM = 2**30  # half of it: products are added to the bias in int32
WHOLE = {schema.TensorType.INT32: np.int32, schema.TensorType.INT64: np.int64}  # int64 where activations have 16 bits


def hold_biases(graph: bytes, quantized: bytes) -> bytes:
    """The quantized form of a float graph with all its biases whole; the same bytes where none was cut off."""
    parsed = parse(quantized)
    cut_off = [place for place in find_biases(parsed) if (np.abs(place[3]) >= FULL).any()]
    if not cut_off:
        return quantized
    original = parse(graph)
    floats = {t.name: original.buffers[t.buffer].data for t in original.subgraphs[0].tensors}
    for x, weight, bias, units in cut_off:
        wanted, step = floats[bias.name].view(np.float32), x.quantization.scale[0]  # (c), of float values
        old = weight.quantization.scale  # (c)
        new = np.where(np.abs(units) >= FULL, np.abs(wanted) / step / ROOM, old).astype(np.float32)
        shape = np.ones(len(weight.shape), int)
        shape[weight.quantization.quantizedDimension] = -1
        kernels = parsed.buffers[weight.buffer].data.view(np.int8).reshape(weight.shape)
        kernels = np.rint(kernels * (old / new).reshape(shape)).astype(np.int8)
        whole = np.where(new == old, units, np.rint(wanted.astype(np.float64) / (step * new)))
        parsed.buffers[weight.buffer].data = kernels.reshape(-1).view(np.uint8)
        parsed.buffers[bias.buffer].data = whole.astype(WHOLE[bias.type]).view(np.uint8)
        weight.quantization.scale, bias.quantization.scale = new, step * new
    return pack(parsed)


def find_biases(parsed: Any) -> list[tuple[Any, Any, Any, NDArray[np.int64]]]:
    """(input, weights, bias, the bias in its units) of every conv and linear layer that has an integer bias."""
    tensors = parsed.subgraphs[0].tensors
    found = []
    for operator in parsed.subgraphs[0].operators:
        places = [tensors[index] for index in operator.inputs if index >= 0]
        if len(places) != 3 or places[2].type not in WHOLE or not is_scaled(places[1]) or not is_scaled(places[2]):
            continue
        data = parsed.buffers[places[2].buffer].data
        found.append((*places, data.view(WHOLE[places[2].type]).astype(np.int64)))
    return found


def is_scaled(tensor: Any) -> bool:
    return tensor.quantization is not None and tensor.quantization.scale is not None
