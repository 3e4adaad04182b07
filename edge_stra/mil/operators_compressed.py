"""The constexpr operators: weights that are compressed in the file, decompressed once at load as they define it."""

from __future__ import annotations

import math

import numpy as np
import torch

from edge_stra.mil.operators_elementwise import dequantize
from edge_stra.mil.registry import Ints, Tensor, check_size, held_as, operator
from edge_stra.mil.weights import unpack_bits


@operator("constexpr_affine_dequantize")
def affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int) -> Tensor:
    """scale * (quantized_data - zero_point), each one number or one for each index of `axis`."""
    along = axis if scale.ndim or zero_point.ndim else None
    return dequantize(quantized_data, scale, zero_point, along)


@operator("constexpr_cast")
def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    return source_val.to(held_as(output_dtype))


@operator("constexpr_blockwise_shift_scale")
def blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """scale * (data - offset), one scale and offset for each block of data."""
    shifted = data.float() if offset is None else data.float() - _repeat(offset.float(), data.shape)
    return shifted * _repeat(scale.float(), data.shape)


def _repeat(blocks: Tensor, shape: torch.Size) -> Tensor:
    """One value for each block -> one for each element."""
    for axis, size in enumerate(shape):
        if not blocks.shape[axis] or size % blocks.shape[axis]:
            raise ValueError(f"{blocks.shape[axis]} blocks must divide {size} elements of axis {axis}")
        if size != blocks.shape[axis]:
            blocks = blocks.repeat_interleave(size // blocks.shape[axis], axis)
    return blocks


@operator("constexpr_lut_to_dense", moves=True)
def lut_to_dense(indices: Tensor, lut: Tensor, shape: Ints | None = None, vector_axis: int | None = None) -> Tensor:
    """A table's entries by their indices.

    Up to iOS 17 (`shape` is given): one table [entries], indices packed into bytes, lowest bits first. From iOS 18
    (`shape` is not): tables [blocks of each axis..., entries, vector], one index for each element or vector.
    """
    if shape is not None:
        check_size(shape)
        count = math.prod(shape)
        flat = unpack_bits(indices.numpy(), int(math.log2(lut.numel())), count)
        return lut[torch.from_numpy(flat).long()].reshape(shape)
    entries, width = lut.shape[-2:]
    places = torch.arange(math.prod(lut.shape[:-2])).reshape(lut.shape[:-2])
    table = _repeat(places, indices.shape)  # which of the tables each index means
    found = lut.reshape(-1, entries, width)[table, indices.long()]  # (*indices, vector)
    if width == 1:
        return found.squeeze(-1)
    if vector_axis is None:
        raise ValueError("a table of vectors needs a vector_axis")
    axis = vector_axis % indices.ndim
    return found.movedim(-1, axis + 1).flatten(axis, axis + 1)


@operator("constexpr_sparse_to_dense", moves=True)
def sparse_to_dense(nonzero_data: Tensor, mask: Tensor, shape: Ints | None = None) -> Tensor:
    """Values where the mask's bits are 1, zero elsewhere; up to iOS 17 the bits are packed into bytes."""
    if shape is not None:
        check_size(shape)
        bits = np.unpackbits(mask.numpy(), bitorder="little")[: math.prod(shape)]
        mask = torch.from_numpy(bits.reshape(shape))
    dense = torch.zeros(mask.shape, dtype=nonzero_data.dtype)
    dense[mask != 0] = nonzero_data
    return dense


@operator("constexpr_lut_to_sparse", moves=True)
def lut_to_sparse(
    indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, vector_axis: int | None = None
) -> tuple[Tensor, Tensor]:
    """The mask of the dense weight, and its values there."""
    dense = lut_to_dense(sparse_to_dense(indices_nonzero_data, indices_mask), lut, None, vector_axis)
    mask = indices_mask
    if lut.shape[-1] > 1 and vector_axis is not None:
        mask = mask.repeat_interleave(lut.shape[-1], vector_axis)
    return mask, dense[mask != 0]


@operator("constexpr_sparse_blockwise_shift_scale")
def sparse_blockwise_shift_scale(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The mask as it came, and the scaled values there."""
    dense = blockwise_shift_scale(sparse_to_dense(nonzero_data, data_mask), scale, offset)
    return data_mask, dense[data_mask != 0]
