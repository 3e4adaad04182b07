"""The report of `edge-stra bench` as one HTML file: inline style and drawings, no scripts, nothing from elsewhere.

It is well-formed XML too. Colours follow the reader's light or dark mode.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from edge_stra.bench.text import COLUMNS, cells, conditions, kind_name, operator_line, percent, ratio_text
from edge_stra.quiet import shown
from edge_stra.svg import Bar, bars, dots, intervals

KINDS = 8  # of operators that a drawing shows
STYLE = """
:root { color-scheme: light dark; --paper: #f6f7f9; --card: #fff; --ink: #1b2028; --quiet: #626b78; --rule: #e2e6ec;
  --mark: #2463c4; --soft: #b9d0f2; --base: #8a94a3; --warn: #8a4b00; --warn-paper: #fff4e0; --warn-rule: #f0c98a;
  --good: #1c6b41; --good-paper: #e8f6ee; }
@media (prefers-color-scheme: dark) { :root { --paper: #12151b; --card: #1a1f27; --ink: #e7eaf0; --quiet: #99a3b2;
  --rule: #2c333e; --mark: #6ea6ff; --soft: #2f4a75; --base: #737d8c; --warn: #ffc978; --warn-paper: #33270f;
  --warn-rule: #6b4f1c; --good: #86dba9; --good-paper: #12301f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 32px 20px 56px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 17px; margin: 0 0 2px; } h3 { font-size: 14px; margin: 18px 0 2px; overflow-wrap: anywhere; }
p { margin: 0 0 12px; } .quiet { color: var(--quiet); font-size: 13px; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 12px; padding: 18px 20px;
  margin-top: 16px; }
.warn, .good { border-radius: 12px; padding: 12px 18px; margin-top: 16px; }
.warn { background: var(--warn-paper); color: var(--warn); border: 1px solid var(--warn-rule); }
.good { background: var(--good-paper); color: var(--good); } .warn ul { margin: 4px 0 0; padding-left: 20px; }
.warn, .good, dd { overflow-wrap: anywhere; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 0 7px 13px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule); }
th { color: var(--quiet); font-weight: 500; font-size: 12.5px; } tr:last-child td { border-bottom: 0; }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal; overflow-wrap: anywhere;
  min-width: 200px; }
td { font-size: 14px; } td:nth-child(6) { font-size: 13px; }
td:nth-child(2) { font-weight: 650; }
dl { display: grid; grid-template-columns: minmax(120px, max-content) 1fr; gap: 4px 18px; margin: 8px 0 0; }
dt { color: var(--quiet); } dd { margin: 0; }
svg { display: block; width: 100%; height: auto; margin-top: 6px; overflow: visible; font: 12px system-ui, sans-serif; }
svg text { fill: var(--ink); } svg .q { fill: var(--quiet); font-size: 11px; } svg .bar { fill: var(--mark); }
svg .base { fill: var(--base); } svg .whisker, svg .dot { stroke: var(--ink); fill: none; stroke-width: 1.5; }
svg .grid { stroke: var(--rule); fill: none; } svg .one { stroke: var(--base); stroke-dasharray: 3 3; fill: none; }
svg .runs { stroke: var(--mark); stroke-width: 5; stroke-linecap: round; fill: none; opacity: .6; }
svg .cut { stroke: var(--warn); stroke-width: 1.5; fill: none; } svg .median { stroke: var(--ink); fill: none;
  stroke-dasharray: 5 4; } svg .span { stroke: var(--mark); stroke-width: 5; stroke-linecap: round; fill: none; }
svg .point { fill: var(--card); stroke: var(--mark); stroke-width: 2.5; }
"""


def escape(text: object) -> str:
    """Text for HTML and for attributes; what can't be shown (control characters, broken bytes) becomes a mark."""
    return html.escape(shown(str(text)), quote=True)


def page(report: dict[str, Any]) -> str:
    """The whole file."""
    rows, settings = report["artifacts"], report["settings"]
    cpu = report["conditions"]["cpu"]
    threads = f"{settings['threads']} thread{'s' if settings['threads'] > 1 else ''}"
    intro = f"{settings['runs']} runs of each, taking turns, {threads}, {cpu['name']}, {report['time']}"
    parts = [
        verdict(report["warnings"]),
        section("Figures", table(rows, settings["baseline"]), "Times of one inference, float input to float output."),
        section(
            "Time",
            medians(rows),
            "Bars: median. Whiskers: from the fastest run to p90; an arrow where that lies far off.",
        ),
        ratios(rows, settings["baseline"]),
        section("All runs", strips(rows), "Milliseconds of each run, in order. Dashed: the median."),
        section("Operators", "".join(operators(row) for row in rows), OPERATOR_NOTE),
        section("Conditions", facts(report), ""),
        section("How it was measured", METHOD, ""),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>edge-stra bench</title><style>{STYLE}</style></head>\n<body><main>"
        f'<h1>{escape(title(rows))}</h1><p class="quiet">{escape(intro)}</p>\n'
        + "\n".join(part for part in parts if part)
        + "\n</main></body></html>\n"
    )


OPERATOR_NOTE = (
    "From the profiler of LiteRT's library, in a process of its own: means of the fastest quarter of its runs. It "
    "gives whole microseconds, cut down: operators below one count as nothing, and the sum stays a little below the "
    "inference."
)
METHOD = (
    "<p>The artifacts take turns, so that a drift of the machine hits all alike. The ratio is the median of the "
    "ratios within rounds; its interval holds 95 % of the medians of a moving-block bootstrap over rounds. "
    "Noise is the median absolute deviation, in percent of the median.</p>"
    "<p>Load time: constructing the interpreter and allocating its tensors, median of several in a fresh process, "
    "the file in the page cache. Memory: by how much the peak of that process's resident memory rises from before "
    "the first load until after the first inference. Parts: how many pieces of the graph the delegate took; "
    "one means all of it, where no operator is outside.</p>"
)


def title(rows: Sequence[dict[str, Any]]) -> str:
    """The main result in one line."""
    compared = [row for row in rows if row["ratio"]]
    if len(compared) == 1:
        return f"{compared[0]['name']}: {compared[0]['ratio']['median']:.2f} times the baseline's time"
    fastest = min(rows, key=lambda row: row["timing"]["median_ms"])
    return f"{fastest['name']}: {fastest['timing']['median_ms']:.2f} ms" + (" is the fastest" if len(rows) > 1 else "")


def section(heading: str, content: str, note: str) -> str:
    below = f'<p class="quiet">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(heading)}</h2>{below}{content}</section>" if content else ""


def verdict(warnings: Sequence[str]) -> str:
    if not warnings:
        return '<div class="good">The machine was quiet: no sign of noise, drift or throttling.</div>'
    lines = "".join(f"<li>{escape(line)}</li>" for line in warnings)
    return f'<div class="warn"><strong>Read these figures with care</strong><ul>{lines}</ul></div>'


def table(rows: Sequence[dict[str, Any]], baseline: str | None) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in ("artifact", *COLUMNS))
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in (row["name"], *cells(row, baseline))) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def medians(rows: Sequence[dict[str, Any]]) -> str:
    items = [
        Bar(
            escape(row["name"]),
            times["median_ms"],
            f"{times['median_ms']:.2f} ms",
            (times["min_ms"], times["p90_ms"]),
            "base" if any(r["ratio"] for r in rows) and not row["ratio"] else "bar",
        )
        for row in rows
        for times in (row["timing"],)
    ]
    return bars(items, "medians of all artifacts")


