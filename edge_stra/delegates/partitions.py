"""What a delegate takes of a graph, in how many partitions, and why not the rest; predicted, nothing is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

from edge_stra.delegates.conditions import applies
from edge_stra.delegates.graph import Graph, Operator, Tensor, distinct, read_graph
from edge_stra.delegates.rules import DELEGATES, PARTITIONS, XNNPACK, Delegate
from edge_stra.spec import ArtifactError

UNPACKED = ("float16", "int8")
"""Types of constants whose DEQUANTIZE a delegate does once, while it loads."""


@dataclass(frozen=True)
class Partition:
    """Operators that run on a delegate without a break, in order of execution.

    macs: multiply-accumulates. weight_bytes: of constants, as stored. activation_bytes: of each tensor that is computed
    here, or read from outside, once.
    """

    operators: tuple[int, ...]
    macs: int
    weight_bytes: int
    activation_bytes: int


@dataclass(frozen=True)
class Reason:
    """Why an operator is left to the plain kernels, and the source of the rule."""

    operator: int
    text: str
    source: str


@dataclass(frozen=True)
class Findings:
    """What one delegate takes; `reasons` has one for each operator that it does not."""

    delegate: Delegate
    partitions: tuple[Partition, ...]
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class Inspection:
    path: Path
    graph: Graph
    findings: dict[str, Findings]

    def check(self, names: Collection[str]) -> None:
        """Raises ArtifactError where a delegate of these does not take every operator."""
        for findings in (self.findings[name] for name in names):
            if findings.reasons:
                first, count = findings.reasons[0], f"{len(findings.reasons)} of {len(self.graph.operators)}"
                raise ArtifactError(
                    f"{self.path} must run wholly on {findings.delegate.title}, but {count} operators do not, first "
                    f"{self.graph.operators[first.operator].name} #{first.operator}: {first.text}"
                )


def inspect(path: Path) -> Inspection:
    """Reads a .tflite file and applies the rules of every delegate. Raises ArtifactError, MissingError."""
    graph = read_graph(path)
    return Inspection(path, graph, {name: examine(graph, delegate) for name, delegate in DELEGATES.items()})


def examine(graph: Graph, delegate: Delegate) -> Findings:
    reasons, unpacked = find_reasons(graph, delegate)
    groups = [group for group, taken in partition(graph, reasons) if taken]
    kept = keep(groups, delegate.keeps)
    for index in {i for group in set(groups) - set(kept) for i in group}:
        text = f"could be taken, but the delegate runs one partition alone, the {delegate.keeps}"
        reasons[index] = Reason(index, text, delegate.keeps_source)
    partitions = tuple(measure(graph, group, unpacked) for group in kept)
    return Findings(delegate, partitions, tuple(reasons[index] for index in sorted(reasons)))


def find_reasons(graph: Graph, delegate: Delegate) -> tuple[dict[int, Reason], set[int]]:
    """(Operator -> why it is not taken, tensors that are constants unpacked).

    As XNNPACK's PrepareOpsToDelegate does: an unpacking DEQUANTIZE is left only where an operator that reads it is.
    """
    reasons: dict[int, Reason] = {}
    unpackers: dict[int, int] = {}
    for operator in graph.operators:
        if delegate.unpacks and is_unpacking(operator, unpackers):
            unpackers[operator.outputs[0].index] = operator.index
            continue
        reason = refuse(with_constants(operator, unpackers), delegate)
        if reason is None:
            continue
        reasons[operator.index] = reason
        for tensor in operator.inputs:
            if tensor is not None and (producer := unpackers.get(tensor.index)) is not None:
                text = f"unpacks a constant for {operator.name} #{operator.index}, which is not taken"
                reasons[producer] = Reason(producer, text, reason.source)
    return reasons, set(unpackers)


def is_unpacking(operator: Operator, unpackers: Collection[int]) -> bool:
    if operator.name != "DEQUANTIZE" or len(operator.inputs) != 1 or len(operator.outputs) != 1:
        return False
    (source,), (target,) = operator.inputs, operator.outputs
    if source is None or target.dtype != "float32" or source.dtype not in UNPACKED:
        return False
    if source.dtype == "int8" and source.quantization is None:
        return False
    return source.constant or source.index in unpackers


def with_constants(operator: Operator, unpacked: Collection[int]) -> Operator:
    """The operator as a delegate sees it: unpacked constants are constants."""

    def seen(tensor: Tensor | None) -> Tensor | None:
        return tensor if tensor is None or tensor.index not in unpacked else replace(tensor, constant=True)

    return replace(operator, inputs=tuple(seen(tensor) for tensor in operator.inputs))


def refuse(operator: Operator, delegate: Delegate) -> Reason | None:
    row = delegate.row(operator.name)
    if row is None:
        return Reason(
            operator.index, "not in this table of rules, so counted as not taken", delegate.rows[0].source.split(" ")[0]
        )
    if text := applies(operator, delegate.common):
        return Reason(operator.index, text, delegate.common_source)
    text = applies(operator, row.conditions)
    return Reason(operator.index, text, row.source) if text else None


def partition(graph: Graph, left: Collection[int]) -> Iterator[tuple[tuple[int, ...], bool]]:
    """(operators, whether a delegate takes them) of each run, as the runtime forms them (`PARTITIONS`).

    The first operator whose inputs are there decides of which kind a run is; it then takes all of that kind whose
    inputs are there, and goes round until none is left. Operators with side effects, which a runtime keeps in order,
    are treated like others.
    """
    missing = {tensor.index for operator in graph.operators for tensor in operator.outputs}
    unmet: dict[int, int] = {}  # operator -> how many of its inputs are not there yet
    readers: dict[int, list[int]] = {}  # tensor -> operators
    ready: dict[bool, list[int]] = {True: [], False: []}  # taken or not -> heap of operators whose inputs are there
    for operator in graph.operators:
        needs = {tensor.index for tensor in operator.inputs if tensor is not None} & missing
        unmet[operator.index] = len(needs)
        for index in needs:
            readers.setdefault(index, []).append(operator.index)
        if not needs:
            heappush(ready[operator.index not in left], operator.index)
    done = 0
    while ready[True] or ready[False]:
        taken = not ready[False] or (bool(ready[True]) and ready[True][0] < ready[False][0])
        run: list[int] = []
        while ready[taken]:
            run.append(heappop(ready[taken]))
            for index in {tensor.index for tensor in graph.operators[run[-1]].outputs} & missing:
                missing.remove(index)
                for reader in readers.get(index, ()):
                    unmet[reader] -= 1
                    if not unmet[reader]:
                        heappush(ready[reader not in left], reader)
        done += len(run)
        yield tuple(sorted(run)), taken
    if done < len(graph.operators):
        raise ArtifactError("the graph's operators must follow from its inputs, but some wait for each other")


def keep(groups: list[tuple[int, ...]], which: str) -> list[tuple[int, ...]]:
    if which == "all" or not groups:
        return groups
    return [groups[0] if which == "first" else max(groups, key=len)]


def measure(graph: Graph, group: tuple[int, ...], unpacked: Collection[int] = ()) -> Partition:
    operators = [graph.operators[index] for index in group]
    tensors = distinct(tensor for operator in operators for tensor in (*operator.inputs, *operator.outputs))
    return Partition(
        group,
        sum(count_macs(operator) for operator in operators),
        sum(tensor.bytes for tensor in tensors if tensor.constant),
        sum(tensor.bytes for tensor in tensors if not tensor.constant and tensor.index not in unpacked),
    )


def measure_whole(graph: Graph) -> Partition:
    """All operators as one partition; a constant that an operator unpacks is no activation, whoever runs it."""
    _, unpacked = find_reasons(graph, XNNPACK)
    return measure(graph, tuple(range(len(graph.operators))), unpacked)


def count_macs(operator: Operator) -> int:
    """Multiply-accumulates of convolutions, linears and batched products; 0 for all else, and without their axes."""
    name, sides = operator.name, (*operator.inputs[:2], *operator.outputs[:1])
    if (
        name not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL")
        or None in sides
        or len(sides) < 3
    ):
        return 0
    a, b, out = (tensor for tensor in sides if tensor is not None)
    if name == "BATCH_MATMUL":
        return out.elements * a.shape[-2 if operator.options.get("AdjX") else -1] if a.rank >= 2 else 0
    if name == "DEPTHWISE_CONV_2D":
        return out.elements * b.shape[1] * b.shape[2] if b.rank >= 3 else 0
    return out.elements * b.elements // b.shape[0] if b.shape and b.shape[0] else 0


def report(inspection: Inspection) -> dict[str, Any]:
    """All that was found, ready for JSON."""
    graph = inspection.graph
    whole = measure_whole(graph)
    left = {name: {reason.operator for reason in found.reasons} for name, found in inspection.findings.items()}
    return {
        "file": inspection.path.name,
        "subgraphs": graph.subgraphs,
        "operators": [describe(operator, left) for operator in graph.operators],
        "tensors": {
            "count": len(graph.tensors),
            "constants": sum(1 for tensor in graph.tensors if tensor.constant),
            "by_dtype": dict(Counter(tensor.dtype for tensor in graph.tensors).most_common()),
            "by_rank": dict(sorted(Counter(tensor.rank for tensor in graph.tensors).items())),
        },
        "macs": whole.macs,
        "weight_bytes": whole.weight_bytes,
        "activation_bytes": whole.activation_bytes,
        "partition_rule": PARTITIONS,
        "delegates": {name: describe_findings(found, graph) for name, found in inspection.findings.items()},
    }


def describe(operator: Operator, left: dict[str, set[int]]) -> dict[str, Any]:
    return {
        "index": operator.index,
        "operator": operator.name,
        "version": operator.version,
        "inputs": [None if tensor is None else describe_tensor(tensor) for tensor in operator.inputs],
        "outputs": [describe_tensor(tensor) for tensor in operator.outputs],
        "activation": operator.activation,
        "macs": count_macs(operator),
        "left_by": [name for name, operators in left.items() if operator.index in operators],
    }


def describe_tensor(tensor: Tensor) -> dict[str, Any]:
    found = tensor.quantization
    return {
        "index": tensor.index,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "constant": tensor.constant,
        "bytes": tensor.bytes,
        "quantized": None if found is None else ("per channel" if found.per_channel else "per tensor"),
    }


def describe_findings(findings: Findings, graph: Graph) -> dict[str, Any]:
    return {
        "title": findings.delegate.title,
        "taken": len(graph.operators) - len(findings.reasons),
        "partitions": [
            {
                "operators": list(part.operators),
                "macs": part.macs,
                "weight_bytes": part.weight_bytes,
                "activation_bytes": part.activation_bytes,
            }
            for part in findings.partitions
        ],
        "undelegated": [
            {"index": r.operator, "operator": graph.operators[r.operator].name, "reason": r.text, "source": r.source}
            for r in findings.reasons
        ],
    }
