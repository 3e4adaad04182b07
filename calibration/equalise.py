"""Cross-layer equalisation of the residual streams of a reformulated MobileNetV2, exact in float.

Source: Nagel et al., arXiv 1906.04721, section 4.1. A stream is what linear bottlenecks write (the first of a stage,
and those that add to it) and the expansions after them read:

    writers  W1 x + b1  --+-- + --+-- + --    each channel i of W1, b1 divided by s_i
                          |       |
    readers             W2 ...  W2 ...        each input channel i of W2 multiplied by s_i

Nothing but sums stands between the two, so the network's output stays as it is, whatever s > 0 is. Only streams allow
this here: between an expansion and its depthwise conv, and between that and the projection, stands ReLU6, and
min(x, 6) / s is not min(x / s, 6). (Before attention stands one too; the head reads a mean of ReLU6 values.)

The scale is the paper's, s_i = sqrt(r1_i r2_i) / r2_i, with the ranges r1 of the writers' and r2 of the readers'
weights, the largest where a stream has several. It needs no pictures.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from edge_stra.models.mobilenetv2 import InvertedResidual, MobileNetV2

MAX_SCALE = 64.0
"""Scales stay within 1/64 to 64: a channel that is almost dead must not blow up the weights on its other side."""


@dataclass
class Stream:
    """The 1x1 convs that write one residual stream and those that read it; all with bias in a folded network."""

    writers: list[nn.Conv2d] = field(default_factory=list)
    readers: list[nn.Conv2d] = field(default_factory=list)


def find_streams(network: MobileNetV2) -> list[Stream]:
    """The streams in order. A stream that ReLU6 feeds (the stem's, where the first block adds to it) is left out."""
    streams: list[Stream] = []
    current: Stream | None = None
    for block in list(network.features)[1:]:
        layers = (block.conv if isinstance(block, InvertedResidual) else block).children()
        convs = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
        if current is not None:
            assert convs[0].groups == 1, "a depthwise conv reads no stream here: all blocks but the first expand"
            current.readers.append(convs[0])
        if isinstance(block, InvertedResidual):
            if not block.residual:
                current = Stream()
                streams.append(current)
            if current is not None:
                current.writers.append(convs[-1])
    return streams


def stream_scales(stream: Stream) -> Tensor:
    """s [channels] of one stream; 1 where a channel is dead on one side."""
    written = torch.stack([conv.weight.abs().amax(dim=(1, 2, 3)) for conv in stream.writers]).amax(0)
    read = torch.stack([conv.weight.abs().amax(dim=(0, 2, 3)) for conv in stream.readers]).amax(0)
    alive = (written > 0) & (read > 0)
    ratio = torch.where(alive, written, 1.0) / torch.where(alive, read, 1.0)
    return ratio.sqrt().clamp(1 / MAX_SCALE, MAX_SCALE)


def scale_stream(stream: Stream, scales: Tensor) -> None:
    """Divides what is written by `scales` [channels] and multiplies what is read, in place."""
    with torch.no_grad():
        for conv in stream.writers:
            conv.weight.div_(scales.view(-1, 1, 1, 1))
            if conv.bias is not None:
                conv.bias.div_(scales)
        for conv in stream.readers:
            conv.weight.mul_(scales.view(1, -1, 1, 1))


def equalise(network: MobileNetV2) -> MobileNetV2:
    """A copy of a reformulated network with balanced streams, equal to it but for rounding."""
    network = copy.deepcopy(network)
    for stream in find_streams(network):
        scale_stream(stream, stream_scales(stream))
    return network
