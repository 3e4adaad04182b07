"""Where the faces are: a detector is a function from a picture to faces, largest first, and nothing more.

YuNet (OpenCV's FaceDetectorYN) where its .onnx is there, else the Haar cascade inside the OpenCV 4.x wheels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_stra.detections import Detect, Detection, RectXywh, check_picture, largest_first
from edge_stra.pull import MODELS, cache_folder, find_pulled, read_pulled
from edge_stra.spec import DataError, MissingError

YUNET = "yunet"  # its name in `edge_stra.pull`
YUNET_SCORE = 0.6  # the lowest confidence that is taken for a face
HAAR_FILE = "haarcascade_frontalface_default.xml"
HAAR_NEIGHBORS = 7  # fewer take a cap badge for a face, more lose small faces
HAAR_COMMAND = 'pip install "opencv-python-headless<5"'
YUNET_LEAST = 64  # up to 32 pixels OpenCV 4.14 reads memory that nothing was written to: boxes of infinite size
MAX_SIDE = 640  # by default, of the longer side: the time of detection does not grow with the camera

# The crop's side is the box's longer side times 1 + FER_MARGIN. Measured on 956 validation pictures of FER2013, all
# seven classes: a FER crop has 0.99 times the longer side of YuNet's box and 1.02 times the side of the cascade's
# (medians), with the box centred in it to 3 %. The model was trained on such crops, so nothing is added.
FER_MARGIN = 0.0


def find_detector(yunet: Path | None = None, kind: str = "auto", max_side: int = MAX_SIDE) -> tuple[str, Detect]:
    """The name of the detector that will be used, "yunet" or "haar", and the detector.

    `kind` is "auto", "yunet" or "haar". YuNet's file is looked for as `yunet`, then in the environment variable
    EDGE_STRA_YUNET, then in the user's cache; "auto" falls to the cascade only where none of them names a file. The
    detector sees at most `max_side` pixels on the longer side: with 320 it takes a quarter of the time and misses
    small faces.
    Raises MissingError where there is no detector, ArtifactError where the file is not YuNet's.
    """
    if kind not in ("auto", "yunet", "haar"):
        raise DataError(f"the detector must be auto, yunet or haar, but is {kind!r}; choose one of the three")
    path = None if kind == "haar" else find_pulled(YUNET, yunet)
    if path is not None:
        return "yunet", yunet_detector(path, max_side)
    if kind == "yunet":
        model = MODELS[YUNET]
        raise MissingError(
            f"YuNet must be given as a path, in {model.variable} or as {cache_folder() / model.file}, but is in none "
            f"of them; run: edge-stra models pull {YUNET}"
        )
    return "haar", haar_detector(max_side)


def yunet_detector(path: Path, max_side: int = MAX_SIDE) -> Detect:
    """YuNet as a detector; it holds an open network and serves one thread. Raises ArtifactError, MissingError."""
    model = np.frombuffer(read_pulled(YUNET, path), np.uint8)
    if not hasattr(cv2, "FaceDetectorYN"):
        raise MissingError(f"YuNet needs OpenCV 4.9 or later, but this is {cv2.__version__}; run: {HAAR_COMMAND}")
    network: Any = cv2.FaceDetectorYN.create("onnx", model, np.empty(0, np.uint8), (max_side, max_side), YUNET_SCORE)

    def detect(rgb_u8: NDArray[np.uint8]) -> list[Detection]:
        small, scale = reduced(rgb_u8, max_side)
        small = at_least(small, YUNET_LEAST)
        network.setInputSize((small.shape[1], small.shape[0]))
        _, rows = network.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        # A row is x, y, w, h, five landmarks of two numbers, score: (15,)
        # Never seen at these sizes, but one box of infinite size would end an app that ran for weeks.
        found = [row for row in ([] if rows is None else rows) if np.isfinite(row).all()]
        return largest_first([Detection(scaled_box(row[:4], scale), float(row[14])) for row in found])

    return detect


def at_least(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The picture with black rows and columns added below and to the right, up to `side` pixels each way."""
    height, width = picture.shape[:2]
    if min(height, width) >= side:
        return picture
    rows, columns = max(0, side - height), max(0, side - width)
    return cv2.copyMakeBorder(picture, 0, rows, 0, columns, cv2.BORDER_CONSTANT)  # type: ignore[return-value]


