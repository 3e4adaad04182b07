"""Training: what it leaves out, what it draws, and that a resumed run is the unbroken run."""

from pathlib import Path

import cv2
import pytest
import torch

from edge_stra.augment import Augmentation, augment_batch
from edge_stra.data import list_fer
from edge_stra.models.weights import read_weights
from edge_stra.spec import FER_LABELS, DataError
from edge_stra.synthetic import face_pictures
from edge_stra.train import load_recipe, load_split, one_cycle, train, without_duplicates

NOTHING = Augmentation(degrees=0, scale=0, translate=0, brightness=0, contrast=0, erase=0)


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Seven class folders in `train` and `validation`, four drawn faces each."""
    for split, seed in (("train", 1), ("validation", 2)):
        pictures = iter(face_pictures(4 * len(FER_LABELS), (48, 48), seed))
        for label in FER_LABELS:
            folder = tmp_path / split / label
            folder.mkdir(parents=True)
            for index in range(4):
                cv2.imwrite(str(folder / f"{index}.png"), next(pictures))
    return tmp_path


def small_recipe(epochs: int) -> dict[str, object]:
    return load_recipe("fer") | {"batch": 8, "stages": [{"epochs": epochs, "size": 88}]}


@pytest.mark.slow
def test_a_resumed_run_ends_where_the_unbroken_run_ends(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import edge_stra.train as training

    name, recipe = "mobilenetv2_stra.fer", small_recipe(2)
    train(name, recipe, faces, None, faces / "whole", seed=3, resume=False)

    class Killed(Exception):
        pass

    steps = iter(range(100))
    step = training.Run.step

    def dies(self: training.Run, *args: object) -> float:
        if next(steps) == 4:  # in the second of two epochs of three steps
            raise Killed
        return step(self, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(training.Run, "step", dies)
        patch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
        with pytest.raises(Killed):
            train(name, recipe, faces, None, faces / "broken", seed=3, resume=False)
    train(name, recipe, faces, None, faces / "broken", seed=3, resume=True)
    states = [torch.load(faces / run / "last.pt", weights_only=True)["model"] for run in ("whole", "broken")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert read_weights(faces / "broken" / "best.safetensors")


def test_pictures_of_the_validation_split_are_left_out_of_training(faces: Path) -> None:
    held_out, _ = load_split(faces / "validation")
    pictures, labels = load_split(faces / "train")
    mixed = torch.cat([pictures, held_out[5:8]])
    kept, kept_labels = without_duplicates(mixed, torch.cat([labels, labels[:3]]), held_out)
    assert torch.equal(kept, pictures)
    assert torch.equal(kept_labels, labels)


def test_labels_come_from_folder_names(faces: Path) -> None:
    paths, labels = list_fer(faces / "train")
    assert [FER_LABELS[i] for i in labels] == [p.parent.name for p in paths]
    (faces / "train" / "fear").rename(faces / "train" / "unknown")
    with pytest.raises(DataError, match="fear is missing"):
        list_fer(faces / "train")


def test_augmentation_of_nothing_resizes_or_mirrors_only() -> None:
    pictures = torch.rand(16, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    result = augment_batch(pictures, 24, NOTHING, torch.Generator().manual_seed(1))
    same = (result - pictures).abs().amax(dim=(1, 2, 3)) < 1e-5
    mirrored = (result - pictures.flip(3)).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert bool((same | mirrored).all())
    assert 0 < int(mirrored.sum()) < 16


def test_augmentation_is_seeded() -> None:
    how = Augmentation(**load_recipe("fer")["augment"])
    pictures = torch.rand(4, 1, 48, 48)
    first, again, other = (augment_batch(pictures, 64, how, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (4, 1, 64, 64)
    assert 0 <= float(first.min()) <= float(first.max()) <= 1


def test_the_rate_rises_to_its_peak_and_falls_to_almost_nothing() -> None:
    rates = [one_cycle(step, 100, 0.2) for step in range(101)]
    assert rates[20] == pytest.approx(1)
    assert max(rates) == rates[20]
    assert rates[100] == pytest.approx(1e-3)
