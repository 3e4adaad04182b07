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
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
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


def face_pictures(count: int, size_hw: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """[count, H, W, 3]: drawn heads with eyes, brows and mouth, shaded and blurred. Nobody's face."""
    random = np.random.default_rng(seed)
    return np.stack([_face(random, size_hw) for _ in range(count)])


def _face(random: np.random.Generator, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    side = 192  # drawn large, then reduced: soft edges
    skin, hair = random.uniform(110, 215), random.uniform(15, 110)
    canvas = np.full((side, side), random.uniform(20, 190), np.float32)

    def ellipse(
        x: float,
        y: float,
        a: float,
        b: float,
        grey: float,
        turn: float = 0,
        start: float = 0,
        end: float = 360,
        line: int = -1,
    ) -> None:
        centre, axes = (int(x * side), int(y * side)), (max(1, int(a * side)), max(1, int(b * side)))
        cv2.ellipse(canvas, centre, axes, turn, start, end, grey, line, cv2.LINE_AA)

    lean, middle = random.uniform(-8, 8), 0.5 + random.uniform(-0.04, 0.04)
    ellipse(middle, 0.47, 0.42, 0.50, hair, lean)
    ellipse(middle, 0.56, 0.35, 0.44, skin, lean)
    opening, raised, bend = random.uniform(0.015, 0.05), random.uniform(0.08, 0.14), random.uniform(-20, 20)
    for sign in (-1, 1):
        eye_x, eye_y = middle + sign * 0.15, 0.46
        ellipse(eye_x, eye_y, 0.07, opening, min(255, skin + 45))
        ellipse(eye_x, eye_y, 0.025, min(0.025, opening), 25)
        ellipse(eye_x, eye_y - raised + 0.05, 0.085, 0.04, hair, sign * bend, 200, 340, 4)
    ellipse(middle, 0.62, 0.035, 0.05, skin - 30, 0, 20, 160, 3)
    smile, mouth = random.uniform(-0.09, 0.09), random.uniform(0.004, 0.07)
    if random.random() < 0.4:
        ellipse(middle, 0.76, random.uniform(0.06, 0.13), mouth, 45)
    else:
        start, end = (20, 160) if smile > 0 else (200, 340)
        ellipse(middle, 0.76 - smile / 2, random.uniform(0.09, 0.15), abs(smile) + 0.01, 60, 0, start, end, 5)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    light = 1 + random.uniform(-0.3, 0.3) * x + random.uniform(-0.25, 0.25) * y
    texture = cv2.GaussianBlur(random.normal(0, 40, (side, side)).astype(np.float32), (0, 0), 3)
    grey = np.clip(canvas * light + texture, 0, 255).astype(np.uint8)
    grey = cv2.GaussianBlur(grey, (0, 0), random.uniform(1.5, 4))  # type: ignore[assignment]
    small = cv2.resize(grey, size_hw[::-1], interpolation=cv2.INTER_AREA)
    return np.repeat(small[:, :, None], 3, axis=2)


def synthetic_pictures(task: str, count: int, size_hw: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """Pictures nearest to what a task sees: drawn faces for "fer", structure for all else."""
    return (face_pictures if task == "fer" else structured_pictures)(count, size_hw, seed)
