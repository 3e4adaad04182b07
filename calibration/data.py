"""Calibration pictures: read in a fixed order, counted, hashed, and refused where they are no pictures of a world."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stra.data import list_pictures, spread
from edge_stra.preprocess import read_rgb, to_input
from edge_stra.spec import DataError, InputSpec

MIN_PICTURES = 32
"""Below this the ranges of single pictures show; 100 to 500 are usual."""
MAX_PICTURES = 500
"""Of a larger folder, this many are taken, evenly spread over the sorted list."""
MIN_DEVIATION = 4.0
"""Standard deviation of grey levels (0 to 255) below which a picture counts as constant; FER2013's flattest has 8."""
MIN_CORRELATION = 0.5
"""Correlation of neighbouring pixels below which a picture counts as noise; photographs have 0.85 and more."""


def calibration_paths(source: Path, most: int = MAX_PICTURES) -> list[Path]:
    """The pictures of a folder or of a text file that lists them, at most so many, evenly spread.

    Raises DataError where there are none, or too few.
    """
    paths = list_pictures(source)
    if len(paths) < MIN_PICTURES:
        raise DataError(f"calibration needs at least {MIN_PICTURES} pictures, but {source} has {len(paths)}; add more")
    return spread(paths, most)


def check_picture(rgb_u8: NDArray[np.uint8], name: str) -> None:
    """Raises DataError for a constant or nearly constant picture, and for noise: the ranges would be wrong."""
    grey = rgb_u8.mean(axis=2)
    if grey.std() < MIN_DEVIATION:
        raise DataError(
            f"{name} must be a picture of something, but is nearly constant (deviation {grey.std():.1f} of 255)"
        )
    left, right = grey[:, :-1].ravel(), grey[:, 1:].ravel()
    spread = left.std() * right.std()
    if spread > 0 and ((left - left.mean()) * (right - right.mean())).mean() / spread < MIN_CORRELATION:
        raise DataError(
            f"{name} must be a picture of something, but looks like noise; calibrate with pictures like those of use"
        )


def read_calibration(
    source: Path, spec: InputSpec, most: int = MAX_PICTURES
) -> tuple[list[NDArray[np.float32]], dict[str, Any]]:
    """Model inputs [1, H, W, 3] and what the manifest says of them: folder's name, count, SHA-256 of all pixels."""
    inputs, digest = [], hashlib.sha256()
    for path in calibration_paths(source, most):
        rgb_u8 = read_rgb(path)
        check_picture(rgb_u8, str(path))
        digest.update(np.array(rgb_u8.shape, "<i8").tobytes() + rgb_u8.tobytes())
        inputs.append(to_input(rgb_u8, spec))
    return inputs, {"kind": "pictures", "name": source.name, "count": len(inputs), "sha256": digest.hexdigest()}
