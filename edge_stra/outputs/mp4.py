"""Annotated video that stays playable however it ends.

FFmpeg's ordinary MP4 writer puts the index at the end: a killed process or a cut of power leaves a file that no player
opens, and OpenCV passes it no option against that. Its .ismv writer makes the same container in fragments, each with
an index of its own, so the file is written as .ismv and has its final name, .mp4, from the first frame on. A kill costs
what FFmpeg holds back, 256 KiB or one to three seconds of 640x480; a cut of power also what the system holds back.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_stra.artifact import check_output
from edge_stra.live.scene import Scene
from edge_stra.spec import DataError, OutputError

RESERVE_BYTES = 16 << 20  # free space that a recording leaves: for its last fragment, the logs and the system
MAX_FPS = 120.0
MAX_GAP_S = 5.0  # a longer pause, as of a camera that dropped, is cut to this: repeating frames costs time
STALLED_FRAMES = 20000  # a file that did not grow meanwhile can't (4 GiB on FAT, a quota): FFmpeg holds back 256 KiB


class Mp4Output:
    """Records the annotated pictures at real speed: each is repeated, or left out, until the recording's clock fits.

    path: refused where it exists, unless `overwrite`. fps: of the recording, above 0 to 120. reserve_bytes: the disk's
    free space below which recording stops. The first picture's size is the recording's; others are fitted into it.
    Nothing is written before the first scene. Raises OutputError where the place can't be written, DataError for fps.
    """

    def __init__(self, path: Path, fps: float, overwrite: bool = False, reserve_bytes: int = RESERVE_BYTES) -> None:
        if not (math.isfinite(fps) and 0 < fps <= MAX_FPS):
            raise DataError(f"a recording's fps must be above 0 and at most {MAX_FPS:g}, but is {fps}")
        if path.suffix.lower() != ".mp4":
            raise OutputError(f"a recording must be named .mp4, but is {path.name}; correct the name")
        check_output(path, overwrite)
        if path.is_symlink() and not path.exists():
            raise OutputError(f"{path} is a link to what is not there; remove it, or name another file")
        # FFmpeg's MPEG-4 encoder takes no finer clock than 1/65535 s
        self.path, self.fps, self.reserve_bytes = path, max(0.01, round(fps, 2)), reserve_bytes
        self.overwrite = overwrite
        self._writer: cv2.VideoWriter | None = None
        self._last: NDArray[np.uint8] | None = None  # BGR, due until the next one comes
        self._size_wh = (0, 0)
        self._began_s = 0.0
        self._written, self._stalled, self._bytes = 0, 0, 0

    def write(self, scene: Scene) -> None:
        """Adds a scene. Raises OutputError where the disk is nearly full; what was written stays playable."""
        self._check_space()
        if self._writer is None:
            self._open(scene)
        place = (scene.time_s - self._began_s) * self.fps
        limit = self._written + max(1, round(MAX_GAP_S * self.fps))
        if place > limit:
            self._began_s += (place - limit) / self.fps
            place = limit
        self._fill(math.floor(place + 0.5))
        self._last = fitted(cv2.cvtColor(scene.picture_u8, cv2.COLOR_RGB2BGR), self._size_wh)  # type: ignore[arg-type]

    def _open(self, scene: Scene) -> None:
        height, width = scene.picture_u8.shape[:2]
        self._size_wh = (width + width % 2, height + height % 2)  # the encoder takes even sides only
        self._began_s = scene.time_s
        try:
            handle, name = tempfile.mkstemp(prefix=".", suffix=".ismv", dir=self.path.parent)
            os.close(handle)
        except OSError as error:
            raise OutputError(f"{self.path} can't be written: {error.strerror or error}") from error
        temporary = Path(name)
        try:
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            writer = cv2.VideoWriter(name, cv2.CAP_FFMPEG, codec, self.fps, self._size_wh)
            if not writer.isOpened():
                size = f"{self._size_wh[0]}x{self._size_wh[1]}"
                raise OutputError(
                    f"OpenCV {cv2.__version__} must write MPEG-4 of {size}, but can't; install opencv-python-headless"
                )
            self._take_place(temporary)  # the writer goes on writing to the same file
        except OSError as error:
            raise OutputError(f"{self.path} can't be written: {error.strerror or error}") from error
        finally:
            temporary.unlink(missing_ok=True)
        self._writer = writer

    def _take_place(self, temporary: Path) -> None:
        """Gives the file its name; never that of a recording which another process began since this one looked."""
        if not self.overwrite:
            try:
                os.link(temporary, self.path)
                return
            except FileExistsError as error:
                raise OutputError(f"{self.path} was made by another process meanwhile; name another file") from error
            except OSError:  # a file system without links, as on many sticks
                check_output(self.path, overwrite=False)
        temporary.replace(self.path)

    def _fill(self, until: int) -> None:
        """Repeats the last picture up to a frame's number."""
        if self._writer is None or self._last is None:
            return
        while self._written < until:
            self._writer.write(self._last)
            self._written += 1
            self._stalled += 1

    def _check_space(self) -> None:
        try:
            free = shutil.disk_usage(self.path.parent).free
            grown = self.path.stat().st_size if self._writer is not None else 0
        except OSError as error:
            raise OutputError(f"{self.path} can't be written any more: {error.strerror or error}") from error
        if free < self.reserve_bytes:
            raise OutputError(
                f"{self.path} needs {self.reserve_bytes / 2**20:g} MiB of free space, but {free / 2**20:.1f} MiB are "
                f"left; recording stopped, its {self._written / self.fps:.0f} s can be played"
            )
        if grown != self._bytes:
            self._bytes, self._stalled = grown, 0
        elif self._stalled > STALLED_FRAMES:
            raise OutputError(
                f"{self.path} does not grow beyond {grown / 2**20:.0f} MiB; recording stopped, look at the quota or at "
                "the file system's largest file"
            )

    def close(self) -> None:
        """Ends the recording with its last picture; without any scene there is no file."""
        if self._writer is not None:
            self._fill(self._written + 1)
            self._writer.release()
        self._writer = self._last = None


def fitted(bgr_u8: NDArray[np.uint8], size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture of another size scaled into `size_wh`, its aspect kept, with black bars where it does not fill it."""
    height, width = bgr_u8.shape[:2]
    if (width, height) == size_wh:
        return bgr_u8
    if (width + width % 2, height + height % 2) == size_wh:  # an odd side: its last column or row once more
        padded = cv2.copyMakeBorder(bgr_u8, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        return padded  # type: ignore[return-value]
    scale = min(size_wh[0] / width, size_wh[1] / height)
    small_w, small_h = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(bgr_u8, (small_w, small_h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    canvas = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    top, left = (size_wh[1] - small_h) // 2, (size_wh[0] - small_w) // 2
    canvas[top : top + small_h, left : left + small_w] = small
    return canvas
