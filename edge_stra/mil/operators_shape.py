"""Operators that move elements: their values are exact in any type."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from edge_stra.mil.registry import Flags, Ints, Tensor, Tensors, check_size, operator


@operator("reshape", moves=True)
def reshape(x: Tensor, shape: Ints) -> Tensor:
    """0 keeps the dimension of x, -1 is what is left."""
    return x.reshape([x.shape[axis] if size == 0 and x.numel() else size for axis, size in enumerate(shape)])


@operator("transpose", moves=True)
def transpose(x: Tensor, perm: Ints) -> Tensor:
    return x.permute(perm)


@operator("expand_dims", moves=True)
def expand_dims(x: Tensor, axes: Ints) -> Tensor:
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operator("squeeze", moves=True)
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    """Axes that are not 1 stay."""
    return x.squeeze() if axes is None else x.squeeze(axes)


@operator("flatten2d", moves=True)
def flatten2d(x: Tensor, axis: int = 1) -> Tensor:
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("shape", moves=True)
def shape_of(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)


@operator("slice_by_index", moves=True)
def slice_by_index(
    x: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Flags | None = None,
    end_mask: Flags | None = None,
    squeeze_mask: Flags | None = None,
) -> Tensor:
    """numpy's slices; a masked begin or end is as if left out, a squeezed axis an index."""
    for axis in reversed(range(x.ndim)):
        if squeeze_mask is not None and squeeze_mask[axis]:
            x = x.select(axis, begin[axis])
            continue
        low = None if begin_mask is not None and begin_mask[axis] else begin[axis]
        high = None if end_mask is not None and end_mask[axis] else end[axis]
        step = 1 if stride is None else stride[axis]
        if step > 0:
            x = x[(slice(None),) * axis + (slice(low, high, step),)]
        else:  # torch has no negative steps
            x = x.index_select(axis, torch.arange(x.shape[axis])[np.r_[: x.shape[axis]][low:high:step].copy()])
    return x


@operator("slice_by_size", moves=True)
def slice_by_size(x: Tensor, begin: Ints, size: Ints) -> Tensor:
    """A size of -1 is all that is left."""
    for axis, (start, length) in enumerate(zip(begin, size, strict=True)):
        start = start + x.shape[axis] if start < 0 else start
        x = x.narrow(axis, start, x.shape[axis] - start if length == -1 else length)
    return x


