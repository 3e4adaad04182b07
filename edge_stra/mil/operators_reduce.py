"""Operators that reduce axes, or sort along one. Sums of float16 are taken in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from edge_stra.mil.registry import Ints, Tensor, held_as, operator


def _product(x: Tensor, axes: list[int]) -> Tensor:
    for axis in axes:
        x = x.prod(axis, keepdim=True)
    return x


REDUCTIONS: dict[str, Callable[[Tensor, list[int]], Tensor]] = {
    "reduce_l1_norm": lambda x, axes: x.abs().sum(axes, True),
    "reduce_l2_norm": lambda x, axes: x.square().sum(axes, True).sqrt(),
    "reduce_log_sum": lambda x, axes: x.sum(axes, True).log(),
    "reduce_log_sum_exp": lambda x, axes: torch.logsumexp(x, axes, True),
    "reduce_max": lambda x, axes: x.amax(axes, True),
    "reduce_mean": lambda x, axes: x.mean(axes, True) if x.is_floating_point() else x.double().mean(axes, True),
    "reduce_min": lambda x, axes: x.amin(axes, True),
    "reduce_prod": _product,
    "reduce_sum": lambda x, axes: x.sum(axes, True),
    "reduce_sum_square": lambda x, axes: x.square().sum(axes, True),
}


def _reduction(function: Callable[[Tensor, list[int]], Tensor]) -> Callable[..., Tensor]:
    def run(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
        """All axes where none is given."""
        chosen = sorted({axis % x.ndim for axis in axes}) if axes is not None else list(range(x.ndim))
        kept = function(x, chosen)
        if keep_dims:
            return kept
        return kept.reshape([size for axis, size in enumerate(kept.shape) if axis not in chosen])

    return run


for _name, _function in REDUCTIONS.items():
    operator(_name)(_reduction(_function))


@operator("reduce_argmax")
def reduce_argmax(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    return x.argmax(axis, keep_dims).to(held_as(output_dtype))


@operator("reduce_argmin")
def reduce_argmin(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    return x.argmin(axis, keep_dims).to(held_as(output_dtype))


@operator("argsort")
def argsort(x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    return torch.argsort(x, dim=axis, descending=not ascending, stable=True).int()


@operator("topk")
def topk(
    x: Tensor,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> Tensor | tuple[Tensor, Tensor]:
    """Sorted whatever `sort` says: an order is only promised with it."""
    indices = torch.argsort(x, dim=axis, descending=not ascending, stable=True).narrow(axis, 0, k)
    values = torch.gather(x, axis, indices)
    return (values, indices.to(held_as(output_indices_dtype))) if return_indices else values


@operator("cumsum")
def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    turned = x.flip(axis) if reverse else x
    total = turned.cumsum(axis)
    total = total - turned if exclusive else total
    return total.flip(axis) if reverse else total


@operator("classify")
def classify(probabilities: Tensor, classes: Any) -> tuple[Any, dict[Any, float]]:
    """The class of the largest value, and each class with its value."""
    values = probabilities.flatten().tolist()
    if len(values) != len(classes):
        raise ValueError(f"{len(classes)} classes can't have {len(values)} values")
    return classes[int(probabilities.argmax())], dict(zip(classes, values, strict=True))
