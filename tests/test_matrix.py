"""The matrix of embeddings behind a gallery: what grows, what is forgotten, and what a site may see."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_stra.gallery.matrix import Matrix


def unit(degrees: float) -> NDArray[np.float32]:
    angle = np.deg2rad(degrees)
    return np.array([np.cos(angle), np.sin(angle), 0], np.float32)


def chord(degrees: float) -> float:
    """The distance of two unit vectors so far apart."""
    return float(2 * np.sin(np.deg2rad(degrees) / 2))


def found(matrix: Matrix, site: int | None) -> dict[int, float]:
    return dict(matrix.nearest(unit(0), 9, site))


def test_sites_and_distances_stay_with_their_rows_while_it_grows_and_forgets() -> None:
    matrix = Matrix(3)
    matrix.append([1, 2, 3], [1, 2, 3], np.stack([unit(10), unit(20), unit(30)]))
    matrix.append([4], [1], unit(40)[None])  # beyond the room: all moves
    matrix.append([5, 6], [2, 3], np.stack([unit(50), unit(60)]))
    assert found(matrix, None) == pytest.approx({n: chord(10 * n) for n in range(1, 7)}, abs=1e-6)
    wanted = {1: {1, 4}, 2: {2, 5}, 3: {3, 6}, 4: set()}
    assert {site: set(found(matrix, site)) for site in wanted} == wanted
    matrix.keep(np.array([2, 4, 6]))
    assert matrix.numbers.tolist() == [2, 4, 6]
    assert found(matrix, None) == pytest.approx({n: chord(10 * n) for n in (2, 4, 6)}, abs=1e-6)
    assert {site: set(found(matrix, site)) for site in wanted} == {1: {4}, 2: {2}, 3: {6}, 4: set()}
    assert not matrix._rows[matrix.count : 6].any(), "what was forgotten is wiped from memory"


def test_the_nearest_come_first_and_no_more_than_asked_for() -> None:
    matrix = Matrix(3)
    order = np.random.default_rng(0).permutation(100)
    matrix.append(list(range(100)), [0] * 100, np.stack([unit(float(v)) for v in order]))
    nearest = matrix.nearest(unit(0), 3, None)
    assert [int(order[number]) for number, _ in nearest] == [0, 1, 2]
    assert Matrix(3).nearest(unit(0), 3, None) == []