def ratios(rows: Sequence[dict[str, Any]], baseline: str | None) -> str:
    items = [
        (escape(row["name"]), ratio["low"], ratio["median"], ratio["high"], ratio_text(ratio))
        for row in rows
        if (ratio := row["ratio"])
    ]
    note = f"Time over that of {baseline}, which is 1. The line spans the 95 % interval."
    return section("Ratio to the baseline", intervals(items, "ratios to the baseline"), note) if items else ""


def strips(rows: Sequence[dict[str, Any]]) -> str:
    parts = []
    for row in rows:
        drawing, cut = dots(row["runs_ms"], row["timing"]["median_ms"], f"runs of {escape(row['name'])}")
        above = f"; {cut} slower ones lie above the frame" if cut else ""
        words = f"noise {percent(row['timing']['spread'])}, drift {percent(row['timing']['drift'])}{above}"
        parts.append(f'<h3>{escape(row["name"])}</h3><p class="quiet">{escape(words)}</p>{drawing}')
    return "".join(parts)


def operators(row: dict[str, Any]) -> str:
    found = row["operators"]
    head = f'<h3>{escape(row["name"])}</h3><p class="quiet">{escape(operator_line(row))}</p>'
    if not found["measured"]:
        return head
    items = [
        Bar(
            escape(f"{kind_name(kind)} x {kind['count']}"),
            kind["ms"],
            f"{kind['ms']:.3f} ms, {percent(kind['share'])}",
            None,
            "base" if kind["outside"] else "bar",
        )
        for kind in found["kinds"][:KINDS]
    ]
    return head + bars(items, f"operators of {escape(row['name'])}", label_width=330)


def facts(report: dict[str, Any]) -> str:
    pairs = "".join(f"<dt>{escape(what)}</dt><dd>{escape(value)}</dd>" for what, value in conditions(report))
    return f"<dl>{pairs}</dl>"
