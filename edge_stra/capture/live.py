"""Cameras and streams: a thread reads, only the newest frame is kept, and what drops is opened again."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_stra.capture.options import CaptureOptions, prepared
from edge_stra.live.scene import Frame
from edge_stra.spec import SourceError

BACK_OFF_S, MAX_BACK_OFF_S = 0.5, 10.0
JOIN_S = 0.8  # a reading that hangs longer is left to its thread, which ends by the reader's own time limit


class Grabber(Protocol):
    """An open camera or stream. One thread uses it."""

    fps: float | None

    def read(self) -> NDArray[np.uint8] | None:
        """The next picture, uint8 [H, W, 3] in BGR; None where the source dropped."""
        ...

    def close(self) -> None: ...


Connect = Callable[[], Grabber]


class LiveSource:
    """The newest frame of a source, as often as its reader asks; dropped frames are counted, never queued.

    connect opens the source, again after each drop: after 0.5 s at first, after twice as long each time, 10 s at most.
    plays_once: the end of what is read is no drop but the end. Raises SourceError where the first opening fails or
    gives no picture.
    """

    live = True
    total: int | None = None

    def __init__(self, label: str, connect: Connect, options: CaptureOptions, plays_once: bool = False) -> None:
        self.label, self._connect, self._options, self._plays_once = label, connect, options, plays_once
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._newest: tuple[NDArray[np.uint8], int, float] | None = None
        self._next_index, self._watched, self._ended = 0, False, False
        self._counts = {"frames": 0, "dropped": 0, "reconnects": 0}
        self._error: BaseException | None = None
        grabber = self._open()
        self.fps = grabber.fps
        self._thread = threading.Thread(target=self._run, args=(grabber,), daemon=True, name=f"capture {label}")
        if not plays_once:  # a camera's frames grow old while a model loads; those of a file wait
            self._thread.start()

    def _open(self) -> Grabber:
        """An open source whose first picture is kept already. Raises SourceError."""
        grabber = self._connect()
        picture = grabber.read()
        if picture is None:
            grabber.close()
            raise SourceError(f"{self.label} must give pictures, but was opened and gave none; look at what sends them")
        self._keep(picture)
        return grabber

    def _run(self, grabber: Grabber | None) -> None:
        try:
            while grabber is not None and not self._stop.is_set():
                picture = grabber.read()
                if picture is not None:
                    self._keep(picture)
                    continue
                grabber.close()
                grabber = None if self._plays_once else self._reconnected()
        except BaseException as error:  # handed over: `frames` raises it in the reader's thread
            self._error = error
        finally:
            if grabber is not None:
                grabber.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _reconnected(self) -> Grabber | None:
        """The source opened again, whenever that is, or None after `close`."""
        tell = self._options.tell or (lambda line: None)
        tell(f"{self.label} dropped; trying again")
        delay_s, lost_s = BACK_OFF_S, time.monotonic()
        while not self._stop.wait(delay_s):
            with contextlib.suppress(SourceError):  # still away
                grabber = self._open()
                self._counts["reconnects"] += 1
                tell(f"{self.label} is back after {time.monotonic() - lost_s:.1f} s")
                return grabber
            delay_s = min(2 * delay_s, MAX_BACK_OFF_S)
        return None

    def _keep(self, picture: NDArray[np.uint8]) -> None:
        with self._changed:
            if self._newest is not None and self._watched:
                self._counts["dropped"] += 1
            self._newest = (picture, self._next_index, time.monotonic())
            self._next_index += self._watched  # what came before anybody looked is nobody's loss
            self._changed.notify_all()

    def frames(self) -> Iterator[Frame]:
        began_s = due_s = math.nan
        period_s = 1 / self._options.fps if self._options.fps else 0.0
        self._watch()
        while (newest := self._wait()) is not None:
            picture, index, taken_s = newest
            if math.isnan(began_s):
                began_s, due_s = taken_s, time.monotonic()
            due_s = max(due_s, time.monotonic() - period_s) + period_s
            yield Frame(prepared(picture, self._options), index, taken_s - began_s, taken_s)
            if self._stop.wait(max(0.0, due_s - time.monotonic())):
                return
        if self._error is not None and not self._stop.is_set():
            raise self._error

    def _watch(self) -> None:
        with self._changed:
            if not self._watched and self._newest is not None:
                self._next_index += 1
                if self._plays_once:  # the clock starts now, not when the file was opened
                    self._newest = (*self._newest[:2], time.monotonic())
            self._watched = True
        if self._plays_once and not self._thread.is_alive() and not self._ended:
            self._thread.start()

    def _wait(self) -> tuple[NDArray[np.uint8], int, float] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._ended or self._stop.is_set())
            newest, self._newest = self._newest, None
            if newest is None or self._stop.is_set():
                return None
            self._counts["frames"] += 1
            return newest

    def statistics(self) -> Mapping[str, int]:
        with self._changed:
            return dict(self._counts)

    def close(self) -> None:
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(JOIN_S)
