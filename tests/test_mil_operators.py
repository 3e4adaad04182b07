"""Every operator of the ML Program executor, saved by coremltools and read back, against its torch counterpart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edge_stra.mil import Package, load_executor, open_package
from edge_stra.mil.registry import OPERATORS
from edge_stra.quiet import quiet_tools

with quiet_tools():
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil import Function, Program, types

Array = NDArray[Any]
FLOAT32_REL, FLOAT32_ABS = 2e-5, 2e-6
"""Of the operators below the largest difference measured is 5e-6 of a value (tan), from another order of sums."""
FLOAT16_REL, FLOAT16_ABS = 1e-3, 1e-6
"""One last place of float16 (2^-10): the same float32 result may lie on either side of a rounding."""
FLOATS = {"fp32": np.float32, "fp16": np.float16}


def draw(*shape: int, low: float = -2.0, high: float = 2.0, seed: int = 0) -> Array:
    """Numbers that float16 represents, so that both precisions start from the same."""
    values = np.random.default_rng([seed, *shape]).uniform(low, high, shape)
    return values.astype(np.float16).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """build: (the numpy type of floats, MIL inputs...) -> values. expect: (torch inputs...) -> the same in torch."""

    name: str
    inputs: tuple[Array, ...]
    build: Callable[..., Any]
    expect: Callable[..., Any]
    opset: str = "iOS16"
    floats: tuple[str, ...] = ("fp32", "fp16")


def t(array: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


X, POSITIVE, UNIT = draw(2, 3, 4, 5), draw(2, 3, 4, 5, low=0.1, high=4), draw(2, 3, 4, 5, low=-0.9, high=0.9)
Y = draw(3, 1, 5, seed=1)
MAP = draw(2, 4, 9, 8)
WHOLE = np.arange(-12, 12, dtype=np.int32).reshape(2, 3, 4)


def unary(name: str, torch_function: Callable[[Tensor], Tensor], x: Array = X, **more: Any) -> Case:
    return Case(name, (x,), lambda T, x: getattr(mb, name)(x=x, **{k: cast(T, v) for k, v in more.items()}),
                torch_function)  # fmt: skip


def cast(T: Any, value: Any) -> Any:
    """Float parameters in the program's type; others as they are."""
    if isinstance(value, float):
        return T(value)
    return value.astype(T) if isinstance(value, np.ndarray) and value.dtype == np.float32 else value


def binary(name: str, torch_function: Callable[[Tensor, Tensor], Tensor], x: Array = X, y: Array = Y) -> Case:
    return Case(name, (x, y), lambda T, x, y: getattr(mb, name)(x=x, y=y), torch_function)


def reduction(name: str, torch_function: Callable[[Tensor], Tensor]) -> Iterator[Case]:
    x = POSITIVE if "log" in name else X
    yield Case(name, (x,), lambda T, x: getattr(mb, name)(x=x, axes=[1, -1], keep_dims=True),
               lambda x: torch_function(x.transpose(1, 2).flatten(2)).reshape(2, 1, 4, 1))  # fmt: skip
    yield Case(f"{name} all", (x,), lambda T, x: getattr(mb, name)(x=x, keep_dims=False),
               lambda x: torch_function(x.flatten()))  # fmt: skip


def of_module(name: str, module: str, x: Array, build: Callable[..., Any], *given: Array, **options: Any) -> Case:
    return Case(name, (x,), build, lambda x: getattr(functional, module)(x, *map(t, given), **options))


ALPHA, CHANNELS = draw(3, low=0.1, high=1, seed=2), draw(4, low=0.5, high=2, seed=3)
WEIGHT, DEPTHWISE, BIAS = draw(6, 4, 3, 3, seed=4), draw(4, 1, 3, 3, seed=5), draw(6, seed=6)
LINE, CUBE = draw(2, 4, 9), draw(1, 4, 5, 6, 4)
BACK = draw(4, 3, 3, 2, seed=7)
BANDS = torch.ones(4, 5)
POOL = {"kernel_sizes": [3, 2], "strides": [2, 2]}


