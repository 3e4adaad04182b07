"""At which distance two embeddings are taken for one person: from labelled crops to a threshold. numpy alone.

Two questions with two answers. Pairs: how often is one pair of different people nearer than the threshold? Searches:
how often does somebody unknown have anybody of a whole gallery nearer? The second grows with the gallery, and is what
an app meets; thresholds come from searches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stra.data import spread_indices
from edge_stra.embeddings import unit_rows
from edge_stra.identities import DISTRACTOR
from edge_stra.spec import DataError

CHUNK = 256  # rows at a time: 256 x 10,000 distances take 10 MB
BINS = 4000  # of distances from 0 to 2: a threshold from pairs is exact to 0.0005
PROBE_CROPS = 3  # one after the other, of one person in one camera, averaged as the app averages a short track
ENTRY_CROPS = 5  # of each person, from one camera: as people enrol
SIZES = 4  # gallery sizes told of: all people, a half, a quarter, an eighth
Z_95 = 1.959964  # of the normal distribution


@dataclass(frozen=True)
class PairCounts:
    """Pairs by distance, int64 [BINS] each: of one person, seen by different cameras, and of different people."""

    same: NDArray[np.int64]
    different: NDArray[np.int64]

    def roc(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Thresholds, and the shares of different and of same pairs that are nearer, [BINS] each, ascending."""
        edges = np.linspace(0, 2, BINS + 1)[1:]
        return edges, shares(self.different), shares(self.same)


@dataclass(frozen=True)
class Searches:
    """What searches for labelled probes find, each probe once as known and once as unknown.

    same: float64 [P], distance to the nearest entry of the probe's own identity from another camera, infinite where
    it has none. other: float64 [P, S], to the nearest entry of anybody else, in galleries of `people` [S] identities,
    one less where the probe's own is among them. entries: of the largest. identities: int64 [P], the probes'.
    """

    same: NDArray[np.float64]
    other: NDArray[np.float64]
    people: tuple[int, ...]
    entries: int
    identities: NDArray[np.int64]


