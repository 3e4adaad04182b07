"""How cameras and streams are opened, and why they can't be."""

from __future__ import annotations

import errno
import glob
import os
import socket
import sys
from typing import Any
from urllib.parse import SplitResult

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_stra.capture.options import CaptureOptions
from edge_stra.spec import MissingError, SourceError

DEVICES = "/dev/video"
RAW_SIDE = 640  # USB cameras send what is wider at a useful rate only as JPEG
PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
PICAMERA_SIZE_WH = (640, 480)


class CvGrabber:
    """A camera or stream that OpenCV reads."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self._capture = capture
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps: float | None = fps if 0 < fps <= 1000 else None

    def read(self) -> NDArray[np.uint8] | None:
        try:
            good, bgr_u8 = self._capture.read()
        except cv2.error:  # a frame that came damaged; the source is opened again
            return None
        return bgr_u8 if good else None  # type: ignore[return-value]

    def close(self) -> None:
        self._capture.release()


def open_camera(device: str, options: CaptureOptions) -> CvGrabber:
    """A camera by its number or device file. Raises SourceError where it is absent, busy or not to be opened."""
    linux = sys.platform.startswith("linux")
    node = DEVICES + device if device.isdigit() else device
    if linux:
        check_node(device, node)
    capture = cv2.VideoCapture(node, cv2.CAP_V4L2) if linux else cv2.VideoCapture(int(device))
    if not capture.isOpened():
        capture.release()
        raise SourceError(
            f"camera {device} must be free and give pictures, but is busy in another program or is no capture device; "
            "close the other program or take another number"
        )
    if options.size_wh is not None:
        if options.size_wh[0] > RAW_SIDE:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, options.size_wh[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, options.size_wh[1])
    if options.fps is not None:
        capture.set(cv2.CAP_PROP_FPS, options.fps)
    return CvGrabber(capture)


def check_node(device: str, node: str) -> None:
    """Raises SourceError where Linux knows already why a camera can't be opened."""
    try:
        os.close(os.open(node, os.O_RDWR | os.O_NONBLOCK))
    except FileNotFoundError:
        there = ", ".join(sorted(glob.glob(f"{DEVICES}[0-9]*"))) or "none at all"
        raise SourceError(f"camera {device} must be at {node}, but is not; plug it in (there is: {there})") from None
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise SourceError(f"camera {device} must be free, but is busy; close the program that uses it") from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise SourceError(
                f"camera {device} must be open to this user, but {node} is not; run: sudo usermod -aG video $USER, "
                "and log in again"
            ) from None
        raise SourceError(f"camera {device} can't be opened: {node}: {error.strerror}") from None


def open_stream(url: str, parts: SplitResult, label: str, options: CaptureOptions) -> CvGrabber:
    """A stream by its URL. Raises SourceError, without the URL's password, where it can't be opened in time."""
    limit_ms = int(1000 * options.timeout_s)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit_ms]
    capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, limits)
    if not capture.isOpened():
        capture.release()
        raise SourceError(f"{label} must be a stream that can be opened, but {refusal(parts, options.timeout_s)}")
    return CvGrabber(capture)


def refusal(parts: SplitResult, timeout_s: float) -> str:
    """Why a stream's server gave nothing, as far as a bare connection tells."""
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    try:
        socket.create_connection((host, port), min(timeout_s, 3.0)).close()
    except (socket.gaierror, UnicodeError):  # the second: a name that no DNS could hold, like a..b
        return f"the name {host} is not known; look for a typing error"
    except OSError as error:
        return f"{host} port {port} does not answer ({error.strerror or error}); look whether it is on"
    return f"{host} answers without a video; look at the path, the user and the password"


class PiGrabber:
    """The camera of a Raspberry Pi through picamera2. Raises SourceError where there is none or it is busy."""

    def __init__(self, camera: Any, options: CaptureOptions) -> None:
        self._camera, self._limit_s = camera, options.timeout_s
        self.fps = options.fps
        # picamera2 names formats from the last byte to the first: this one lies in memory as BGR
        main = {"size": options.size_wh or PICAMERA_SIZE_WH, "format": "RGB888"}
        controls = {"FrameRate": options.fps} if options.fps else {}
        camera.configure(camera.create_video_configuration(main=main, controls=controls))
        camera.start()

    def read(self) -> NDArray[np.uint8] | None:
        from concurrent.futures import TimeoutError as Late  # not the built-in one before Python 3.11

        try:
            picture = self._camera.capture_array("main", wait=False).get_result(timeout=self._limit_s)
        except (Late, TimeoutError, RuntimeError):
            return None
        return np.ascontiguousarray(picture[:, :, :3])

    def close(self) -> None:
        self._camera.close()


def open_picamera(options: CaptureOptions) -> PiGrabber:
    """The Raspberry Pi's own camera. Raises MissingError without picamera2, SourceError without a free camera."""
    try:
        from picamera2 import Picamera2  # type: ignore[import-not-found]
    except ImportError as error:
        raise MissingError(
            "picamera2 comes from Raspberry Pi OS, not from pip; run: sudo apt install python3-picamera2, "
            f"and make the environment with python3 -m venv --system-site-packages ({error})"
        ) from error
    except ValueError as error:  # its compiled parts were made for the system's numpy
        raise MissingError(
            f"picamera2 must fit this numpy {np.__version__}, but does not ({error}); run: {sys.executable} -m pip "
            'install "numpy<2" "opencv-python-headless<4.12"'
        ) from error
    try:
        camera = Picamera2()
    except IndexError as error:
        raise SourceError(
            "picamera2 must find a camera, but finds none; look at the ribbon cable and at: rpicam-hello --list-cameras"
        ) from error
    except RuntimeError as error:
        raise SourceError(
            f"the Raspberry Pi's camera must be free, but can't be opened ({error}); close the program that uses it"
        ) from error
    try:
        return PiGrabber(camera, options)
    except (RuntimeError, ValueError) as error:
        camera.close()
        raise SourceError(f"the Raspberry Pi's camera must take what was asked, but: {error}; try 640x480") from error