def elementwise() -> Iterator[Case]:
    for name in ("abs", "atan", "ceil", "cos", "cosh", "erf", "exp", "exp2", "floor", "round", "sign", "sin", "sinh",
                 "square", "tanh", "sigmoid", "relu"):  # fmt: skip
        yield unary(name, getattr(torch, name))
    for name in ("acos", "asin", "atanh", "tan"):
        yield unary(name, getattr(torch, name), UNIT)
    for name in ("silu", "softsign", "softplus"):
        yield unary(name, getattr(functional, name))
    yield unary("sqrt", torch.sqrt, POSITIVE)
    yield unary("rsqrt", lambda x: torch.rsqrt(x + 0.5), POSITIVE, epsilon=0.5)
    yield unary("inverse", lambda x: 1 / (x + 0.5), POSITIVE, epsilon=0.5)
    yield unary("log", lambda x: torch.log(x + 0.5), POSITIVE, epsilon=0.5)
    yield unary("relu6", functional.relu6, 5 * X)
    yield unary("identity", lambda x: x)
    yield unary("clip", lambda x: x.clamp(-0.5, 1), alpha=-0.5, beta=1.0)
    yield unary("threshold", lambda x: x.clamp(min=0.25), alpha=0.25)
    yield unary("thresholded_relu", lambda x: functional.threshold(x, 0.25, 0), alpha=0.25)
    yield unary("clamped_relu", lambda x: functional.leaky_relu(x, 0.25).clamp(max=0.5), alpha=0.25, beta=0.5)
    yield unary("leaky_relu", lambda x: functional.leaky_relu(x, 0.25), alpha=0.25)
    yield unary("elu", lambda x: functional.elu(x, 0.5), alpha=0.5)
    yield unary("linear_activation", lambda x: 0.5 * x + 3, alpha=0.5, beta=3.0)
    yield unary("scaled_tanh", lambda x: 0.5 * torch.tanh(3 * x), alpha=0.5, beta=3.0)
    yield unary("sigmoid_hard", lambda x: functional.hardsigmoid(3 * x), alpha=0.5, beta=0.5)
    yield unary("prelu", lambda x: functional.prelu(x, t(ALPHA)), alpha=ALPHA)
    yield unary("softplus_parametric", lambda x: t(ALPHA)[:, None, None] * functional.softplus(
        2 * t(ALPHA)[:, None, None] * x), alpha=ALPHA, beta=2 * ALPHA)  # fmt: skip
    yield unary("gelu", functional.gelu)
    yield Case("gelu tanh", (X,), lambda T, x: mb.gelu(x=x, mode="TANH_APPROXIMATION"),
               lambda x: functional.gelu(x, approximate="tanh"))  # fmt: skip
    yield Case("gelu sigmoid", (X,), lambda T, x: mb.gelu(x=x, mode="SIGMOID_APPROXIMATION"),
               lambda x: x * torch.sigmoid(1.702 * x))  # fmt: skip
    yield Case("softmax", (4 * X,), lambda T, x: mb.softmax(x=x, axis=1), lambda x: x.softmax(1))
    for name, function in {
        "add": torch.add, "sub": torch.sub, "mul": torch.mul, "real_div": torch.div, "maximum": torch.maximum,
        "minimum": torch.minimum, "equal": torch.eq, "not_equal": torch.ne, "greater": torch.gt,
        "greater_equal": torch.ge, "less": torch.lt, "less_equal": torch.le,
    }.items():  # fmt: skip
        yield binary(name, function)
    yield binary("pow", torch.pow, POSITIVE)
    yield binary("floor_div", torch.floor_divide, WHOLE, np.array([-5, 3, 2, 7], np.int32))
    yield binary("mod", torch.remainder, WHOLE, np.array([-5, 3, 2, 7], np.int32))
    for name in ("logical_and", "logical_or", "logical_xor"):
        yield Case(name, (X, Y), lambda T, x, y, n=name: getattr(mb, n)(
            x=mb.greater(x=x, y=T(0)), y=mb.less(x=y, y=T(0))),
                   lambda x, y, n=name: getattr(torch, n)(x > 0, y < 0))  # fmt: skip
    yield Case("logical_not", (X,), lambda T, x: mb.logical_not(x=mb.greater(x=x, y=T(0))), lambda x: ~(x > 0))
    yield Case("cast int32", (4 * X,), lambda T, x: mb.cast(x=x, dtype="int32"), lambda x: x.int())
    yield Case("cast bool", (np.round(X),), lambda T, x: mb.cast(x=x, dtype="bool"), lambda x: x.bool())
    yield Case("cast fp32", (WHOLE,), lambda T, x: mb.cast(x=x, dtype="fp32"), lambda x: x.float())
    yield Case("cast fp16", (1000 * X + 0.3,), lambda T, x: mb.cast(x=mb.cast(x=x, dtype="fp16"), dtype="fp32"),
               lambda x: x.half().float(), floats=("fp32",))  # fmt: skip
    yield Case("select", (X, Y), lambda T, x, y: mb.select(cond=mb.greater(x=x, y=T(0)), a=x, b=y),
               lambda x, y: torch.where(x > 0, x, y))  # fmt: skip


def reductions() -> Iterator[Case]:
    yield from reduction("reduce_l1_norm", lambda x: x.abs().sum(-1))
    yield from reduction("reduce_l2_norm", lambda x: torch.linalg.vector_norm(x, dim=-1))
    yield from reduction("reduce_log_sum", lambda x: x.sum(-1).log())
    yield from reduction("reduce_log_sum_exp", lambda x: x.logsumexp(-1))
    yield from reduction("reduce_max", lambda x: x.amax(-1))
    yield from reduction("reduce_mean", lambda x: x.mean(-1))
    yield from reduction("reduce_min", lambda x: x.amin(-1))
    yield from reduction("reduce_prod", lambda x: x.prod(-1))
    yield from reduction("reduce_sum", lambda x: x.sum(-1))
    yield from reduction("reduce_sum_square", lambda x: x.square().sum(-1))
    yield Case("reduce_argmax", (X,), lambda T, x: mb.reduce_argmax(x=x, axis=1), lambda x: x.argmax(1))
    yield Case("reduce_argmin", (X,), lambda T, x: mb.reduce_argmin(x=x, axis=-1, keep_dims=True),
               lambda x: x.argmin(-1, True))  # fmt: skip
    yield Case("argsort", (X,), lambda T, x: mb.argsort(x=x, axis=2, ascending=True), lambda x: x.argsort(2))
    yield Case("argsort descending", (X,), lambda T, x: mb.argsort(x=x), lambda x: x.argsort(-1, True))
    yield Case("topk", (X,), lambda T, x: mb.topk(x=x, k=2, axis=-1), lambda x: tuple(x.topk(2)))
    yield Case("topk smallest", (X,), lambda T, x: mb.topk(x=x, k=2, axis=2, ascending=True),
               lambda x: tuple(x.topk(2, 2, False)))  # fmt: skip
    yield Case("cumsum", (X,), lambda T, x: mb.cumsum(x=x, axis=1), lambda x: x.cumsum(1))
    yield Case("cumsum exclusive", (np.round(X),), lambda T, x: mb.cumsum(x=x, axis=3, exclusive=True, reverse=True),
               lambda x: x.flip(3).cumsum(3).flip(3) - x)  # fmt: skip


