"""What `scale.py` measures, and its figures as exponents, tables and a plot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from edge_stra.models.mobilenetv2 import scaled

SIDES, WINDOWS, MODES = (44, 88, 224, 448), (3, 5, 7), (4, 8, 16)
WIDTHS = (0.5, 1.0, 1.4)  # of MobileNetV2, where 4 G divides the slot's channels
BATCHES = (1, 2, 4, 8, 16, 32)
FORMS = ("plain", "ours", "naive")
COLOURS = {"plain": "#8b949e", "ours": "#1f6feb", "naive": "#d1242f"}


@dataclass(frozen=True)
class Point:
    """One thing that is measured. what: "network" or "block"; form: of FORMS; the rest as in the module's text."""

    what: str
    form: str
    side: int = 224
    window: int = 3
    modes: int = 8
    width: float = 1.0

    @property
    def channels(self) -> int:
        """Of the slot."""
        return 6 * scaled(160, self.width)

    @property
    def name(self) -> str:
        return f"{self.what}_{self.form}_{self.side}_k{self.window}_g{self.modes}_w{self.width:g}"

    @property
    def map_side(self) -> int:
        return -(-self.side // 16)


@dataclass(frozen=True)
class Fit:
    """y ~ x ** exponent; r2: the share of the variance of log y that this explains."""

    exponent: float
    r2: float


def fit(x: Sequence[float], y: Sequence[float]) -> Fit:
    """Least squares through (log x, log y); at least two different x, all numbers above 0."""
    log_x, log_y = np.log(np.asarray(x, float)), np.log(np.asarray(y, float))
    exponent, offset = np.polyfit(log_x, log_y, 1)
    left, whole = np.square(log_y - exponent * log_x - offset).sum(), np.square(log_y - log_y.mean()).sum()
    return Fit(float(exponent), float(1 - left / whole) if whole > 0 else 1.0)


def sweeps() -> dict[str, tuple[list[Point], Callable[[Point], float]]]:
    """name -> the points of a curve (all forms), and the number that they differ in."""
    result: dict[str, tuple[list[Point], Callable[[Point], float]]] = {}
    both = ("ours", "naive")
    result["network, pixels"] = [Point("network", f, side=s) for f in FORMS for s in SIDES], lambda p: p.side**2
    result["network, width"] = [Point("network", f, width=w) for f in FORMS for w in WIDTHS], lambda p: p.width
    result["block, pixels"] = [Point("block", f, side=s) for f in both for s in SIDES], lambda p: p.side**2
    result["block, K"] = [Point("block", f, window=k) for f in both for k in WINDOWS], lambda p: p.window
    result["block, G"] = [Point("block", f, modes=g) for f in both for g in MODES], lambda p: p.modes
    result["block, channels"] = [Point("block", f, width=w) for f in both for w in WIDTHS], lambda p: p.channels
    return result


def curves(measured: dict[Point, dict[str, Any]], key: str) -> Iterator[tuple[str, str, list[float], list[float]]]:
    """(sweep, form, x, y) of what was measured; y is key's figure."""
    for name, (points, number) in sweeps().items():
        for form in FORMS:
            own = [p for p in points if p.form == form and p in measured and measured[p][key]]
            if len(own) > 1:
                yield name, form, [float(number(p)) for p in own], [float(measured[p][key]) for p in own]


def fits(measured: dict[Point, dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"sweep": name, "form": form, "of": key} | asdict(fit(x, y))
        for key in ("ms", "min_ms", "memory_bytes")
        for name, form, x, y in curves(measured, key)
    ]


def render(measured: dict[Point, dict[str, Any]], throughput: dict[str, dict[str, float]]) -> str:
    """Tables in Markdown: ratios at each point, exponents, batches against torch's plain network one by one."""
    lines = ["| sweep | x | naive / ours, ms | naive / ours, memory | ours / plain, ms |", "|---" * 5 + "|"]
    for name, (points, number) in sweeps().items():
        for p in (p for p in points if p.form == "ours" and p in measured):
            other = {f: measured.get(Point(**(asdict(p) | {"form": f}))) for f in ("naive", "plain")}
            figures = [quotient(other["naive"], measured[p], key) for key in ("ms", "memory_bytes")]
            figures.append(quotient(measured[p], other["plain"], "ms"))
            lines.append(f"| {name} | {number(p):g} | {' | '.join(figures)} |")
    lines += ["", "| sweep | form | exponent of ms (R2) | of memory (R2) |", "|---" * 4 + "|"]
    found = {(f["sweep"], f["form"], f["of"]): f"{f['exponent']:.2f} ({f['r2']:.2f})" for f in fits(measured)}
    pairs = dict.fromkeys((sweep, form) for sweep, form, _ in found)
    lines += [
        f"| {s} | {f} | {found.get((s, f, 'ms'), '')} | {found.get((s, f, 'memory_bytes'), '')} |" for s, f in pairs
    ]
    base = throughput.get("torch, plain, 1", {}).get("pictures_per_s")
    if base:
        names = dict.fromkeys(name.rsplit(", ", 1)[0] for name in throughput)
        lines += ["", f"| pictures a second, torch plain alone = 1 | {' | '.join(f'batch {b}' for b in BATCHES)} |"]
        lines.append("|---" * (len(BATCHES) + 1) + "|")
        for name in names:
            shares = [f"{throughput[f'{name}, {b}']['pictures_per_s'] / base:.2f}" for b in BATCHES]
            lines.append(f"| {name} | {' | '.join(shares)} |")
    return "\n".join(lines)


def quotient(over: dict[str, Any] | None, under: dict[str, Any] | None, key: str) -> str:
    return f"{over[key] / under[key]:.2f}" if over and under and over[key] and under[key] else ""


def plot(
    measured: dict[Point, dict[str, Any]], throughput: dict[str, dict[str, float]], conditions: str, path: Path
) -> None:
    """Logarithmic panels: time of each sweep, memory of the blocks over pixels, pictures a second over the batch."""
    figure = Figure(figsize=(12, 6), layout="constrained")
    panels = dict(zip([*sweeps(), "memory of the block, pixels", "batch"], figure.subplots(2, 4).flat, strict=True))
    for key, prefix in (("ms", ""), ("memory_bytes", "memory of the ")):
        for name, form, x, y in curves(measured, key):
            axis = panels.get(f"{prefix}{name}")
            if axis is None:
                continue
            base = measured[Point(name.split(",")[0], "ours")][key]
            label = f"{form}: exponent {fit(x, y).exponent:.2f}"
            axis.loglog(x, np.array(y) / base, "o-", color=COLOURS[form], ms=3, lw=1, label=label)
    for name in dict.fromkeys(n.rsplit(", ", 1)[0] for n in throughput):
        rates = [throughput[f"{name}, {b}"]["pictures_per_s"] for b in BATCHES]
        base = throughput["torch, plain, 1"]["pictures_per_s"]
        panels["batch"].semilogx(BATCHES, np.array(rates) / base, "o-", ms=3, lw=1, label=name)
    for title, axis in panels.items():
        what = "pictures/s, torch plain alone = 1" if title == "batch" else "ours at the base = 1"
        axis.set_title(f"{title}: {what}", fontsize=7.5)
        axis.tick_params(labelsize=7, which="both")
        axis.grid(alpha=0.25, lw=0.4)
        if axis.lines:
            axis.legend(fontsize=6.5)
    figure.supxlabel(conditions, fontsize=7)
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # letters as letters: smaller, and searchable
        figure.savefig(path, metadata={"Date": None})
