"""What a live app did, told at its end: frames, frames a second, and what each stage took."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

KEPT = 2000  # newest frames whose times are kept: enough for percentiles, and no growth over days


@dataclass
class Summary:
    """Counts of a run in progress; bounded in memory.

    failed: one line for each output that had to be given up.
    """

    frames: int = 0
    rows: int = 0
    failed: list[str] = field(default_factory=list)
    started_s: float = field(default_factory=time.monotonic)
    first_ms: float | None = None  # from the start to the first scene
    _stages: dict[str, deque[float]] = field(default_factory=dict)

    def take(self, stages_ms: Mapping[str, float], lag_ms: float, rows: int) -> None:
        """Counts one scene."""
        if self.first_ms is None:
            self.first_ms = 1000 * (time.monotonic() - self.started_s)
        self.frames += 1
        self.rows += rows
        for name, ms in {**stages_ms, "lag": lag_ms}.items():
            self._stages.setdefault(name, deque(maxlen=KEPT)).append(ms)

    @property
    def fps(self) -> float:
        return self.frames / max(1e-9, time.monotonic() - self.started_s)

    def percentiles(self) -> dict[str, dict[str, float]]:
        """p50 and p90 in milliseconds of each stage, over the newest frames."""
        return {name: quantiles(times) for name, times in self._stages.items()}

    def to_json(self, counters: Mapping[str, int]) -> dict[str, Any]:
        return {
            "frames": self.frames,
            "rows": self.rows,
            "seconds": round(time.monotonic() - self.started_s, 2),
            "fps": round(self.fps, 2),
            "first_ms": None if self.first_ms is None else round(self.first_ms),
            "stages_ms": self.percentiles(),
            "failed": self.failed,
            **counters,
        }

    def text(self, counters: Mapping[str, int]) -> str:
        """A few lines for people."""
        head = f"{self.frames} frames, {self.fps:.1f} frames a second"
        more = [f"{value} {name}" for name, value in counters.items() if value and name != "frames"]
        lines = [", ".join([head, *more])]
        lines += [
            f"  {name:<8} p50 {ms['p50']:8.2f} ms   p90 {ms['p90']:8.2f} ms" for name, ms in self.percentiles().items()
        ]
        return "\n".join(lines)


def quantiles(values: Collection[float]) -> dict[str, float]:
    """The median and the 90th percentile of at least one number."""
    middle, high = np.percentile(list(values), (50, 90))
    return {"p50": round(float(middle), 2), "p90": round(float(high), 2)}
