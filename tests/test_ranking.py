"""Market-1501's protocol: small cases worked out by hand, and deep-person-reid's own code as an oracle."""

from __future__ import annotations

import importlib.util
import sys
import time
import tracemalloc
import warnings
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_stra.evaluation.ranking import CHUNK, rank
from edge_stra.identities import Crops, market_crops
from edge_stra.spec import DataError

# Gallery crops as (name, angle to the query in degrees): a smaller angle is nearer. The query is 0001_c1.
Gallery = list[tuple[str, float]]


def crops(*names: str) -> Crops:
    return market_crops(Path("set"), [Path(f"{name}s1_000001_00.jpg") for name in names])


def at(*degrees: float) -> NDArray[np.float32]:
    """Unit vectors [count, 2] at these angles."""
    radians = np.deg2rad(np.array(degrees))
    return np.stack([np.cos(radians), np.sin(radians)], 1).astype(np.float32)


def ranked(gallery: Gallery, *more_queries: str) -> dict[str, float]:
    asked = crops("0001_c1", *more_queries)
    return rank(at(*[0] * len(asked)), asked, at(*(a for _, a in gallery)), crops(*(name for name, _ in gallery)))


# Average precision is the mean, over the right crops, of (right ones so far) / (place). Each case: the gallery, its
# average precision, and the place of the first right crop.
CASES: dict[str, tuple[Gallery, float, int]] = {
    "right first": ([("0001_c2", 5), ("0002_c1", 10)], 1.0, 1),
    "wrong first": ([("0002_c1", 5), ("0001_c2", 10)], 1 / 2, 2),
    # right at places 1 and 3: (1/1 + 2/3) / 2
    "two right": ([("0001_c2", 1), ("0002_c2", 2), ("0001_c3", 3)], (1 / 1 + 2 / 3) / 2, 1),
    # right at places 2, 3 and 5: (1/2 + 2/3 + 3/5) / 3
    "three right": (
        [("0002_c1", 1), ("0001_c2", 2), ("0001_c3", 3), ("0003_c1", 4), ("0001_c4", 5)],
        (1 / 2 + 2 / 3 + 3 / 5) / 3,
        2,
    ),
    # the nearest is the query's identity in its own camera: as if it were not there
    "same camera": ([("0001_c1", 1), ("0002_c1", 2), ("0001_c2", 3)], 1 / 2, 2),
    # another identity in the query's camera is a wrong answer like any other
    "other identity in the same camera": ([("0002_c1", 1), ("0003_c1", 2), ("0001_c2", 3)], 1 / 3, 3),
    "junk": ([("-1_c1", 1), ("-1_c2", 2), ("0001_c2", 3)], 1.0, 1),
    "distractors": ([("0000_c1", 1), ("0000_c2", 2), ("0001_c2", 3)], 1 / 3, 3),
    # all rules together; what counts is 0000_c3, 0001_c2, 0002_c1, 0001_c3: (1/2 + 2/4) / 2
    "all": (
        [("-1_c2", 1), ("0001_c1", 2), ("0000_c3", 3), ("0001_c2", 4), ("-1_c1", 5), ("0002_c1", 6), ("0001_c3", 7)],
        (1 / 2 + 2 / 4) / 2,
        2,
    ),
    # a wrong crop as near as the right one counts as nearer, wherever it stands in the list
    "tie, right listed first": ([("0001_c2", 5), ("0002_c1", 5)], 1 / 2, 2),
    "tie, wrong listed first": ([("0002_c1", 5), ("0001_c2", 5)], 1 / 2, 2),
    # three wrong ones at the same distance: right at places 4 and 5: (1/4 + 2/5) / 2
    "tie of five": (
        [("0001_c2", 5), ("0002_c1", 5), ("0001_c3", 5), ("0003_c1", 5), ("0000_c1", 5)],
        (1 / 4 + 2 / 5) / 2,
        4,
    ),
    # the angle's sign does not matter: only distances do
    "other side": ([("0002_c1", -3), ("0001_c2", 4), ("0003_c2", -5)], 1 / 2, 2),
}


@pytest.mark.parametrize("case", CASES)
def test_cases_by_hand(case: str) -> None:
    gallery, average_precision, place = CASES[case]
    for order in (gallery, gallery[::-1]):
        report = ranked(order)
        assert report["map"] == pytest.approx(100 * average_precision)
        assert [report[f"rank{r}"] for r in (1, 5, 10)] == [100 * (place <= r) for r in (1, 5, 10)]
        assert report["queries"] == 1


