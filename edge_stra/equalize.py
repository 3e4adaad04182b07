"""Per-channel equalisation of the residual streams: exact in float, several dB better in int8.

MobileNetV2's bottlenecks are linear: nothing lies between the project conv that writes a stream of
channels and the expand convs that read it, additions of blocks aside. So each channel of a stream may be
divided by s where it is written and multiplied by s where it is read:

    writers  W[c, :] / s_c, b[c] / s_c   --->  (+)  --->  readers  W[:, c] * s_c

    before   0.02 ......... | ......... 5.1       one scale for all channels: the small ones drown in it,
    after    0.4  .....|..... 0.6                 and so do the weights of their readers

s balances what quantization sees on both sides, the channel's activations and its readers' weights:
s_c = sqrt(activation_c / weight_c) (SmoothQuant, arXiv 2211.10438, equation 4 with alpha 0.5; for one
network without data, as in arXiv 1906.04721, the activations are taken from the BN of the writers:
|beta| + 3 |gamma|). s is a power of two, so that not even a rounding differs.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from edge_stra.models.mobilenetv2 import InvertedResidual, MobileNetV2

Writer = tuple[nn.Conv2d, nn.BatchNorm2d]
DEVIATIONS = 3.0  # of a normal distribution, 99.7 % lie within


def streams(model: MobileNetV2) -> list[tuple[list[Writer], list[nn.Conv2d]]]:
    """The writers and the readers of each residual stream, in order."""
    found: list[tuple[list[Writer], list[nn.Conv2d]]] = []
    for block in model.features:
        if isinstance(block, InvertedResidual):
            reader, writer = block.conv[0], (block.conv[-2], block.conv[-1])
            if found:
                found[-1][1].append(reader)  # the first block of all reads the stem, behind a ReLU6
            if not block.residual:
                found.append(([], []))
            found[-1][0].append(writer)
        elif found:
            found[-1][1].append(block[0])  # type: ignore[index]
    return found


def stream_scale(writers: list[Writer], readers: list[nn.Conv2d]) -> Tensor:
    """s [C], powers of two with a geometric mean near 1."""
    activation = torch.stack([norm.bias.abs() + DEVIATIONS * norm.weight.abs() for _, norm in writers]).amax(dim=0)
    weight = torch.stack([conv.weight.abs().amax(dim=(0, 2, 3)) for conv in readers]).amax(dim=0)
    balance = (activation.clamp_min(1e-6) / weight.clamp_min(1e-6)).sqrt().log2()
    exponent: Tensor = (balance - balance.mean()).clamp(-8, 8).round()
    return torch.exp2(exponent)


@torch.no_grad()
def equalize_streams(model: MobileNetV2, size_hw: tuple[int, int]) -> MobileNetV2:
    """A copy with equal streams; before BN is folded, since the scale of a writer is its BN's."""
    model = copy.deepcopy(model)
    for writers, readers in streams(model):
        scale = stream_scale(writers, readers)
        for _, norm in writers:
            norm.weight.div_(scale)
            norm.bias.div_(scale)
        for conv in readers:
            conv.weight.mul_(scale.view(1, -1, 1, 1))
    return model
