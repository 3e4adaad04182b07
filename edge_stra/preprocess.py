"""Pixels to input tensor: the one definition that calibration, parity, evaluation and the apps agree on.

numpy and OpenCV only. Every OpenCV operation used here is bit-exact across x86 and Arm (INTER_LINEAR_EXACT,
colour to grey), so that an integer model gives the same result on every device.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_stra.spec import DataError, InputSpec

MAX_PICTURE_BYTES = 64 << 20
MAX_PICTURE_PIXELS = 100_000_000


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """A picture file as [height, width, 3], RGB. Raises DataError where it is absent, too large or no picture."""
    return np.ascontiguousarray(decode_picture(path, cv2.IMREAD_COLOR)[:, :, ::-1])


def decode_picture(path: Path, flags: int) -> NDArray[np.uint8]:
    """A picture file as OpenCV decodes it: BGR [height, width, 3], or grey [height, width]. Raises DataError."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "there is no such file"
        raise DataError(f"{path} must be a picture, but {what}")
    if path.stat().st_size > MAX_PICTURE_BYTES:
        raise DataError(f"{path} must have at most {MAX_PICTURE_BYTES >> 20} MiB, but has {path.stat().st_size >> 20}")
    try:
        pixels = cv2.imdecode(np.fromfile(path, np.uint8), flags)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.shape[0] * pixels.shape[1] > MAX_PICTURE_PIXELS:
        raise DataError(
            f"{path} must be a picture that OpenCV can decode (JPEG, PNG, BMP, WebP), of at most "
            f"{MAX_PICTURE_PIXELS // 1_000_000} megapixels, but it is not"
        )
    return pixels  # type: ignore[return-value]


def resize_exact(picture: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Resizes [h, w] or [h, w, c] bit-exactly on every CPU; larger pictures are halved first, against aliasing."""
    while picture.shape[0] >= 2 * size_hw[0] and picture.shape[1] >= 2 * size_hw[1]:
        half = (picture.shape[1] // 2, picture.shape[0] // 2)
        picture = cv2.resize(picture, half, interpolation=cv2.INTER_LINEAR_EXACT)  # type: ignore[assignment]
    return cv2.resize(picture, size_hw[::-1], interpolation=cv2.INTER_LINEAR_EXACT)  # type: ignore[return-value]


def to_input(rgb_u8: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.float32]:
    """[height, width, 3] of RGB bytes -> the normalised input [1, H, W, 3] of the model."""
    if spec.color == "grey":
        grey = resize_exact(cv2.cvtColor(rgb_u8, cv2.COLOR_RGB2GRAY), spec.size_hw)  # type: ignore[arg-type]
        pixels = np.repeat(grey[:, :, None], 3, axis=2)
    else:
        pixels = resize_exact(rgb_u8, spec.size_hw)
    mean, std = np.array(spec.mean_rgb, np.float32), np.array(spec.std_rgb, np.float32)
    tensor: NDArray[np.float32] = ((pixels.astype(np.float32) / np.float32(255) - mean) / std)[None]
    return tensor


def load_input(path: Path, spec: InputSpec) -> NDArray[np.float32]:
    """A picture file -> [1, H, W, 3]. Raises DataError."""
    return to_input(read_rgb(path), spec)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: NDArray[np.float32] = powers / powers.sum(axis=-1, keepdims=True)
    return result
