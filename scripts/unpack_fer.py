"""Unpacks FER2013's CSV, as Kaggle has it, into class folders that every command of edge-stra takes.

    python scripts/unpack_fer.py fer2013.csv OUT

OUT/train and OUT/validation get one folder for each label, with a PNG for each row of the usages Training and
PublicTest, named by its place among them. PrivateTest, for the last figure of a finished model, is left where it is.
OUT must be empty or absent.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import cv2
from tqdm import tqdm

from edge_stra.data import read_fer_csv
from edge_stra.spec import FER_LABELS, DataError, EdgeStraError, OutputError

SPLITS = {"Training": "train", "PublicTest": "validation"}


def unpack(source: Path, out: Path) -> str:
    """Writes the pictures and says how many.

    Raises DataError, OutputError before anything is written, OSError where something can't be; then nothing is left.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} must be an empty folder or absent, but holds something; name another")
    found = read_fer_csv(source, set(SPLITS))
    if not found:
        raise DataError(f"{source} must hold rows of the usage Training or PublicTest, but holds none")
    try:
        for usage, (pictures, labels) in found.items():
            for label in FER_LABELS:
                (out / SPLITS[usage] / label).mkdir(parents=True)
            for index, (picture, label) in enumerate(zip(tqdm(pictures, SPLITS[usage]), labels, strict=True)):
                path = out / SPLITS[usage] / FER_LABELS[label] / f"{index:05}.png"
                cv2.imencode(".png", picture)[1].tofile(path)  # imwrite takes no other letters than ASCII on Windows
    except BaseException:  # a part of a split would pass for the whole one
        for split in SPLITS.values():
            shutil.rmtree(out / split, ignore_errors=True)
        raise
    return "\n".join(f"{out / SPLITS[usage]}: {len(labels)} pictures" for usage, (_, labels) in found.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    try:
        print(unpack(args.source, args.out))
    except (EdgeStraError, OSError) as error:
        raise SystemExit(f"Error: {error}") from error


if __name__ == "__main__":
    main()
