"""Whether two pictures show the same person: embeddings and their distance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_stra.detections import check_picture
from edge_stra.faces import Predicts, check_task, run
from edge_stra.preprocess import to_input
from edge_stra.spec import DataError


def embed_picture(predictor: Predicts, rgb_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The embedding, float32 [512] as the model gives it, of a picture of one whole person, uint8 [H, W, 3].

    Raises ArtifactError where the model is not one for re-identification, DataError where the picture is none.
    """
    check_task(predictor.spec, "reid")
    check_picture(rgb_u8)
    return run(predictor, to_input(rgb_u8, predictor.spec.input))  # (512,)


def embedding_size(predictor: Predicts) -> int:
    """How many numbers a model's embeddings have: seen on a grey picture. Raises what `embed_picture` raises."""
    return len(embed_picture(predictor, np.full((*predictor.spec.input.size_hw, 3), 127, np.uint8)))


def distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """The Euclidean distance of two embeddings [K] after L2 normalisation: 0 (same direction) to 2 (opposite).

    Raises DataError where the two differ in shape or one has no direction.
    """
    if a.ndim != 1 or a.shape != b.shape:
        raise DataError(f"two embeddings must be vectors of one length, but are {list(a.shape)} and {list(b.shape)}")
    return float(np.linalg.norm(unit_vector(a) - unit_vector(b)))


def unit_vector(embedding: NDArray[np.float32]) -> NDArray[np.float64]:
    """In float64, so that the distance of an embedding to itself is 0 and not a rounding error."""
    wide = embedding.astype(np.float64)
    length = float(np.linalg.norm(wide))
    if not np.isfinite(length) or length == 0:
        raise DataError(f"an embedding must have a finite length above 0, but has {length}; embed the picture again")
    unit: NDArray[np.float64] = wide / length
    return unit
