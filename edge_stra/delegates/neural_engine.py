"""What Apple's Neural Engine is known to like of an ML Program, operator by operator; read, nothing is run.

Apple publishes no list of what the engine takes: which unit runs an operator is Core ML's choice, and only Xcode's
performance report on a device tells it. What is published are principles, and these are the rows here, each with its
source. An operator that breaks one may still run there, slower, or through a copy.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_stra.mil import Package, open_package
from edge_stra.mil.program import Constant, Operation, Type
from edge_stra.spec import ArtifactError

TRANSFORMERS = "machinelearning.apple.com/research/neural-engine-transformers"
PRECISION = "apple.github.io/coremltools/docs-guides/source/typed-execution.html"
MAX_RANK = 4
PADDED_BYTES = 64
"""The last axis of a buffer is padded to a multiple of these."""
MOVES = ("transpose", "reshape", "concat", "split", "slice_by_index", "slice_by_size", "pad", "stack", "tile", "gather")
WITHOUT_WORK = ("const", "cast", "classify")
ITEM_BYTES = {"float16": 2, "float32": 4, "int32": 4, "int16": 2, "uint16": 2, "int8": 1, "uint8": 1, "bool": 1}


@dataclass(frozen=True)
class Seen:
    """An operator with the types of the computed values that it reads and makes. constants: by parameter."""

    operation: Operation
    inputs: tuple[Type, ...]
    outputs: tuple[Type, ...]
    constants: dict[str, Any]

    @property
    def tensors(self) -> tuple[Type, ...]:
        return (*self.inputs, *self.outputs)


@dataclass(frozen=True)
class Principle:
    """`breaks` gives what is wrong with an operator, or None."""

    name: str
    breaks: Callable[[Seen], str | None]
    source: str


def is_float32(seen: Seen) -> str | None:
    wide = [t for t in seen.outputs if t.dtype == "float32"]
    return "computes in float32, the engine in float16 alone" if wide else None


def is_of_high_rank(seen: Seen) -> str | None:
    rank = max((len(t.shape) for t in seen.tensors), default=0)
    return f"has a tensor of rank {rank}, above {MAX_RANK}" if rank > MAX_RANK else None


def has_short_last_axis(seen: Seen) -> str | None:
    """The last axis of a tensor of several axes, all small, is mostly padding."""
    worst, found = 1.0, None
    for tensor in seen.outputs:
        shape = tensor.shape
        if len(shape) < 2 or None in shape or math.prod(v or 0 for v in shape) < 1024:
            continue
        bytes_used = (shape[-1] or 0) * ITEM_BYTES.get(tensor.dtype, 4)
        padded = -(-bytes_used // PADDED_BYTES) * PADDED_BYTES / max(bytes_used, 1)
        if padded > worst:
            worst, found = padded, shape
    if found is None or worst < 2:
        return None
    return f"makes {'x'.join(map(str, found))}, whose last axis takes {worst:.0f} times its bytes"


def is_linear(seen: Seen) -> str | None:
    """On a tensor of several rows; one row is a classifier's head."""
    shape = seen.outputs[0].shape if seen.outputs else ()
    rows = math.prod(v or 1 for v in shape[:-1])
    if seen.operation.kind == "linear" and rows > 1:
        return f"is a linear of {rows} rows; a 1x1 conv keeps the channels where the engine has them"
    return None


def has_softmax_elsewhere(seen: Seen) -> str | None:
    rank = len(seen.outputs[0].shape) if seen.outputs else 0
    if seen.operation.kind != "softmax" or rank != 4:
        return None
    axis = seen.constants.get("axis", -1 if "axis" not in seen.operation.inputs else None)
    if isinstance(axis, np.ndarray) and axis.size == 1 and axis.dtype.kind in "iu":
        axis = int(axis.item())
    if not isinstance(axis, int):  # computed, or damaged
        return None
    place = axis % rank
    return None if place == 1 else f"is a softmax over axis {place}, not over the channels (axis 1)"


def moves_memory(seen: Seen) -> str | None:
    if seen.operation.kind not in MOVES:
        return None
    size = sum(math.prod(v or 0 for v in t.shape) * ITEM_BYTES.get(t.dtype, 4) for t in seen.outputs)
    return f"only moves {size / 1000:.0f} kB" if size >= 4096 else None


