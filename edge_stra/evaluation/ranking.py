"""Market-1501's single-query protocol: mean average precision and cumulative matching characteristic.

Source: Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015, section 5.1. For each query the
gallery is sorted by distance; crops of the query's identity from the query's own camera are left out, junk (-1) is
left out, distractors (0) stay. Average precision is the mean, over the right crops, of the precision at each one's
place, as torchreid and fast-reid compute it (the first published Matlab code takes trapezoids, which gives a little
more).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stra.identities import DISTRACTOR, JUNK, Crops, count_answerable
from edge_stra.spec import DataError

RANKS = (1, 5, 10)
CHUNK = 256  # queries at a time: 256 x 20,000 products take 20 MB


def check_queries(asked: Crops, shown: Crops) -> None:
    """Raises DataError where no query has a right crop, or one is junk or a distractor: names alone decide that."""
    if (asked.identities <= DISTRACTOR).any():
        name = asked.paths[int((asked.identities <= DISTRACTOR).argmax())].name
        raise DataError(f"every query must be of a known identity, but {name} is a distractor (0) or junk (-1)")
    if not count_answerable(asked, shown):
        raise DataError("no query has a crop of its identity from another camera in the gallery; is it the right one?")


def rank(query: NDArray[np.float32], asked: Crops, gallery: NDArray[np.float32], shown: Crops) -> dict[str, Any]:
    """`map`, `rank1`, `rank5`, `rank10` in percent, and `queries`, those that have something to find.

    query [Q, K] and gallery [N, K] are embeddings of unit length, so that the order of the Euclidean distance is that
    of the product. A wrong crop as near as a right one counts as nearer: ties never flatter. Raises DataError where
    no query has a right crop, where a query is junk or a distractor, or where an embedding is not finite.
    """
    if not (np.isfinite(query).all() and np.isfinite(gallery).all()):
        raise DataError("embeddings must be finite numbers, but one holds NaN or infinity")
    check_queries(asked, shown)
    keep = shown.identities != JUNK
    gallery, identities, cameras = gallery[keep], shown.identities[keep], shown.cameras[keep]
    precisions: list[float] = []
    first_places: list[int] = []
    for start in range(0, len(query), CHUNK):
        for row, likeness in enumerate(query[start : start + CHUNK] @ gallery.T, start):
            same = identities == asked.identities[row]
            right = np.sort(likeness[same & (cameras != asked.cameras[row])])[::-1]
            if not len(right):
                continue
            wrong = np.sort(likeness[~same])
            before = len(wrong) - np.searchsorted(wrong, right, side="left")  # wrong crops ahead of each right one
            number = np.arange(1, len(right) + 1)
            precisions.append(float((number / (number + before)).mean()))
            first_places.append(int(before[0]))
    report: dict[str, Any] = {"map": 100 * float(np.mean(precisions))}
    report |= {f"rank{r}": 100 * float((np.array(first_places) < r).mean()) for r in RANKS}
    return report | {"queries": len(precisions)}
