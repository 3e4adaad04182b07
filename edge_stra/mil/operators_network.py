"""Operators of networks: products, convolutions, pools, norms, resizing. Sums of float16 are taken in float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from edge_stra.mil.registry import Ints, Tensor, Tensors, broadcast, check_size, operator

CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
MAX_POOLS: dict[int, Callable[..., Any]] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}
MEAN_POOLS: dict[int, Callable[..., Any]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}
Pairs = list[tuple[int, int]]


@operator("linear")
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    check_size([*x.shape[:-1], weight.shape[0]])
    return functional.linear(x, weight, bias)


@operator("matmul")
def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    x = x.transpose(-1, -2) if transpose_x and x.ndim > 1 else x
    y = y.transpose(-1, -2) if transpose_y and y.ndim > 1 else y
    check_size([*broadcast(x.shape[:-2], y.shape[:-2]), *x.shape[-2:-1], *y.shape[-1:]])
    return torch.matmul(x, y)


@operator("einsum")
def einsum(values: Tensors, equation: str) -> Tensor:
    given, _, wanted = equation.replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for letters, value in zip(given.split(","), values, strict=True):
        sizes |= zip(letters, value.shape, strict=True)
    check_size([sizes[letter] for letter in wanted])
    return torch.einsum(equation, *values)


@operator("scaled_dot_product_attention")
def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    check_size([*query.shape[:-1], key.shape[-2]])
    return functional.scaled_dot_product_attention(query, key, value, attn_mask)


def _paddings(
    pad_type: str, pad: Ints | None, sizes: Ints, kernel: Ints, strides: Ints, dilations: Ints | None = None
) -> Pairs:
    """(before, after) of each spatial axis. "same": the output is the input's size / stride, rounded up."""
    if pad_type == "valid":
        return [(0, 0)] * len(sizes)
    if pad_type == "custom":
        amounts = pad if pad is not None else (0,) * 2 * len(sizes)
        return [(amounts[2 * axis], amounts[2 * axis + 1]) for axis in range(len(sizes))]
    if pad_type not in ("same", "same_lower"):
        raise ValueError(f"unknown pad_type {pad_type!r}")
    pairs = []
    for axis, size in enumerate(sizes):
        reach = (kernel[axis] - 1) * (dilations[axis] if dilations else 1) + 1
        total = max(0, (math.ceil(size / strides[axis]) - 1) * strides[axis] + reach - size)
        less, more = total // 2, total - total // 2
        pairs.append((less, more) if pad_type == "same" else (more, less))
    return pairs


def _check_padded(x: Tensor, pairs: Pairs) -> None:
    check_size([*x.shape[:2], *(size + sum(pair) for size, pair in zip(x.shape[2:], pairs, strict=True))])


def _flat(pairs: Pairs) -> list[int]:
    """As torch's pad wants it: the last axis first."""
    return [amount for pair in reversed(pairs) for amount in pair]


