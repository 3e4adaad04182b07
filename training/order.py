"""Which pictures make up each batch of an epoch: the same seed and epoch give the same batches."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def shuffled(count: int, batch: int, seed: int) -> Tensor:
    """Indices [steps, batch] of an epoch that shows each picture at most once; what fills no batch is left out."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[: count // batch * batch].view(-1, batch)


def by_identity(labels: NDArray[np.int64], batch: int, identities: int, seed: int) -> Tensor:
    """Indices [steps, batch]: each batch has `identities` identities, `batch / identities` crops of each.

    The triplet loss needs pairs. The crops of each identity are shuffled and cut into groups (the last one filled
    up with crops drawn again), and groups are drawn so that no batch shows an identity twice. The epoch ends where
    too few identities are left for a batch.
    """
    random, size = np.random.default_rng(seed), batch // identities
    groups: list[list[NDArray[np.int64]]] = []
    for identity in np.unique(labels):
        crops = random.permutation(np.flatnonzero(labels == identity))
        if short := -len(crops) % size:
            crops = np.concatenate([crops, random.choice(crops, short)])
        groups.append(np.split(crops, len(crops) // size))
    steps = []
    while len(groups) >= identities:
        # identities with more groups left come first more often, so that few are left over at the end
        weights = np.array([len(g) for g in groups], float)
        chosen = random.choice(len(groups), identities, replace=False, p=weights / weights.sum())
        steps.append(np.concatenate([groups[i].pop() for i in chosen]))
        groups = [g for g in groups if g]
    return torch.from_numpy(np.array(steps).reshape(-1, batch))
