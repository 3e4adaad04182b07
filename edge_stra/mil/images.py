"""Pictures as Core ML hands them to a program, and back: [H, W, 3] or [H, W], values of 0 to 255."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stra.mil.package import Feature
from edge_stra.spec import ArtifactError, DataError


def check_picture(feature: Feature, picture: NDArray[Any]) -> None:
    """Raises DataError where a picture has not the size, channels or range of the input."""
    grey = feature.colour.startswith("grey")
    wanted = f"[H, W{'' if grey else ', 3'}], uint8 or float of 0 to 255"
    fits = picture.ndim == (2 if grey else 3) and (grey or picture.shape[2] == 3) and picture.dtype.kind in "uf"
    if not fits or not feature.allows(picture.shape[:2]):
        raise DataError(
            f"the image {feature.name!r} must be {wanted}, {feature.shape[0]}x{feature.shape[1]}, "
            f"but is {picture.dtype} {picture.shape}"
        )
    limit = np.inf if feature.colour == "grey_float16" else 255
    if picture.size and not (picture.min() >= (-np.inf if limit == np.inf else 0) and picture.max() <= limit):
        raise DataError(f"the image {feature.name!r} must have values of 0 to 255, but has others")


def picture_to_tensor(picture: NDArray[Any]) -> NDArray[np.float32]:
    """[H, W, 3] or [H, W] -> float32 [1, 3, H, W] or [1, 1, H, W], channels in the order that they have."""
    planes = picture[None] if picture.ndim == 2 else np.moveaxis(picture, 2, 0)
    return np.ascontiguousarray(planes[None], np.float32)


def tensor_to_picture(feature: Feature, tensor: NDArray[Any]) -> NDArray[Any]:
    """[1, 3, H, W] or [1, 1, H, W] -> uint8 [H, W, 3] or [H, W], rounded and clipped; float16 for a float image.

    Raises ArtifactError where the program made something else.
    """
    planes_wanted = 1 if feature.colour.startswith("grey") else 3
    if getattr(tensor, "shape", ())[:2] != (1, planes_wanted) or tensor.ndim != 4:
        raise ArtifactError(
            f"the program's {feature.name!r} must be a picture [1, {planes_wanted}, H, W] by its description, but "
            f"comes out as {getattr(tensor, 'shape', type(tensor).__name__)}; save it again"
        )
    planes = tensor[0]
    picture: NDArray[Any] = planes[0] if feature.colour.startswith("grey") else np.moveaxis(planes, 0, 2)
    picture = picture if feature.dtype == "float16" else np.clip(np.rint(picture), 0, 255)
    made: NDArray[Any] = picture.astype(feature.dtype)
    return made