def shapes() -> Iterator[Case]:
    yield Case("reshape", (X,), lambda T, x: mb.reshape(x=x, shape=[0, -1, 2, 0]), lambda x: x.reshape(2, 6, 2, 5))
    yield Case("reshape of a shape", (X,), lambda T, x: mb.reshape(x=x, shape=mb.concat(
        values=[mb.slice_by_size(x=mb.shape(x=x), begin=[0], size=[2]), np.array([-1], np.int32)], axis=0)),
        lambda x: x.reshape(2, 3, -1))  # fmt: skip
    yield Case("transpose", (X,), lambda T, x: mb.transpose(x=x, perm=[2, 0, -1, 1]), lambda x: x.permute(2, 0, 3, 1))
    yield Case("expand_dims", (Y,), lambda T, x: mb.expand_dims(x=x, axes=[0, -1]), lambda x: x[None, ..., None])
    yield Case("squeeze", (draw(1, 3, 1, 4),), lambda T, x: mb.squeeze(x=x, axes=[2]), lambda x: x.squeeze(2))
    yield Case("squeeze all", (draw(1, 3, 1, 4),), lambda T, x: mb.squeeze(x=x), lambda x: x.squeeze())
    yield Case("flatten2d", (X,), lambda T, x: mb.flatten2d(x=x, axis=2), lambda x: x.reshape(6, 20))
    yield Case("shape", (X,), lambda T, x: mb.shape(x=x), lambda x: torch.tensor(x.shape))
    yield Case("slice_by_index", (X,), lambda T, x: mb.slice_by_index(
        x=x, begin=[1, 0, -3, 0], end=[0, 2, -1, 9], stride=[1, 1, 1, 2], begin_mask=[False, True, False, False],
        end_mask=[False, False, False, True], squeeze_mask=[True, False, False, False]),
        lambda x: x[1, :2, -3:-1, ::2])  # fmt: skip
    yield Case("slice_by_index backwards", (X,), lambda T, x: mb.slice_by_index(
        x=x, begin=[0, 2, 0, 4], end=[2, 0, 4, 0], stride=[1, -1, 1, -2], end_mask=[False, False, False, True]),
        lambda x: x.flip(1, 3)[:, :2, :, ::2])  # fmt: skip
    yield Case("slice_by_size", (X,), lambda T, x: mb.slice_by_size(x=x, begin=[0, 1, -3, 2], size=[1, 2, 2, -1]),
               lambda x: x[:1, 1:, 1:3, 2:])  # fmt: skip
    yield Case("split", (X,), lambda T, x: mb.split(x=x, num_splits=2, axis=2), lambda x: x.split(2, 2))
    yield Case("split sizes", (X,), lambda T, x: mb.split(x=x, split_sizes=[1, 4], axis=-1),
               lambda x: x.split([1, 4], -1))  # fmt: skip
    yield Case("concat", (X, Y), lambda T, x, y: mb.concat(values=[x, mb.expand_dims(x=y, axes=[0]), x], axis=0)
               if False else mb.concat(values=[x, x, mb.mul(x=x, y=T(2))], axis=-2),
               lambda x, y: torch.cat([x, x, 2 * x], -2))  # fmt: skip
    yield Case("concat interleaved", (X,), lambda T, x: mb.concat(
        values=[x, mb.mul(x=x, y=T(2))], axis=1, interleave=True),
        lambda x: torch.stack([x, 2 * x], 2).reshape(2, 6, 4, 5))  # fmt: skip
    yield Case("stack", (X,), lambda T, x: mb.stack(values=[x, mb.mul(x=x, y=T(2))], axis=1),
               lambda x: torch.stack([x, 2 * x], 1))  # fmt: skip
    yield Case("tile", (Y,), lambda T, x: mb.tile(x=x, reps=[2, 1, 3]), lambda x: x.tile(2, 1, 3))
    yield Case("reverse", (X,), lambda T, x: mb.reverse(x=x, axes=[1, 3]), lambda x: x.flip(1, 3))
    yield Case("pad", (X,), lambda T, x: mb.pad(x=x, pad=[1, 0, 2, 3], mode="constant", constant_val=T(0.5)),
               lambda x: functional.pad(x, (2, 3, 1, 0), value=0.5))  # fmt: skip
    yield Case("pad reflected", (X,), lambda T, x: mb.pad(x=x, pad=[2, 1, 0, 3], mode="reflect"),
               lambda x: functional.pad(x, (0, 3, 2, 1), mode="reflect"))  # fmt: skip
    yield Case("pad replicated", (X,), lambda T, x: mb.pad(x=x, pad=[2, 1, 0, 3], mode="replicate"),
               lambda x: functional.pad(x, (0, 3, 2, 1), mode="replicate"))  # fmt: skip
    yield Case("fill", (X,), lambda T, x: mb.add(x=mb.fill(shape=mb.shape(x=x), value=T(0.5)), y=x), lambda x: x + 0.5)
    yield Case("fill_like", (X,), lambda T, x: mb.fill_like(ref_tensor=x, value=T(0.5)), lambda x: x * 0 + 0.5)
    yield Case("range_1d", (X,), lambda T, x: mb.range_1d(
        start=mb.squeeze(x=mb.slice_by_size(x=mb.shape(x=x), begin=[0], size=[1])), end=11, step=3),
        lambda x: torch.arange(2, 11, 3))  # fmt: skip
    yield Case("one_hot", (np.array([0, 3, 1], np.int32),), lambda T, x: mb.one_hot(
        indices=x, one_hot_vector_size=4, axis=0, on_value=T(2), off_value=T(-1)),
        lambda x: 3.0 * functional.one_hot(x.long(), 4).T - 1)  # fmt: skip
    yield Case("band_part", (X,), lambda T, x: mb.band_part(x=x, lower=1, upper=2),
               lambda x: torch.where((BANDS.tril(2).triu(-1) != 0), x, 0.0))  # fmt: skip
    yield Case("non_zero", (np.round(X),), lambda T, x: mb.non_zero(x=x), lambda x: x.nonzero())
    indices = np.array([[2, 0], [1, -1]], np.int32)
    yield Case("gather", (X, indices), lambda T, x, i: mb.gather(x=x, indices=i, axis=1), lambda x, i: x[:, i])
    yield Case("gather in batches", (X, np.array([[2, 0], [1, 1]], np.int32)), lambda T, x, i: mb.gather(
        x=x, indices=i, axis=2, batch_dims=1), lambda x, i: torch.stack([x[n][:, i[n]] for n in range(2)]))  # fmt: skip
    along = np.random.default_rng(0).integers(0, 3, (2, 7, 4, 5)).astype(np.int32)
    yield Case("gather_along_axis", (X, along), lambda T, x, i: mb.gather_along_axis(x=x, indices=i, axis=1),
               lambda x, i: x.gather(1, i.long()))  # fmt: skip
    yield Case("gather_nd", (X, indices[:, None]), lambda T, x, i: mb.gather_nd(x=x, indices=mb.abs(x=mb.minimum(
        x=i, y=np.int32(1)))), lambda x, i: x[i[..., 0].clamp(max=1), i[..., 1].abs()])  # fmt: skip
    blocks = draw(2, 8, 4, 6)
    yield Case("depth_to_space", (blocks,), lambda T, x: mb.depth_to_space(x=x, block_size=2),
               lambda x: functional.pixel_shuffle(
                   x.reshape(2, 4, 2, 4, 6).transpose(1, 2).reshape(x.shape), 2))  # fmt: skip
    yield Case("space_to_depth", (blocks,), lambda T, x: mb.space_to_depth(x=x, block_size=2), lambda x:
        functional.pixel_unshuffle(x, 2).reshape(2, 8, 4, 2, 3).transpose(1, 2).reshape(2, 32, 2, 3))  # fmt: skip
    yield Case("pixel_shuffle", (blocks,), lambda T, x: mb.pixel_shuffle(x=x, upscale_factor=2),
               lambda x: functional.pixel_shuffle(x, 2))  # fmt: skip
    yield Case("pixel_unshuffle", (blocks,), lambda T, x: mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(2)),
               lambda x: functional.pixel_unshuffle(x, 2))  # fmt: skip
    yield Case("sliding_windows", (blocks,), lambda T, x: mb.sliding_windows(x=x, axis=1, size=3, stride=2),
               lambda x: x.unfold(1, 3, 2).movedim(-1, 2))  # fmt: skip