PRINCIPLES: tuple[Principle, ...] = (
    Principle("half floats", is_float32, PRECISION),
    Principle("rank", is_of_high_rank, f"{TRANSFORMERS}, principle 1: 4-D, channels first"),
    Principle("last axis", has_short_last_axis, f"{TRANSFORMERS}, principle 1: the last axis is padded to 64 bytes"),
    Principle("1x1 convs", is_linear, f"{TRANSFORMERS}, principle 1: conv in the place of linear"),
    Principle("softmax", has_softmax_elsewhere, f"{TRANSFORMERS}, principle 1: channels are the second axis"),
    Principle("copies", moves_memory, f"{TRANSFORMERS}, principle 3: as few copies as can be"),
)


@dataclass(frozen=True)
class Complaint:
    """Operator `index` (constants not counted) breaks a principle."""

    index: int
    kind: str
    name: str
    principle: str
    text: str


@dataclass(frozen=True)
class Findings:
    package: Package
    operators: tuple[Operation, ...]
    complaints: tuple[Complaint, ...]

    def check(self) -> None:
        """Raises ArtifactError where any principle is broken."""
        if self.complaints:
            first, count = self.complaints[0], len({c.index for c in self.complaints})
            raise ArtifactError(
                f"{self.package.path} must follow the Neural Engine's principles, but {count} of "
                f"{len(self.operators)} operators do not, first {first.kind} #{first.index}: {first.text}"
            )


def examine(path: Path) -> Findings:
    """Reads a saved .mlpackage and applies every principle. Raises ArtifactError, MissingError without protobuf."""
    package = open_package(path)
    function = package.function
    operators = tuple(o for o in function.operations if not o.is_constant)
    values = {o.outputs[0].name: constant_of(o) for o in function.operations if o.is_constant}
    types = {named.name: named.type for named in function.inputs}
    types |= {named.name: named.type for operation in operators for named in operation.outputs}
    complaints = []
    for index, operation in enumerate(operators):
        if operation.kind in WITHOUT_WORK:
            continue
        seen = see(operation, types, values)
        for principle in PRINCIPLES:
            if text := principle.breaks(seen):
                complaints.append(Complaint(index, operation.kind, operation.name, principle.name, text))
    return Findings(package, operators, tuple(complaints))


def constant_of(operation: Operation) -> Any:
    """The value of a `const`; None of what is stored compressed, which no principle asks for."""
    given = operation.inputs.get("val", (None,))[0]
    return given.value if isinstance(given, Constant) else None


def see(operation: Operation, types: dict[str, Type], values: dict[str, Any]) -> Seen:
    constants = {}
    for parameter, given in operation.inputs.items():
        if isinstance(given[0], Constant):
            constants[parameter] = given[0].value
        elif given[0] in values:
            constants[parameter] = values[given[0]]
    names = [name for given in operation.inputs.values() for name in given if isinstance(name, str) and name in types]
    outputs = tuple(output.type for output in operation.outputs)
    return Seen(operation, tuple(types[name] for name in names), outputs, constants)


def render(findings: Findings) -> str:
    """For people: how many operators break each principle, and which."""
    package = findings.package
    kinds = ", ".join(f"{kind} {count}" for kind, count in Counter(o.kind for o in findings.operators).most_common())
    lines = [f"{package.path.name}: {len(findings.operators)} operators, for {package.minimum_os} and later", kinds, ""]
    lines.append(f"{'principle of the Neural Engine':<32}{'broken by':>10}")
    for principle in PRINCIPLES:
        found = [c for c in findings.complaints if c.principle == principle.name]
        lines.append(f"{principle.name:<32}{f'{len(found)} of {len(findings.operators)}':>10}  {principle.source}")
    for principle in PRINCIPLES:
        found = [c for c in findings.complaints if c.principle == principle.name]
        for text, count in Counter(f"{c.kind} {c.text}" for c in found).most_common(4):
            lines.append(f"  {principle.name}: {count} x {text}")
    lines += ["", "Which unit runs an operator only Core ML decides; Xcode's performance report on a device tells it."]
    return "\n".join(lines)


def report(findings: Findings) -> dict[str, Any]:
    """All that was found, ready for JSON."""
    return {
        "file": findings.package.path.name,
        "minimum_os": findings.package.minimum_os,
        "operators": dict(Counter(operation.kind for operation in findings.operators)),
        "principles": {p.name: p.source for p in PRINCIPLES},
        "complaints": [vars(complaint) for complaint in findings.complaints],
    }
