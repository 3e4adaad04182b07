"""Pictures in memory for training: bytes, labels, and which of them are held out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from edge_stra.training.recipe import Size
from numpy.typing import NDArray
from torch import Tensor

from edge_stra.data import list_fer, read_fer_csv, read_grey
from edge_stra.identities import DISTRACTOR, TRAIN, Crops, hold_out, list_crops
from edge_stra.preprocess import read_rgb, resize_exact
from edge_stra.spec import DataError

Progress = Callable[[list[Path]], Iterable[Path]]


@dataclass(frozen=True)
class Pictures:
    """uint8 pixels [count, channels, height, width] and labels, int64 [count], counted from 0."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, keep: Tensor) -> Pictures:
        return Pictures(self.pixels[keep], self.labels[keep])


def load_fer(source: Path, size: Size, progress: Progress = iter) -> tuple[Pictures, Pictures]:
    """Training and validation pictures of FER2013: a folder with `train` and `validation`, or the Kaggle CSV.

    Training pictures that are the same, pixel for pixel, as one of the validation split are left out: FER2013
    holds about 350 such pairs, and a validation figure with them in the training set would flatter. Of the CSV,
    `PublicTest` is the validation split; `PrivateTest` is not read. `size` is what a folder's pictures have in
    memory; those of the CSV keep their 48x48.
    """
    if source.suffix.lower() == ".csv":
        splits = read_fer_csv(source, {"Training", "PublicTest"})
        if missing := {"Training", "PublicTest"} - set(splits):
            raise DataError(f"{source} must hold rows of the usage {' and '.join(sorted(missing))}, but holds none")
        training, held_out = (grey_pictures(*splits[usage]) for usage in ("Training", "PublicTest"))
    else:
        lists = [list_fer(source / split) for split in ("train", "validation")]  # both, before either is read
        training, held_out = (grey_pictures(read_grey(paths, size, progress), labels) for paths, labels in lists)
    return without_duplicates(training, held_out.pixels), held_out


def grey_pictures(stack: NDArray[np.uint8], labels: NDArray[np.int64]) -> Pictures:
    return Pictures(torch.from_numpy(stack)[:, None], torch.from_numpy(labels))


def without_duplicates(pictures: Pictures, held_out: Tensor) -> Pictures:
    """The pictures that are not, pixel for pixel, among those held out."""
    seen = {picture.numpy().tobytes() for picture in held_out}
    return pictures.take(torch.tensor([picture.numpy().tobytes() not in seen for picture in pictures.pixels]))


def load_crops(source: Path, held: int, seed: int) -> tuple[Crops, Crops | None, int]:
    """Training crops, where `held` is not 0 those of the identities held out, and how many are of nobody (0 and -1).

    `source` is a folder of crops, or one that holds `bounding_box_train`; the test set beside it is not looked at.
    """
    folder = source / TRAIN
    crops = list_crops(folder if folder.is_dir() else source)
    people = crops.take(crops.identities > DISTRACTOR)
    training, held_out = hold_out(people, held, seed) if held else (people, None)
    return training, held_out, len(crops) - len(people)


def read_crops(crops: Crops, size: Size, progress: Progress = iter) -> Tensor:
    """uint8 [count, 3, height, width]."""
    stack = torch.from_numpy(np.empty((len(crops), 3, *size), np.uint8))  # a MemoryError says more than torch's error
    for index, path in enumerate(progress(crops.paths)):
        rgb = read_rgb(path)
        stack[index] = torch.from_numpy(rgb if rgb.shape[:2] == size else resize_exact(rgb, size)).permute(2, 0, 1)
    return stack