def scatters() -> Iterator[Case]:
    indices, updates = np.array([2, 0], np.int32), draw(2, 2, 4, 5, low=0.5, high=2, seed=21)
    twice = np.array([1, 1], np.int32)  # both updates mean the same row
    places = t(indices).long()[None, :, None, None].expand(2, 2, 4, 5)
    double = t(twice).long()[None, :, None, None].expand(2, 2, 4, 5)
    in_torch: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "update": lambda x, u: x.scatter(1, places, u),
        "add": lambda x, u: x.scatter_add(1, double, u),
        "sub": lambda x, u: x.scatter_add(1, double, -u),
        "mul": lambda x, u: x.scatter_reduce(1, double, u, "prod"),
        "div": lambda x, u: x.scatter_reduce(1, double, 1 / u, "prod"),
        "max": lambda x, u: x.scatter_reduce(1, double, u, "amax"),
        "min": lambda x, u: x.scatter_reduce(1, double, u, "amin"),
    }
    for mode, function in in_torch.items():
        yield Case(f"scatter {mode}", (X, updates), lambda T, x, u, mode=mode: mb.scatter(
            data=x, indices=indices if mode == "update" else twice, updates=u, axis=1, mode=mode),
            function)  # fmt: skip
    along = np.random.default_rng(8).permuted(np.tile(np.arange(3), (2, 4, 5, 1)), axis=3).transpose(0, 3, 1, 2)[:, :2]
    yield Case("scatter_along_axis", (X, updates), lambda T, x, u: mb.scatter_along_axis(
        data=x, indices=along.astype(np.int32), updates=u, axis=1, mode="update"),
        lambda x, u: x.scatter(1, t(along).long(), u))  # fmt: skip
    corners = np.array([[0, 2], [1, 1]], np.int32)
    yield Case("scatter_nd", (X, updates[0]), lambda T, x, u: mb.scatter_nd(
        data=x, indices=corners, updates=u, mode="add"),
        lambda x, u: x.index_put(tuple(t(corners).long().T), u, accumulate=True))  # fmt: skip


