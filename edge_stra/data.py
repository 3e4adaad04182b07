"""Readers of image folders: FER2013, or another set, as one folder for each label, and lists of pictures."""

from __future__ import annotations

import csv
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_stra.preprocess import decode_picture
from edge_stra.spec import FER_LABELS, DataError

# Folder names as FER2013 is usually unpacked, beside the labels themselves.
ADJECTIVES = {"angry": "anger", "disgusted": "disgust", "fearful": "fear", "happy": "happiness", "sad": "sadness"}
FER_FOLDERS = ADJECTIVES | {"surprised": "surprise"}
MAX_LIST_BYTES = 64 << 20
PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}


def list_pictures(source: Path) -> list[Path]:
    """The pictures of a source in a fixed order: all below a folder, through links too, one picture itself, or those
    that a text file names, one path a line, relative to that file. Hidden files and folders (thumbnails, ._1.jpg) are
    left out. Raises DataError where there is none."""
    if source.is_file() and source.suffix.lower() in PICTURE_SUFFIXES:
        return [source]
    if source.is_file():
        if source.stat().st_size > MAX_LIST_BYTES:
            raise DataError(f"{source} must be a list of paths of at most {MAX_LIST_BYTES >> 20} MiB, but is larger")
        try:
            lines = source.read_text("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"{source} must be a text file with one path a line, but is no text") from error
        paths = [source.parent / line.strip() for line in lines if line.strip()]
    elif source.is_dir():
        paths = sorted(p for p in walk(source) if p.suffix.lower() in PICTURE_SUFFIXES and p.is_file())
    else:
        raise DataError(f"{source} must be a folder of pictures, but there is no such folder")
    if not paths:
        raise DataError(f"{source} must hold pictures ({', '.join(sorted(PICTURE_SUFFIXES))}), but holds none")
    return paths


def walk(source: Path) -> Iterator[Path]:
    """What lies below a folder and is not hidden. No folder is entered twice, since links may lead in a circle."""
    entered: set[str] = set()
    for folder, below, names in os.walk(source, followlinks=True):
        if (real := os.path.realpath(folder)) in entered:
            below.clear()
            continue
        entered.add(real)
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def has_pictures(folder: Path) -> bool:
    """Whether `list_pictures` finds any there, were it asked to look; hidden folders have none."""
    return not folder.name.startswith(".") and any(p.suffix.lower() in PICTURE_SUFFIXES for p in walk(folder))


def spread_indices(count: int, most: int) -> NDArray[np.int64]:
    """Of 0 to `count` - 1 at most so many, evenly spread, first and last among them; ascending."""
    indices: NDArray[np.int64] = np.linspace(0, count - 1, min(most, count)).round().astype(np.int64)
    return indices


def spread(paths: list[Path], most: int) -> list[Path]:
    """At most so many of the paths, evenly spread."""
    return [paths[i] for i in spread_indices(len(paths), most)]


def folded(name: str) -> str:
    """A name in lower case and composed (NFC): disks of some systems hold letters with marks in two parts."""
    return unicodedata.normalize("NFC", name).lower()


def list_fer(folder: Path, labels: Sequence[str] = FER_LABELS) -> tuple[list[Path], NDArray[np.int64]]:
    """The pictures of one folder for each label and the index of each one's label, in a fixed order.

    Folders are named like the labels, in any case, or as FER2013's usually are. Raises DataError where a label has no
    folder, or a folder is of no label, naming what was found.
    """
    if folder.is_file():
        raise DataError(
            f"{folder} must be a folder that holds one for each label, but is a file; scripts/unpack_fer.py makes such "
            "of Kaggle's CSV"
        )
    if not folder.is_dir():
        raise DataError(f"{folder} must hold one folder for each label, but there is no such folder")
    names = {name: label for name, label in FER_FOLDERS.items() if label in labels}
    names |= {folded(label): label for label in labels}
    found: dict[str, Path] = {}
    for path in sorted(p for p in folder.iterdir() if p.is_dir() and folded(p.name) in names):
        label = names[folded(path.name)]
        if label in found:
            raise DataError(
                f"{folder} must hold one folder for each label, but {found[label].name} and {path.name} are both "
                f"{label}; join them"
            )
        found[label] = path
    if missing := [label for label in labels if label not in found]:
        there = ", ".join(sorted(p.name for p in folder.iterdir())[:10]) or "nothing"
        raise DataError(
            f"{folder} must hold one folder for each label, but {', '.join(missing[:10])} is missing; found {there}"
        )
    for other in sorted(folder.iterdir()):  # pictures of one more class would be left out without a word
        if other.is_dir() and folded(other.name) not in names and has_pictures(other):
            raise DataError(f"{folder} must hold no folder but those of the labels, but holds {other.name}; move it")
    pairs = [(path, index) for index, label in enumerate(labels) for path in list_pictures(found[label])]
    return [path for path, _ in pairs], np.array([index for _, index in pairs])


def read_grey(
    paths: list[Path], size_hw: tuple[int, int], progress: Callable[[list[Path]], Iterable[Path]] = iter
) -> NDArray[np.uint8]:
    """Grey pictures [count, height, width]; another size is resized. Raises DataError where one can't be read."""
    stack = np.empty((len(paths), *size_hw), np.uint8)
    for index, path in enumerate(progress(paths)):
        grey = decode_picture(path, cv2.IMREAD_GRAYSCALE)
        stack[index] = grey if grey.shape == size_hw else cv2.resize(grey, size_hw[::-1], interpolation=cv2.INTER_AREA)
    return stack


def read_fer_csv(path: Path, usages: set[str]) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """FER2013 as Kaggle's CSV (emotion, pixels, Usage): usage -> grey pictures [count, 48, 48] and labels [count].

    Rows of other usages are passed over unread. Raises DataError, with the line, for anything else.
    """
    if not path.is_file():
        raise DataError(f"{path} must be FER2013's CSV, but there is no such file")
    found: dict[str, list[tuple[NDArray[np.uint8], int]]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]  # Kaggle's other copy has " Usage"
            if missing := {"emotion", "pixels", "Usage"} - set(reader.fieldnames):
                raise DataError(
                    f"{path} must have the columns emotion, pixels, Usage, but {', '.join(missing)} is missing"
                )
            for row in reader:
                if row["Usage"] in usages:
                    found.setdefault(row["Usage"], []).append(parse_fer_row(row, path, reader.line_num))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} must be FER2013's CSV in UTF-8, but can't be read: {error}") from error
    return {usage: (np.stack([r[0] for r in rows]), np.array([r[1] for r in rows])) for usage, rows in found.items()}


def parse_fer_row(row: dict[str, str], path: Path, line: int) -> tuple[NDArray[np.uint8], int]:
    """The picture [48, 48] and the label of one row."""
    try:
        pixels = np.array(row["pixels"].split(), int)
        label = int(row["emotion"])
    except (ValueError, AttributeError, TypeError, OverflowError) as error:
        raise DataError(f"{path}, line {line}: emotion and pixels must be whole numbers, but are not") from error
    if len(pixels) != 48 * 48 or pixels.min() < 0 or pixels.max() > 255 or not 0 <= label < len(FER_LABELS):
        raise DataError(f"{path}, line {line}: must have 48x48 pixels of 0 to 255 and an emotion of 0 to 6")
    return pixels.astype(np.uint8).reshape(48, 48), label
