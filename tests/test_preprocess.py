"""Pixels to input tensor: known values, grey, sizes, halving, and files that are no pictures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_stra.preprocess import load_input, read_rgb, resize_exact, softmax, to_input
from edge_stra.spec import IMAGENET_MEAN_RGB, IMAGENET_STD_RGB, DataError, InputSpec

VALUE_TOLERANCE = 1e-6  # two float32 roundings of numbers up to 2.7: 2.4e-7 each
RGB = InputSpec((8, 8), "rgb")
GREY = InputSpec((8, 8), "grey")


def flat(rgb: tuple[int, int, int], size_hw: tuple[int, int] = (8, 8)) -> NDArray[np.uint8]:
    return np.full((*size_hw, 3), rgb, np.uint8)


@pytest.mark.parametrize("rgb", [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (10, 100, 200)])
def test_known_colours(rgb: tuple[int, int, int]) -> None:
    expected = [(v / 255 - m) / s for v, m, s in zip(rgb, IMAGENET_MEAN_RGB, IMAGENET_STD_RGB, strict=True)]
    x = to_input(flat(rgb), RGB)
    assert x.shape == (1, 8, 8, 3) and x.dtype == np.float32
    assert np.abs(x - np.array(expected)).max() <= VALUE_TOLERANCE


# 0.299 R + 0.587 G + 0.114 B, rounded
GREYS = {(255, 0, 0): 76, (0, 255, 0): 150, (0, 0, 255): 29, (255, 255, 255): 255, (10, 100, 200): 84, (7, 7, 7): 7}


@pytest.mark.parametrize("rgb", GREYS)
def test_known_greys_in_all_three_channels(rgb: tuple[int, int, int]) -> None:
    grey = GREYS[rgb] / 255
    expected = [(grey - m) / s for m, s in zip(IMAGENET_MEAN_RGB, IMAGENET_STD_RGB, strict=True)]
    assert np.abs(to_input(flat(rgb), GREY) - np.array(expected)).max() <= VALUE_TOLERANCE


def test_mean_and_std_are_those_of_the_specification() -> None:
    spec = InputSpec((8, 8), "rgb", (0.0, 0.5, 1.0), (1.0, 0.5, 2.0))
    assert to_input(flat((255, 255, 255)), spec)[0, 0, 0].tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("source_hw", [(8, 12), (1, 1), (480, 640), (640, 30), (7, 300), (1000, 9)])
@pytest.mark.parametrize("target_hw", [(88, 88), (256, 128), (8, 12)])
def test_any_size_becomes_the_wanted_one(source_hw: tuple[int, int], target_hw: tuple[int, int]) -> None:
    resized = resize_exact(flat((1, 2, 3), source_hw), target_hw)
    assert resized.shape == (*target_hw, 3) and resized.dtype == np.uint8
    assert (resized == (1, 2, 3)).all()
    assert resize_exact(flat((9, 9, 9), source_hw)[:, :, 0], target_hw).shape == target_hw


def test_a_small_file_of_a_huge_picture_is_refused_undecoded(tmp_path: Path) -> None:
    """OpenCV itself refuses it, before it takes memory: `edge_stra` says how much before OpenCV loads."""
    cv2.imwrite(str(tmp_path / "huge.png"), np.zeros((10_001, 10_000), np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert (tmp_path / "huge.png").stat().st_size < 1 << 20
    code = (
        "import edge_stra.preprocess as p, sys, pathlib, cv2, numpy as np\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "try: cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)\n"
        "except cv2.error: print('undecoded')\n"
        "try: p.read_rgb(path)\n"
        "except p.DataError as error: print(error)\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "huge.png")]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert told.startswith("undecoded\n") and "must be a picture that OpenCV can decode" in told


def test_the_wanted_size_is_left_untouched() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 8, 3), np.uint8)
    assert np.array_equal(resize_exact(picture, (16, 8)), picture)


def test_rows_and_columns_keep_their_places() -> None:
    picture = flat((0, 0, 0), (8, 8))
    picture[0, 7] = 255
    x = to_input(picture, RGB)[0, :, :, 0]
    assert np.unravel_index(x.argmax(), x.shape) == (0, 7)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_fine_pattern_is_averaged_not_sampled(factor: int) -> None:
    """A chessboard of single pixels becomes even grey; plain bilinear sampling would not see all."""
    rows, columns = np.indices((16 * factor, 16 * factor))
    board = ((rows % factor == 0) & (columns % factor == 0)).astype(np.uint8) * 240
    expected = 240 / factor**2
    resized = resize_exact(board, (16, 16)).astype(float)
    assert np.abs(resized - expected).max() <= 1  # each halving rounds: by 1/2 at most, halved again by the next


@pytest.mark.parametrize("factor", [2, 4])
def test_halving_comes_before_the_last_resize(factor: int) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (20 * factor, 18 * factor, 3), np.uint8)
    halved = picture
    while halved.shape[0] > 20:
        quads = halved.reshape(halved.shape[0] // 2, 2, halved.shape[1] // 2, 2, 3).astype(int)
        halved = ((quads.sum(axis=(1, 3)) + 2) // 4).astype(np.uint8)
    expected = cv2.resize(halved, (16, 16), interpolation=cv2.INTER_LINEAR_EXACT)
    assert np.abs(resize_exact(picture, (16, 16)).astype(int) - expected).max() <= 1  # the tie's rounding
    assert np.abs(resize_exact(picture, (16, 16)).astype(int) - cv2.resize(picture, (16, 16))).max() > 20


def test_a_file_is_read_as_rgb(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "p.png"), flat((10, 20, 30))[:, :, ::-1])
    assert (read_rgb(tmp_path / "p.png") == (10, 20, 30)).all()
    assert np.array_equal(load_input(tmp_path / "p.png", RGB), to_input(flat((10, 20, 30)), RGB))


def test_a_grey_file_has_three_channels(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "p.png"), flat((9, 9, 9))[:, :, 0])
    assert read_rgb(tmp_path / "p.png").shape == (8, 8, 3)


def test_a_name_beyond_ascii_is_read(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "p.png"), flat((9, 9, 9)))
    (tmp_path / "p.png").rename(tmp_path / "gesicht ä 顔.png")
    assert read_rgb(tmp_path / "gesicht ä 顔.png").shape == (8, 8, 3)


PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
NO_PICTURES = {"empty": b"", "text": b"hello", "zeros": bytes(1000), "png without pixels": PNG_START + bytes(4)}


@pytest.mark.parametrize("case", NO_PICTURES)
def test_what_is_no_picture_is_refused(tmp_path: Path, case: str) -> None:
    (tmp_path / "p.png").write_bytes(NO_PICTURES[case])
    with pytest.raises(DataError, match=r"p\.png must be a picture that OpenCV can decode"):
        load_input(tmp_path / "p.png", RGB)


@pytest.mark.parametrize(("name", "message"), [("absent.png", "there is no such file"), (".", "is a folder")])
def test_an_absent_picture_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=f"must be a picture, but {message}"):
        load_input(tmp_path / name, RGB)


@pytest.mark.parametrize(
    ("limit", "message"), [("MAX_PICTURE_BYTES", "must have at most"), ("MAX_PICTURE_PIXELS", "must be")]
)
def test_a_picture_above_a_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, message: str
) -> None:
    cv2.imwrite(str(tmp_path / "p.png"), flat((9, 9, 9)))
    monkeypatch.setattr(f"edge_stra.preprocess.{limit}", 63)
    with pytest.raises(DataError, match=message):
        read_rgb(tmp_path / "p.png")


def test_softmax_of_large_logits_is_finite() -> None:
    shares = softmax(np.array([[1000.0, 1000.0, 0.0]], np.float32))
    assert shares.tolist() == [[0.5, 0.5, 0.0]]
