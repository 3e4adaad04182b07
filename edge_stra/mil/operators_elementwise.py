"""Operators on single elements. Definitions: the docstrings of coremltools 9.0, converters/mil/mil/ops/defs."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn import functional

from edge_stra.mil.registry import Tensor, broadcast, held_as, operator

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs, "acos": torch.acos, "asin": torch.asin, "atan": torch.atan, "atanh": torch.atanh,
    "ceil": torch.ceil, "cos": torch.cos, "cosh": torch.cosh, "erf": torch.erf, "exp": torch.exp, "exp2": torch.exp2,
    "floor": torch.floor, "logical_not": torch.logical_not, "round": torch.round, "sign": torch.sign,
    "sin": torch.sin, "sinh": torch.sinh, "sqrt": torch.sqrt, "square": torch.square, "tan": torch.tan,
    "tanh": torch.tanh, "sigmoid": torch.sigmoid, "silu": functional.silu, "softsign": functional.softsign,
    "softplus": functional.softplus, "relu": torch.relu, "relu6": functional.relu6,
}  # fmt: skip
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "real_div": torch.true_divide,
    "floor_div": torch.floor_divide, "mod": torch.remainder, "pow": torch.pow, "maximum": torch.maximum,
    "minimum": torch.minimum, "equal": torch.eq, "not_equal": torch.ne, "greater": torch.gt,
    "greater_equal": torch.ge, "less": torch.lt, "less_equal": torch.le, "logical_and": torch.logical_and,
    "logical_or": torch.logical_or, "logical_xor": torch.logical_xor,
}  # fmt: skip


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        return function(x)

    return run


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def run(x: Tensor, y: Tensor) -> Tensor:
        if x.shape != y.shape:
            broadcast(x.shape, y.shape)
        return function(x, y)

    return run


for _name, _one in UNARY.items():
    operator(_name, moves=_name in ("relu", "abs"))(_unary(_one))
for _name, _two in BINARY.items():
    operator(_name)(_binary(_two))


@operator("identity", moves=True)
def identity(x: Tensor) -> Tensor:
    return x


@operator("cast")
def cast(x: Tensor, dtype: str) -> Tensor:
    """To fp16 it is the executor that rounds."""
    return x.to(held_as(dtype))


@operator("clip")
def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    return x.clamp(alpha, beta)


@operator("rsqrt")
def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    return torch.rsqrt(x + epsilon)


@operator("inverse")
def inverse(x: Tensor, epsilon: float = 1e-4) -> Tensor:
    return torch.reciprocal(x + epsilon)


@operator("log")
def log(x: Tensor, epsilon: float = 1e-45) -> Tensor:
    return torch.log(x + epsilon)


@operator("threshold")
def threshold(x: Tensor, alpha: float) -> Tensor:
    return x.clamp(min=alpha)


@operator("thresholded_relu")
def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x >= alpha, x, 0.0)


@operator("clamped_relu")
def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.where(x >= 0, x, alpha * x).clamp(max=beta)


@operator("leaky_relu")
def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x >= 0, x, alpha * x)


@operator("elu")
def elu(x: Tensor, alpha: float) -> Tensor:
    return functional.elu(x, alpha)


@operator("linear_activation")
def linear_activation(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * x + beta


@operator("scaled_tanh")
def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * torch.tanh(beta * x)


@operator("sigmoid_hard")
def sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


def _by_channel(values: Tensor, x: Tensor) -> Tensor:
    """[C] -> [C, 1, 1...], for axis 1 of x."""
    return values.reshape(-1, *[1] * (x.ndim - 2))


@operator("prelu")
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x > 0, x, _by_channel(alpha, x) * x)


@operator("softplus_parametric")
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return _by_channel(alpha, x) * functional.softplus(_by_channel(beta, x) * x)


@operator("gelu")
def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "EXACT":
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
    if mode == "TANH_APPROXIMATION":
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    raise ValueError(f"unknown mode {mode!r}")


@operator("softmax")
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


@operator("select")
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    broadcast(cond.shape, a.shape, b.shape)
    return torch.where(cond.bool(), a, b)


@operator("quantize")
def quantize(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: int | None = None
) -> Tensor:
    """clip(round(input / scale) + zero_point), half to even."""
    limits = torch.iinfo(held_as(output_dtype))
    rounded = torch.round(input / _along(scale, input, axis))
    if zero_point is not None:
        rounded = rounded + _along(zero_point, input, axis)
    return rounded.clamp(limits.min, limits.max).to(held_as(output_dtype))


@operator("dequantize")
def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int | None = None) -> Tensor:
    """scale * (input - zero_point)."""
    shifted = input.float()
    if zero_point is not None:
        shifted = shifted - _along(zero_point, input, axis)
    return shifted * _along(scale, input, axis)


def _along(values: Tensor, x: Tensor, axis: int | None) -> Tensor:
    """A scalar, or [C] as [1, C, 1...] for axis `axis` of x."""
    if values.ndim == 0 or axis is None:
        return values.float()
    return values.float().reshape([-1 if index == axis % x.ndim else 1 for index in range(x.ndim)])
