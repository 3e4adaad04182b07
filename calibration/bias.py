"""Bias correction: what the rounding of weights adds to the mean of each output channel is taken off its bias.

Source: Nagel et al., arXiv 1906.04721, section 4.2, with means measured on pictures instead of derived from BN:

    E[Q(W) x] - E[W x] = (Q(W) - W) E[x]        is taken off the bias, channel by channel
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

WEIGHT_LEVELS = 127  # int8, symmetric: what ai-edge-quantizer's per-channel min-max gives


def rounding_error(weight: Tensor) -> Tensor:
    """Q(W) - W for int8 weights with one scale for each output channel."""
    scale = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True).clamp_min(1e-12) / WEIGHT_LEVELS
    return (weight / scale).round().clamp(-WEIGHT_LEVELS, WEIGHT_LEVELS) * scale - weight


@torch.inference_mode()
def measure_corrections(
    network: nn.Module, inputs: Iterable[NDArray[np.float32]], only: Collection[str] | None = None
) -> dict[str, NDArray[np.float32]]:
    """What to add to each bias, float32 [channels], by module name; inputs [1, H, W, 3].

    only: the modules whose weights are quantized, by default all: what stays float has nothing to correct. Modules
    whose weights round without an error (constants of 0 and 1) have no entry.
    """
    network = copy.deepcopy(network).eval()
    layers = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    if only is not None:
        layers = {name: layer for name, layer in layers.items() if name in only}
    errors = {n: rounding_error(m.weight) for n, m in layers.items()}
    sums = {n: torch.zeros(len(e), dtype=torch.float64) for n, e in errors.items() if bool(e.any())}

    def watch(name: str) -> None:
        def hook(module: nn.Module, args: tuple[Tensor, ...], _: Tensor) -> None:
            if isinstance(module, nn.Conv2d):
                drift = functional.conv2d(args[0], errors[name], None, module.stride, module.padding, 1, module.groups)  # type: ignore[arg-type]
                sums[name] += drift.double().mean(dim=(0, 2, 3))
            else:
                sums[name] += functional.linear(args[0], errors[name]).double().mean(dim=0)

        layers[name].register_forward_hook(hook)

    for name in sums:
        watch(name)
    count = 0
    for x in inputs:
        network(torch.from_numpy(x).permute(0, 3, 1, 2))
        count += 1
    return {name: (-total / count).float().numpy() for name, total in sums.items()}


def apply_corrections(network: nn.Module, corrections: dict[str, NDArray[np.float32]]) -> nn.Module:
    """A copy of the network with corrected biases."""
    network = copy.deepcopy(network)
    for name, correction in corrections.items():
        layer = network.get_submodule(name)
        bias = torch.from_numpy(correction)
        if layer.bias is not None:
            bias = bias + layer.bias.detach()  # type: ignore[operator]
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return network
