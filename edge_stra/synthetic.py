"""Seeded pictures with structure: gradients, blobs, bars and texture, for random weights, benchmarks and tests.

They stand for no data set. Their point is that edges and areas make activations live, which noise does not.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def structured_pictures(count: int, size_hw: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """[count, H, W, 3] RGB bytes; the same arguments give the same pixels."""
    random = np.random.default_rng(seed)
    return np.stack([_picture(random, size_hw) for _ in range(count)])


def _picture(random: np.random.Generator, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    height, width = size_hw
    y, x = np.mgrid[0:1:height * 1j, 0:1:width * 1j]
    angle = random.uniform(0, 2 * np.pi)
    slope = (np.cos(angle) * x + np.sin(angle) * y)[:, :, None]
    picture = random.uniform(20, 200, 3) + slope * random.uniform(-120, 120, 3)
    for _ in range(random.integers(3, 8)):
        centre, radius = random.uniform(0, 1, 2), random.uniform(0.05, 0.35)
        inside = ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2)[:, :, None]
        picture = np.where(inside, random.uniform(0, 255, 3), picture)
    bars = np.sin(2 * np.pi * random.uniform(2, 12) * (np.cos(-angle) * x + np.sin(-angle) * y))[:, :, None]
    picture = picture + bars * random.uniform(0, 30) + random.normal(0, 4, picture.shape)
    blurred: NDArray[np.uint8] = cv2.GaussianBlur(np.clip(picture, 0, 255).astype(np.uint8), (3, 3), 0)  # type: ignore[assignment]
    return blurred
