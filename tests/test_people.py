"""edge_stra.apps.people: where people are, by FastestDet and by OpenCV's own detector."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from edge_stra.apps.people import HOG, best_people, decode_fastestdet, find_people_detector
from numpy.typing import NDArray

from edge_stra.detections import Detection, RectXywh
from edge_stra.live.tracks import iou_matrix
from edge_stra.spec import ArtifactError, DataError, MissingError

Rgb = NDArray[np.uint8]
# Whole walkers of frame 250 of vtest.avi, as an eye sees them, left to right: (left, top, width, height).
WALKERS: list[RectXywh] = [(38, 176, 27, 70), (192, 156, 35, 66), (374, 230, 50, 94), (545, 186, 32, 84),
                           (595, 253, 44, 102)]  # fmt: skip


@pytest.fixture
def no_detector(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("EDGE_STRA_FASTESTDET", raising=False)


@pytest.fixture(scope="module")
def street(shared_file: Callable[[str], Path]) -> Rgb:
    """Frame 250 of vtest.avi."""
    capture = cv2.VideoCapture(str(shared_file("media/vtest.avi")))
    capture.set(cv2.CAP_PROP_POS_FRAMES, 250)
    read, bgr = capture.read()
    capture.release()
    assert read
    return np.ascontiguousarray(bgr[:, :, ::-1])


def cells_with(*boxes: tuple[int, int, float, float, float, float, float, int]) -> NDArray[np.float32]:
    """FastestDet's output [85, 22, 22] with boxes of (row, column, dx, dy, width, height, score, class)."""
    cells = np.zeros((85, 22, 22), np.float32)
    for row, column, dx, dy, width, height, score, kind in boxes:
        logits = [np.log(part / (1 - part)) for part in (width, height)]
        cells[:5, row, column] = [score, np.arctanh(dx), np.arctanh(dy), *logits]
        cells[5 + kind, row, column] = 1
    return cells


@pytest.mark.parametrize(
    ("boxes", "found"),
    [
        # the cell (11, 5) of 22 in 440 x 220: its corner lies at x 100, y 110
        ([(11, 5, 0.5, 0.0, 0.1, 0.5, 0.8, 0)], [(88, 55, 44, 110)]),
        ([(11, 5, 0.0, 0.5, 0.1, 0.5, 0.8, 0)], [(78, 60, 44, 110)]),
        ([(11, 5, -0.5, 0.0, 0.1, 0.5, 0.8, 0)], [(68, 55, 44, 110)]),
        ([(11, 5, 0.0, 0.0, 0.1, 0.5, 0.49, 0)], []),  # too unsure
        ([(11, 5, 0.0, 0.0, 0.1, 0.5, 0.9, 2)], []),  # a car
        # two that overlap by more than the limit: the better one stays; two that do not: both, larger first
        ([(11, 5, 0.0, 0.0, 0.1, 0.5, 0.8, 0), (11, 6, -0.5, 0.0, 0.1, 0.5, 0.9, 0)], [(88, 55, 44, 110)]),
        ([(11, 5, 0.0, 0.0, 0.1, 0.4, 0.9, 0), (11, 9, 0.0, 0.0, 0.1, 0.5, 0.8, 0)],
         [(158, 55, 44, 110), (78, 66, 44, 88)]),
    ],
)  # fmt: skip
def test_decodes_boxes(boxes: list[tuple[int, int, float, float, float, float, float, int]], found: object) -> None:
    people = decode_fastestdet(cells_with(*boxes), (220, 440))
    assert [person.box_xywh for person in people] == found


def test_a_score_is_objectness_times_class() -> None:
    cells = cells_with((3, 3, 0, 0, 0.2, 0.2, 0.9, 0))
    cells[5, 3, 3] = 0.7
    assert [p.score for p in decode_fastestdet(cells, (100, 100))] == [pytest.approx(0.63)]
    cells[6, 3, 3] = 0.71  # rather a bicycle
    assert decode_fastestdet(cells, (100, 100)) == []


def test_keeps_nothing_of_nothing() -> None:
    assert best_people(np.zeros((0, 4)), np.zeros(0), 0.5, 0.5) == []
    assert Detection((1, 2, 3, 4)).area == 12


def test_finds_walkers(shared_file: Callable[[str], Path], street: Rgb) -> None:
    name, detect = find_people_detector(shared_file("models/fastestdet.onnx"))
    people = detect(street)
    assert name == "fastestdet" and 5 <= len(people) <= 7
    best = iou_matrix(WALKERS, [person.box_xywh for person in people]).max(1)
    assert best.min() > 0.6, best
    assert all(0.5 <= (person.score or 0) <= 1 for person in people)
    assert [p.area for p in people] == sorted((p.area for p in people), reverse=True)


def test_any_size_will_do(shared_file: Callable[[str], Path], street: Rgb) -> None:
    _, detect = find_people_detector(shared_file("models/fastestdet.onnx"))
    large = detect(cv2.resize(street, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC))  # type: ignore[arg-type]
    small = detect(street)
    assert len(large) == len(small)
    twice = [tuple(2 * v for v in person.box_xywh) for person in small]
    assert iou_matrix(twice, [p.box_xywh for p in large]).max(1).min() > 0.85  # type: ignore[arg-type]
    assert detect(np.zeros((90, 60, 3), np.uint8)) == []
    assert detect(street[:, ::-1][:, ::-1]) == small  # a view


def test_the_network_sees_bgr(shared_file: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """It was trained on what cv2.imread gives, from 0 to 1; people are found the other way round too, so look."""
    seen: list[NDArray[np.float32]] = []

    class Network:
        def setInput(self, blob: NDArray[np.float32]) -> None:
            seen.append(blob)

        def forward(self) -> NDArray[np.float32]:
            return cells_with()[None]

    monkeypatch.setattr(cv2.dnn, "readNetFromONNX", lambda data: Network())
    _, detect = find_people_detector(shared_file("models/fastestdet.onnx"))
    assert detect(np.full((100, 50, 3), (255, 102, 51), np.uint8)) == []
    assert seen[0].shape == (1, 3, 352, 352)
    assert seen[0].mean((0, 2, 3)) == pytest.approx([0.2, 0.4, 1.0], abs=1e-6)


def test_hog_finds_some_and_says_that_it_is_weak(no_detector: None, street: Rgb) -> None:
    name, detect = find_people_detector()
    assert name == HOG and "weak" in name and "models pull fastestdet" in name
    people = detect(street)
    assert people and iou_matrix(WALKERS, [p.box_xywh for p in people]).max() > 0.5
    assert all(0 < (p.score or 0) < 1 for p in people)
    assert detect(np.zeros((40, 30, 3), np.uint8)) == []


@pytest.mark.parametrize("kind", ["auto", "fastestdet"])
def test_takes_no_other_file(no_detector: None, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(b"something else")
    with pytest.raises(ArtifactError, match=r"FastestDet\.onnx"):
        find_people_detector(other, kind)
    with pytest.raises(MissingError, match="no such file"):
        find_people_detector(tmp_path / "absent.onnx", kind)
    monkeypatch.setenv("EDGE_STRA_FASTESTDET", str(other))
    with pytest.raises(ArtifactError):
        find_people_detector(None, kind)


def test_named_detectors(no_detector: None) -> None:
    with pytest.raises(MissingError, match="edge-stra models pull fastestdet"):
        find_people_detector(None, "fastestdet")
    with pytest.raises(DataError, match="auto, fastestdet or hog"):
        find_people_detector(None, "yolo")
    with pytest.raises(DataError, match="uint8"):
        find_people_detector(None, "hog")[1](np.zeros((4, 4), np.uint8))
