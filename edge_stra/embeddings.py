"""What many do with embeddings first: rows of length 1, whatever the model left them at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_stra.spec import DataError


def unit_rows(embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
    """Embeddings [N, K] scaled to length 1, float32: quantized models give lengths a little beside 1.

    Raises DataError for another shape, and where one is not finite or has no direction.
    """
    rows = np.asarray(embeddings, np.float64)
    largest = np.abs(rows).max(axis=-1, keepdims=True, initial=0.0)
    if rows.ndim != 2 or not (np.isfinite(largest) & (largest > 0)).all():
        raise DataError(
            "embeddings must be rows of finite numbers, not all zero, but one is not; embed the picture again"
        )
    rows = rows / largest  # so that the squares of tiny and huge numbers don't leave the range
    result: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return result
