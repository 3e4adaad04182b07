"""What `edge_stra.delegates.partitions` found, as lines for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from edge_stra.delegates.graph import Tensor
from edge_stra.delegates.partitions import Findings, Inspection, count_macs, measure_whole

SHOWN = 4
"""So many operators of one name and reason are pointed to; the rest are counted."""


def render(inspection: Inspection, names: Collection[str], operators: bool) -> str:
    """A summary of all delegates, then partitions and reasons of those named; `operators` lists every one."""
    lines = [*head(inspection), "", *summary(inspection)]
    for name in names:
        lines += ["", *details(inspection, inspection.findings[name])]
    if operators:
        lines += ["", *listing(inspection, names)]
    return "\n".join(lines)


def head(inspection: Inspection) -> list[str]:
    graph = inspection.graph
    whole = measure_whole(graph)
    ranks = Counter(tensor.rank for tensor in graph.tensors)
    kinds = Counter(operator.name for operator in graph.operators).most_common()
    lines = [
        f"{inspection.path.name}: {len(graph.operators)} operators, {len(graph.tensors)} tensors of rank "
        f"{min(ranks, default=0)} to {max(ranks, default=0)}, {millions(whole.macs)} M MACs, "
        f"{kilobytes(whole.weight_bytes)} kB of weights",
        ", ".join(f"{name} {count}" for name, count in kinds),
    ]
    if graph.subgraphs > 1:
        lines.append(f"the first of {graph.subgraphs} subgraphs")
    return lines


def summary(inspection: Inspection) -> list[str]:
    total = len(inspection.graph.operators)
    whole = measure_whole(inspection.graph).macs
    lines = [f"{'delegate':<22}{'operators taken':>17}{'partitions':>12}{'% of MACs':>11}"]
    for found in inspection.findings.values():
        share = 100 * sum(part.macs for part in found.partitions) / whole if whole else 0.0
        taken = f"{total - len(found.reasons)} of {total}"
        lines.append(f"{found.delegate.title:<22}{taken:>17}{len(found.partitions):>12}{share:>11.1f}")
    return lines


def details(inspection: Inspection, found: Findings) -> list[str]:
    lines = [f"{found.delegate.title:<22}{'operators':>12}{'M MACs':>9}{'weights kB':>12}{'activations kB':>16}"]
    for number, part in enumerate(found.partitions, 1):
        lines.append(
            f"  {f'partition {number}':<20}{spans(part.operators):>12}{millions(part.macs):>9}"
            f"{kilobytes(part.weight_bytes):>12}{kilobytes(part.activation_bytes):>16}"
        )
    groups: dict[str, list[int]] = {}
    for reason in found.reasons:
        groups.setdefault(reason.text, []).append(reason.operator)
    for text, indices in groups.items():
        lines += [f"  {len(indices)} not taken: {text}", f"    {names_of(inspection, indices)}"]
    return lines


def names_of(inspection: Inspection, indices: list[int]) -> str:
    """`MUL #3 #7, PAD #4`, with the first indices of each operator."""
    named: dict[str, list[int]] = {}
    for index in indices:
        named.setdefault(inspection.graph.operators[index].name, []).append(index)
    words = []
    for name, where in named.items():
        more = f" and {len(where) - SHOWN} more" if len(where) > SHOWN else ""
        words.append(f"{name} {' '.join(f'#{index}' for index in where[:SHOWN])}{more}")
    return ", ".join(words)


def listing(inspection: Inspection, names: Collection[str]) -> list[str]:
    """One line for each operator: where each delegate runs it, p1 for partition 1, - where it does not."""
    lines = [f"{'#':>4} {'operator':<22}{'version':>8}  {'inputs, output':<64}{'M MACs':>8}  {' '.join(names)}"]
    parts = {name: places(inspection.findings[name]) for name in names}
    for operator in inspection.graph.operators:
        tensors = [short(tensor) for tensor in operator.inputs if tensor is not None and not tensor.constant]
        shown = f"{' '.join(tensors)} -> {' '.join(short(tensor) for tensor in operator.outputs)}"
        where = " ".join(f"{parts[name].get(operator.index, '-'):<{len(name)}}" for name in names)
        lines.append(
            f"{operator.index:>4} {operator.name:<22}{operator.version:>8}  {shown:<64}"
            f"{millions(count_macs(operator)):>8}  {where}".rstrip()
        )
    return lines


def places(found: Findings) -> dict[int, str]:
    """The partition of each operator that a delegate takes."""
    return {index: f"p{number}" for number, part in enumerate(found.partitions, 1) for index in part.operators}


def short(tensor: Tensor) -> str:
    return f"{tensor.dtype}[{'x'.join(map(str, tensor.shape))}]"


def spans(indices: tuple[int, ...]) -> str:
    """How many, for a table: `5: 138-142`, or `5: 138...` where others lie between."""
    first, last = indices[0], indices[-1]
    if len(indices) == 1:
        return f"1: {first}"
    return f"{len(indices)}: {first}-{last}" if last - first + 1 == len(indices) else f"{len(indices)}: {first}..."


def millions(count: int) -> str:
    return f"{count / 1e6:.1f}"


def kilobytes(count: int) -> str:
    return f"{count / 1000:.1f}"
