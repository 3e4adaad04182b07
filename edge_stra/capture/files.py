"""Videos and folders of pictures: every frame, in order, by their own clock."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_stra.capture.options import MAX_SIDE, CaptureOptions, prepared
from edge_stra.data import PICTURE_SUFFIXES
from edge_stra.live.scene import Frame
from edge_stra.preprocess import read_rgb
from edge_stra.spec import DataError, SourceError

FOLDER_FPS = 0.5  # pictures that have nothing to do with each other: further apart than a track lives
UNKNOWN_FPS = 25.0
MAX_FPS = 1000.0  # some containers name their clock's rate instead
MAX_LATE_S = 0.2  # a reader that is later than this plays on from where it is

Wanted = Callable[[int], bool]


class Reel(Protocol):
    """A finite row of pictures that can be played again. fps: above 0. total: None where nobody knows."""

    fps: float
    total: int | None

    def pictures(self, wanted: Wanted) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Number and picture, uint8 [H, W, 3] in BGR, of the frames that `wanted` takes. Raises SourceError."""
        ...

    def name(self, index: int) -> str:
        """The file's name of a picture; empty for a video's frame."""
        ...


class VideoReel:
    """A video file. Raises SourceError where it has no frame that can be decoded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
        try:
            if not capture.isOpened() or not capture.grab():
                raise SourceError(f"{path} must be a video that OpenCV can decode, but is not; convert it with ffmpeg")
            width, height = capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
            if max(width, height) > MAX_SIDE:
                raise SourceError(f"{path} must have at most {MAX_SIDE} pixels a side, but has {width:g}x{height:g}")
            fps, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        finally:
            capture.release()
        self.fps = fps if math.isfinite(fps) and 0 < fps <= MAX_FPS else UNKNOWN_FPS
        self.total = int(count) if math.isfinite(count) and 0 < count < 2**31 else None

    def pictures(self, wanted: Wanted) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        capture = cv2.VideoCapture(str(self.path.absolute()), cv2.CAP_FFMPEG)
        index = 0
        try:
            while capture.grab():  # a container may announce more frames than it has: the last one that comes counts
                if wanted(index):
                    good, bgr_u8 = capture.retrieve()
                    if not good:
                        break
                    yield index, bgr_u8  # type: ignore[misc]
                index += 1
        finally:
            capture.release()
        if index == 0:
            raise SourceError(f"{self.path} could be read before, but not any more; look whether it is still there")

    def name(self, index: int) -> str:
        return ""


class FolderReel:
    """The pictures of a folder by name, of any sizes; other files are left alone. Raises SourceError for none."""

    def __init__(self, path: Path, fps: float = FOLDER_FPS) -> None:
        self.fps = fps
        try:
            shown = (p for p in path.iterdir() if not p.name.startswith("."))
            names = sorted(p for p in shown if p.suffix.lower() in PICTURE_SUFFIXES)
        except OSError as error:
            raise SourceError(f"{path} must be a folder of pictures, but: {error.strerror or error}") from error
        self.paths = [name for name in names if name.is_file()]
        self.total: int | None = len(self.paths)
        if not self.paths:
            kinds = ", ".join(sorted(PICTURE_SUFFIXES))
            raise SourceError(f"{path} must hold pictures ({kinds}), but holds none; name another folder")

    def pictures(self, wanted: Wanted) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        for index, path in enumerate(self.paths):
            if wanted(index):
                try:
                    yield index, read_rgb(path)[:, :, ::-1]
                except (DataError, OSError) as error:
                    raise SourceError(f"{error}; take it out of the folder") from error

    def name(self, index: int) -> str:
        return self.paths[index].name


class FileSource:
    """Every frame of a reel, or as many as come near `options.fps` a second; again and again where it loops."""

    live = False

    def __init__(self, label: str, reel: Reel, options: CaptureOptions) -> None:
        self.label, self._reel, self._options = label, reel, options
        rate = min(1.0, options.fps / reel.fps) if options.fps else 1.0
        self._rate = rate
        self.fps: float | None = reel.fps * rate
        self.total = None if options.loop or reel.total is None else math.ceil(reel.total * rate)
        self._stop, self._frames = threading.Event(), 0

    def frames(self) -> Iterator[Frame]:
        base = 0  # frames of the rounds before
        while not self._stop.is_set():
            last = -1
            for last, bgr_u8 in self._reel.pictures(self._wanted):
                if self._stop.is_set():
                    return
                self._frames += 1
                picture = prepared(bgr_u8, self._options)
                time_s, name = (base + last) / self._reel.fps, self._reel.name(last)
                yield Frame(picture, base + last, time_s, time.monotonic(), name)
            if not self._options.loop:
                return
            base += max(last + 1, self._reel.total or 0)

    def _wanted(self, index: int) -> bool:
        return index == 0 or math.floor(index * self._rate) > math.floor((index - 1) * self._rate)

    def statistics(self) -> Mapping[str, int]:
        return {"frames": self._frames, "dropped": 0, "reconnects": 0}

    def close(self) -> None:
        self._stop.set()


class ReelGrabber:
    """Plays a reel at its own rate, as a camera would; `read` sleeps until the next frame is due."""

    def __init__(self, reel: Reel, loop: bool) -> None:
        self.fps: float | None = reel.fps
        self._reel, self._loop, self._period_s = reel, loop, 1 / reel.fps
        self._pictures = reel.pictures(lambda _: True)
        self._due_s: float | None = None

    def read(self) -> NDArray[np.uint8] | None:
        found = next(self._pictures, None)
        if found is None and self._loop:
            self._pictures = self._reel.pictures(lambda _: True)
            found = next(self._pictures, None)
        if found is None:
            return None
        now_s = time.monotonic()
        due_s = now_s if self._due_s is None else max(self._due_s, now_s - MAX_LATE_S)
        time.sleep(max(0.0, due_s - now_s))
        self._due_s = due_s + self._period_s
        return found[1]

    def close(self) -> None:
        pass  # the reel closes its file when its generator goes