def networks() -> Iterator[Case]:
    small, square = draw(2, 3, 5), draw(7, 5, seed=8)
    yield Case("linear", (small,), lambda T, x: mb.linear(x=x, weight=square.astype(T), bias=draw(7).astype(T)),
               lambda x: functional.linear(x, t(square), t(draw(7))))  # fmt: skip
    yield Case("linear without bias", (small,), lambda T, x: mb.linear(x=x, weight=square.astype(T)),
               lambda x: functional.linear(x, t(square)))  # fmt: skip
    yield Case("matmul", (X, draw(3, 5, 2)), lambda T, x, y: mb.matmul(x=x, y=y), torch.matmul)
    yield Case("matmul transposed", (X, draw(2, 1, 6, 4)), lambda T, x, y: mb.matmul(
        x=x, y=y, transpose_x=True, transpose_y=True), lambda x, y: x.mT @ y.mT)  # fmt: skip
    yield Case("einsum", (X, draw(2, 5, 4, 6)), lambda T, x, y: mb.einsum(values=(x, y), equation="nchw,nwhu->nchu"),
               lambda x, y: torch.einsum("nchw,nwhu->nchu", x, y))  # fmt: skip
    yield from convolutions()
    yield from pools()
    yield Case("batch_norm", (MAP,), lambda T, x: mb.batch_norm(
        x=x, mean=draw(4).astype(T), variance=CHANNELS.astype(T), gamma=CHANNELS.astype(T), beta=draw(4).astype(T),
        epsilon=T(0.5)),
        lambda x: functional.batch_norm(x, t(draw(4)), t(CHANNELS), t(CHANNELS), t(draw(4)), eps=0.5))  # fmt: skip
    yield Case("batch_norm alone", (LINE,), lambda T, x: mb.batch_norm(
        x=x, mean=draw(4).astype(T), variance=CHANNELS.astype(T)),
        lambda x: functional.batch_norm(x, t(draw(4)), t(CHANNELS)))  # fmt: skip
    yield Case("instance_norm", (MAP,), lambda T, x: mb.instance_norm(
        x=x, gamma=CHANNELS.astype(T), beta=draw(4).astype(T), epsilon=T(0.125)),
        lambda x: functional.instance_norm(x, weight=t(CHANNELS), bias=t(draw(4)), eps=0.125))  # fmt: skip
    inner = draw(4, 5, seed=9)
    yield Case("layer_norm", (X,), lambda T, x: mb.layer_norm(
        x=x, axes=[-1, -2], gamma=inner.astype(T), beta=draw(4, 5).astype(T), epsilon=T(0.125)),
        lambda x: functional.layer_norm(x, (4, 5), t(inner), t(draw(4, 5)), 0.125))  # fmt: skip
    yield Case("layer_norm of another axis", (X,), lambda T, x: mb.layer_norm(x=x, axes=[1], gamma=ALPHA.astype(T)),
               lambda x: functional.layer_norm(x.movedim(1, -1), (3,), t(ALPHA)).movedim(-1, 1))  # fmt: skip
    yield Case("l2_norm", (X,), lambda T, x: mb.l2_norm(x=x, epsilon=T(0.5)),
               lambda x: x / (x.square().sum((1, 2, 3), True) + 0.5).sqrt())  # fmt: skip
    yield Case("local_response_norm", (MAP,), lambda T, x: mb.local_response_norm(
        x=x, size=3, alpha=T(0.5), beta=T(0.75), k=T(1)),
        lambda x: functional.local_response_norm(x, 3, 0.5, 0.75, 1.0))  # fmt: skip
    yield Case("upsample_nearest_neighbor", (X,), lambda T, x: mb.upsample_nearest_neighbor(
        x=x, scale_factor_height=2, scale_factor_width=3),
        lambda x: functional.interpolate(x, scale_factor=(2, 3)))  # fmt: skip
    yield Case("resize_nearest_neighbor", (X,), lambda T, x: mb.resize_nearest_neighbor(
        x=x, target_size_height=8, target_size_width=10), lambda x: functional.interpolate(x, (8, 10)))  # fmt: skip
    for name, aligned in (("upsample_bilinear", True), ("upsample_bilinear unaligned", False)):
        yield Case(name, (X,), lambda T, x, aligned=aligned: mb.upsample_bilinear(
            x=x, scale_factor_height=2, scale_factor_width=3, align_corners=aligned),
            lambda x, aligned=aligned: bilinear(x, (8, 15), aligned))  # fmt: skip
    for mode, aligned in (("STRICT_ALIGN_CORNERS", True), ("UNALIGN_CORNERS", False)):
        yield Case(f"resize_bilinear {mode}", (X,), lambda T, x, mode=mode: mb.resize_bilinear(
            x=x, target_size_height=7, target_size_width=9, sampling_mode=mode),
            lambda x, aligned=aligned: bilinear(x, (7, 9), aligned))  # fmt: skip


def bilinear(x: Tensor, sizes: tuple[int, int], aligned: bool) -> Tensor:
    return functional.interpolate(x, sizes, mode="bilinear", align_corners=aligned)


def convolutions() -> Iterator[Case]:
    yield Case("conv", (MAP,), lambda T, x: mb.conv(
        x=x, weight=WEIGHT.astype(T), bias=BIAS.astype(T), strides=[2, 1], pad_type="custom", pad=[1, 1, 1, 1],
        dilations=[1, 2]), lambda x: functional.conv2d(x, t(WEIGHT), t(BIAS), (2, 1), 1, (1, 2)))  # fmt: skip
    yield Case("conv of unequal padding", (MAP,), lambda T, x: mb.conv(
        x=x, weight=WEIGHT.astype(T), pad_type="custom", pad=[0, 2, 3, 1]),
        lambda x: functional.conv2d(functional.pad(x, (3, 1, 0, 2)), t(WEIGHT)))  # fmt: skip
    yield Case("conv by channel", (MAP,), lambda T, x: mb.conv(
        x=x, weight=DEPTHWISE.astype(T), groups=4, pad_type="valid"),
        lambda x: functional.conv2d(x, t(DEPTHWISE), groups=4))  # fmt: skip
    yield Case("conv same", (MAP,), lambda T, x: mb.conv(x=x, weight=WEIGHT.astype(T), pad_type="same"),
               lambda x: functional.conv2d(x, t(WEIGHT), padding="same"))  # fmt: skip
    yield Case("conv same, stride 2", (MAP,), lambda T, x: mb.conv(
        x=x, weight=WEIGHT.astype(T), pad_type="same", strides=[2, 2]),
        lambda x: functional.conv2d(functional.pad(x, (0, 1, 1, 1)), t(WEIGHT), stride=2))  # fmt: skip
    yield Case("conv same_lower, stride 2", (MAP,), lambda T, x: mb.conv(
        x=x, weight=WEIGHT.astype(T), pad_type="same_lower", strides=[2, 2]),
        lambda x: functional.conv2d(functional.pad(x, (1, 0, 1, 1)), t(WEIGHT), stride=2))  # fmt: skip
    yield Case("conv 1d", (LINE,), lambda T, x: mb.conv(x=x, weight=WEIGHT[..., 0].astype(T), bias=BIAS.astype(T)),
               lambda x: functional.conv1d(x, t(WEIGHT[..., 0]), t(BIAS)))  # fmt: skip
    wide = draw(2, 4, 3, 2, 1, seed=10)
    yield Case("conv 3d", (CUBE,), lambda T, x: mb.conv(
        x=x, weight=wide.astype(T), pad_type="custom", pad=[1, 1, 0, 0, 0, 0], strides=[1, 2, 1]),
        lambda x: functional.conv3d(x, t(wide), None, (1, 2, 1), (1, 0, 0)))  # fmt: skip
    yield Case("conv_transpose", (MAP,), lambda T, x: mb.conv_transpose(
        x=x, weight=BACK.astype(T), bias=draw(3).astype(T), strides=[2, 1], pad_type="custom", pad=[1, 1, 0, 0]),
        lambda x: functional.conv_transpose2d(x, t(BACK), t(draw(3)), (2, 1), (1, 0)))  # fmt: skip
    yield Case("conv_transpose of a given size", (MAP,), lambda T, x: mb.conv_transpose(
        x=x, weight=BACK.astype(T), strides=[2, 2], pad_type="custom", pad=[1, 1, 0, 0], output_shape=[2, 3, 18, 16]),
        lambda x: functional.conv_transpose2d(x, t(BACK), None, 2, (1, 0), (1, 0)))  # fmt: skip
    yield Case("conv_transpose by group", (MAP,), lambda T, x: mb.conv_transpose(
        x=x, weight=BACK.astype(T), groups=2), lambda x: functional.conv_transpose2d(x, t(BACK), groups=2))  # fmt: skip


