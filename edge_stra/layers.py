"""Where an artifact drifts: each named PyTorch module's output against the artifact's tensor, worst first."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_stra.artifact import Artifact
from edge_stra.parity import finite_db, sqnr_db
from edge_stra.runtime import invoke, open_plain, quantize_array, read_float

Array = NDArray[np.float32]
FOLLOWERS = 3
"""A conv's BN and ReLU6 may be fused into its tensor: so many modules after it are candidates too."""


@dataclass(frozen=True)
class Layer:
    """SQNR over all pictures of a module's output against the artifact's tensor; dtype is the tensor's."""

    module: str
    operator: str
    dtype: str
    sqnr_db: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"sqnr_db": finite_db(self.sqnr_db)}


def module_path(tensor_name: str) -> str:
    """The module that a tensor of the graph belongs to.

    litert-torch names tensors by the classes and attributes around them:
    `...MobileNetV2_wrapped/torch...Sequential_features/...InvertedResidual_3/...Conv2d_0;2` is `features.3.0`.
    """
    parts = []
    for part in tensor_name.split(";")[0].split("/"):
        if match := re.match(r"[A-Za-z0-9]+_(\w+)$", part.rsplit(".", 1)[-1]):
            parts.append(match[1].removesuffix("_quantized").removesuffix("_dequant"))
    return ".".join(parts[1:] if parts and parts[0] == "wrapped" else parts)


def module_outputs(network: nn.Module, x: Array) -> dict[str, Array]:
    """The output of every module in channels-last order, by name, in order of execution."""
    outputs: dict[str, Array] = {}
    handles = []

    def watch(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            outputs[name] = (output.permute(0, 2, 3, 1) if output.ndim == 4 else output).numpy().copy()

        return hook

    for name, module in network.named_modules():
        if name and not isinstance(module, nn.Identity):  # what a folded BN has become
            handles.append(module.register_forward_hook(watch(name)))
    with torch.inference_mode():
        network(torch.from_numpy(x).permute(0, 3, 1, 2))
    for handle in handles:
        handle.remove()
    return outputs


def artifact_tensors(artifact: Artifact, inputs: list[Array]) -> list[dict[str, tuple[str, str, Array]]]:
    """For each input: tensor name -> (operator, dtype, value as float32), by the plain kernels."""
    interpreter = open_plain(artifact.path.read_bytes())
    (detail,) = interpreter.get_input_details()
    details = {d["index"]: d for d in interpreter.get_tensor_details()}
    produced = [(op["op_name"], i) for op in interpreter._get_ops_details() for i in op["outputs"] if i in details]
    runs = []
    for x in inputs:
        interpreter.set_tensor(detail["index"], quantize_array(x, detail))
        invoke(interpreter, artifact.path)
        names = {
            details[i]["name"]: (op, np.dtype(details[i]["dtype"]).name, read_float(interpreter, details[i]))
            for op, i in produced
        }
        runs.append(names)
    return runs


def compare_layers(network: nn.Module, artifact: Artifact, inputs: list[Array]) -> list[Layer]:
    """One row for each module whose output is a tensor of the artifact, a .tflite file, the lowest SQNR first."""
    expected = [module_outputs(network, x) for x in inputs]
    runs = artifact_tensors(artifact, inputs)
    order = list(expected[0])
    rows: dict[str, Layer] = {}
    for name, (operator, dtype, value) in runs[0].items():
        owner = module_path(name)
        if owner not in expected[0]:
            continue
        place = order.index(owner)
        came = np.concatenate([run[name][2].ravel() for run in runs])
        # Of a conv and its fused ReLU6 only the one agrees that the tensor stands for: the best of these few counts,
        # and where even that is noise, the layer is broken.
        fits = [
            Layer(candidate, operator, dtype, sqnr_db(np.concatenate([e[candidate].ravel() for e in expected]), came))
            for candidate in order[place : place + 1 + FOLLOWERS]
            if expected[0][candidate].shape == value.shape and candidate.rpartition(".")[0] == owner.rpartition(".")[0]
        ]
        best = max(fits, key=lambda layer: layer.sqnr_db, default=None)
        if best and (best.module not in rows or best.sqnr_db > rows[best.module].sqnr_db):
            rows[best.module] = best
    return sorted(rows.values(), key=lambda layer: layer.sqnr_db)


def render(layers: list[Layer]) -> str:
    """A table for people, worst first."""
    lines = [f"{'module':<36}{'operator':<20}{'dtype':<9}{'SQNR dB':>8}"]
    return "\n".join(lines + [f"{x.module:<36}{x.operator:<20}{x.dtype:<9}{x.sqnr_db:>8.1f}" for x in layers])
