"""A window that shows the annotated pictures, through tkinter: the headless OpenCV has none."""

from __future__ import annotations

import gc
import os
import sys
import threading
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_stra.live.scene import Scene
from edge_stra.spec import MissingError, OutputError

MARGIN_WH = (40, 120)  # what a desktop keeps of the screen for itself


class WindowOutput:
    """Shows each scene; q, Escape or closing the window sets `stop`.

    The window opens with the first scene, and listens to keys while a scene is shown. `write` and `close` must be
    called by one and the same thread, on macOS by the main one. Raises MissingError without tkinter, OutputError
    without a display.
    """

    def __init__(self, stop: threading.Event, title: str = "edge-stra") -> None:
        try:
            import tkinter
        except ImportError as error:
            raise MissingError("a window needs tkinter; run: sudo apt install python3-tk") from error
        if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
            raise OutputError(
                "a window needs a display, but DISPLAY is not set; run it on a desktop, or take the web page instead"
            )
        self._tk: Any = tkinter
        self._stop, self._title = stop, title
        self._root: Any = None
        self._photo: Any = None
        self._thread: threading.Thread | None = None

    def write(self, scene: Scene) -> None:
        if self._root is None:
            self._open()
        try:
            limit_wh = (self._root.winfo_screenwidth(), self._root.winfo_screenheight())
            self._photo.configure(data=ppm(shrunk(scene.picture_u8, limit_wh)), format="PPM")
            self._root.update()
        except self._tk.TclError as error:  # closed meanwhile, or the display went away
            self._stop.set()
            raise OutputError(f"the window is gone: {error}") from error

    def _open(self) -> None:
        try:
            root = self._tk.Tk()
        except self._tk.TclError as error:
            raise OutputError(f"a window needs a display that can be reached, but: {error}") from error
        root.title(self._title)
        root.resizable(False, False)
        self._photo = self._tk.PhotoImage(master=root)
        self._tk.Label(root, image=self._photo, borderwidth=0).pack()
        for key in ("<q>", "<Q>", "<Escape>"):
            root.bind(key, lambda _: self._stop.set())
        root.protocol("WM_DELETE_WINDOW", self._stop.set)
        root.focus_force()
        self._root, self._thread = root, threading.current_thread()

    def close(self) -> None:
        root, thread = self._root, self._thread
        self._root = self._photo = None
        if root is None or thread is not threading.current_thread():
            return
        try:
            root.destroy()
        except self._tk.TclError:
            return  # the display went away before
        del root
        gc.collect()  # Tcl ends the process where another thread's collection frees what this one made


def shrunk(rgb_u8: NDArray[np.uint8], screen_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture that is too large for the screen, scaled to fit on it."""
    height, width = rgb_u8.shape[:2]
    scale = min(max(1, screen_wh[0] - MARGIN_WH[0]) / width, max(1, screen_wh[1] - MARGIN_WH[1]) / height)
    if scale >= 1:
        return rgb_u8
    size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(rgb_u8, size_wh, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def ppm(rgb_u8: NDArray[np.uint8]) -> bytes:
    """A picture in the one format that every Tk reads without compression."""
    height, width = rgb_u8.shape[:2]
    return b"P6 %d %d 255\n" % (width, height) + rgb_u8.tobytes()
