"""The masks of mode attention, read out of a .tflite file while it runs.

A file gives its output alone; XNNPACK keeps what lies between to itself. This second interpreter runs plain kernels
and keeps every tensor: several times slower, so it runs only while somebody looks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stra.artifact import Artifact
from edge_stra.runtime import invoke, open_plain, quantize_array, read_float
from edge_stra.spec import NetworkSpec

MODE_ATTENTION = "FastModeAttention"  # the module of `edge_stra.fast_attention` whose softmax over nodes is the mask


class MaskReader:
    """`reader(x)`, x float32 [1, H, W, 3] -> the masks of the last StRA block, float32 [G, h, w], each of sum 1.

    Serves one thread. Made by `find_masks`.
    """

    def __init__(self, path: Path, interpreter: Any, detail: dict[str, Any], nodes_hw: tuple[int, int]) -> None:
        self.path, self.interpreter, self.detail = path, interpreter, detail
        (self.input,) = interpreter.get_input_details()
        self.nodes_hw = nodes_hw

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        self.interpreter.set_tensor(self.input["index"], quantize_array(x, self.input))
        invoke(self.interpreter, self.path)
        masks = read_float(self.interpreter, self.detail)  # (g, 1, n)
        return masks.reshape(masks.shape[0], *self.nodes_hw)


def find_masks(artifact: Artifact) -> MaskReader | None:
    """A reader for an artifact, or None where it is no .tflite file, has no mode attention, or the runtime can't tell.

    Raises MissingError where ai-edge-litert is not installed.
    """
    if artifact.target != "tflite":
        return None
    interpreter = open_plain(artifact.path.read_bytes())
    if not hasattr(interpreter, "_get_ops_details"):
        return None
    details = {d["index"]: d for d in interpreter.get_tensor_details()}
    outputs = [details[node["outputs"][0]] for node in interpreter._get_ops_details() if node["op_name"] == "SOFTMAX"]
    masks = [d for d in outputs if is_mask(d)]
    grid = grid_of(artifact.spec.input.size_hw, artifact.spec.network)
    if not masks or masks[-1]["shape"][-1] != grid[0] * grid[1]:
        return None
    return MaskReader(artifact.path, interpreter, masks[-1], grid)


def is_mask(detail: dict[str, Any]) -> bool:
    """[G, 1, N] from mode attention's own softmax, not the one [1, G, G] between modes."""
    shape = detail["shape"]
    return len(shape) == 3 and shape[1] == 1 and MODE_ATTENTION in detail["name"].rpartition("/")[2]


def grid_of(size_hw: tuple[int, int], network: NetworkSpec) -> tuple[int, int]:
    """Rows and columns of the last stage's map: each of its strided convs rounds up (kernel 3, padding 1)."""
    step = 8 * network.stem_stride * network.last_stage_stride
    return -(-size_hw[0] // step), -(-size_hw[1] // step)
