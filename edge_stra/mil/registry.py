"""What an operator is here: a function from tensors to tensors whose annotations say how its parameters are read.

A value of type float16 is held as a float32 tensor whose elements float16 can represent: an operator computes in
float32, and the executor rounds what it gives. uint16 is held as int32, uint32 as int64, integers below a byte as
int8 or uint8.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from edge_stra.extras import install_command
from edge_stra.mil.weights import MAX_ELEMENTS
from edge_stra.spec import MissingError

try:
    import torch
except ModuleNotFoundError as error:
    raise MissingError(f"torch is not installed; run: {install_command('coreml')}") from error

Tensor = torch.Tensor
Tensors = tuple[torch.Tensor, ...]
Ints = tuple[int, ...]
Flags = tuple[bool, ...]
Function = TypeVar("Function", bound=Callable[..., Any])

HELD_AS: dict[str, torch.dtype] = {
    "float16": torch.float32, "float32": torch.float32, "float64": torch.float64, "bool": torch.bool,
    "int8": torch.int8, "int16": torch.int16, "int32": torch.int32, "int64": torch.int64, "int4": torch.int8,
    "uint8": torch.uint8, "uint16": torch.int32, "uint32": torch.int64,
    **dict.fromkeys(("uint1", "uint2", "uint3", "uint4", "uint6"), torch.uint8),
}  # fmt: skip
"""The torch type that holds a MIL type's values."""

CAST_TYPES = {"fp16": "float16", "fp32": "float32", "fp64": "float64"}
"""MIL's short names in parameters `dtype`; the others are named as everywhere."""


def held_as(name: str) -> torch.dtype:
    """The torch type for the text in a parameter `dtype`. Raises ValueError for an unknown one."""
    full = CAST_TYPES.get(name, name)
    if full not in HELD_AS:
        raise ValueError(f"unknown type {name!r}")
    return HELD_AS[full]


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, torch.Tensor) else value


def _scalar(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) else value


def _list(value: Any) -> list[Any]:
    plain = _plain(value)
    return plain if isinstance(plain, list) else [plain]


def _same(value: Any) -> Any:
    return value


READERS: dict[Any, Callable[[Any], Any]] = {
    Tensor: _same,
    Tensors: _same,
    Any: _same,
    Ints: lambda value: tuple(int(v) for v in _list(value)),
    Flags: lambda value: tuple(bool(v) for v in _list(value)),
    int: lambda value: int(_scalar(value)),
    float: lambda value: float(_scalar(value)),
    bool: lambda value: bool(_scalar(value)),
    str: str,
}


@dataclass(frozen=True)
class Operator:
    """readers: how a parameter's value is read, by name. variadic: parameters of several values.

    moves: it only moves elements of its input, so that nothing is to be rounded.
    """

    run: Callable[..., Any]
    readers: Mapping[str, Callable[[Any], Any]]
    required: frozenset[str]
    variadic: frozenset[str]
    moves: bool


OPERATORS: dict[str, Operator] = {}


def operator(*names: str, moves: bool = False) -> Callable[[Function], Function]:
    """Registers a function under MIL's names; parameters are MIL's, a default makes one optional."""

    def register(function: Function) -> Function:
        hints = get_type_hints(function)
        parameters = inspect.signature(function).parameters
        kinds = {name: _bare(hints[name]) for name in parameters}
        made = Operator(
            function,
            {name: READERS[kind] for name, kind in kinds.items()},
            frozenset(name for name, parameter in parameters.items() if parameter.default is parameter.empty),
            frozenset(name for name, kind in kinds.items() if kind == Tensors),
            moves,
        )
        for name in names:
            OPERATORS[name] = made
        return function

    return register


def _bare(hint: Any) -> Any:
    """The X of `X | None`."""
    if get_origin(hint) in (Union, UnionType):
        return next(kind for kind in get_args(hint) if kind is not type(None))
    return hint


def broadcast(*shapes: Any) -> tuple[int, ...]:
    """The shape that all become. Raises RuntimeError where they do not fit, ValueError where it is absurd."""
    made = tuple(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]
    check_size(made)
    return made


def check_size(shape: Any) -> None:
    """Raises ValueError for a result that no real program has; called where an operator enlarges its input."""
    if min(shape, default=1) < 0 or math.prod(shape) > MAX_ELEMENTS:
        raise ValueError(f"a result of {MAX_ELEMENTS} elements or less was expected, but {tuple(shape)} is asked for")
