"""Operators that write some elements of a tensor."""

from __future__ import annotations

from collections.abc import Callable

import torch

from edge_stra.mil.operators_shape import gather, gather_along_axis, gather_nd
from edge_stra.mil.registry import Tensor, operator


def _add(data: Tensor, places: Tensor, updates: Tensor) -> Tensor:
    return data.index_add(0, places, updates)


def _divide(data: Tensor, places: Tensor, updates: Tensor) -> Tensor:
    return data / torch.ones_like(data).scatter_reduce(0, places, updates, "prod")


MODES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "update": lambda data, places, updates: data.index_put((places,), updates),
    "add": _add,
    "sub": lambda data, places, updates: _add(data, places, -updates),
    "mul": lambda data, places, updates: data.scatter_reduce(0, places, updates, "prod"),
    "div": _divide,
    "max": lambda data, places, updates: data.scatter_reduce(0, places, updates, "amax"),
    "min": lambda data, places, updates: data.scatter_reduce(0, places, updates, "amin"),
}


def _scatter(data: Tensor, places: Tensor, updates: Tensor, mode: str) -> Tensor:
    """places: the flat index of each element that `updates` means, in its shape."""
    if places.shape != updates.shape:
        raise ValueError(f"updates must be of shape {tuple(places.shape)}, but are {tuple(updates.shape)}")
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}")
    return MODES[mode](data.flatten(), places.flatten(), updates.flatten()).reshape(data.shape)


def _flat_places(data: Tensor) -> Tensor:
    return torch.arange(data.numel()).reshape(data.shape)


@operator("scatter")
def scatter(
    data: Tensor, indices: Tensor, updates: Tensor, axis: int = 0, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    """Where `gather` would read along `axis`."""
    return _scatter(data, gather(_flat_places(data), indices, axis), updates, mode)


@operator("scatter_along_axis")
def scatter_along_axis(
    data: Tensor, indices: Tensor, updates: Tensor, axis: int = 0, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    return _scatter(data, gather_along_axis(_flat_places(data), indices, axis), updates, mode)


@operator("scatter_nd")
def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    return _scatter(data, gather_nd(_flat_places(data), indices), updates, mode)
