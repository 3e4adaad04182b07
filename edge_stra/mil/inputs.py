"""Inputs for a package: read from a file with suspicion, or drawn."""

from __future__ import annotations

import io
import lzma
import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stra.artifact import MAX_ARTIFACT_BYTES
from edge_stra.mil.package import Feature
from edge_stra.spec import DataError, first_line

SUFFIX = ".npy"
# All that zipfile and numpy raise on damaged bytes: RuntimeError for a password or an unknown compression, the last
# four for a header that claims an absurd shape or is no Python literal.
UNREADABLE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, KeyError, ValueError, OSError, RuntimeError, MemoryError,
    OverflowError, TypeError, SyntaxError, tokenize.TokenError,
)  # fmt: skip
MAX_DRAWN = 1 << 25
"""Elements, or pixels, of an input that is drawn; a picture of 7680x4320 has fewer."""


def read_inputs(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file by name. Raises DataError where it is none, too large, or holds objects."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            size = sum(info.file_size for info in infos)
            if size > MAX_ARTIFACT_BYTES:
                raise DataError(f"{path} must unpack to {MAX_ARTIFACT_BYTES} bytes or less, but needs {size}")
            return {
                info.filename.removesuffix(SUFFIX): np.load(io.BytesIO(archive.read(info)), allow_pickle=False)
                for info in infos
            }
    except UNREADABLE as error:
        cause = first_line(error)
        raise DataError(f"{path} must be an .npz of plain arrays, as numpy.savez writes, but: {cause}") from error


def draw_input(feature: Feature, seed: int) -> NDArray[Any]:
    """An input that a program can take: waves and noise as a picture, normal numbers, or integers 0 and 1.

    Raises DataError for one that is no array or image, or too large.
    """
    if feature.kind not in ("array", "image"):
        raise DataError(f"the input {feature.name!r} must be an array or an image to be run, but is a {feature.kind}")
    if math.prod(feature.shape) > MAX_DRAWN:
        raise DataError(
            f"the input {feature.name!r} must have {MAX_DRAWN} elements or less to be drawn, but is {feature.shape}; "
            "give it with --inputs"
        )
    random = np.random.default_rng([seed, *feature.name.encode()])
    if feature.kind == "image":
        height, width = feature.shape
        y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
        planes = 1 if feature.colour.startswith("grey") else 3
        waves = [np.sin(9 * (random.normal() * y + random.normal() * x) + 6 * random.random()) for _ in range(planes)]
        picture = 128 + 90 * np.stack(waves, 2) + random.normal(0, 8, (height, width, planes))
        whole = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
        return whole if planes == 3 else whole[:, :, 0]
    if feature.dtype.startswith("int"):
        return random.integers(0, 2, feature.shape).astype(feature.dtype)
    return random.normal(size=feature.shape).astype(feature.dtype)


def pack_outputs(outputs: dict[str, Any]) -> bytes:
    """An .npz of a run's outputs; a classifier's probabilities as NAME and NAME.classes."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, value in outputs.items():
        if isinstance(value, dict):
            arrays[name] = np.array(list(value.values()), np.float32)
            arrays[f"{name}.classes"] = np.array(list(value))
        else:
            arrays[name] = np.asarray(value)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            file = io.BytesIO()
            np.save(file, array, allow_pickle=False)
            archive.writestr(name + SUFFIX, file.getvalue())
    return packed.getvalue()
