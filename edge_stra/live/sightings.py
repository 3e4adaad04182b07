"""What is known of a person while a camera follows them, and the rules by which they get a name or none."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_stra.detections import RectXywh, common_area
from edge_stra.gallery.store import Match

MEMORY = 8  # newest embeddings of a track that are averaged: turns are evened out, a lost track is soon left behind
YOUNG, YOUNG_S = 3, 0.15  # the first embeddings of a track come sooner, so that a name comes soon
EMBED_S = 0.6  # between the later ones
GROWN = 1.5  # times the area of the last crop: who came nearer shows more, and is looked at again
MIN_HEIGHT, MIN_WIDTH = 48, 16  # pixels of a crop
MIN_ASPECT, MAX_ASPECT = 1.3, 5.0  # height to width: outside it is a group, a part, or nobody
MAX_HIDDEN = 0.3  # part of a box that another one may cover
HEAD_WIDTHS = 0.8  # height of a head, hair and neck in widths of the box
CONFIRM = 2  # searches in a row that must agree before a track gets a name
HOLD = 0.05  # distance beyond the threshold that takes a name away again, and by which another name must be nearer
ENROL_AFTER_S, ENROL_CROPS = 3.0, 5  # unknown for so long, with so many embeddings, before a stranger gets a name
ENROL_MARGIN = 0.1  # beyond the threshold that anybody known must be: who is nearly somebody is not made another


@dataclass
class Sighting:
    """One track's embeddings, float64 [K] of length 1, and what the gallery said of their mean.

    near: the distance of each identity found, nearest first. streak: searches in a row with the same nearest one.
    """

    embeddings: deque[NDArray[np.float64]] = field(default_factory=lambda: deque(maxlen=MEMORY))
    count: int = 0  # of embeddings ever
    embedded_s: float = -math.inf
    area: int = 0  # of the last crop, in pixels
    searched_s: float = -math.inf
    pending: bool = False  # whether there are embeddings that no search has seen
    near: dict[str, float] = field(default_factory=dict)
    streak: int = 0
    identity: str | None = None
    unknown_since_s: float | None = None

    def due(self, time_s: float, area: int) -> bool:
        """Whether it is time for another embedding."""
        passed_s = time_s - self.embedded_s
        if self.count < YOUNG or area >= GROWN * self.area:
            return passed_s >= YOUNG_S
        return passed_s >= EMBED_S

    def see(self, unit: NDArray[np.float64], time_s: float, area: int) -> None:
        """Takes one more embedding, of length 1."""
        self.embeddings.append(unit)
        self.count, self.embedded_s, self.area, self.pending = self.count + 1, time_s, area, True

    def mean(self) -> NDArray[np.float32]:
        """The mean of the newest embeddings, float32 [K], of length 1."""
        total = np.sum(self.embeddings, axis=0)
        result: NDArray[np.float32] = (total / max(float(np.linalg.norm(total)), 1e-12)).astype(np.float32)
        return result

    def found(self, matches: Sequence[Match]) -> None:
        """Takes a search's answer, nearest first."""
        before = next(iter(self.near), None)
        near: dict[str, float] = {}
        for match in matches:
            near.setdefault(match.identity, match.distance)
        if self.pending:
            self.streak = self.streak + 1 if next(iter(near), None) == before else 1
        elif self.identity is not None and self.identity not in near:
            # Asked again of the same embeddings: forgotten, and not to be enrolled anew by what was seen before; or
            # renamed, and as sure as before.
            self.embeddings.clear()
        self.near, self.pending = near, False

    def wanted(self, threshold: float, confirm: int = CONFIRM) -> str | None:
        """The name that this track should have by itself; None is unknown.

        A name comes after `confirm` searches that agree, and stays until it is HOLD beyond the threshold, or another
        one is nearer by HOLD: names do not flicker at the threshold.
        """
        nearest, distance = next(iter(self.near.items()), (None, math.inf))
        taken = nearest if distance <= threshold and self.streak >= confirm else None
        held = self.near.get(self.identity, math.inf) if self.identity is not None else math.inf
        if held > threshold + HOLD:
            return taken
        return taken if taken is not None and distance < held - HOLD else self.identity

    def distance(self) -> float | None:
        """To the named identity, or to the nearest one where there is no name; None before the first answer."""
        if self.identity is not None:
            return self.near.get(self.identity)
        return next(iter(self.near.values()), None)

    def stranger(self, time_s: float, threshold: float) -> bool:
        """Whether to take this one for somebody new: long unknown, far from all, and one person throughout."""
        if self.unknown_since_s is None or time_s - self.unknown_since_s < ENROL_AFTER_S or self.pending:
            return False
        if len(self.embeddings) < ENROL_CROPS or min(self.near.values(), default=math.inf) <= threshold + ENROL_MARGIN:
            return False
        mean = self.mean()
        return all(float(np.linalg.norm(unit - mean)) <= threshold for unit in self.embeddings)


def settle(sightings: Mapping[int, Sighting], threshold: float, time_s: float, confirm: int = CONFIRM) -> None:
    """Names all live tracks of a camera, in place: each identity for one track at most, the nearest one.

    Who has the name already keeps it against one that is nearer by less than HOLD.
    """
    best: dict[str, tuple[float, int]] = {}
    for number, sighting in sightings.items():
        name = sighting.wanted(threshold, confirm)
        if name is not None:
            claim = sighting.near[name] - (HOLD if name == sighting.identity else 0)
            best[name] = min(best.get(name, (math.inf, 0)), (claim, number))
    owners = {number: name for name, (_, number) in best.items()}
    for number, sighting in sightings.items():
        sighting.identity = owners.get(number)
        if sighting.identity is not None or not sighting.count:
            sighting.unknown_since_s = None
        elif sighting.unknown_since_s is None:
            sighting.unknown_since_s = time_s


def good_crop(box: RectXywh, others: Sequence[RectXywh], size_hw: tuple[int, int]) -> bool:
    """Whether a box shows one whole person well enough: bad crops poison a gallery.

    Not cut by the picture's border, not too small, upright, and not much covered by another box.
    """
    left, top, width, height = box
    if left <= 0 or top <= 0 or left + width >= size_hw[1] or top + height >= size_hw[0]:
        return False
    if height < MIN_HEIGHT or width < MIN_WIDTH or not MIN_ASPECT <= height / width <= MAX_ASPECT:
        return False
    return all(common_area(box, other) <= MAX_HIDDEN * width * height for other in others)


def head_of(box: RectXywh) -> RectXywh:
    """Where the head is in a person's box: its upper quarter, or more of a box that shows no legs.

    Heads are in proportion to shoulders: 0.8 of the box's width is a third of somebody who walks by, and more than half
    of somebody behind a counter.
    """
    left, top, width, height = box
    return left, top, width, max(1, round(height / 4), min(height, round(HEAD_WIDTHS * width)))
