"""The newest scene, handed from the app's thread to the web server's: the app never waits, a slow viewer skips."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2

from edge_stra.live.scene import Controls, Scene
from edge_stra.spec import OutputError
from edge_stra.web.rates import Rates

STATUS_S = 0.5  # a status is computed at most this often, however many watch
JPEG_QUALITY = 80


class Hub:
    """What the server knows of the app. `put` is for the app's thread, all else for the loop."""

    def __init__(self, controls: Controls, loop: asyncio.AbstractEventLoop) -> None:
        self.controls = controls
        self._loop = loop
        self.clients: set[asyncio.Task[Any]] = set()  # streams and sockets that are open
        self.version = 0  # counts the scenes that the loop has seen
        self._lock = threading.Lock()
        self._newest: Scene | None = None  # of the app's thread
        self._scene: Scene | None = None  # of the loop, as it was when `version` was counted
        self._waking = False
        self._waiters: set[asyncio.Future[bool]] = set()
        self._encoder = ThreadPoolExecutor(1, "edge-stra-jpeg")
        self._jpeg: tuple[int, asyncio.Future[bytes]] | None = None
        self._text: tuple[int, str] = (0, "")
        self._rates = Rates()
        self._status: tuple[float, dict[str, Any]] = (float("-inf"), {})

    def put(self, scene: Scene) -> None:
        """Takes a scene in constant time; one that no viewer has seen yet is replaced.

        Raises OutputError where the server's thread is gone.
        """
        self._rates.add(scene, self.controls.recording)
        with self._lock:
            self._newest = scene
            wake, self._waking = not self._waking, True
        if wake:  # at most one call waits in the loop, however far it is behind
            try:
                self._loop.call_soon_threadsafe(self._wake)
            except RuntimeError as error:
                raise OutputError(f"the web page's thread must run, but has ended: {error}; start it again") from error

    def _wake(self) -> None:
        with self._lock:
            self._waking, self._scene = False, self._newest
        self.version += 1
        for waiter in self._waiters:
            settle(waiter, True)

    async def newer(self, seen: int, wait_s: float | None = None) -> bool:
        """Whether there is a scene after version `seen`; waits for one, at most `wait_s`."""
        if self.version != seen:
            return True
        # Not asyncio.wait_for, which may lose a cancellation before Python 3.12
        waiter: asyncio.Future[bool] = self._loop.create_future()
        timer = None if wait_s is None else self._loop.call_later(wait_s, settle, waiter, False)
        self._waiters.add(waiter)
        try:
            return await waiter
        finally:
            self._waiters.discard(waiter)
            if timer is not None:
                timer.cancel()

    async def jpeg(self) -> bytes:
        """The newest picture as JPEG, encoded once for all who ask, beside the loop. There must be a scene."""
        if self._jpeg is None or self._jpeg[0] != self.version:
            assert self._scene is not None
            future = asyncio.get_running_loop().run_in_executor(self._encoder, encode, self._scene)
            self._jpeg = self.version, future
        # shielded: a viewer who leaves must not take the picture from the others
        return await asyncio.shield(self._jpeg[1])

    def text(self) -> str:
        """The newest scene's event as JSON, written once for all who ask. There must be a scene."""
        if self._text[0] != self.version:
            assert self._scene is not None
            self._text = self.version, message("scene", self._scene.to_json())
        return self._text[1]

    def status(self) -> dict[str, Any]:
        """Rates and latencies of the last seconds, JSON-ready."""
        now_s, recording = time.monotonic(), self.controls.recording
        if now_s - self._status[0] > STATUS_S or self._status[1]["recording"] != recording:
            counts = {"clients": len(self.clients), "recording": recording}
            self._status = now_s, {**self._rates.summary(), **counts}
        return self._status[1]

    def close(self) -> None:
        """Ends every open stream and the encoder; on the loop."""
        for task in self.clients:
            task.cancel()
        self._encoder.shutdown(wait=False, cancel_futures=True)


def settle(waiter: asyncio.Future[bool], result: bool) -> None:
    if not waiter.done():
        waiter.set_result(result)


def encode(scene: Scene) -> bytes:
    """A scene's picture as JPEG. Raises OutputError where OpenCV can't."""
    bgr = cv2.cvtColor(scene.picture_u8, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise OutputError(f"a picture must be one that OpenCV can encode, but is {list(scene.picture_u8.shape)}")
    return data.tobytes()


def message(kind: str, content: dict[str, Any]) -> str:
    """What the events' socket sends."""
    return json.dumps({"kind": kind, **content}, allow_nan=False)
