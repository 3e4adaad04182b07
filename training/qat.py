"""Quantization-aware training: the network computes with int8 weights and activations, and learns to live with them.

Source: Jacob et al., arXiv 1712.05877, section 3. What is rounded is what the exported int8 graph rounds, and the first
layers too, which the export keeps in float or in 16 bits (`calibration/recipes.py`):

    weights       of every conv and linear outside mode attention, symmetric, one scale for each output channel. BN is
                  not folded here: it multiplies whole output channels, and so leaves the rounded shares of each
                  channel as they are.
    activations   after every ReLU6, every BN that no ReLU6 follows, every sum of a residual block, every tanh, the
                  values of local attention, the pooled features and the output: one range for each tensor, the
                  moving average of what batches show.

Products, softmaxes, masks and gates of attention stay in float, as in the recipe `int8`. BN keeps its statistics: a
network whose statistics move cannot learn what rounding does to it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edge_stra.models.attention import StRA
from edge_stra.models.mobilenetv2 import EmbeddingHead, InvertedResidual, MobileNetV2

WEIGHT_LEVELS = 127  # symmetric
ACTIVATION_LEVELS = 255  # asymmetric
ORIGINAL = "parametrizations.weight.original"


class RoundedWeight(nn.Module):
    """Weights as int8 with one scale for each output channel; gradients pass straight through."""

    def forward(self, weight: Tensor) -> Tensor:
        scale = weight.detach().abs().amax(dim=tuple(range(1, weight.ndim))).clamp_min(1e-12) / WEIGHT_LEVELS
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -WEIGHT_LEVELS, WEIGHT_LEVELS)


class RoundedActivation(nn.Module):
    """A tensor as int8 within the moving average of its range; gradients pass where nothing is clipped."""

    low: Tensor
    high: Tensor
    seen: Tensor

    def __init__(self, momentum: float = 0.02) -> None:
        super().__init__()
        self.momentum = momentum
        for name in ("low", "high", "seen"):
            self.register_buffer(name, torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                low, high = torch.aminmax(x.detach().float())
                if dist.is_initialized():  # the range of the whole batch, or each process would round otherwise
                    dist.all_reduce(low, dist.ReduceOp.MIN)
                    dist.all_reduce(high, dist.ReduceOp.MAX)
                share = torch.where(self.seen > 0, self.momentum, 1.0)  # the first batch sets the range
                self.low.lerp_(low.clamp_max(0), share)
                self.high.lerp_(high.clamp_min(0), share)
                self.seen.fill_(1)
        scale = ((self.high - self.low) / ACTIVATION_LEVELS).clamp_min(1e-12)
        zero = (-self.low / scale).round().clamp(0, ACTIVATION_LEVELS).to(torch.int32)
        return torch.fake_quantize_per_tensor_affine(x.float(), scale, zero, 0, ACTIVATION_LEVELS).to(x.dtype)


def in_mode_attention(name: str) -> bool:
    """Whether a module is of mode attention, which the int8 graph computes in float."""
    return ".mode." in name


def rounded_places(network: MobileNetV2) -> dict[str, nn.Module]:
    """The modules whose output the int8 graph rounds, by name."""
    places: dict[str, nn.Module] = {}
    for name, module in network.named_modules():
        if in_mode_attention(name):
            continue
        if isinstance(module, nn.Sequential):
            follows = dict(zip(list(module), [*list(module)[1:], None], strict=True))
            for child_name, child in module.named_children():
                clipped = isinstance(follows[child], nn.ReLU6)
                if isinstance(child, (nn.ReLU6, nn.Tanh)) or (isinstance(child, nn.BatchNorm2d) and not clipped):
                    places[f"{name}.{child_name}"] = child
        elif isinstance(module, StRA):
            places[f"{name}.value"] = module.value
        elif isinstance(module, InvertedResidual) and module.residual:
            places[name] = module
    outputs = [n for n, m in network.head.named_modules() if isinstance(m, (nn.Linear, nn.BatchNorm1d))]
    return places | {f"head.{outputs[-1]}": network.head.get_submodule(outputs[-1])}


class Rounding(nn.ModuleDict):
    """All activation rounders of a network, by place (dots written as bars), and the hooks that apply them."""

    def __init__(self, network: MobileNetV2) -> None:
        places = rounded_places(network)
        super().__init__({name.replace(".", "|"): RoundedActivation() for name in ["input", "pooled", *places]})
        for name, module in places.items():
            module.register_forward_hook(self.after(name))
        network.features[0].register_forward_pre_hook(self.before("input"))
        head = network.head  # of an embedding's head training calls the parts (`tasks.Learner`)
        first = head.project if isinstance(head, EmbeddingHead) else head
        first.register_forward_pre_hook(self.before("pooled"))

    def after(self, name: str) -> Any:
        rounder = self[name.replace(".", "|")]
        return lambda module, args, output: rounder(output)

    def before(self, name: str) -> Any:
        rounder = self[name]
        return lambda module, args: (rounder(args[0]),)


def prepare_rounding(network: MobileNetV2) -> Rounding:
    """Makes a network round its weights and activations from now on; returns the rounders, which hold state."""
    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and not in_mode_attention(name):
            parametrize.register_parametrization(module, "weight", RoundedWeight())
    return Rounding(network)


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """The state of a network that may be rounding, under the names that it has without."""
    return {key.replace(ORIGINAL, "weight"): value for key, value in network.state_dict().items()}
