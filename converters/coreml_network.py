"""The network that becomes an ML Program: bytes in, every constant of a size that half floats hold well.

The normalisation (p / 255 - mean) / std is split so that half floats do it without an error: c, a multiple of 1/8
near 255 * mean, and 64, a power of two, are exact there. The scale and what is left of the bias go into the stem's
weights; the zero padding then stands for c instead of the mean, at most 1/16 of a grey level beside it. In float32 c
is 255 * mean itself.

Half floats round each activation by chance, which averages out, but each weight and bias for good. SQNR of the output
with one tensor rounded, where that costs most (all together: 44 dB for each model):

    mobilenetv2_stra.fer     features.2.conv.0: bias 44.8 dB, weight 56.1; features.1.conv: 59 and more
    mobilenetv2_stra.reid    features.1.conv.0: weight 46.8 dB, bias 47.7; features.1.conv.3: bias 52.5; the next 56.5

1. The first expansion takes small differences of large values; its biases reach 295. The tensor before it may be
   shifted by a constant m, as nothing but that expansion reads it. Exact in float: both convs are linear, and the
   second is 1x1, without padding.

       h -> W1 h + b1 -> x -> W2 x + b2        =        h -> W1 h + (b1 - m) -> x - m -> W2 (x - m) + (b2 + W2 m)

   m makes b2 + W2 m least in squares, which needs no pictures (295 becomes 0.6), then b1 - m a half float.
2. The depthwise conv of the first block is done twice, with W and b as half floats and with what is left of them, and
   added: 22 bits for 1 % of the multiplications. In float32 it would leave Apple's neural engine, which has none.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_stra.fast_attention import conv_of
from edge_stra.models.mobilenetv2 import InvertedResidual, MobileNetV2
from edge_stra.spec import InputSpec

PIXEL_STEP = 64.0
"""Centred pixels are divided by it: a power of two near 255 * std, so that the stem's weights keep their size."""
CENTRE_PARTS = 8
"""The centre is a multiple of 1 / 8: the difference to any pixel then has at most 11 bits, as half floats do."""


class Relu6(nn.Module):
    """min(max(x, 0), 6) as relu6, where nn.ReLU6 becomes a clip, which Core ML's passes fuse with no conv."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu6(x)


class PixelNetwork(nn.Module):
    """A network [1, 3, H, W] of normalised pixels -> one of bytes 0..255 as floats, [1, 1 or 3, H, W].

    The output is that of the network, for a classifier through softmax.
    """

    centre: Tensor

    def __init__(self, network: MobileNetV2, pixels: InputSpec, classifier: bool, half: bool) -> None:
        super().__init__()
        network = with_relu6(network)
        self.network, self.classifier = split_depthwise(centre_expansion(network)) if half else network, classifier
        mean, std = (255 * torch.tensor(v, dtype=torch.float64) for v in (pixels.mean_rgb, pixels.std_rgb))
        centre = (mean * CENTRE_PARTS).round() / CENTRE_PARTS if half else mean.float().double()
        self.register_buffer("centre", centre.float().view(1, 3, 1, 1))
        # (p - mean) / std = (p - centre) / 64 * (64 / std) + (centre - mean) / std
        first = self.network.features[0]
        assert isinstance(first, nn.Sequential) and isinstance(first[0], nn.Conv2d) and first[0].bias is not None
        weight = first[0].weight.double()
        shift = (weight * ((centre - mean) / std).view(1, 3, 1, 1)).sum(dim=(1, 2, 3))
        scaled = weight * (PIXEL_STEP / std).view(1, 3, 1, 1)
        first[0] = conv_of(scaled.float(), (first[0].bias.double() + shift).float(), like=first[0])

    def forward(self, pixels: Tensor) -> Tensor:
        output: Tensor = self.network((pixels - self.centre) * (1 / PIXEL_STEP))
        return output.softmax(1) if self.classifier else output


def with_relu6(network: MobileNetV2) -> MobileNetV2:
    """A copy with `Relu6` in the place of each nn.ReLU6."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU6):
                setattr(module, name, Relu6())
    return network


def first_block(network: MobileNetV2) -> tuple[InvertedResidual, nn.Conv2d, nn.Conv2d]:
    """The first block, which has no expansion and no residual, and its convs: depthwise and projection."""
    block = network.features[1]
    assert isinstance(block, InvertedResidual) and not block.residual
    depthwise, project = (m for m in block.conv if isinstance(m, nn.Conv2d))
    return block, depthwise, project


def centre_expansion(network: MobileNetV2) -> MobileNetV2:
    """A copy with the tensor before the first expansion shifted: 1. at the top of this file."""
    network = copy.deepcopy(network)
    project, expand = first_block(network)[2], network.get_submodule("features.2.conv.0")
    assert isinstance(expand, nn.Conv2d) and expand.bias is not None and project.bias is not None
    weight, bias = expand.weight[:, :, 0, 0].double(), expand.bias.double()
    best = -torch.linalg.lstsq(weight, bias[:, None]).solution[:, 0]
    rounded = (project.bias.double() - best).half()
    shift = project.bias.double() - rounded.double()
    with torch.no_grad():
        expand.bias.copy_(bias + weight @ shift)
        project.bias.copy_(rounded)
    return network


class SplitConv(nn.Module):
    """A conv as the sum of two whose weights and biases are half floats: 2. at the top of this file."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        assert conv.bias is not None
        weight, bias = (p.detach().half().float() for p in (conv.weight, conv.bias))
        self.high = conv_of(weight, bias, like=conv)
        self.low = conv_of(conv.weight - weight, conv.bias - bias, like=conv)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.high(x) + self.low(x)
        return total


def split_depthwise(network: MobileNetV2) -> MobileNetV2:
    """A copy with the first block's depthwise conv in two halves."""
    network = copy.deepcopy(network)
    block, depthwise, _ = first_block(network)
    block.conv[list(block.conv).index(depthwise)] = SplitConv(depthwise)
    return network
