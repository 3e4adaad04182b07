"""From what a user names to an open source."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import cv2

from edge_stra.capture.cameras import PORTS, open_camera, open_picamera, open_stream
from edge_stra.capture.files import FOLDER_FPS, FileSource, FolderReel, Reel, ReelGrabber, VideoReel
from edge_stra.capture.live import LiveSource
from edge_stra.capture.options import CaptureOptions
from edge_stra.live.scene import Source
from edge_stra.quiet import without_pairs, without_secret
from edge_stra.spec import SourceError

PICAMERA = "picamera2"
# FFmpeg's own lines repeat whole URLs, passwords too. OpenCV reads this once, at the first video of the process.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def open_source(source: str, options: CaptureOptions | None = None) -> Source:
    """What a user names as a source of frames, opened.

    source: a camera's number ("0") or device file, "picamera2", a video file, a folder of pictures (by name), or a
    URL: rtsp, rtsps, http, https (MJPEG or what else FFmpeg reads). Raises SourceError where it can't be opened or
    read, MissingError where picamera2 is not installed.
    """
    options = options or CaptureOptions()
    hush()
    if "://" in source:
        parts = checked_url(source)
        label = url_label(parts)
        return LiveSource(label, partial(open_stream, source, parts, label, options), options)
    if source == PICAMERA:
        return LiveSource(PICAMERA, partial(open_picamera, options), options)
    if (source.isascii() and source.isdigit()) or (source.startswith("/dev/v") and sys.platform.startswith("linux")):
        label = f"camera {source}" if source.isdigit() else source
        return LiveSource(label, partial(open_camera, source, options), options)
    reel = open_reel(source, options)
    label = Path(source).name or source
    if options.realtime:
        return LiveSource(label, partial(ReelGrabber, reel, options.loop), options, plays_once=True)
    return FileSource(label, reel, options)


def open_reel(source: str, options: CaptureOptions) -> Reel:
    """A video or a folder of pictures. Raises SourceError where it is neither."""
    path = Path(source)
    try:
        if source and path.is_dir():
            return FolderReel(path, options.fps or FOLDER_FPS)
        if path.is_file():
            return VideoReel(path)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no name of a file"
        raise SourceError(f"{without_secret(source)[:200]!r} can't be opened: {why}") from error
    why = "is neither a file nor a folder" if source and path.exists() else "is not there"
    raise SourceError(
        f"{without_secret(source)!r} must be a camera's number, {PICAMERA}, a video, a folder of pictures or a URL "
        f"({', '.join(PORTS)}), but {why}"
    )


def checked_url(url: str) -> SplitResult:
    """The parts of a URL. Raises SourceError, without what may be a password, where it is none that can be read."""
    scheme = url.split("://", 1)[0].lower()
    try:
        parts = urlsplit(url)
        good = scheme in PORTS and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # its text would repeat the URL
        good = False
    if not good or not url.isprintable() or " " in url:
        raise SourceError(
            f"a URL must be {', '.join(f'{s}://' for s in PORTS)} with a host and a path, but this one of "
            f"{scheme[:20]!r} is not; write special characters of a password as %40 and the like"
        )
    return parts


def url_label(parts: SplitResult) -> str:
    """A URL for people and logs: without user and password, the query, and parts of the path like user=a&password=b.

    Many cameras have them in one of the three.
    """
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{without_pairs(parts.path)}{'?...' if parts.query else ''}"


def hush() -> None:
    """Keeps OpenCV's own lines, which repeat whole URLs, off standard error, unless a user asks for them."""
    if "OPENCV_LOG_LEVEL" not in os.environ:
        where: Any = cv2.utils.logging if hasattr(cv2.utils, "logging") else cv2  # until 4.11 it was at the top
        where.setLogLevel(0)  # LOG_LEVEL_SILENT