@pytest.mark.parametrize(("place", "hits"), [(1, "111"), (2, "011"), (5, "011"), (6, "001"), (10, "001"), (11, "000")])
def test_the_first_right_crop_decides_the_rank(place: int, hits: str) -> None:
    gallery: Gallery = [("0002_c1", float(i)) for i in range(1, 20) if i != place]
    report = ranked([*gallery, ("0001_c2", float(place))])
    assert [report[f"rank{r}"] for r in (1, 5, 10)] == [100.0 * (hit == "1") for hit in hits]
    assert report["map"] == pytest.approx(100 / place)


def test_queries_are_averaged_and_those_with_nothing_to_find_left_out() -> None:
    # 0001_c1 finds its crop at place 1, 0002_c3 at place 2; 0003_c1 is in the gallery by its own camera alone and
    # 0004_c1 not at all. mAP (1 + 1/2) / 2, rank-1 1/2.
    gallery: Gallery = [("0001_c2", 1), ("0002_c1", 2), ("0003_c1", 3)]
    report = ranked(gallery, "0002_c3", "0003_c1", "0004_c1")
    assert report == {"map": 75.0, "rank1": 50.0, "rank5": 100.0, "rank10": 100.0, "queries": 2}


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(DataError, match="no query has a crop of its identity from another camera"):
        ranked([("0001_c1", 1), ("0002_c2", 2)])
    for name in ("0000_c2", "-1_c2"):
        with pytest.raises(DataError, match=f"{name}.* is a distractor"):
            ranked([("0001_c2", 1), ("0000_c1", 2)], name)
    bad = at(0)
    bad[0, 0] = np.nan
    for query, gallery in ((bad, at(1)), (at(0), bad)):
        with pytest.raises(DataError, match="finite"):
            rank(query, crops("0001_c1"), gallery, crops("0001_c2"))


@pytest.fixture(scope="module")
def oracle() -> ModuleType:
    """deep-person-reid's ranking, from the package on PyPI.

    Read from its file: the package imports torchvision and more, the ranking itself numpy alone.
    """
    found = importlib.util.find_spec("torchreid")
    if found is None or not found.submodule_search_locations:
        pytest.skip("torchreid is not installed, against which the ranking is checked; run: pip install -e '.[dev]'")
    spec = importlib.util.spec_from_file_location(
        "oracle", Path(found.submodule_search_locations[0]) / "reid/metrics/rank.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with patch.dict(sys.modules, {"torchreid": None}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that its Cython part is not built
        spec.loader.exec_module(module)
    return module


def random_crops(random: np.random.Generator, count: int, low: int, high: int) -> Crops:
    """Identities low..high, cameras 1..6."""
    return Crops([Path(f"{i}.jpg") for i in range(count)], random.integers(low, high + 1, count),
                 random.integers(1, 7, count))  # fmt: skip


def unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize(("queries", "gallery", "identities"), [(40, 300, 12), (CHUNK + 45, 700, 40), (60, 80, 50)])
@pytest.mark.parametrize("seed", range(4))
def test_equal_to_the_oracle(oracle: ModuleType, queries: int, gallery: int, identities: int, seed: int) -> None:
    """In float64, in which random distances do not tie. The oracle leaves junk to its reader of Market-1501."""
    random = np.random.default_rng(seed)
    asked = random_crops(random, queries, 1, identities)
    shown = random_crops(random, gallery, -1, identities)
    centres = random.normal(size=(identities + 2, 16))  # so that the right crops are near, but not always nearest
    q = unit(centres[asked.identities + 1] + random.normal(size=(queries, 16)))
    g = unit(centres[shown.identities + 1] + random.normal(size=(gallery, 16)))
    keep = shown.identities != -1
    distances = np.linalg.norm(q[:, None] - g[None, keep], axis=2)
    cmc, mean_precision = oracle.evaluate_rank(
        distances, asked.identities, shown.identities[keep], asked.cameras, shown.cameras[keep], max_rank=10
    )
    report = rank(q, asked, g, shown)  # type: ignore[arg-type]
    assert 10 < report["map"] < 90  # neither trivial
    assert report["map"] == pytest.approx(100 * mean_precision, rel=1e-9)
    assert [report[f"rank{r}"] for r in (1, 5, 10)] == pytest.approx([100 * cmc[r - 1] for r in (1, 5, 10)], rel=1e-5)


@pytest.mark.slow
def test_market_takes_seconds_and_little_memory() -> None:
    """3,368 queries, 15,913 crops: required under 20 s and 4 GB; measured 0.7 s and 0.1 GB."""
    random = np.random.default_rng(0)
    asked, shown = random_crops(random, 3368, 1, 750), random_crops(random, 15913, 0, 750)
    q = unit(random.normal(size=(3368, 512))).astype(np.float32)
    g = unit(random.normal(size=(15913, 512))).astype(np.float32)
    tracemalloc.start()
    start = time.perf_counter()
    rank(q, asked, g, shown)
    seconds, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 20
    assert peak < 0.15e9, "the whole matrix would be 0.21 GB"
