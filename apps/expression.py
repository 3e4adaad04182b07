"""Which expression a face shows: detect, crop, predict."""

from __future__ import annotations

import numpy as np
from edge_stra.apps.detect import crop_with_margin
from numpy.typing import NDArray

from edge_stra.detections import Detect, Detection, check_picture
from edge_stra.faces import Expression, Predicts, check_task, run
from edge_stra.preprocess import softmax, to_input
from edge_stra.spec import ArtifactError


def predict_expressions(predictor: Predicts, rgb_u8: NDArray[np.uint8], detect: Detect | None) -> list[Expression]:
    """The expressions of a picture's faces, uint8 [H, W, 3], in the detector's order; empty where it finds none.

    With `detect=None` the whole picture is one face, for pictures that are crops already.
    Raises ArtifactError where the model is not one for expressions, DataError where the picture is none.
    """
    check_task(predictor.spec, "fer")
    height, width = check_picture(rgb_u8)
    if detect is None:
        return [expression_of(predictor, rgb_u8, Detection((0, 0, width, height)))]
    return [expression_of(predictor, crop_with_margin(rgb_u8, face.box_xywh), face) for face in detect(rgb_u8)]


def expression_of(predictor: Predicts, crop_u8: NDArray[np.uint8], face: Detection) -> Expression:
    """The expression on one crop, uint8 [h, w, 3]. Raises ArtifactError where labels and outputs differ in number."""
    spec = predictor.spec
    logits = run(predictor, to_input(crop_u8, spec.input))  # (k,)
    if len(spec.labels) != len(logits):
        raise ArtifactError(
            f"{spec.name} must give {len(spec.labels)} numbers, one for each label, but gave {len(logits)}"
        )
    probabilities = {label: float(p) for label, p in zip(spec.labels, softmax(logits), strict=True)}
    return Expression(face, probabilities, spec.labels[int(logits.argmax())])
