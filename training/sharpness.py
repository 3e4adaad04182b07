"""Sharpness-aware minimisation (SAM): a step follows the gradient of the worst place near by, not of where it stands.

A network that learns noisy labels by heart ends in a sharp minimum, and this steers away from those. Source: Foret,
Kleiner, Mobahi, Neyshabur, arXiv 2010.01412, algorithm 1. It costs a second forward and backward pass each step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def uphill(module: nn.Module, rho: float) -> Iterator[None]:
    """Within it, the trained weights are moved along their gradients, by `rho` in all (L2); the gradients are cleared.

    On leaving, weights and statistics of norms are what they were, bit by bit, with the gradients found within.
    """
    found = [(weight, weight.grad) for weight in module.parameters() if weight.grad is not None]
    length = torch.stack([grad.norm() for _, grad in found]).norm().clamp_min(1e-12)
    state = [weight for weight, _ in found] + list(module.buffers())
    kept = [tensor.detach().clone() for tensor in state]
    with torch.no_grad():
        for weight, grad in found:
            weight.add_(grad * (rho / length))
    module.zero_grad(set_to_none=True)
    yield
    with torch.no_grad():
        for tensor, value in zip(state, kept, strict=True):
            tensor.copy_(value)
