"""Multiply-accumulates of a network, in the convention in which this project's figures are given."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_macs(model: nn.Module, size_hw: tuple[int, int]) -> int:
    """Multiply-accumulates of one picture [1, 3, H, W] through the reference form, in evaluation mode.

    Counted: every conv and linear, and every batched product that an `einsum` or `@` becomes, the weighted sum
    over the K*K window included (C * K*K * N). Not counted: norms, activations, softmax, additions, `unfold`.
    Half of the operations that torch's FlopCounterMode sees, on tensors without storage; `model` stays as it was.
    """
    shadow = copy.deepcopy(model).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shadow(torch.empty(1, 3, *size_hw, device="meta"))
    return int(counter.get_total_flops()) // 2