def distances(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Euclidean distances [len(a), len(b)] between rows of length 1."""
    products: NDArray[np.float64] = (a @ b.T).astype(np.float64)
    return np.sqrt(np.clip(2 - 2 * products, 0, 4))


def count_pairs(
    embeddings: NDArray[np.floating], identities: NDArray[np.int64], cameras: NDArray[np.int64]
) -> PairCounts:
    """Counts all pairs of crops, each once. Junk and distractors (identities below 1) are left out.

    Pairs of one person count only across cameras: two crops a moment apart are alike whatever the model does.
    Raises DataError where there are no pairs of one kind.
    """
    unit, identities, cameras = people_only(unit_rows(embeddings), identities, cameras)
    same, different = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    for start in range(0, len(unit), CHUNK):
        rows = slice(start, start + CHUNK)
        bins = np.minimum((distances(unit[rows], unit[start:]) * (BINS / 2)).astype(np.int64), BINS - 1)
        later = np.triu(np.ones(bins.shape, bool), 1)  # each pair once
        alike = identities[rows, None] == identities[None, start:]
        crosses = cameras[rows, None] != cameras[None, start:]
        same += np.bincount(bins[later & alike & crosses], minlength=BINS)
        different += np.bincount(bins[later & ~alike], minlength=BINS)
    if not same.sum() or not different.sum():
        raise DataError(
            "there must be crops of two people, and of one person from two cameras, but pairs of "
            f"{'one person' if not same.sum() else 'different people'} are missing; add such crops"
        )
    return PairCounts(same, different)


def people_only(
    unit: NDArray[np.float32], identities: NDArray[np.int64], cameras: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    known = identities > DISTRACTOR
    return unit[known], identities[known], cameras[known]


def shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.cumsum(counts) / counts.sum()
    return result


def pair_threshold(pairs: PairCounts, false_accepts: float) -> tuple[float, float, float]:
    """The largest threshold with at most this share of different pairs nearer, and the shares there: (distance, false
    accepts, true accepts). The distance is 0 where already the nearest pair is too much."""
    edges, wrong, right = pairs.roc()
    index = int(np.searchsorted(wrong, false_accepts, side="right")) - 1
    return (0.0, 0.0, 0.0) if index < 0 else (float(edges[index]), float(wrong[index]), float(right[index]))


def run_searches(
    embeddings: NDArray[np.floating],
    identities: NDArray[np.int64],
    cameras: NDArray[np.int64],
    people: int | None = None,
    seed: int = 0,
) -> Searches:
    """Searches a gallery of these people for each of them, as the app does it.

    The gallery holds up to ENTRY_CROPS crops of each person, spread over those of one camera, drawn by the seed. A
    probe is the mean of up to PROBE_CROPS crops of one person in one camera, consecutive in the given order. Where no
    two crops share a camera, cameras are taken for unknown: a probe is one crop, the gallery's crops are drawn from
    all. `people`: the largest gallery, all by default. Raises DataError for fewer than two people, or than `people`.
    """
    unit, identities, cameras = people_only(unit_rows(embeddings), identities, cameras)
    named = np.unique(identities)
    if not 2 <= (people or len(named)) <= len(named):
        raise DataError(
            f"searches need crops of at least {max(2, people or 2)} people, but there are {len(named)}; add people"
        )
    # People in a drawn order: the first n of them are a gallery of n.
    random = np.random.default_rng(seed)
    order = random.permutation(named)
    entries = [enrolled_crops(np.flatnonzero(identities == identity), cameras, random) for identity in order]
    chosen = np.concatenate(entries)
    ends = np.cumsum([len(crops) for crops in entries])
    groups = probe_groups(identities, cameras)
    first = np.array([group[0] for group in groups])
    probes = unit_rows(np.stack([unit[group].mean(0) for group in groups]))  # (p, k)
    sizes = gallery_sizes(people or len(named))
    same, other = np.full(len(probes), np.inf), np.full((len(probes), len(sizes)), np.inf)
    for start in range(0, len(probes), CHUNK):
        rows = slice(start, start + CHUNK)
        found = distances(probes[rows], unit[chosen])  # (chunk, entries)
        own = identities[first[rows], None] == identities[chosen]
        same[rows] = np.where(own & (cameras[first[rows], None] != cameras[chosen]), found, np.inf).min(1)
        found[own] = np.inf
        for column, size in enumerate(sizes):
            other[rows, column] = found[:, : ends[size - 1]].min(1)
    return Searches(same, other, sizes, int(ends[sizes[-1] - 1]), identities[first])


def enrolled_crops(
    own: NDArray[np.int64], cameras: NDArray[np.int64], random: np.random.Generator
) -> NDArray[np.int64]:
    """Of one person's crops those that a gallery holds."""
    if len(np.unique(cameras)) < len(cameras):
        own = own[cameras[own] == random.choice(np.unique(cameras[own]))]
    return own[spread_indices(len(own), ENTRY_CROPS)]


def probe_groups(identities: NDArray[np.int64], cameras: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Crops that are averaged: consecutive ones of one person in one camera."""
    groups = []
    for identity, camera in np.unique(np.stack([identities, cameras], 1), axis=0):
        own = np.flatnonzero((identities == identity) & (cameras == camera))
        groups += [own[start : start + PROBE_CROPS] for start in range(0, len(own), PROBE_CROPS)]
    return groups


def gallery_sizes(people: int) -> tuple[int, ...]:
    """An eighth, a quarter, a half and all of the people, as far as two are left; ascending."""
    return tuple(sorted({max(2, people >> halvings) for halvings in range(SIZES)}))


def search_threshold(searches: Searches, false_accepts: float, column: int = -1) -> float:
    """The threshold at which at most this share of unknown probes find somebody, in the gallery of a size.

    It lies halfway between the nearest wrong answers that it lets in and keeps out.
    """
    nearest = np.sort(searches.other[:, column])
    allowed = math.floor(false_accepts * len(nearest) + 1e-9)
    if allowed >= len(nearest):
        return 2.0
    limit = min(nearest[allowed], 2.0)
    nearer = nearest[nearest < limit]  # fewer than allowed where some are as near as each other
    below = nearer[-1] if len(nearer) else 0.99 * limit
    return float(below + (limit - below) / 2)


def open_set(searches: Searches, threshold: float, column: int = -1) -> dict[str, Any]:
    """What comes of the searches at a threshold, as shares with counts and 95 % intervals, JSON-ready.

    rank1: known probes whose nearest entry is their own identity's, whatever the distance. identified: those with it
    within the threshold too. misnamed: known probes given another name. missed: known probes given none.
    false_accepts: probes of unknown people given a name.
    """
    known = np.isfinite(searches.same)
    same, other = searches.same[known], searches.other[known, column]
    right, named = same < other, np.minimum(same, other) <= threshold  # a tie never flatters
    return {
        "people": searches.people[column],
        "rank1": share(right),
        "identified": share(right & named),
        "misnamed": share(~right & named),
        "missed": share(~named),
        "false_accepts": share(searches.other[:, column] <= threshold),
    }


def share(happened: NDArray[np.bool_] | Sequence[bool]) -> dict[str, Any]:
    """How often something happened: share, count, of how many, and the 95 % interval of the share."""
    count, total = int(np.sum(happened)), len(happened)
    low, high = wilson(count, total)
    return {"share": count / total if total else math.nan, "count": count, "of": total, "low": low, "high": high}


def wilson(count: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, for independent trials; (0, 1) without any."""
    if total == 0:
        return 0.0, 1.0
    part, shrink = count / total, Z_95**2 / total
    centre = (part + shrink / 2) / (1 + shrink)
    half = Z_95 / (1 + shrink) * math.sqrt(part * (1 - part) / total + shrink / (4 * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def calibrate(pairs: PairCounts, searches: Searches, false_accepts: float) -> dict[str, Any]:
    """A threshold for searches in the largest gallery, with what it does in each size, JSON-ready."""
    threshold = search_threshold(searches, false_accepts)
    probes = len(searches.other)
    few = probes * false_accepts < 1
    needed = math.ceil(1 / false_accepts)
    levels = sorted({0.1, 0.01, 0.001, 0.0001, false_accepts}, reverse=True)
    names = ("distance", "false_accepts", "true_accepts")
    return {
        "threshold": threshold,
        "wanted": false_accepts,
        "entries": searches.entries,
        "pairs": {
            "same": int(pairs.same.sum()),
            "different": int(pairs.different.sum()),
            "roc": [dict(zip(names, pair_threshold(pairs, level), strict=True)) for level in levels],
        },
        "searches": [open_set(searches, threshold, column) for column in range(len(searches.people))],
        "warning": f"{probes} probes can't show a share of {false_accepts:g}; at least {needed} can" if few else "",
    }
