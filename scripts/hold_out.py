"""Holds identities of a training set out, so that `edge-stra evaluate` can measure on people not trained on.

    python scripts/hold_out.py CROPS OUT [--identities 100] [--seed 0] [--distractors] [--copy]

CROPS is Market-1501's bounding_box_train, or holds one folder for each identity. OUT gets Market-1501's three
folders: `bounding_box_train` with the identities that stay, `query` with one crop of each held-out identity in each
camera, `bounding_box_test` with its other crops. They are symbolic links to the pictures, or copies with --copy, under
Market-1501's names. OUT must be empty or absent.

--distractors puts the crops of all who stay into `bounding_box_test` too, as distractors (0000), so that the gallery is
nearly as large as the official one: 12,509 crops in place of 1,196. OSNet x0.25 of MSMT17 has 24.6 % mAP and 50.0
rank-1 on the official test, 24.34 and 41.1 so, and 51.0 and 68.3 without (`benchmarks/peers_accuracy.py --reid
OUT --peers ...`): fewer crops of each person can be found here than there.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np

from edge_stra.identities import (
    DISTRACTOR,
    GALLERY,
    QUERY,
    TRAIN,
    Crops,
    count_answerable,
    hold_out,
    list_crops,
    query_and_gallery,
)
from edge_stra.spec import DataError, EdgeStraError, OutputError


def place(crops: Crops, folder: Path, copy: bool, flat: bool, distractors: bool = False) -> None:
    """Links to the crops, or copies of them.

    Under their own names where these say who is shown (`flat`); else, and for distractors, under names that do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path, identity, camera in zip(crops.paths, crops.identities, crops.cameras, strict=True):
        own = path.name if flat else f"{identity}_{path.name}"
        name = own if flat and not distractors else f"{DISTRACTOR if distractors else identity:04}_c{camera}_of_{own}"
        if copy:
            shutil.copyfile(path, folder / name)
        else:
            (folder / name).symlink_to(path.resolve())


def split(source: Path, out: Path, identities: int, seed: int, distractors: bool, copy: bool) -> str:
    """Writes the three folders and says what they hold. Raises DataError, OutputError before anything is written."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} must be an empty folder or absent, but holds something; name another")
    if seed < 0:
        raise DataError(f"the seed must be 0 or more, but is {seed}")
    crops = list_crops(source)
    flat = all(path.parent == source for path in crops.paths)
    train, held = hold_out(crops, identities, seed)
    query, gallery = query_and_gallery(held)
    parts = {TRAIN: train, QUERY: query, GALLERY: gallery}
    try:
        for name, crops in parts.items():
            place(crops, out / name, copy, flat)
        if distractors:
            place(train, out / GALLERY, copy, flat, distractors=True)
    except OSError:
        for name in parts:  # nothing half-written; the folder was empty, or absent
            shutil.rmtree(out / name, ignore_errors=True)
        raise
    said = [f"{name}: {len(c)} crops, {len(np.unique(c.identities))} identities" for name, c in parts.items()]
    said[1] += f", {count_answerable(query, gallery)} of them with an answer in the gallery"
    if distractors:
        said.append(f"{GALLERY}: {len(train)} distractors more")
    return "\n".join(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--identities", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--distractors", action="store_true")
    parser.add_argument("--copy", action="store_true")
    args = parser.parse_args()
    try:
        print(split(args.source, args.out, args.identities, args.seed, args.distractors, args.copy))
    except EdgeStraError as error:
        raise SystemExit(f"Error: {error}") from error
    except OSError as error:
        hint = "" if args.copy else "; where links can't be made, --copy copies the pictures"
        raise SystemExit(f"Error: {args.out} can't be written: {error}{hint}") from error


if __name__ == "__main__":
    main()
