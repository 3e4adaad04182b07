"""How fast an app runs: rates and latencies of its last seconds, for any thread."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_stra.live.scene import Scene
from edge_stra.live.summary import quantiles

WINDOW_S = 5.0


@dataclass(frozen=True)
class Moment:
    """What is remembered of a scene; its picture is not, as five seconds of pictures are hundreds of MB."""

    at_s: float
    stages_ms: Mapping[str, float]
    lag_ms: float


class Rates:
    """Counts scenes, and tells of those of the last WINDOW_S. Times are `time.monotonic()`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._moments: deque[Moment] = deque()
        self._frames = 0
        self._began_s = time.monotonic()
        self._first_s: float | None = None
        self._recording_since_s: float | None = None
        self._source: str | None = None

    def add(self, scene: Scene, recording: bool) -> None:
        now_s = time.monotonic()
        with self._lock:
            self._frames += 1
            self._source = scene.source
            self._first_s = self._first_s or now_s
            self._recording_since_s = (self._recording_since_s or now_s) if recording else None
            self._moments.append(Moment(now_s, scene.stages_ms, scene.lag_ms))
            while self._moments[0].at_s < now_s - WINDOW_S:
                self._moments.popleft()

    def summary(self) -> dict[str, Any]:
        """Rates and latencies, JSON-ready; `lag_ms` is None where no scene came lately."""
        now_s = time.monotonic()
        with self._lock:
            recent = [moment for moment in self._moments if moment.at_s >= now_s - WINDOW_S]
            source, frames, first_s, since_s = self._source, self._frames, self._first_s, self._recording_since_s
        watched_s = min(WINDOW_S, now_s - first_s) if first_s is not None else WINDOW_S
        names = dict.fromkeys(name for moment in recent for name in moment.stages_ms)
        stages = {name: [m.stages_ms[name] for m in recent if name in m.stages_ms] for name in names}
        return {
            "source": source,
            "fps": round(max(len(recent) - 1, 0) / watched_s, 1) if watched_s > 0 else 0.0,
            "stages_ms": {name: quantiles(values) for name, values in stages.items()},
            "lag_ms": quantiles([moment.lag_ms for moment in recent]) if recent else None,
            "frames": frames,
            "uptime_s": round(now_s - self._began_s, 1),
            "recording_s": round(now_s - since_s, 1) if since_s is not None else None,
        }
