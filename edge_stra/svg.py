"""Small drawings as inline SVG: bars with whiskers, intervals, and runs as dots. Names come escaped already."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, ROW, VALUE_WIDTH = 900, 30, 170  # user units; a drawing scales to its column
STRIP_HEIGHT, STRIP_LEFT = 130, 52
HEADROOM = 1.6  # runs above so many medians are drawn at the upper edge: one interruption would flatten all others
LABEL_CHARACTERS = 7.2  # user units that a character of a label takes, roughly


@dataclass(frozen=True)
class Bar:
    """label: escaped. whisker: from and to, in the bar's unit. style: a class of the page's style sheet."""

    label: str
    value: float
    text: str
    whisker: tuple[float, float] | None
    style: str


def frame(height: float, content: str, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{title}">'
        f"{content}</svg>"
    )


def label(text: str, x: float, y: float, style: str = "", anchor: str = "start") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def path(style: str, data: str) -> str:
    return f'<path class="{style}" d="{data}"/>'


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from low to high, at most about `most`: steps of 1, 2 or 5 times a power of ten."""
    raw = max(high - low, 1e-9) / most
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= raw * 0.999)
    return [step * k for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def label_space(texts: Sequence[str]) -> float:
    """A column for these labels, at most half of a drawing."""
    return min(WIDTH / 2, 14 + LABEL_CHARACTERS * max(len(text) for text in texts))


def bars(items: Sequence[Bar], title: str, label_width: float | None = None) -> str:
    """Horizontal bars from 0, one below the other, with their texts at the right."""
    left = label_width or label_space([item.label for item in items])
    right = WIDTH - VALUE_WIDTH
    top = max(max(item.value for item in items), 1e-9)
    reach = min(max([top, *(item.whisker[1] for item in items if item.whisker)]), 1.5 * top)  # longer whiskers are cut
    scale = (right - left) / reach
    parts = []
    for index, item in enumerate(items):
        y = index * ROW + 5
        parts.append(label(item.label, 0, y + 14))
        parts.append(
            f'<rect class="{item.style}" x="{left:.1f}" y="{y}" width="{max(1, item.value * scale):.1f}" '
            f'height="{ROW - 10}" rx="3"/>'
        )
        if item.whisker:
            low, high = (left + min(v, reach) * scale for v in item.whisker)
            y += (ROW - 10) // 2
            end = f"M{high:.1f} {y - 5}v10" if item.whisker[1] <= reach else "m-6 -5l6 5l-6 5"
            parts.append(path("whisker", f"M{low:.1f} {y - 5}v10m0 -5H{high:.1f}{end}"))
        parts.append(label(item.text, WIDTH, index * ROW + 19, anchor="end"))
    return frame(len(items) * ROW, "".join(parts), title)


def intervals(items: Sequence[tuple[str, float, float, float, str]], title: str) -> str:
    """(label, low, middle, high, text) as spans with a point, on one axis that holds 1."""
    left, right = label_space([item[0] for item in items]), WIDTH - VALUE_WIDTH - 20
    low, high = min(1.0, *(item[1] for item in items)), max(1.0, *(item[3] for item in items))
    margin = 0.06 * max(high - low, 0.02)
    low, high = low - margin, high + margin

    def at(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    bottom = len(items) * ROW
    parts = [path("grid", f"M{at(v):.1f} 0V{bottom}") + axis_label(v, at(v), bottom) for v in ticks(low, high)]
    parts.append(path("one", f"M{at(1):.1f} 0V{bottom}"))
    for index, (name, start, middle, end, text) in enumerate(items):
        y = index * ROW + ROW / 2
        parts.append(label(name, 0, y + 4))
        parts.append(path("span", f"M{at(start):.1f} {y}H{at(end) + 0.01:.2f}"))
        parts.append(f'<circle class="point" cx="{at(middle):.1f}" cy="{y}" r="5"/>')
        parts.append(label(text, WIDTH, y + 4, anchor="end"))
    return frame(bottom + 20, "".join(parts), title)


def axis_label(value: float, x: float, y: float) -> str:
    return label(f"{value:.6g}", x, y + 15, "q", "middle")


def dots(values: Sequence[float], median: float, title: str) -> tuple[str, int]:
    """Runs in order as dots around their median, and how many lie above the frame (drawn as marks at its edge)."""
    highest = min(max(values), HEADROOM * median)
    low, high = min(values), max(highest, 1.001 * median)
    margin = 0.08 * (high - low)
    low, high = low - margin, high + margin

    def at(value: float) -> float:
        return (high - value) / (high - low) * STRIP_HEIGHT

    step = (WIDTH - STRIP_LEFT) / len(values)
    inside: list[str] = []
    above: list[str] = []
    for index, value in enumerate(values):
        x = STRIP_LEFT + (index + 0.5) * step
        if value <= highest:
            inside.append(f"M{x:.1f} {at(value):.1f}h0.01")
        else:
            above.append(f"M{x - 3:.1f} 5l3 -5l3 5")
    grid = [
        path("grid", f"M{STRIP_LEFT} {at(v):.1f}H{WIDTH}") + label(f"{v:.4g}", STRIP_LEFT - 8, at(v) + 4, "q", "end")
        for v in ticks(low, high, 4)
    ]
    lines = [path("runs", "".join(inside)), path("median", f"M{STRIP_LEFT} {at(median):.1f}H{WIDTH}")]
    marks = [path("cut", "".join(above))] if above else []
    first_last = label("run 1", STRIP_LEFT, STRIP_HEIGHT + 15, "q") + label(
        str(len(values)), WIDTH, STRIP_HEIGHT + 15, "q", "end"
    )
    return frame(STRIP_HEIGHT + 20, "".join([*grid, *lines, *marks, first_last]), title), len(above)