def pools() -> Iterator[Case]:
    custom = {"pad_type": "custom", "pad": [1, 1, 1, 1], **POOL}
    for name, torch_name in (("max_pool", "max_pool2d"), ("avg_pool", "avg_pool2d")):
        pool = getattr(functional, torch_name)
        yield Case(name, (MAP,), lambda T, x, n=name: getattr(mb, n)(x=x, **custom),
                   lambda x, pool=pool: pool(x, (3, 2), 2, (1, 1)))  # fmt: skip
        yield Case(f"{name} valid", (MAP,), lambda T, x, n=name: getattr(mb, n)(x=x, pad_type="valid", **POOL),
                   lambda x, pool=pool: pool(x, (3, 2), 2))  # fmt: skip
        yield Case(f"{name} ceil", (MAP,), lambda T, x, n=name: getattr(mb, n)(
            x=x, kernel_sizes=[4, 3], strides=[3, 2], pad_type="custom", pad=[1, 1, 1, 1], ceil_mode=True),
            lambda x, pool=pool: pool(x, (4, 3), (3, 2), (1, 1), ceil_mode=True))  # fmt: skip
    yield Case("avg_pool excluding", (MAP,), lambda T, x: mb.avg_pool(x=x, exclude_padding_from_average=True, **custom),
               lambda x: functional.avg_pool2d(x, (3, 2), 2, (1, 1), count_include_pad=False))  # fmt: skip
    yield Case("avg_pool 1d", (LINE,), lambda T, x: mb.avg_pool(x=x, kernel_sizes=[3], strides=[2], pad_type="valid"),
               lambda x: functional.avg_pool1d(x, 3, 2))  # fmt: skip
    yield Case("max_pool 3d", (CUBE,), lambda T, x: mb.max_pool(x=x, kernel_sizes=[2, 3, 1], pad_type="valid"),
               lambda x: functional.max_pool3d(x, (2, 3, 1), 1))  # fmt: skip
    yield Case("l2_pool", (MAP,), lambda T, x: mb.l2_pool(x=x, pad_type="valid", **POOL),
               lambda x: functional.lp_pool2d(x, 2, (3, 2), 2))  # fmt: skip


def packed(values: Array, bits: int) -> Array:
    """Integers one after the other, lowest bits first."""
    flat = ((values.reshape(-1, 1).astype(np.uint8) >> np.arange(bits)) & 1).astype(np.uint8)
    return np.packbits(flat.reshape(-1), bitorder="little")


BYTES = np.random.default_rng(1).integers(-128, 128, (6, 8)).astype(np.int8)
SCALES, ZEROS = draw(6, low=0.01, high=0.1, seed=11), np.arange(-3, 3, dtype=np.int8)
TABLE = draw(16, seed=12)
PLACES = np.random.default_rng(2).integers(0, 16, (5, 7)).astype(np.uint8)
HOLES = (np.random.default_rng(3).random((5, 7)) < 0.4).astype(np.uint8)
KEPT = draw(int(HOLES.sum()), seed=13)
DENSE = np.zeros((5, 7), np.float32)
DENSE[HOLES != 0] = KEPT