@operator("slice_update", moves=True)
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Flags | None = None,
    end_mask: Flags | None = None,
    squeeze_mask: Flags | None = None,
) -> Tensor:
    places = torch.arange(x.numel()).reshape(x.shape)
    chosen = slice_by_index(places, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    result = x.flatten().clone()
    result[chosen.flatten()] = update.expand(chosen.shape).flatten()
    return result.reshape(x.shape)


@operator("split", moves=True)
def split(x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Ints | None = None) -> Tensors:
    if split_sizes is not None:
        return tuple(torch.split(x, list(split_sizes), axis))
    if not num_splits or x.shape[axis] % num_splits:
        raise ValueError(f"{x.shape[axis]} elements can't be split into {num_splits} equal parts")
    return tuple(torch.split(x, x.shape[axis] // num_splits, axis))


@operator("concat", moves=True)
def concat(values: Tensors, axis: int, interleave: bool = False) -> Tensor:
    check_size([sum(value.numel() for value in values)])
    if interleave:
        return torch.stack(values, axis % values[0].ndim + 1).flatten(axis % values[0].ndim, axis % values[0].ndim + 1)
    return torch.cat(values, axis)


@operator("stack", moves=True)
def stack(values: Tensors, axis: int) -> Tensor:
    check_size([sum(value.numel() for value in values)])
    return torch.stack(values, axis)


@operator("tile", moves=True)
def tile(x: Tensor, reps: Ints) -> Tensor:
    check_size([size * times for size, times in zip(x.shape, reps, strict=True)])
    return x.tile(reps)


@operator("reverse", moves=True)
def reverse(x: Tensor, axes: Ints | None = None) -> Tensor:
    return x.flip(axes if axes is not None else tuple(range(x.ndim)))


@operator("pad", moves=True)
def pad(x: Tensor, pad: Ints, mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    """[before, after] of each of the last dimensions."""
    count = len(pad) // 2
    pairs = [(0, 0)] * (x.ndim - count) + [(pad[2 * index], pad[2 * index + 1]) for index in range(count)]
    check_size([size + sum(pair) for size, pair in zip(x.shape, pairs, strict=True)])
    if mode == "constant":
        return functional.pad(x, [amount for pair in reversed(pairs) for amount in pair], value=constant_val)
    for axis, pair in enumerate(pairs):
        if pair != (0, 0):
            x = x.index_select(axis, torch.from_numpy(_padded_places(x.shape[axis], pair, mode)))
    return x


def _padded_places(size: int, pair: tuple[int, int], mode: str) -> NDArray[np.int64]:
    """Which element each of the padded axis is."""
    if mode == "reflect":
        return np.pad(np.arange(size), pair, mode="reflect")
    if mode == "replicate":
        return np.pad(np.arange(size), pair, mode="edge")
    raise ValueError(f"unknown mode {mode!r}")


@operator("fill", moves=True)
def fill(shape: Ints, value: Tensor | None = None) -> Tensor:
    check_size(shape)
    return torch.zeros(()).expand(shape).clone() if value is None else value.expand(shape).clone()


@operator("fill_like", moves=True)
def fill_like(ref_tensor: Tensor, value: Tensor | None = None) -> Tensor:
    return fill(tuple(ref_tensor.shape), value)


@operator("range_1d")
def range_1d(start: float, end: float, step: float) -> Tensor:
    count = max(0, math.ceil((end - start) / step))
    check_size([count])
    return torch.arange(count, dtype=torch.float64) * step + start


@operator("one_hot", moves=True)
def one_hot(
    indices: Tensor,
    one_hot_vector_size: int,
    axis: int = -1,
    on_value: Tensor | None = None,
    off_value: Tensor | None = None,
) -> Tensor:
    """1 and 0 where no values are given; an index outside gives no `on_value`."""
    check_size([*indices.shape, one_hot_vector_size])
    hot = indices.unsqueeze(-1) == torch.arange(one_hot_vector_size)
    on = torch.tensor(1, dtype=torch.int32) if on_value is None else on_value
    off = torch.zeros_like(on) if off_value is None else off_value
    return torch.where(hot, on, off).movedim(-1, axis)


@operator("band_part", moves=True)
def band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    """The band around the diagonal of the last two axes; -1 keeps all of a side."""
    x = x if upper < 0 else x.tril(upper)
    return x if lower < 0 else x.triu(-lower)


@operator("non_zero", moves=True)
def non_zero(x: Tensor) -> Tensor:
    return x.nonzero().int()


@operator("gather", moves=True)
def gather(x: Tensor, indices: Tensor, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """Rows of x along `axis`; negative indices count from the end, others outside are an error."""
    axis %= x.ndim
    check_size([*x.shape[:axis], *indices.shape[batch_dims:], *x.shape[axis + 1 :]])
    if batch_dims == 0:
        places = _places(indices, x.shape[axis])
        return x.index_select(axis, places.flatten()).reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    parts = [gather(row, index, axis - 1, batch_dims - 1) for row, index in zip(x, indices, strict=True)]
    return torch.stack(parts)


@operator("gather_along_axis", moves=True)
def gather_along_axis(x: Tensor, indices: Tensor, axis: int = 0, validate_indices: bool = False) -> Tensor:
    places = _places(indices, x.shape[axis])
    shape = list(x.shape)
    shape[axis] = indices.shape[axis]
    return torch.gather(x, axis, places.expand(shape))


@operator("gather_nd", moves=True)
def gather_nd(x: Tensor, indices: Tensor, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    check_size([*indices.shape[:-1], *x.shape[batch_dims + indices.shape[-1] :]])
    if batch_dims:
        parts = [gather_nd(row, index, batch_dims - 1) for row, index in zip(x, indices, strict=True)]
        return torch.stack(parts)
    depth = indices.shape[-1]
    return x[tuple(_places(indices[..., axis], x.shape[axis]) for axis in range(depth))]


def _places(indices: Tensor, size: int) -> Tensor:
    places = indices.long()
    return torch.where(places < 0, places + size, places)


@operator("depth_to_space", moves=True)
def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    """TensorFlow's order of channels: the block's rows and columns first."""
    n, c, h, w = x.shape
    blocks = x.reshape(n, block_size, block_size, c // block_size**2, h, w)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(n, c // block_size**2, h * block_size, w * block_size)


@operator("space_to_depth", moves=True)
def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // block_size, block_size, w // block_size, block_size)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(n, c * block_size**2, h // block_size, w // block_size)


@operator("pixel_shuffle", moves=True)
def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    return functional.pixel_shuffle(x, upscale_factor)


@operator("pixel_unshuffle", moves=True)
def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    return functional.pixel_unshuffle(x, downscale_factor)


@operator("sliding_windows", moves=True)
def sliding_windows(x: Tensor, axis: int, size: int, stride: int = 1) -> Tensor:
    windows = x.unfold(axis, size, stride)  # a view: what comes next would fill it
    check_size(windows.shape)
    return windows.movedim(-1, axis % x.ndim + 1)
