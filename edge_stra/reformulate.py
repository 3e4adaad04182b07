"""The exact rewrite of a whole network for devices: an ordered list of pure Module -> Module steps.

Every step returns a new module and leaves its argument as it was. Training mode is refused: batch
statistics can't be folded. See `edge_stra.fast_attention` for the block itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from edge_stra.fast_attention import FastStRA, affine_of, conv_of, fold_batch_norm
from edge_stra.models.attention import StRA
from edge_stra.models.mobilenetv2 import EmbeddingHead, MobileNetV2
from edge_stra.spec import ModelError


def replace_attention(model: MobileNetV2, size_hw: tuple[int, int]) -> MobileNetV2:
    """StRA -> BN -> ReLU6 in the slot becomes one FastStRA for the map that an input of `size_hw` gives there."""
    model = copy.deepcopy(model)
    block = model.slot_block
    index = block.slot_index
    stra, norm = block.conv[index], block.conv[index + 1]
    if isinstance(stra, StRA) and isinstance(norm, nn.BatchNorm2d):
        fast = FastStRA(stra, slot_size(model, size_hw), norm)
        layers = list(block.conv)
        block.conv = nn.Sequential(*layers[:index], fast, *layers[index + 3 :])
    return model


def slot_size(model: MobileNetV2, size_hw: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the map at the slot."""
    parameter = next(model.parameters())
    with torch.no_grad():
        height, width = model.features[:-2](torch.zeros(1, 3, *size_hw).to(parameter)).shape[2:]
    return height, width


def fold_batch_norms(model: MobileNetV2, size_hw: tuple[int, int]) -> MobileNetV2:
    """Conv -> BN becomes one conv, everywhere; Linear -> BN of the embedding head one linear."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        if isinstance(module, nn.Sequential):
            _fold_sequence(module)
    if isinstance(model.head, EmbeddingHead):
        model.head = FoldedEmbedding(model.head)
    return model


def _fold_sequence(sequence: nn.Sequential) -> None:
    """Folds in place; the folded BN becomes an identity, so that the names of all other modules stay."""
    for index in range(len(sequence) - 1):
        conv, norm = sequence[index], sequence[index + 1]
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            sequence[index] = conv_of(*fold_batch_norm(conv, norm), like=conv)
            sequence[index + 1] = nn.Identity()


class FoldedEmbedding(nn.Module):
    """Linear and BN in one, then the L2 norm: [B, C] -> [B, 512]."""

    def __init__(self, head: EmbeddingHead) -> None:
        super().__init__()
        scale, shift = affine_of(head.norm)
        self.project = nn.Linear(head.project.in_features, head.project.out_features).to(scale.dtype)
        self.project.weight = nn.Parameter((head.project.weight * scale[:, None]).detach(), requires_grad=False)
        self.project.bias = nn.Parameter(shift, requires_grad=False)

    def forward(self, pooled: Tensor) -> Tensor:
        return nn.functional.normalize(self.project(pooled), dim=1)


REWRITES: tuple[Callable[[MobileNetV2, tuple[int, int]], MobileNetV2], ...] = (
    replace_attention,  # first: it takes the BN after the slot with it
    fold_batch_norms,
)


def reformulate(model: MobileNetV2, size_hw: tuple[int, int]) -> MobileNetV2:
    """The network for inputs [1, 3, *size_hw], exactly equal to `model` but for the order of additions.

    Raises ModelError in training mode.
    """
    if model.training:
        raise ModelError("reformulate needs a model in evaluation mode, but got training mode; call model.eval() first")
    for rewrite in REWRITES:
        model = rewrite(model, size_hw)
    return model.eval()
