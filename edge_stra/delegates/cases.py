"""Conditions of single operators, for the tables of `edge_stra.delegates.rules`: None, or why the operator is left."""

from __future__ import annotations

from edge_stra.delegates.conditions import (
    FLOAT,
    Q8,
    Condition,
    axes,
    bad_scales,
    leading_ones,
    not_per_tensor,
    scale_of,
    tensor_at,
)
from edge_stra.delegates.graph import Operator, Tensor

SOFTMAX_LIMIT = 16_000


def conv_groups(operator: Operator) -> str | None:
    """A convolution's input has the channels that its weights want, once for each group."""
    x, w = tensor_at(operator, "in0"), tensor_at(operator, "in1")
    if x is None or w is None or x.shape[3] >= w.shape[3]:
        return None
    return f"{x.shape[3]} input channels for weights of {w.shape[3]}"


def depth_multiplier(operator: Operator) -> str | None:
    w, multiplier = tensor_at(operator, "in1"), operator.options.get("DepthMultiplier", 0)
    if w is None or (multiplier > 0 and w.shape[3] % multiplier == 0):
        return None
    return f"depth multiplier {multiplier} for {w.shape[3]} output channels"


def pool_window(operator: Operator) -> str | None:
    """Strides and windows of at least 1; no stride above its window."""
    for side in ("H", "W"):
        stride, window = operator.options.get(f"Stride{side}", 0), operator.options.get(f"Filter{SIDES[side]}", 0)
        if not 1 <= stride <= window:
            return f"stride {stride} with a window of {window}"
    return None


SIDES = {"H": "Height", "W": "Width"}


def quantize_pair(operator: Operator) -> str | None:
    """QUANTIZE from 8 bits: to the same 8-bit type."""
    x, y = tensor_at(operator, "in0"), tensor_at(operator, "out0")
    if x is None or y is None or x.dtype in FLOAT or x.dtype == y.dtype:
        return None
    return f"from {x.dtype} to {y.dtype}"


def leaky_slope(operator: Operator) -> str | None:
    """A slope that is not 0, and that 8-bit arithmetic can hold."""
    slope = operator.options.get("Alpha", 0)
    if slope == 0:
        return "a slope of 0"
    x, y = scale_of(operator, "in0"), scale_of(operator, "out0")
    if not x or not y or (abs(x / y * slope) >= 2**-8 and -127.99609375 <= x / y * slope <= 128):
        return None
    return f"slope {slope:.3g} with scales of input over output {x / y:.3g}"


def matmul_weights(operator: Operator) -> str | None:
    """Input 1 of BATCH_MATMUL: float32, or int8 with zero point 0; a scale for each output channel beside floats."""
    a, b = tensor_at(operator, "in0"), tensor_at(operator, "in1")
    if b is None or b.dtype not in ("float32", "int8"):
        return f"input 1 is {b.dtype if b else 'absent'}; taken: float32, int8"
    if b.dtype == "float32":
        return None
    if a is not None and a.dtype != "float32" and b.quantization is not None and b.quantization.per_channel:
        return "input 1 is quantized per channel, input 0 is not float32"
    problem = bad_scales(b, b.rank - (2 if operator.options.get("AdjY") else 1))
    return f"input 1: its values {problem}" if problem else None


def split_outputs(least: int, most: int) -> Condition:
    def check(operator: Operator) -> str | None:
        count = len(operator.outputs)
        return None if least <= count <= most else f"{count} outputs; {least} to {most} are taken"

    return check


def slice_lengths(operator: Operator) -> str | None:
    """Begin, end and stride name every dimension."""
    x = tensor_at(operator, "in0")
    given = [tensor_at(operator, place) for place in ("in1", "in2", "in3")]
    if x is None or all(tensor is not None and tensor.shape == (x.rank,) for tensor in given):
        return None
    return f"begin, end or stride do not name all {x.rank} dimensions"


def same_dilation(operator: Operator) -> str | None:
    y, x = (operator.options.get(name, 1) for name in ("DilationHFactor", "DilationWFactor"))
    return None if y == x else f"dilations {y} and {x}; equal ones are taken"


def edge_types(operator: Operator) -> str | None:
    """8-bit tensors throughout, constants too; a bias of int32, and plain integers such as axes."""
    tensors = [("input", t) for t in operator.inputs if t is not None] + [("output", t) for t in operator.outputs]
    for name, tensor in tensors:
        if tensor.constant and tensor.dtype in ("int32", "int64"):
            continue
        if tensor.dtype not in Q8:
            return f"{name} is {tensor.dtype}; 8-bit tensors are taken"
        if not tensor.constant and (problem := not_per_tensor(tensor)):
            return f"{name} {problem}"
    return None


