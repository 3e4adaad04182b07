"""The values that the apps hand to each other: pictures, faces and expressions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_stra.spec import ArtifactError, DataError, ModelSpec

RectXywh = tuple[int, int, int, int]  # left, top, width, height in pixels; left and top may be negative


def common_area(a: RectXywh, b: RectXywh) -> int:
    """Of two rectangles, in pixels."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(0, width) * max(0, height)


@dataclass(frozen=True)
class Face:
    """A detected face. The box may reach over the picture's border; `score` is None where the detector gives none."""

    box_xywh: RectXywh
    score: float | None = None  # confidence, 0 to 1

    @property
    def area(self) -> int:
        return self.box_xywh[2] * self.box_xywh[3]


@dataclass(frozen=True)
class Expression:
    """A face with its probability for each label, in the model's order of labels, and the label of the highest."""

    face: Face
    probabilities: Mapping[str, float]
    label: str


Detect = Callable[[NDArray[np.uint8]], list[Face]]  # rgb_u8 [H, W, 3] -> faces, largest first


class Predicts(Protocol):
    """What the apps need of `edge_stra.runtime.Predictor`: a callable that carries its specification."""

    @property
    def spec(self) -> ModelSpec: ...

    def __call__(self, x: NDArray[np.float32], /) -> NDArray[np.float32]: ...


def check_picture(rgb_u8: NDArray[Any]) -> tuple[int, int]:
    """Height and width of a picture. Raises DataError where it is not uint8 [H, W, 3] with at least one pixel."""
    if rgb_u8.dtype != np.uint8 or rgb_u8.ndim != 3 or rgb_u8.shape[2] != 3 or rgb_u8.size == 0:
        raise DataError(
            f"a picture must be uint8 [height, width, 3] in RGB, but is {rgb_u8.dtype} {list(rgb_u8.shape)}; "
            "read it with edge_stra.preprocess.read_rgb"
        )
    return rgb_u8.shape[0], rgb_u8.shape[1]


def check_task(spec: ModelSpec, task: str) -> None:
    """Raises ArtifactError where a model was made for another task."""
    if spec.task != task:
        raise ArtifactError(
            f"the model must be for the task {task!r}, but {spec.name} is for {spec.task!r}; give a {task} artifact"
        )


def run(predictor: Predicts, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The output [K] for one input [1, H, W, 3]. Raises ArtifactError where it is not one row of finite numbers."""
    output = predictor(x)
    if output.ndim != 2 or output.shape[0] != 1 or not np.isfinite(output).all():
        raise ArtifactError(
            f"{predictor.spec.name} must give one row of finite numbers, but gave {list(output.shape)} "
            f"with {int((~np.isfinite(output)).sum())} that are not finite; export it again"
        )
    row: NDArray[np.float32] = output[0].astype(np.float32)  # (k,)
    return row
