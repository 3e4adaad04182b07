"""Readers of re-identification sets: which identity and which camera each crop shows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_stra.data import list_pictures
from edge_stra.spec import DataError

JUNK, DISTRACTOR = -1, 0  # identities of Market-1501's names that no query has
TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"  # Market-1501's folders
CAMERA = re.compile(r"_c(\d+)")  # anywhere in a name
# 0002_c1s1_000451_03.jpg: identity, camera, sequence, frame, detection. DukeMTMC's 0005_c2_f0046985.jpg fits too.
MARKET_NAME = re.compile(r"^(-1|\d+)_c(\d+)")


@dataclass(frozen=True)
class Crops:
    """Pictures of people: paths, and identity and camera of each, int64 [count]."""

    paths: list[Path]
    identities: NDArray[np.int64]
    cameras: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Crops:
        """The crops at these places (a mask, or indices)."""
        indices = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return Crops([self.paths[i] for i in indices], self.identities[indices], self.cameras[indices])


def list_crops(folder: Path) -> Crops:
    """A folder in Market-1501's naming, or with one folder for each identity.

    In Market's naming the camera is in the name. In a folder for each identity (the folder's name is the
    identity, numbered here in sorted order) it is taken from names like `..._c3...`; where no name has one,
    every crop counts as a camera of its own, so that none is left out of a ranking for its camera.
    Raises DataError for any other layout.
    """
    if folder.is_file():
        raise DataError(f"{folder} must be a folder of crops, but is a file; give the folder")
    paths = list_pictures(folder)
    if all(path.parent == folder for path in paths):
        return market_crops(folder, paths)
    if any(len(path.relative_to(folder).parts) != 2 for path in paths):
        stray = next(path for path in paths if len(path.relative_to(folder).parts) != 2)
        raise DataError(
            f"{folder} must hold crops named like 0002_c1s1_000451_03.jpg, or one folder of crops for each identity, "
            f"but holds {stray.relative_to(folder)}"
        )
    refuse_market_root(folder, paths)
    identities = np.unique([path.parent.name for path in paths], return_inverse=True)[1] + 1
    found = [CAMERA.search(path.stem) for path in paths]
    cameras = [int(match[1]) if match else 0 for match in found]
    if any(match is None for match in found):
        if any(found):
            odd = paths[found.index(None)]
            raise DataError(f"either every crop's name or none must hold its camera, like _c3, but {odd.name} has none")
        cameras = list(range(1, len(paths) + 1))
    return Crops(paths, identities, np.array(cameras))


def list_market(folder: Path) -> tuple[Crops, Crops]:
    """Queries, and the gallery without junk, of a folder in Market-1501's layout. Raises DataError."""
    if missing := [name for name in (QUERY, GALLERY) if not (folder / name).is_dir()]:
        names = ", ".join(sorted(p.name for p in folder.iterdir())[:10]) if folder.is_dir() else ""
        raise DataError(
            f"{folder} must hold the folders {QUERY} and {GALLERY}, as Market-1501 has them, but lacks "
            f"{' and '.join(missing)}; found {names or 'nothing'}; give the folder that holds both with --data"
        )
    query, gallery = list_crops(folder / QUERY), list_crops(folder / GALLERY)
    for crops, name in ((query, QUERY), (gallery, GALLERY)):
        # Folders for each identity are numbered one by one, and so are made-up cameras: two listings do not match.
        if any(path.parent != folder / name for path in crops.paths):
            raise DataError(
                f"{folder / name} must hold crops named like 0002_c1s1_000451_03.jpg (identity, camera), but holds "
                "folders; name the crops so, without folders between"
            )
    return query, gallery.take(gallery.identities != JUNK)


def refuse_market_root(folder: Path, paths: Iterable[Path]) -> None:
    """Raises DataError where the folders of crops are Market-1501's own, which would pass for identities."""
    if market := sorted({path.parent.name for path in paths} & {TRAIN, QUERY, GALLERY}):
        raise DataError(
            f"{folder} must be one folder of crops, or hold one for each identity, but holds Market-1501's folders; "
            f"give one of them, like {folder / market[0]}"
        )


def market_crops(folder: Path, paths: list[Path]) -> Crops:
    """Crops whose names give identity and camera. Raises DataError with the first name that does not."""
    matches = [MARKET_NAME.match(path.name) for path in paths]
    if None in matches:
        name = paths[matches.index(None)].name
        raise DataError(
            f"{folder} must hold crops named like 0002_c1s1_000451_03.jpg (identity, camera), but one is named {name}"
        )
    numbers = np.array([[int(match[1]), int(match[2])] for match in matches if match])
    return Crops(paths, numbers[:, 0], numbers[:, 1])


def hold_out(crops: Crops, count: int, seed: int = 0) -> tuple[Crops, Crops]:
    """Training crops, and those of `count` identities drawn by the seed. Raises DataError where too few are left."""
    known = np.unique(crops.identities[crops.identities > DISTRACTOR])
    if not 0 < count < len(known):
        raise DataError(
            f"the identities to hold out must be 1 to {len(known) - 1} of {len(known)}, but got {count}; give another "
            "number (`train`: --hold-out)"
        )
    chosen = np.random.default_rng(seed).choice(known, count, replace=False)
    held = np.isin(crops.identities, chosen)
    return crops.take(~held), crops.take(held)


def count_answerable(query: Crops, gallery: Crops) -> int:
    """Queries whose identity another camera shows in the gallery: what mAP and ranks are the mean of."""
    cameras: dict[int, set[int]] = {}
    for identity, camera in zip(gallery.identities.tolist(), gallery.cameras.tolist(), strict=True):
        cameras.setdefault(identity, set()).add(camera)
    asked = zip(query.identities.tolist(), query.cameras.tolist(), strict=True)
    return sum(1 for identity, camera in asked if cameras.get(identity, set()) - {camera})


def query_and_gallery(crops: Crops) -> tuple[Crops, Crops]:
    """As Market-1501 does it: one crop of each identity in each camera asks, all others are the gallery.

    Only where the identity has been seen by another camera too, or there would be nothing to find. In a set with one
    crop of each identity in each camera the last one of each stays in the gallery.
    """
    pairs = np.stack([crops.identities, crops.cameras], 1)
    _, first = np.unique(pairs, axis=0, return_index=True)
    cameras_of = {i: len(np.unique(crops.cameras[crops.identities == i])) for i in np.unique(crops.identities)}
    asks = np.zeros(len(crops), bool)
    asks[[i for i in first if crops.identities[i] > DISTRACTOR and cameras_of[crops.identities[i]] > 1]] = True
    if not np.isin(crops.identities[asks], crops.identities[~asks]).any():
        asks[[np.flatnonzero(crops.identities == i)[-1] for i in np.unique(crops.identities)]] = False
    return crops.take(asks), crops.take(~asks)
