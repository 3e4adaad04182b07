"""The report of `edge-stra bench` as lines for a terminal, and the words that its page shares with them."""

from __future__ import annotations

from typing import Any

from edge_stra.bench.machine import render as render_machine

COLUMNS = (
    "median ms", "p90 ms", "min ms", "noise %", "ratio (95 % interval)", "load ms", "memory MB", "file MB", "parts",
)  # fmt: skip
KINDS = 5  # of operators that a terminal shows


def cells(row: dict[str, Any], baseline: str | None) -> list[str]:
    """An artifact's figures, one for each of `COLUMNS`; "-" where there is none."""
    times, load = row["timing"], row["load"]
    return [
        f"{times['median_ms']:.2f}",
        f"{times['p90_ms']:.2f}",
        f"{times['min_ms']:.2f}",
        f"{100 * times['spread']:.1f}",
        ratio_text(row["ratio"]) if row["ratio"] else ("baseline" if row["name"] == baseline else "-"),
        f"{load['load_ms']:.1f}" if load["measured"] else "-",
        megabytes(load.get("memory_bytes")),
        megabytes(row["file_bytes"]),
        str(row["delegate"]["parts"]) if row["delegate"].get("checked") else "-",
    ]


def ratio_text(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def megabytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.1f}"


def operator_line(row: dict[str, Any]) -> str:
    """How much of an artifact is where, in one sentence."""
    found = row["operators"]
    if not found["measured"]:
        return f"operators not measured: {found['note']}"
    total = f"{found['sum_ms']:.2f} of {found['inference_ms']:.2f} ms"
    if not found["outside"]:
        return f"{found['inside']} operators, all in the delegate, {total}"
    return (
        f"{found['inside']} operators in the delegate and {found['outside']} outside, {total}; "
        f"outside {found['outside_ms']:.2f} ms"
    )


def kind_name(kind: dict[str, Any]) -> str:
    return f"{kind['name']} (outside)" if kind["outside"] else str(kind["name"])


def conditions(report: dict[str, Any]) -> list[tuple[str, str]]:
    """(what, value) of where and how the runs were made."""
    found, settings = report["conditions"], report["settings"]
    cpu = found["cpu"]
    return [
        ("time", report["time"]),
        ("runs", f"{settings['runs']} of each, taking turns, after {settings['warm_up']} for warm-up"),
        ("threads", str(settings["threads"])),
        ("runtime", ", ".join(dict.fromkeys(row["runtime"] for row in report["artifacts"]))),
        ("cpu", f"{cpu['name']} ({cpu['machine']}, {cpu['cores']} cores)"),
        ("platform", f"{found['platform']}, Python {found['python']}, edge-stra {report['edge_stra']}"),
        *render_machine(found),
    ]


def render(report: dict[str, Any]) -> str:
    rows = report["artifacts"]
    baseline = report["settings"]["baseline"]
    table = [["artifact", *COLUMNS], *([row["name"], *cells(row, baseline)] for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    lines = [
        "  ".join(
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in table
    ]
    for row in rows:
        lines += ["", f"{row['name']}: {operator_line(row)}"]
        kinds = row["operators"].get("kinds", [])
        lines += [
            f"  {k['ms']:8.3f} ms {percent(k['share']):>7}  {k['count']:3d} {kind_name(k)}" for k in kinds[:KINDS]
        ]
    lines.append("")
    facts = conditions(report)
    width = max(len(what) for what, _ in facts)
    lines += [f"{what:<{width}}  {value}" for what, value in facts]
    return "\n".join([*lines, *(f"warning: {line}" for line in report["warnings"])])
