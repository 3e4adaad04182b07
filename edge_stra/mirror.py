"""A picture and its mirror image, seen one after the other: twice the time of a prediction, for steadier answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_stra.faces import Predicts
from edge_stra.spec import ModelSpec

Function = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def both_ways(function: Function, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean output [N, K] for inputs [N, H, W, 3] and their mirror images: of logits, or of embeddings.

    A mean of embeddings is shorter than 1; all that compares them looks at directions.
    """
    mean: NDArray[np.float32] = (function(x) + function(np.ascontiguousarray(x[:, :, ::-1]))) / np.float32(2)
    return mean


@dataclass(frozen=True)
class Mirrored:
    """A predictor that sees each picture both ways; itself one, for the apps."""

    predictor: Predicts

    @property
    def spec(self) -> ModelSpec:
        return self.predictor.spec

    def __call__(self, x: NDArray[np.float32], /) -> NDArray[np.float32]:
        return both_ways(self.predictor, x)
