"""The expression app on a stream that keeps dropping, for minutes: does memory grow, does it fall behind, does it end?

    python benchmarks/soak.py --video faces.mp4 --seconds 600

A loopback server sends the video over and over as MJPEG, and breaks the connection every 20 seconds. The app records
an MP4 and a log; at the end it gets SIGTERM. Printed: resident memory early and late, lag early and late, reconnects,
and whether recording and log are whole.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np

WARM_S = 60.0  # memory and lag are compared from here on: before, caches fill


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--drop", type=float, default=20.0, help="seconds after which the server hangs up")
    parser.add_argument("--fps", type=float, default=15.0)
    parser.add_argument("options", nargs="*", help="more options of `edge-stra demo fer`, after --")
    args = parser.parse_args()
    jpegs = read_jpegs(args.video)
    server = serve(jpegs, args.fps, args.drop)
    with tempfile.TemporaryDirectory() as folder:
        address = f"http://127.0.0.1:{server.server_address[1]}/faces.mjpg"
        report = soak(address, args.seconds, Path(folder), args.options)
    server.shutdown()
    print(f"{platform.machine()}, Python {platform.python_version()}, OpenCV {cv2.__version__}")
    print(json.dumps(report, indent=1))


def read_jpegs(path: Path) -> list[bytes]:
    """The frames of a video as JPEG files."""
    video, jpegs = cv2.VideoCapture(str(path)), []
    while True:
        there, frame = video.read()
        if not there:
            return jpegs
        jpegs.append(cv2.imencode(".jpg", frame)[1].tobytes())


def serve(jpegs: Sequence[bytes], fps: float, drop_s: float) -> ThreadingHTTPServer:
    """A server in a thread of its own, on a free port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            began = time.monotonic()
            while (passed := time.monotonic() - began) < drop_s:
                jpeg = jpegs[int(passed * fps) % len(jpegs)]
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                try:
                    self.wfile.write(head.encode() + jpeg + b"\r\n")
                except OSError:  # the app has gone
                    return
                time.sleep(1 / fps)

        def log_message(self, format: str, *values: object) -> None:
            """Nothing: the report is what counts."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def soak(address: str, seconds: float, folder: Path, options: Sequence[str]) -> dict[str, object]:
    """Runs the app and watches it from outside."""
    mp4, log = folder / "soak.mp4", folder / "soak.jsonl"
    command = [sys.executable, "-m", "edge_stra", "demo", "fer", address, "--mp4", str(mp4), "--jsonl", str(log)]
    app = subprocess.Popen([*command, "--json", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    began, memory = time.monotonic(), []
    while (passed := time.monotonic() - began) < seconds and app.poll() is None:
        memory.append((passed, resident_mb(app.pid)))
        time.sleep(1.0)
    asked = time.monotonic()
    app.send_signal(signal.SIGTERM)
    summary, said = app.communicate(timeout=60)
    told = json.loads(summary) if app.returncode == 0 else {"said": said[-500:]}
    return {
        "seconds": round(asked - began),
        "exit": app.returncode,
        "seconds_to_stop": round(time.monotonic() - asked, 2),
        "rss_mb": early_and_late(memory),
        **read_log(log),
        "mp4_frames": count_frames(mp4),
        "summary": told,
    }


def resident_mb(process: int) -> float:
    """What /proc calls VmRSS, in MB; NaN once the process has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return float("nan")
    values = [line.split()[1] for line in lines if line.startswith("VmRSS")]
    return float(values[0]) * 1024 / 1e6 if values else float("nan")


def early_and_late(timed: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Medians of the minute after the warm-up and of the last minute, and the change in percent."""
    end = timed[-1][0]
    early = float(np.nanmedian([v for t, v in timed if WARM_S <= t < 2 * WARM_S] or [np.nan]))
    late = float(np.nanmedian([v for t, v in timed if t >= end - WARM_S]))
    return {"early": round(early, 1), "late": round(late, 1), "change_percent": round(100 * (late / early - 1), 2)}


def read_log(path: Path) -> dict[str, object]:
    """Lag early and late from the app's own log, and how many frames it names."""
    events = [json.loads(line) for line in path.read_text().splitlines()]
    lags = [(event["time_s"], event["lag_ms"]) for event in events]
    return {"logged_frames": len(events), "lag_ms": early_and_late(lags)}


def count_frames(path: Path) -> int:
    video, count = cv2.VideoCapture(str(path)), 0
    while video.grab():
        count += 1
    return count


if __name__ == "__main__":
    main()
