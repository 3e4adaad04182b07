"""Readers of image folders: FER2013 as seven class folders, and lists of pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_stra.spec import FER_LABELS, DataError

# Folder names as FER2013 is usually unpacked, beside the labels themselves.
FER_FOLDERS = {"angry": "anger", "happy": "happiness", "sad": "sadness"} | {label: label for label in FER_LABELS}
PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}


def list_pictures(source: Path) -> list[Path]:
    """The pictures of a source in a fixed order: all below a folder, one picture itself, or those that a text file
    names, one path a line, relative to that file. Raises DataError where there is none."""
    if source.is_file() and source.suffix.lower() in PICTURE_SUFFIXES:
        return [source]
    if source.is_file():
        try:
            lines = source.read_text("utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"{source} must be a text file with one path a line, but is no text") from error
        paths = [source.parent / line.strip() for line in lines if line.strip()]
    elif source.is_dir():
        paths = sorted(p for p in source.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES and p.is_file())
    else:
        raise DataError(f"{source} must be a folder of pictures, but there is no such folder")
    if not paths:
        raise DataError(f"{source} must hold pictures ({', '.join(sorted(PICTURE_SUFFIXES))}), but holds none")
    return paths


def spread(paths: list[Path], most: int) -> list[Path]:
    """At most so many, evenly spread over the list, first and last among them."""
    return [paths[i] for i in np.linspace(0, len(paths) - 1, min(most, len(paths))).round().astype(int)]


def list_fer(folder: Path) -> tuple[list[Path], NDArray[np.int64]]:
    """The pictures of seven class folders and the index of each one's label, in a fixed order.

    Raises DataError where a class has no folder, naming what was found.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} must hold the seven class folders, but there is no such folder")
    found = {FER_FOLDERS[p.name.lower()]: p for p in folder.iterdir() if p.is_dir() and p.name.lower() in FER_FOLDERS}
    if missing := [label for label in FER_LABELS if label not in found]:
        names = ", ".join(sorted(p.name for p in folder.iterdir())[:10]) or "nothing"
        raise DataError(
            f"{folder} must hold one folder for each label, but {', '.join(missing)} is missing; found {names}"
        )
    pairs = [(path, index) for index, label in enumerate(FER_LABELS) for path in list_pictures(found[label])]
    return [path for path, _ in pairs], np.array([index for _, index in pairs])


def read_grey(paths: list[Path], size: int) -> NDArray[np.uint8]:
    """Grey pictures [count, size, size]; another size is resized. Raises DataError where one can't be read."""
    stack = np.empty((len(paths), size, size), np.uint8)
    for index, path in enumerate(paths):
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if grey is None:
            raise DataError(f"{path} must be a picture, but can't be decoded")
        stack[index] = (
            grey if grey.shape == (size, size) else cv2.resize(grey, (size, size), interpolation=cv2.INTER_AREA)
        )
    return stack