def compressed() -> Iterator[Case]:
    yield Case("constexpr_affine_dequantize", (), lambda T: mb.constexpr_affine_dequantize(
        quantized_data=BYTES, zero_point=ZEROS, scale=SCALES.astype(T), axis=0),
        lambda: t(SCALES)[:, None] * (t(BYTES) - t(ZEROS).int()[:, None]))  # fmt: skip
    yield Case("constexpr_affine_dequantize by one scale", (), lambda T: mb.constexpr_affine_dequantize(
        quantized_data=BYTES, zero_point=np.int8(3), scale=T(0.125), axis=0),
        lambda: 0.125 * (t(BYTES).int() - 3))  # fmt: skip
    yield Case("constexpr_cast", (), lambda T: mb.constexpr_cast(
        source_val=DENSE.astype(np.float16), output_dtype="fp32"),
        lambda: t(DENSE), floats=("fp32",))  # fmt: skip
    yield Case("constexpr_lut_to_dense", (), lambda T: mb.constexpr_lut_to_dense(
        indices=packed(PLACES, 4), lut=TABLE.astype(T), shape=np.array([5, 7], np.uint32)),
        lambda: t(TABLE[PLACES]))  # fmt: skip
    six = np.random.default_rng(4).integers(0, 64, (5, 7)).astype(np.uint8)
    yield Case("constexpr_lut_to_dense of 6 bits", (), lambda T: mb.constexpr_lut_to_dense(
        indices=packed(six, 6), lut=draw(64).astype(T), shape=np.array([5, 7], np.uint32)),
        lambda: t(draw(64)[six]))  # fmt: skip
    yield Case("constexpr_sparse_to_dense", (), lambda T: mb.constexpr_sparse_to_dense(
        nonzero_data=KEPT.astype(T), mask=packed(HOLES, 1), shape=np.array([5, 7], np.uint32)),
        lambda: t(DENSE))  # fmt: skip


GROUPS = draw(6, 2, low=0.01, high=0.1, seed=14)
NIBBLES = np.random.default_rng(5).integers(-8, 8, (6, 8)).astype(np.int8)
TABLES = draw(3, 1, 4, 1, seed=15)
TWO_BITS = np.random.default_rng(6).integers(0, 4, (6, 8)).astype(np.uint8)
VECTORS = draw(1, 1, 4, 3, seed=16)


