"""Losses beyond cross-entropy."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def triplet_loss(features: Tensor, identities: Tensor) -> Tensor:
    """Batch-hard triplet loss with soft margin: mean of log(1 + exp(d_far - d_near)).

    For each crop: the farthest of its identity and the nearest of another, by Euclidean distance of features
    [B, K]. Source: Hermans, Beyer, Leibe, arXiv 1703.07737, section 2. A crop alone with its identity is its own
    farthest, at the distance 0.
    """
    products = features @ features.T
    squares = products.diagonal()
    distances = (squares[:, None] + squares[None] - 2 * products).clamp_min(1e-6).sqrt()  # sqrt has no slope at 0
    same = identities[:, None] == identities[None]
    far = distances.masked_fill(~same, 0).amax(dim=1)
    near = distances.masked_fill(same, torch.inf).amin(dim=1)
    alone = near.isinf()  # a batch of one identity has no other
    return functional.softplus(far - near.masked_fill(alone, 0)).masked_fill(alone, 0).mean()
