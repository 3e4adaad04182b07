"""Accuracy of an expression artifact on labelled pictures, and its agreement with another artifact."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stra.data import list_fer
from edge_stra.preprocess import load_input
from edge_stra.runtime import Predictor
from edge_stra.spec import ArtifactError

Progress = Callable[[list[Path]], Iterable[Path]]


def predict_labels(predictor: Predictor, paths: Iterable[Path]) -> NDArray[np.int64]:
    """The index of the first choice for each picture file, the whole picture being one face."""
    return np.array([int(predictor(load_input(path, predictor.spec.input)).argmax()) for path in paths])


def evaluate_fer(
    predictor: Predictor, data: Path, baseline: Predictor | None = None, progress: Progress = iter
) -> dict[str, Any]:
    """Accuracy and recall of each class, in percent, on a folder with the seven class folders.

    With a baseline: its accuracy, the drop from it in points, and the share of equal first choices.
    Raises ArtifactError for another task, DataError for another layout of folders.
    """
    for each in filter(None, (predictor, baseline)):
        if each.spec.task != "fer":
            raise ArtifactError(
                f"{each.artifact.path} must be an expression model (task fer), but its task is {each.spec.task}"
            )
    paths, truth = list_fer(data)
    chosen = predict_labels(predictor, progress(paths))
    labels = predictor.spec.labels
    report: dict[str, Any] = {
        "pictures": len(paths),
        "accuracy": accuracy(chosen, truth),
        "recall": {label: accuracy(chosen[truth == i], truth[truth == i]) for i, label in enumerate(labels)},
        "confusion": np.bincount(truth * len(labels) + chosen, minlength=len(labels) ** 2)
        .reshape(len(labels), -1)
        .tolist(),
    }
    if baseline is not None:
        other = predict_labels(baseline, progress(paths))
        report["baseline_accuracy"] = accuracy(other, truth)
        report["drop"] = report["baseline_accuracy"] - report["accuracy"]
        report["agreement"] = accuracy(chosen, other)
    return report


def accuracy(chosen: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Share of equal entries, in percent."""
    return 100 * float((chosen == truth).mean())
