"""What the expression app costs: seconds from its start to the first prediction, and its memory.

    python benchmarks/app_cost.py --video faces.mp4 [--yunet yunet_n_320_320.onnx]

Each row is a process of its own on the same video, timed from outside: from exec to the first line of its log.
Memory is Linux's VmHWM, the most that was ever resident. Medians of three runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2

RUNS = 3
ROWS = {
    "log": [],
    "log and MP4": ["--mp4", "out.mp4"],
    "log, MP4 and page": ["--mp4", "out.mp4", "--web", "--port", "0"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--yunet", type=Path)
    args = parser.parse_args()
    detector = ["--yunet", str(args.yunet.resolve())] if args.yunet else ["--detector", "haar"]
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, OpenCV {cv2.__version__}")
    print(f"{'app with':<20} {'first prediction, s':>20} {'most memory, MB':>16} {'frames a second':>16}")
    for name, options in ROWS.items():
        runs = [run_app(args.video.resolve(), [*detector, *options]) for _ in range(RUNS)]
        first, memory, fps = (statistics.median(values) for values in zip(*runs, strict=True))
        print(f"{name:<20} {first:>20.2f} {memory:>16.0f} {fps:>16.1f}")


def run_app(video: Path, options: list[str]) -> tuple[float, float, float]:
    """One run to the video's end: seconds to the first line, megabytes, frames a second."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "edge_stra", "demo", "fer", str(video), "--jsonl", "-", "--json", *options]
        began, memory = time.monotonic(), 0.0
        app = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert app.stdout is not None and app.stderr is not None
        app.stdout.readline()
        first = time.monotonic() - began
        for _ in app.stdout:
            memory = max(memory, peak_mb(app.pid))
        told = app.stderr.read()
        if app.wait():
            raise SystemExit(told)
    return first, memory, json.loads(told[told.index("\n{") :])["fps"]


def peak_mb(process: int) -> float:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:  # ended meanwhile
        return 0.0
    return max((float(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")), default=0.0)


if __name__ == "__main__":
    main()