def haar_detector(max_side: int = MAX_SIDE) -> Detect:
    """The frontal-face cascade of the OpenCV 4.x wheels as a detector. Raises MissingError where the wheel has none."""
    path = haar_path()
    if path is None:
        raise MissingError(
            f"a face detector needs YuNet or OpenCV's {HAAR_FILE}, but OpenCV {cv2.__version__} "
            f"ships no cascade; run: {HAAR_COMMAND}"
        )
    cascade = cv2.CascadeClassifier(str(path))

    def detect(rgb_u8: NDArray[np.uint8]) -> list[Detection]:
        small, scale = reduced(rgb_u8, max_side)
        grey = cv2.equalizeHist(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
        least = max(24, min(grey.shape) // 16)  # 24 is the cascade's own window
        rows = cascade.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=HAAR_NEIGHBORS, minSize=(least, least))
        return largest_first([Detection(scaled_box(row, scale)) for row in rows])

    return detect


def haar_path() -> Path | None:
    """The cascade's file, or None where this OpenCV has no cascades (5.x moved them out of the main wheels)."""
    folder = getattr(getattr(cv2, "data", None), "haarcascades", None)
    if folder is None or not hasattr(cv2, "CascadeClassifier") or not (Path(folder) / HAAR_FILE).is_file():
        return None
    return Path(folder) / HAAR_FILE


def reduced(rgb_u8: NDArray[np.uint8], max_side: int) -> tuple[NDArray[np.uint8], float]:
    """The picture with at most `max_side` pixels on its longer side, and its scale (at most 1)."""
    height, width = check_picture(rgb_u8)
    scale = max_side / max(height, width)
    if scale >= 1:
        return rgb_u8, 1.0
    size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(rgb_u8, size_wh, interpolation=cv2.INTER_AREA), scale  # type: ignore[return-value]


def scaled_box(row: Any, scale: float) -> RectXywh:
    """A box of the reduced picture, in whole pixels of the original; width and height are at least 1."""
    left, top, width, height = (float(v) / scale for v in row)
    return round(left), round(top), max(1, round(width)), max(1, round(height))


def square_around(box_xywh: RectXywh, margin: float = FER_MARGIN) -> RectXywh:
    """The square around the centre of a box, its side the box's longer one x (1 + margin), in whole pixels."""
    left, top, width, height = box_xywh
    side = max(1, round(max(width, height) * (1 + margin)))
    return round(left + (width - side) / 2), round(top + (height - side) / 2), side, side


def crop_with_margin(rgb_u8: NDArray[np.uint8], box_xywh: RectXywh, margin: float = FER_MARGIN) -> NDArray[np.uint8]:
    """What `square_around` a box shows, uint8 [S, S, 3] with S = longer side x (1 + margin).

    Where the square reaches over the border, the edge pixels are repeated: the face keeps its place and its aspect.
    Raises DataError where the box is empty or does not touch the picture, or where the margin leaves nothing.
    """
    height, width = check_picture(rgb_u8)
    left, top, box_width, box_height = box_xywh
    touches = -box_width < left < width and -box_height < top < height
    if min(box_width, box_height) < 1 or not touches:
        raise DataError(
            f"a face's box must touch the picture of {width} x {height}, but is {box_xywh}; detect it on this picture"
        )
    if not -1 < margin <= 4:
        raise DataError(f"a margin must be above -1 and at most 4 (a part of the box's side), but is {margin}")
    first_column, first_row, side, _ = square_around(box_xywh, margin)
    rows = np.clip(np.arange(first_row, first_row + side), 0, height - 1)
    columns = np.clip(np.arange(first_column, first_column + side), 0, width - 1)
    return rgb_u8[rows][:, columns]
