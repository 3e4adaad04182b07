"""A video of faces that move, made from photographs: what the expression app is tried on where there is no camera.

    python benchmarks/face_video.py out.mp4 PHOTO1 PHOTO2 --seconds 20

Each photograph in turn is shown through a window that wanders and breathes, 640x480 at 15 frames a second.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_stra.preprocess import read_rgb

SIZE_WH, FPS = (640, 480), 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("photographs", type=Path, nargs="+")
    parser.add_argument("--seconds", type=float, default=20.0)
    args = parser.parse_args()
    count = write_video(args.out, args.photographs, args.seconds)
    print(f"{args.out}: {count} frames of {SIZE_WH[0]}x{SIZE_WH[1]} at {FPS} a second")


def write_video(out: Path, photographs: Sequence[Path], seconds: float) -> int:
    """Writes the video; returns the number of its frames."""
    writer = cv2.VideoWriter(str(out), cv2.VideoWriter.fourcc(*"mp4v"), FPS, SIZE_WH)
    if not writer.isOpened():
        raise SystemExit(f"Error: {out} can't be written: the folder must be there, and the name end in .mp4")
    count = 0
    for picture in wander([read_rgb(path) for path in photographs], round(seconds * FPS)):
        writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        count += 1
    writer.release()
    return count


def wander(photographs: Sequence[NDArray[np.uint8]], frames: int) -> Iterator[NDArray[np.uint8]]:
    """Frames [480, 640, 3], the photographs one after another, each for an equal part."""
    part = math.ceil(frames / len(photographs))
    for index in range(frames):
        yield window(photographs[index // part], 2 * math.pi * (index % part) / part)


def window(picture: NDArray[np.uint8], phase: float) -> NDArray[np.uint8]:
    """The picture seen through a window that covers 80 to 95 % of it and goes round once in a phase of 2 pi."""
    height, width = picture.shape[:2]
    scale = max(SIZE_WH[0] / width, SIZE_WH[1] / height) / (0.875 + 0.075 * math.cos(phase))
    free = np.array([width * scale - SIZE_WH[0], height * scale - SIZE_WH[1]])
    offset = free * (0.5 + 0.5 * np.array([math.cos(phase), math.sin(2 * phase)]))
    matrix = np.array([[scale, 0, -offset[0]], [0, scale, -offset[1]]])
    result: NDArray[np.uint8] = np.asarray(cv2.warpAffine(picture, matrix, SIZE_WH, borderMode=cv2.BORDER_REPLICATE))
    return result


if __name__ == "__main__":
    main()
