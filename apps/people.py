"""Where the people are: a detector is a function from a picture to people, largest first, and nothing more.

FastestDet (an anchor-free detector of COCO's 80 classes) where its .onnx is there, else OpenCV's built-in HOG people
detector, which is weak and says so in its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from edge_stra.apps.detect import scaled_box
from numpy.typing import NDArray

from edge_stra.detections import Detect, Detection, check_picture, largest_first
from edge_stra.pull import MODELS, cache_folder, find_pulled, read_pulled
from edge_stra.spec import DataError, MissingError

FASTESTDET = "fastestdet"
FASTESTDET_SIDE = 352  # the file's reshapes hold for this input alone
# On frames of vtest.avi walkers have 0.5 to 0.8, a sign and traffic cones up to 0.47.
FASTESTDET_SCORE = 0.5
FASTESTDET_OVERLAP = 0.35  # of two boxes that overlap more, the better stays
PERSON_CLASS = 0
HOG = "hog (weak: misses who is small, hidden or not upright; `edge-stra models pull fastestdet` fetches a better one)"
HOG_SIDE = 800  # its window takes a person of 96 pixels; vtest.avi's walkers have 70 to 110 at 768
HOG_SCORE = 0.5  # distance from its separating plane
HOG_OVERLAP = 0.4
HOG_PERSON_WH = (0.5, 0.75)  # of its window of 64 x 128 pixels, what a person takes


def find_people_detector(path: Path | None = None, kind: str = "auto") -> tuple[str, Detect]:
    """The name of the detector that will be used and the detector.

    `kind` is "auto", "fastestdet" or "hog". FastestDet's file is looked for as `path`, then in the environment
    variable EDGE_STRA_FASTESTDET, then in the user's cache; "auto" falls to HOG only where none of them names a file.
    Raises MissingError where there is no detector, ArtifactError where the file is not FastestDet's.
    """
    if kind not in ("auto", FASTESTDET, "hog"):
        raise DataError(
            f"the person detector must be auto, {FASTESTDET} or hog, but is {kind!r}; choose one of the three"
        )
    found = None if kind == "hog" else find_pulled(FASTESTDET, path)
    if found is not None:
        return FASTESTDET, fastestdet_detector(found)
    if kind == FASTESTDET:
        model = MODELS[FASTESTDET]
        raise MissingError(
            f"FastestDet must be given as a path, in {model.variable} or as {cache_folder() / model.file}, but is in "
            f"none of them; run: edge-stra models pull {FASTESTDET}"
        )
    return HOG, hog_detector()


def fastestdet_detector(path: Path) -> Detect:
    """FastestDet as a detector; it holds an open network and serves one thread. Raises ArtifactError."""
    network: Any = cv2.dnn.readNetFromONNX(np.frombuffer(read_pulled(FASTESTDET, path), np.uint8))

    def detect(rgb_u8: NDArray[np.uint8]) -> list[Detection]:
        size_hw = check_picture(rgb_u8)
        side = (FASTESTDET_SIDE, FASTESTDET_SIDE)
        small = cv2.resize(rgb_u8, side, interpolation=cv2.INTER_AREA)
        network.setInput(cv2.dnn.blobFromImage(small, 1 / 255, side, swapRB=True))  # trained on BGR
        return decode_fastestdet(network.forward()[0], size_hw)

    return detect


def decode_fastestdet(
    cells: NDArray[np.float32], size_hw: tuple[int, int], least_score: float = FASTESTDET_SCORE
) -> list[Detection]:
    """People from FastestDet's output, float32 [5 + classes, rows, columns], one box a cell, largest first.

    A cell holds: whether there is something (0 to 1), the centre's offset from the cell in cells, before tanh, width
    and height as parts of the picture, before the sigmoid, and a probability for each class.
    """
    rows, columns = cells.shape[1:]
    cell_y, cell_x = np.mgrid[:rows, :columns]
    scores = np.where(cells[5:].argmax(0) == PERSON_CLASS, cells[0] * cells[5 + PERSON_CLASS], 0)
    taken = scores >= least_score
    centre_x = (cell_x + np.tanh(cells[1]))[taken] / columns * size_hw[1]
    centre_y = (cell_y + np.tanh(cells[2]))[taken] / rows * size_hw[0]
    width, height = (size / (1 + np.exp(-cells[i][taken])) for i, size in ((3, size_hw[1]), (4, size_hw[0])))
    boxes = np.stack([centre_x - width / 2, centre_y - height / 2, width, height], 1)  # (n, 4)
    return best_people(boxes, scores[taken], least_score, FASTESTDET_OVERLAP)


def best_people(
    boxes_xywh: NDArray[Any], scores: NDArray[Any], least_score: float, most_overlap: float
) -> list[Detection]:
    """Boxes [n, 4] without those that overlap a better one too much, largest first."""
    if not len(boxes_xywh):
        return []
    kept = cv2.dnn.NMSBoxes(boxes_xywh.tolist(), scores.tolist(), least_score, most_overlap)
    people = [Detection(scaled_box(boxes_xywh[i], 1.0), float(scores[i])) for i in np.ravel(kept).astype(int)]
    return largest_first(people)


def hog_detector() -> Detect:
    """OpenCV's histogram-of-gradients people detector. Raises MissingError where this OpenCV has none."""
    if not hasattr(cv2, "HOGDescriptor"):
        raise MissingError(
            f"a person detector needs FastestDet or OpenCV's HOG, but OpenCV {cv2.__version__} has none; "
            f"run: edge-stra models pull {FASTESTDET}"
        )
    hog = cv2.HOGDescriptor()
    hog.setSVMDetector(np.array(cv2.HOGDescriptor.getDefaultPeopleDetector(), np.float32))
    part = np.array(HOG_PERSON_WH)

    def detect(rgb_u8: NDArray[np.uint8]) -> list[Detection]:
        height, width = check_picture(rgb_u8)
        scale = min(1.0, HOG_SIDE / max(height, width))
        size_wh = (max(64, round(width * scale)), max(128, round(height * scale)))  # not smaller than its window
        grey = cv2.resize(cv2.cvtColor(rgb_u8, cv2.COLOR_RGB2GRAY), size_wh, interpolation=cv2.INTER_AREA)
        windows, weights = hog.detectMultiScale(grey, hitThreshold=HOG_SCORE, winStride=(8, 8), scale=1.05)
        if not len(windows):
            return []
        per_pixel = np.array([width, height]) / size_wh
        corner, size = np.split(np.asarray(windows, np.float64).reshape(-1, 4), 2, 1)
        boxes = np.concatenate([(corner + size * (1 - part) / 2) * per_pixel, size * part * per_pixel], 1)
        # The plane's distance has no bound; squeezed, 0.5 to 3 become 0.38 to 0.95.
        scores = 1 - np.exp(-np.ravel(weights))
        return best_people(boxes, scores, 0.0, HOG_OVERLAP)

    return detect