@operator("conv")
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    rank = x.ndim - 2
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    pairs = _paddings(pad_type, pad, tuple(x.shape[2:]), tuple(weight.shape[2:]), strides, dilations)
    _check_padded(x, pairs)
    places = [(size + sum(pair)) // step + 1 for size, pair, step in zip(x.shape[2:], pairs, strides, strict=True)]
    check_size([x.shape[0], weight.shape[0], *places])
    amounts = [low for low, _ in pairs]
    if any(low != high for low, high in pairs):
        x, amounts = functional.pad(x, _flat(pairs)), [0] * rank
    return CONVOLUTIONS[rank](x, weight, bias, strides, amounts, dilations, groups)


@operator("conv_transpose")
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
    output_shape: Ints | None = None,
) -> Tensor:
    """The whole result, of which the padding is cut off, and zeros where `output_shape` goes beyond."""
    rank = x.ndim - 2
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    axes = zip(x.shape[2:], weight.shape[2:], strides, dilations, strict=True)
    check_size(
        [x.shape[0], weight.shape[1] * groups, *((n - 1) * step + (k - 1) * wide + 1 for n, k, step, wide in axes)]
    )
    whole = TRANSPOSED[rank](x, weight, None, strides, 0, 0, groups, dilations)
    sizes = [size * stride for size, stride in zip(x.shape[2:], strides, strict=True)]
    pairs = _paddings("custom" if pad_type == "custom" else "valid", pad, tuple(sizes), (), strides)
    if pad_type == "same":
        spare = [full - size for full, size in zip(whole.shape[2:], sizes, strict=True)]
        pairs = [(max(0, extra) // 2, extra - max(0, extra) // 2) for extra in spare]
    if output_shape is not None:
        check_size(output_shape)
        ends = zip(whole.shape[2:], pairs, output_shape[2:], strict=True)
        pairs = [(low, full - low - size) for full, (low, _), size in ends]
    cut = functional.pad(whole, [-amount for amount in _flat(pairs)])
    return cut if bias is None else cut + bias.reshape(-1, *[1] * rank)


@operator("max_pool")
def max_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: str,
    strides: Ints | None = None,
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    strides = strides or (1,) * len(kernel_sizes)
    pairs = _pool_paddings(x, kernel_sizes, pad_type, strides, pad, ceil_mode)
    return MAX_POOLS[len(kernel_sizes)](functional.pad(x, _flat(pairs), value=-math.inf), kernel_sizes, strides)  # type: ignore[no-any-return]


@operator("avg_pool")
def avg_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: str,
    strides: Ints | None = None,
    pad: Ints | None = None,
    ceil_mode: bool = False,
    exclude_padding_from_average: bool = False,
) -> Tensor:
    """Windows are divided by the elements in them: zeros of the padding count unless they are excluded.

    What "ceil_mode" adds beyond the padding never counts, as in torch.
    """
    strides = strides or (1,) * len(kernel_sizes)
    pool = MEAN_POOLS[len(kernel_sizes)]
    inner = _pool_paddings(x, kernel_sizes, pad_type, strides, pad, False)
    outer = _pool_paddings(x, kernel_sizes, pad_type, strides, pad, ceil_mode)
    extra = [(0, more[1] - less[1]) for less, more in zip(inner, outer, strict=True)]
    counted = torch.ones_like(x[:1, :1])
    counted = functional.pad(counted, _flat(inner), value=0.0 if exclude_padding_from_average else 1.0)
    mean = pool(functional.pad(x, _flat(outer)), kernel_sizes, strides)
    share = pool(functional.pad(counted, _flat(extra)), kernel_sizes, strides)
    return mean / share  # type: ignore[no-any-return]


@operator("l2_pool")
def l2_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: str,
    strides: Ints | None = None,
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    strides = strides or (1,) * len(kernel_sizes)
    pairs = _pool_paddings(x, kernel_sizes, pad_type, strides, pad, ceil_mode)
    mean = MEAN_POOLS[len(kernel_sizes)](functional.pad(x.square(), _flat(pairs)), kernel_sizes, strides)
    return torch.sqrt(mean * math.prod(kernel_sizes))


def _pool_paddings(x: Tensor, kernel: Ints, pad_type: str, strides: Ints, pad: Ints | None, ceil_mode: bool) -> Pairs:
    """With "ceil_mode" the end gets what the last window needs, unless that window starts in the padding."""
    sizes = tuple(x.shape[2:])
    pairs = _paddings(pad_type, pad, sizes, kernel, strides)
    _check_padded(x, pairs)
    if not ceil_mode:
        return pairs
    made = []
    for axis, (low, high) in enumerate(pairs):
        steps = math.ceil((sizes[axis] + low + high - kernel[axis]) / strides[axis])
        if steps * strides[axis] >= sizes[axis] + low:
            steps -= 1
        made.append((low, max(high, steps * strides[axis] + kernel[axis] - sizes[axis] - low)))
    return made


@operator("batch_norm")
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    return functional.batch_norm(x, mean, variance, gamma, beta, False, 0.0, epsilon)


@operator("instance_norm")
def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5) -> Tensor:
    return functional.instance_norm(x, None, None, gamma, beta, True, 0.0, epsilon)


@operator("layer_norm")
def layer_norm(
    x: Tensor,
    axes: Ints | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    chosen = sorted(axis % x.ndim for axis in axes) if axes is not None else list(range(x.ndim))
    shape = [size if axis in chosen else 1 for axis, size in enumerate(x.shape)]
    centred = x - x.mean(chosen, True)
    normal = centred * torch.rsqrt(centred.square().mean(chosen, True) + epsilon)
    normal = normal if gamma is None else normal * gamma.reshape(shape)
    return normal if beta is None else normal + beta.reshape(shape)


@operator("l2_norm")
def l2_norm(x: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Over the last three axes."""
    return x / torch.sqrt(x.square().sum((-1, -2, -3), keepdim=True) + epsilon)


@operator("local_response_norm")
def local_response_norm(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    return functional.local_response_norm(x, size, alpha, beta, k)


@operator("upsample_nearest_neighbor", moves=True)
def upsample_nearest(x: Tensor, scale_factor_height: float = 1.0, scale_factor_width: float = 1.0) -> Tensor:
    sizes = (int(x.shape[-2] * scale_factor_height), int(x.shape[-1] * scale_factor_width))
    return resize_nearest(x, *sizes)


@operator("resize_nearest_neighbor", moves=True)
def resize_nearest(x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    return _resize(x, (target_size_height, target_size_width), mode="nearest")


@operator("upsample_bilinear")
def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float = 1.0,
    scale_factor_width: float = 1.0,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    if half_pixel_centers is not None and half_pixel_centers == align_corners:
        raise ValueError("half_pixel_centers is known only as the opposite of align_corners")
    sizes = (int(x.shape[-2] * scale_factor_height), int(x.shape[-1] * scale_factor_width))
    return _resize(x, sizes, mode="bilinear", align_corners=align_corners)


@operator("resize_bilinear")
def resize_bilinear(
    x: Tensor, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: str = "DEFAULT"
) -> Tensor:
    aligned = {"STRICT_ALIGN_CORNERS": True, "ALIGN_CORNERS": True, "UNALIGN_CORNERS": False}
    sizes = (target_size_height, target_size_width)
    if sampling_mode not in aligned or (sampling_mode == "ALIGN_CORNERS" and 1 in sizes):
        raise ValueError(f"the sampling mode {sampling_mode!r} is not known for a size of {sizes}")
    return _resize(x, sizes, mode="bilinear", align_corners=aligned[sampling_mode])


def _resize(x: Tensor, sizes: tuple[int, int], **options: Any) -> Tensor:
    """The last two axes."""
    check_size([*x.shape[:-2], *sizes])
    planes = x.reshape(1, -1, *x.shape[-2:])
    return functional.interpolate(planes, size=sizes, **options).reshape(*x.shape[:-2], *sizes)
