"""Runs of the peers -> figures, a table, the line that says who is fastest, and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from table import OURS

from edge_stra.parity import RANDOM_TOLERANCES, TOLERANCES

HEADER = (
    "peer", "network", "form", "precision", "median ms", "min ms", "against ours", "quartiles", "against plain",
    "SQNR dB", "note",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """A row's outcome: rounds, a list of milliseconds for each round, or the reason why there are none."""

    peer: str
    model: str
    form: str
    precision: str
    versions: dict[str, str]
    sqnr_db: float | None = None
    trained: bool = True
    rounds: tuple[tuple[float, ...], ...] = ()
    reason: str | None = None

    @property
    def title(self) -> str:
        return self.peer if self.peer in (OURS, "litert-torch") else f"{self.peer}, {self.form}"

    @property
    def medians(self) -> np.ndarray:
        """Of each round."""
        return np.array([np.median(r) for r in self.rounds])

    @property
    def agrees(self) -> bool:
        """Whether it computes this network, by the tolerance that our own export must pass."""
        least = (TOLERANCES if self.trained else RANDOM_TOLERANCES)[self.precision].sqnr_db
        return self.sqnr_db is not None and self.sqnr_db >= least


def against(result: Result, base: Result) -> tuple[float, float, float]:
    """Time / the base's time, round by round: median and quartiles."""
    low, middle, high = np.percentile(result.medians / base.medians, (25, 50, 75))
    return float(middle), float(low), float(high)


def ours_of(results: Sequence[Result], like: Result) -> Result | None:
    """Our measured row for the same network and precision."""
    for r in results:
        if r.peer == OURS and r.rounds and (r.model, r.precision) == (like.model, like.precision):
            return r
    return None


def without_attention(results: Sequence[Result], like: Result) -> Result | None:
    """The same peer's measured row for the plain network, whose forms are one."""
    for r in results:
        same = (r.peer, r.precision) == (like.peer, like.precision)
        if same and r.rounds and r.model == like.model.replace("_stra", "") != like.model:
            return r
    return None


def to_json(result: Result, results: Sequence[Result]) -> dict[str, Any]:
    ours, bare = ours_of(results, result), without_attention(results, result)
    plain: dict[str, Any] = {
        key: getattr(result, key) for key in ("peer", "model", "form", "precision", "versions", "reason")
    }
    if result.rounds:
        plain |= {
            "median_ms": float(np.median(result.medians)),
            "min_ms": float(min(min(r) for r in result.rounds)),
            "round_medians_ms": [round(float(m), 4) for m in result.medians],
            "sqnr_db": result.sqnr_db,
            "agrees": result.agrees,
        }
    for key, base in (("against_ours", ours), ("against_plain", bare)):
        if result.rounds and base:
            plain[key] = dict(zip(("median", "low", "high"), against(result, base), strict=True))
    return plain


def cells(result: Result, results: Sequence[Result]) -> tuple[str, ...]:
    what = (result.peer, result.model, result.form, result.precision)
    if not result.rounds:
        return (*what, "", "", "", "", "", "", f"not measured: {result.reason}")
    figures = to_json(result, results)
    ratio, bare = figures.get("against_ours"), figures.get("against_plain")
    return (
        *what,
        f"{figures['median_ms']:.2f}",
        f"{figures['min_ms']:.2f}",
        f"{ratio['median']:.2f}" if ratio else "",
        f"{ratio['low']:.2f} to {ratio['high']:.2f}" if ratio else "",
        f"{bare['median']:.2f}" if bare else "",
        f"{min(result.sqnr_db or 0.0, 999.0):.1f}",
        "" if result.agrees else "does not agree with PyTorch",
    )


def ordered(results: Sequence[Result]) -> list[Result]:
    """By network and precision, the fastest first, those without figures last."""
    fastest = [float(np.median(r.medians)) if r.rounds else float("inf") for r in results]
    keys = [(r.model, r.precision, not r.rounds, time) for r, time in zip(results, fastest, strict=True)]
    return [results[i] for i in sorted(range(len(results)), key=lambda i: keys[i])]


def render(results: Sequence[Result]) -> str:
    """A table in Markdown, which is also one for a terminal."""
    rows = [HEADER, *(cells(r, results) for r in ordered(results))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    widths[-1] = len(HEADER[-1])  # reasons are long, and nothing follows them
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def verdicts(results: Sequence[Result]) -> list[str]:
    """For each network and precision, whether ours is the fastest of those that agree with PyTorch."""
    lines = []
    for model, precision in sorted({(r.model, r.precision) for r in results}):
        same = [r for r in results if (r.model, r.precision) == (model, precision)]
        ours = ours_of(results, same[0])
        name = f"{model} {precision}"
        if ours is None:
            lines.append(f"{name}: ours was not measured")
            continue
        ratios = {r.title: against(r, ours)[0] for r in same if r is not ours and r.rounds and r.agrees}
        if not ratios:
            lines.append(f"{name}: nobody else was measured and agrees with PyTorch")
            continue
        title = min(ratios, key=lambda key: ratios[key])
        faster = ratios[title] < 1
        lines.append(
            f"{name}: {title} is faster than ours, {ratios[title]:.2f} of its time" if faster
            else f"{name}: ours is the fastest; next is {title} with {ratios[title]:.2f} times its time"
        )  # fmt: skip
    return lines


def plot(results: Sequence[Result], conditions: str, path: Path) -> None:
    """Bars of median time against ours with quartiles, a panel for each network and precision."""
    measured = [r for r in ordered(results) if r.rounds and ours_of(results, r)]
    panels = sorted({(r.model, r.precision) for r in measured})
    groups = [[r for r in measured if (r.model, r.precision) == panel][::-1] for panel in panels]
    figure = Figure(figsize=(9, 0.6 * len(panels) + 0.26 * len(measured) + 0.6), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[len(g) + 1 for g in groups])[:, 0]
    for axis, (model, precision), group in zip(axes, panels, groups, strict=True):
        ratios = [against(r, ours) for r in group if (ours := ours_of(results, r))]
        middle = [m for m, _, _ in ratios]
        spread = [[m - low for m, low, _ in ratios], [high - m for m, _, high in ratios]]
        colours = ["#1f6feb" if r.peer == OURS else "#8b949e" if r.agrees else "#e5c1bd" for r in group]
        labels = [r.title if r.agrees else f"{r.title} (inaccurate)" for r in group]
        axis.barh(labels, middle, color=colours, xerr=spread, error_kw={"lw": 0.8})
        axis.axvline(1, color="#1f6feb", lw=0.8)
        axis.set_title(f"{model}, {precision}: time / ours", fontsize=9, loc="left")
        axis.tick_params(labelsize=8)
        axis.set_xlim(0, min(max(middle) * 1.15, 8))
        for y, m in enumerate(middle):
            axis.text(min(m, 7.5), y, f" {m:.2f}", va="center", fontsize=7)
    figure.supxlabel(conditions, fontsize=7)
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # letters as letters: smaller, and searchable
        figure.savefig(path, metadata={"Date": None})
