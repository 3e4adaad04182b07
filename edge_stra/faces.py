"""The values that the apps hand to each other: pictures, faces and expressions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_stra.detections import Detection
from edge_stra.spec import ArtifactError, ModelSpec


@dataclass(frozen=True)
class Expression:
    """A face with its probability for each label, in the model's order of labels, and the label of the highest."""

    face: Detection
    probabilities: Mapping[str, float]
    label: str


class Predicts(Protocol):
    """What the apps need of `edge_stra.runtime.Predictor`: a callable that carries its specification."""

    @property
    def spec(self) -> ModelSpec: ...

    def __call__(self, x: NDArray[np.float32], /) -> NDArray[np.float32]: ...


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