def later() -> Iterator[Case]:
    for axis, scale in ((None, np.float32(0.0625)), (1, draw(3, low=0.02, high=0.2, seed=17))):
        more = {} if axis is None else {"axis": axis}
        zero = np.int8(3) if axis is None else np.array([3, -4, 0], np.int8)
        torch_scale, torch_zero = (t(np.asarray(v, np.float32)).reshape(-1, 1, 1) for v in (scale, zero))
        yield Case(f"quantize {axis}", (X,), lambda T, x, s=scale, z=zero, m=more: mb.quantize(
            input=x, scale=cast(T, s) if isinstance(s, np.ndarray) else T(s), zero_point=z, output_dtype="int8", **m),
            lambda x, s=torch_scale, z=torch_zero: (torch.round(x / s) + z).clamp(-128, 127), "iOS17")  # fmt: skip
        yield Case(f"dequantize {axis}", (X,), lambda T, x, s=scale, z=zero, m=more: mb.dequantize(
            input=mb.quantize(input=x, scale=T(0.25), output_dtype="int8"),
            scale=cast(T, s) if isinstance(s, np.ndarray) else T(s), zero_point=z, **m),
            lambda x, s=torch_scale, z=torch_zero: s * (torch.round(x * 4) - z), "iOS17")  # fmt: skip
    yield Case("quantize saturates", (128 * X,), lambda T, x: mb.quantize(input=x, scale=T(1), output_dtype="uint8"),
               lambda x: torch.round(x).clamp(0, 255), "iOS17")  # fmt: skip
    yield Case("cast uint8", (POSITIVE,), lambda T, x: mb.cast(x=x, dtype="uint8"), lambda x: x.int(), "iOS17")
    yield Case("cast uint16", (10000 * POSITIVE.astype(np.int32),), lambda T, x: mb.cast(x=x, dtype="uint16"),
               lambda x: x, "iOS17")  # fmt: skip
    yield Case("reduce_argmax uint16", (X,), lambda T, x: mb.reduce_argmax(x=x, axis=1, output_dtype="uint16"),
               lambda x: x.argmax(1), "iOS17")  # fmt: skip
    yield Case("topk without indices", (X,), lambda T, x: mb.topk(x=x, k=2, return_indices=False, sort=True),
               lambda x: x.topk(2).values, "iOS17")  # fmt: skip
    update = draw(2, 1, 4, 2, seed=18)
    yield Case("slice_update", (X,), lambda T, x: mb.slice_update(
        x=x, update=update.astype(T), begin=[0, 1, 0, 0], end=[2, 2, 4, 4], stride=[1, 1, 1, 2]), with_update(update),
        "iOS18")  # fmt: skip
    yield Case("scaled_dot_product_attention", (X, draw(2, 3, 6, 5), draw(2, 3, 6, 2)), lambda T, q, k, v:
        mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=draw(4, 6).astype(T)),
        lambda q, k, v: ((q @ k.mT) / math.sqrt(5) + t(draw(4, 6))).softmax(-1) @ v, "iOS18")  # fmt: skip
    one, two, four = (types.nptype_from_builtin(kind) for kind in (types.uint1, types.uint2, types.int4))
    yield Case("constexpr_blockwise_shift_scale", (), lambda T: mb.constexpr_blockwise_shift_scale(
            data=NIBBLES.astype(four), scale=GROUPS.astype(T), offset=np.ones((6, 2), four)),
        lambda: t(GROUPS).repeat_interleave(4, 1) * (t(NIBBLES).float() - 1), "iOS18")  # fmt: skip
    yield Case("constexpr_lut_to_dense by block", (), lambda T: mb.constexpr_lut_to_dense(
        indices=TWO_BITS.astype(two), lut=TABLES.astype(T)),
        lambda: t(np.stack([TABLES[row // 2, 0, TWO_BITS[row], 0] for row in range(6)])), "iOS18")  # fmt: skip
    yield Case("constexpr_lut_to_dense of vectors", (), lambda T: mb.constexpr_lut_to_dense(
        indices=TWO_BITS.astype(two), lut=VECTORS.astype(T), vector_axis=0),
        lambda: t(VECTORS[0, 0][TWO_BITS].transpose(0, 2, 1).reshape(18, 8)), "iOS18")  # fmt: skip
    yield Case("constexpr_sparse_to_dense of bits", (), lambda T: mb.constexpr_sparse_to_dense(
        nonzero_data=KEPT.astype(T), mask=HOLES.astype(one)), lambda: t(DENSE), "iOS18")  # fmt: skip
    yield Case("constexpr_sparse_blockwise_shift_scale", (), lambda T: sparse_of(
        mb.constexpr_sparse_blockwise_shift_scale(
            data_mask=HOLES.astype(one), nonzero_data=sparse_bytes(), scale=draw(5, 1, seed=19).astype(T))),
        lambda: t(draw(5, 1, seed=19)) * t(dense_of(sparse_bytes())), "iOS18")  # fmt: skip
    yield Case("constexpr_lut_to_sparse", (), lambda T: sparse_of(mb.constexpr_lut_to_sparse(
        indices_mask=HOLES.astype(one), indices_nonzero_data=(sparse_bytes() & 3).astype(two),
        lut=draw(1, 1, 4, 1, seed=20).astype(T))), lambda: t(np.where(
            HOLES, draw(1, 1, 4, 1, seed=20).ravel()[dense_of(sparse_bytes() & 3)], 0)), "iOS18")  # fmt: skip


def with_update(update: Array) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        result = x.clone()
        result[:, 1:2, :, 0:4:2] = t(update)
        return result

    return run


def sparse_bytes() -> Array:
    return np.random.default_rng(7).integers(-128, 128, int(HOLES.sum())).astype(np.int8)


def dense_of(values: Array) -> Array:
    dense = np.zeros(HOLES.shape, values.dtype)
    dense[HOLES != 0] = values
    return dense


def sparse_of(mask_and_values: Any) -> Any:
    mask, values = mask_and_values
    return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=mask)


CASES = [*elementwise(), *reductions(), *shapes(), *scatters(), *networks(), *compressed(), *later()]
KEYS = [(case.name, floats) for case in CASES for floats in case.floats]


def input_type(T: Any, array: Array) -> Any:
    if array.dtype == np.int32:
        return types.int32
    return types.fp16 if T is np.float16 else types.fp32


def save_cases(cases: list[Case], floats: str, opset: str, path: Path) -> None:
    """One program of all cases; case n's values are called case_n_0, case_n_1..."""
    T = FLOATS[floats]
    names = [(f"in_{n}_{i}", a) for n, case in enumerate(cases) for i, a in enumerate(case.inputs)]
    target = getattr(ct.target, opset)

    specs = {name: mb.TensorSpec(shape=a.shape, dtype=input_type(T, a)) for name, a in names}
    with quiet_tools():
        with Function(specs, target) as function:
            for n, case in enumerate(cases):
                made = case.build(T, *(function.inputs[f"in_{n}_{i}"] for i in range(len(case.inputs))))
                for i, value in enumerate(made if isinstance(made, list | tuple) else [made]):
                    mb.identity(x=value, name=f"case_{n}_{i}")
            function.set_outputs([mb.identity(x=function.inputs["in_0_0"], name="done")])
        program = Program()
        program.add_function("main", function)
        model = ct.convert(program, convert_to="mlprogram", minimum_deployment_target=target, skip_model_load=True,
                           pass_pipeline=ct.PassPipeline.EMPTY)  # fmt: skip
        model.save(str(path))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[tuple[str, str], list[Any]], list[Package]]:
    """All values of all cases by (case, precision), and the packages that they were saved in."""
    values: dict[tuple[str, str], list[Any]] = {}
    packages = []
    for floats in FLOATS:
        for opset in ("iOS16", "iOS17", "iOS18"):
            cases = [case for case in CASES if case.opset == opset and floats in case.floats]
            path = tmp_path_factory.mktemp(f"{floats}_{opset}") / "cases.mlpackage"
            save_cases(cases, floats, opset, path)
            packages.append(open_package(path))
            executor = load_executor(path)
            inputs = {f"in_{n}_{i}": a for n, case in enumerate(cases) for i, a in enumerate(case.inputs)}
            wanted = [o.outputs[0].name for o in executor.package.function.operations
                      if o.outputs[0].name.startswith("case_")]  # fmt: skip
            found = executor.run(inputs, wanted)
            for n, case in enumerate(cases):
                values[case.name, floats] = [found[name] for name in wanted if name.startswith(f"case_{n}_")]
    return values, packages


BY_NAME = {case.name: case for case in CASES}


@pytest.mark.parametrize(("name", "floats"), KEYS)
def test_operator_is_its_torch_counterpart(
    name: str, floats: str, ran: tuple[dict[tuple[str, str], list[Any]], list[Package]]
) -> None:
    case = BY_NAME[name]
    expected = case.expect(*map(t, case.inputs))
    expected = list(expected) if isinstance(expected, tuple | list) else [expected]
    found = ran[0][name, floats]
    assert len(found) == len(expected)
    for value, wanted in zip(found, expected, strict=True):
        assert value.shape == tuple(wanted.shape)
        if value.dtype.kind != "f":
            np.testing.assert_array_equal(value, wanted.numpy())
            continue
        half, exact = value.dtype == np.float16, name.startswith("constexpr")
        wanted = wanted.half() if half else wanted
        np.testing.assert_allclose(
            value.astype(np.float32), wanted.float().numpy(),
            rtol=0 if exact else FLOAT16_REL if half else FLOAT32_REL,
            atol=0 if exact else FLOAT16_ABS if half else FLOAT32_ABS,
        )  # fmt: skip


def test_every_known_operator_has_a_case(ran: tuple[Any, list[Package]]) -> None:
    seen = set().union(*(package.operators for package in ran[1]))
    assert seen | {"classify"} == set(OPERATORS)  # classify: in test_mil.py, as only a classifier has it
