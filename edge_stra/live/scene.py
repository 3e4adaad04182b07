"""The values that flow through a live app, from a camera to whatever shows or keeps the result.

    Source --Frame--> View (detect, predict, track, draw) --Scene--> Output, Output, ...
                                  ^
                              Controls, which a web page or a signal may change meanwhile

Imports nothing heavier than numpy.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_stra.spec import DataError


@dataclass(frozen=True)
class Frame:
    """One picture of a source.

    rgb_u8: uint8 [H, W, 3]. index: its number in the source, from 0; frames that a live source dropped are counted.
    time_s: seconds since the source began, never running backwards: by the file's own frame rate, or by the clock for
    live sources. taken_s: `time.monotonic()` when it came, from which lag is measured. name: of its file in a folder.
    """

    rgb_u8: NDArray[np.uint8]
    index: int
    time_s: float
    taken_s: float
    name: str = ""


class Source(Protocol):
    """Where frames come from. `frames` ends with a file's last frame, or after `close` from any thread."""

    label: str  # what the user named, without a password
    live: bool  # a camera or stream: only the newest frame counts
    fps: float | None  # as the source says it; None where it does not
    total: int | None  # frames, where that is known

    def frames(self) -> Iterator[Frame]: ...

    def statistics(self) -> Mapping[str, int]:
        """Counters: `frames` handed out, `dropped`, `reconnects`."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Scene:
    """What an app made of one frame; all that an output gets to see.

    picture_u8: uint8 [H, W, 3], annotated, and blurred where privacy asks for it. rows: one JSON-ready mapping for
    each face or person. stages_ms: what each stage took, by its name, in milliseconds. lag_ms: from the frame's coming
    to this scene. at: of a live source, the machine's time of day when the frame came, in UTC; time_s begins anew with
    each run, so that it alone would not say when something was.
    """

    source: str
    index: int
    time_s: float
    picture_u8: NDArray[np.uint8]
    rows: Sequence[Mapping[str, Any]]
    stages_ms: Mapping[str, float]
    lag_ms: float
    at: datetime | None = None

    def place(self) -> dict[str, Any]:
        """Where and when, JSON-ready."""
        place = {"source": self.source, "frame": self.index, "time_s": round(self.time_s, 3)}
        return place | ({"at": f"{self.at:%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"} if self.at else {})

    def to_json(self) -> dict[str, Any]:
        """One event, without the picture."""
        return {
            **self.place(),
            "rows": [dict(row) for row in self.rows],
            "stages_ms": {name: round(ms, 2) for name, ms in self.stages_ms.items()},
            "lag_ms": round(self.lag_ms, 1),
        }


@dataclass(frozen=True)
class Look:
    """What a view made of one frame; the fields are those of `Scene`."""

    picture_u8: NDArray[np.uint8]
    rows: Sequence[Mapping[str, Any]]
    stages_ms: Mapping[str, float]


class View(Protocol):
    """One app's eyes: from a frame and the settings of `Controls.snapshot` to what is shown and told of it.

    Called by one thread, frame after frame; it remembers tracks between them.
    """

    def look(self, frame: Frame, settings: Mapping[str, Any]) -> Look: ...


class Stopwatch:
    """How long each stage took: `with watch("detect"): ...`; a stage entered twice adds up."""

    def __init__(self) -> None:
        self.stages_ms: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            passed_ms = 1000 * (time.perf_counter() - started)
            self.stages_ms[stage] = self.stages_ms.get(stage, 0.0) + passed_ms


class Output(Protocol):
    """Something that shows or keeps scenes. `write` is called by one thread, in order; `close` once, at the end."""

    def write(self, scene: Scene) -> None: ...

    def close(self) -> None: ...


@dataclass
class Controls:
    """What may be changed while an app runs, by any thread; the app reads a `snapshot` for each frame.

    threshold: least probability that names an expression, or largest distance that names a person, within
    `threshold_range`. attention is None where the model carries no mode attention to show. notice: why the app changed
    one of them by itself, for whoever watches. `stop` ends the app.
    """

    threshold: float
    threshold_range: tuple[float, float] = (0.0, 1.0)
    model: str = ""
    models: Sequence[str] = ()
    recording: bool = False
    privacy: bool = False
    attention: bool | None = None
    notice: str = ""
    changes: int = 0  # by `change`, so that of two snapshots on two ways the newer one is known
    stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def snapshot(self) -> dict[str, Any]:
        """All settings at one moment, JSON-ready."""
        with self._lock:
            return {
                "threshold": self.threshold,
                "threshold_range": list(self.threshold_range),
                "model": self.model,
                "models": list(self.models),
                "recording": self.recording,
                "privacy": self.privacy,
                "attention": self.attention,
                "notice": self.notice,
                "changes": self.changes,
            }

    def change(self, settings: Mapping[str, Any]) -> None:
        """Changes all the named settings, or none. Raises DataError for an unknown name or a value out of range."""
        for name, value in settings.items():
            self._check(name, value)
        with self._lock:
            for name, value in settings.items():
                setattr(self, name, float(value) if name == "threshold" else value)
            self.changes += 1

    def _check(self, name: str, value: Any) -> None:
        low, high = self.threshold_range
        if name == "threshold":
            # Compared, not converted: JSON may bring an integer beyond any float. NaN fails both comparisons.
            fits, wanted = type(value) in (int, float) and low <= value <= high, f"a number from {low:g} to {high:g}"
        elif name == "model":
            fits, wanted = value in self.models, f"one of {', '.join(self.models)}"
        elif name in ("recording", "privacy") or (name == "attention" and self.attention is not None):
            fits, wanted = isinstance(value, bool), "true or false"
        else:
            raise DataError(f"{name!r} can't be changed here; threshold, model, recording, privacy and attention can")
        if not fits:
            raise DataError(f"{name} must be {wanted}, but is {repr(value)[:40]}")
