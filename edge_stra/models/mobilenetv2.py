"""MobileNetV2 with a slot: the 3x3 depthwise conv of the last inverted residual may be an attention block.

Source: Sandler et al., arXiv 1801.04381, table 2; the StRA variant: arXiv 2106.06672, section 4. The
160-channel stage keeps stride 1 unless told otherwise. Parameter names follow the common `features.N.conv.M`
numbering, so that ImageNet feature weights load unchanged.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edge_stra.models.attention import StRA, diversity_loss

# expansion t, output channels c, repeats n, stride s. That of the 160-channel stage is an argument of the network.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 1), (6, 320, 1, 1))
LAST_STAGE = 5  # index of the 160-channel stage: stride 1 here (paper, section 4), 2 in the usual MobileNetV2
EMBEDDING_SIZE = 512

Slot = Callable[[int], nn.Module]
"""What takes the place of the last depthwise conv: hidden channels -> module [B, C, H, W] -> the same."""


def depthwise_slot(channels: int) -> nn.Module:
    """The plain network: a 3x3 depthwise conv."""
    return DepthwiseConv(channels, 1)


def scaled(channels: int, width: float) -> int:
    """`channels * width` rounded to a multiple of 8, never more than 10 % below (arXiv 1801.04381, code)."""
    result = max(8, int(channels * width + 4) // 8 * 8)
    return result + 8 if result < 0.9 * channels * width else result


class DepthwiseConv(nn.Conv2d):
    """A 3x3 depthwise conv without bias.

    With stride 2, in training in bfloat16 on a CPU that has it, it runs with stride 1 and drops every other row and
    column: the same numbers, and where oneDNN's bfloat16 gradient of the strided form takes 51 ms there, this one
    takes 4 (two x86 cores, 64 x 96 x 44 x 44), a quarter of a whole step. In float32, and where bfloat16 is only
    emulated, the strided form is three to four times as fast as this one.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__(channels, channels, 3, stride, 1, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.stride != (1, 1) and x.dtype == torch.bfloat16 and has_native_bfloat16(x.device):
            dense = nn.functional.conv2d(x, self.weight, None, 1, 1, 1, self.groups)
            return dense[:, :, :: self.stride[0], :: self.stride[1]]
        return super().forward(x)


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether `device` is a CPU with arithmetic in bfloat16."""
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


class InvertedResidual(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int, expansion: int, slot: Slot | None) -> None:
        super().__init__()
        hidden = channels_in * expansion
        self.residual = stride == 1 and channels_in == channels_out
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [nn.Conv2d(channels_in, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()]
        self.slot_index = len(layers)
        spatial = slot(hidden) if slot else DepthwiseConv(hidden, stride)
        layers += [spatial, nn.BatchNorm2d(hidden), nn.ReLU6()]
        layers += [nn.Conv2d(hidden, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.conv(x)
        return x + change if self.residual else change


class ClassificationHead(nn.Module):
    """[B, C] pooled features -> [B, classes] logits."""

    def __init__(self, channels: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(channels, classes)

    def forward(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.dropout(pooled))
        return logits


class EmbeddingHead(nn.Module):
    """[B, C] pooled features -> [B, 512] embedding, of unit L2 norm in evaluation mode.

    In training mode its length is left as it is.
    """

    def __init__(self, channels: int, size: int = EMBEDDING_SIZE) -> None:
        super().__init__()
        self.project = nn.Linear(channels, size, bias=False)
        self.norm = nn.BatchNorm1d(size)

    def forward(self, pooled: Tensor) -> Tensor:
        embedding: Tensor = self.norm(self.project(pooled))
        return embedding if self.training else nn.functional.normalize(embedding, dim=1)


def pool(x: Tensor) -> Tensor:
    """Global average [B, C, H, W] -> [B, C]; over the last two axes but one, which saves a device a transpose."""
    return x.permute(0, 2, 3, 1).mean(dim=(1, 2))


class MobileNetV2(nn.Module):
    """Features, global average pool, head. Input [B, 3, H, W], output what the head gives."""

    def __init__(
        self,
        head: Callable[[int], nn.Module],
        width: float = 1.0,
        slot: Slot = depthwise_slot,
        stem_stride: int = 2,
        last_stage_stride: int = 1,
    ) -> None:
        super().__init__()
        channels = scaled(32, width)
        layers: list[nn.Module] = [
            nn.Sequential(nn.Conv2d(3, channels, 3, stem_stride, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU6())
        ]
        for stage, (expansion, stage_channels, repeats, stage_stride) in enumerate(STAGES):
            for repeat in range(repeats):
                last = stage == len(STAGES) - 1 and repeat == repeats - 1
                first = last_stage_stride if stage == LAST_STAGE else stage_stride
                stride = first if repeat == 0 else 1
                out = scaled(stage_channels, width)
                layers.append(InvertedResidual(channels, out, stride, expansion, slot if last else None))
                channels = out
        final = scaled(1280, max(1.0, width))
        layers.append(nn.Sequential(nn.Conv2d(channels, final, 1, bias=False), nn.BatchNorm2d(final), nn.ReLU6()))
        self.features = nn.Sequential(*layers)
        self.head = head(final)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(pool(self.features(x)))
        return result

    @property
    def slot_block(self) -> InvertedResidual:
        """The last inverted residual, whose spatial layer is the slot."""
        block = self.features[-2]
        assert isinstance(block, InvertedResidual)
        return block

    def pooled_with_diversity(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features [B, C] and the diversity loss (0 where the slot has no masks), for training."""
        block = self.slot_block
        x = self.features[:-2](x)
        x = block.conv[: block.slot_index](x)
        slot = block.conv[block.slot_index]
        diversity = torch.zeros((), device=x.device)
        if isinstance(slot, StRA):
            attention = slot.attend(x)
            x = attention.output
            if attention.masks is not None:
                diversity = diversity_loss(attention.masks.float())
        else:
            x = slot(x)
        return pool(self.features[-1](block.conv[block.slot_index + 1 :](x))), diversity
