"""The values that person detectors hand on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_stra.faces import RectXywh


@dataclass(frozen=True)
class Person:
    """A detected person. The box may reach over the picture's border. score: confidence, 0 to 1, or None."""

    box_xywh: RectXywh
    score: float | None = None

    @property
    def area(self) -> int:
        return self.box_xywh[2] * self.box_xywh[3]


DetectPeople = Callable[[NDArray[np.uint8]], list[Person]]  # rgb_u8 [H, W, 3] -> people, largest first


@dataclass(frozen=True)
class Named:
    """A person as they are drawn: identity is None for somebody unknown, distance None before any search."""

    box_xywh: RectXywh
    identity: str | None
    distance: float | None