def edge_concatenation(operator: Operator) -> str | None:
    constants = sum(1 for tensor in operator.inputs if tensor is not None and tensor.constant)
    if not constants or len(operator.inputs) == 2:
        return None
    return f"a constant among {len(operator.inputs)} inputs; among 2 it is taken, where it is zero"


def edge_mean(operator: Operator) -> str | None:
    x = tensor_at(operator, "in0")
    if x is None or x.rank - 1 not in axes(operator, "in1", "in0") or x.shape[-1] % 4 == 0:
        return None
    return f"along a last dimension of {x.shape[-1]}; a multiple of 4 is taken"


def edge_pad(operator: Operator) -> str | None:
    paddings = tensor_at(operator, "in1")
    if paddings is None or not paddings.constant:
        return "paddings are computed; they must be constant"
    return "pads the batch dimension" if paddings.values and any(paddings.values[:2]) else None


def edge_pack(operator: Operator) -> str | None:
    return "along the batch dimension" if operator.options.get("Axis", 0) == 0 else None


def edge_prelu(operator: Operator) -> str | None:
    slope = tensor_at(operator, "in1")
    return (
        "slopes vary over more than channels" if slope is not None and any(v != 1 for v in slope.shape[:-1]) else None
    )


def edge_softmax(operator: Operator) -> str | None:
    x = tensor_at(operator, "in0")
    if (reason := leading_ones(("in0",), 1)(operator)) or x is None or x.elements <= SOFTMAX_LIMIT:
        return reason
    return f"{x.elements} values; at most {SOFTMAX_LIMIT} are taken"


def edge_squeeze(operator: Operator) -> str | None:
    """Only dimensions ahead of all others may go: nothing moves in memory."""
    x, y = tensor_at(operator, "in0"), tensor_at(operator, "out0")
    if x is None or y is None or x.shape[x.rank - y.rank :] == y.shape:
        return None
    return f"from {list(x.shape)} to {list(y.shape)}: not the leading dimensions"


def gpu_types(operator: Operator) -> str | None:
    """Rank 4 at most for every tensor; computed ones are float or 8-bit."""
    sides: tuple[tuple[str, tuple[Tensor | None, ...]], ...] = (
        ("input", operator.inputs),
        ("output", operator.outputs),
    )
    for name, tensors in sides:
        for tensor in (t for t in tensors if t is not None):
            if tensor.rank > 4:
                return f"{name} has rank {tensor.rank}; at most 4 is taken"
            if not tensor.constant and tensor.dtype not in FLOAT | Q8:
                return f"{name} is {tensor.dtype}; float and 8-bit tensors are taken"
    return None


def gpu_broadcast(operator: Operator) -> str | None:
    """Operands of ADD and MUL of different rank: which are broadcast."""
    shapes = sorted((t.shape for t in operator.inputs if t is not None), key=len, reverse=True)
    if len(shapes) != 2 or len(shapes[1]) <= 1 or len(shapes[0]) == len(shapes[1]):
        return None
    long, short = shapes
    if len(long) == 4 and len(short) == 3 and long[0] == 1:
        return None
    if len(long) == 4 and len(short) == 2 and ((short == (1, 1) and long[0] == 1) or short == (long[0], long[3])):
        return None
    return f"operands of shapes {list(long)} and {list(short)}"


def gpu_matmul(operator: Operator) -> str | None:
    """A constant second operand must be a matrix; the whole delegate fails on others."""
    a, b = tensor_at(operator, "in0"), tensor_at(operator, "in1")
    if a is None or b is None or (not a.constant and (not b.constant or b.rank == 2)):
        return None
    return f"a constant operand of rank {(a if a.constant else b).rank}; of rank 2 as the second one it is taken"


def gpu_keep_dims(operator: Operator) -> str | None:
    x, y = tensor_at(operator, "in0"), tensor_at(operator, "out0")
    if x is None or y is None or not operator.options.get("KeepNumDims") or x.rank == y.rank:
        return None
    return f"keeps dimensions, but goes from rank {x.rank} to {y.rank}"


def gpu_pad(operator: Operator) -> str | None:
    paddings = tensor_at(operator, "in1")
    if paddings is None or paddings.shape in ((3, 2), (4, 2)):
        return None
    return f"paddings of shape {list(paddings.shape)}; [3, 2] and [4, 2] are taken"
