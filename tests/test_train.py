"""Training: what it leaves out, what it draws, that a killed run ends where the unbroken one does, alone or in two."""

import csv
import errno
import hashlib
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from edge_stra.training.augment import augment_batch, draw, mix_pairs, resize_batch
from edge_stra.training.distributed import World, join
from edge_stra.training.losses import triplet_loss
from edge_stra.training.order import by_identity, shuffled
from edge_stra.training.recipe import Augmentation, Recipe, Schedule, Stage, load_recipe, parse_recipe
from edge_stra.training.run import Place, Run, factor, train
from edge_stra.training.sets import load_fer, without_duplicates
from edge_stra.training.tasks import FerTask, ReidTask, Score, create_task, normalise
from edge_stra.training.teachers import ask_teachers, check_teachers, load_teachers

from edge_stra.cli import main
from edge_stra.data import list_fer
from edge_stra.evaluation.ranking import rank
from edge_stra.models.random_weights import random_model
from edge_stra.models.registry import create_model
from edge_stra.models.weights import read_weights, save_weights
from edge_stra.spec import FER_LABELS, DataError, EdgeStraError, ModelError, OutputError
from edge_stra.synthetic import face_pictures, structured_pictures

FER, REID = "mobilenetv2_stra.fer", "mobilenetv2_stra.reid"
Outputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
ALONE = World(0, 1, torch.device("cpu"))


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


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Eight identities with four crops each, from two cameras, in Market-1501's naming."""
    folder = tmp_path / "bounding_box_train"
    folder.mkdir()
    for index, picture in enumerate(structured_pictures(32, (64, 32), seed=4)):
        cv2.imwrite(str(folder / f"{index // 4 + 1:04d}_c{index % 2 + 1}s1_{index:06d}_00.jpg"), picture)
    return tmp_path


def small(task: str, **changes: object) -> dict[str, object]:
    """A recipe of seconds, as its JSON holds it."""
    size = [32, 32] if task == "fer" else [64, 32]
    kept = {"task": task, "batch": 8, "stored": [48, 48] if task == "fer" else [64, 32], "learning_rate": 0.001}
    kept |= {"dropout": 0.2} if task == "fer" else {}
    return kept | {"stages": [{"epochs": 2, "size": size}], "ema_decay": 0.9} | changes


def run_of(recipe: dict[str, object], data: Path, out: Path, held: int = 0, seed: int = 3) -> Run:
    parsed = parse_recipe(recipe, "test")
    task = create_task(f"mobilenetv2_stra.{parsed.task}", parsed, data, held)
    return Run(task, ALONE, Place(out), seed, init=None)


def finish(run: Run) -> float:
    return train(run, False, lambda line: None, lambda values, step: None)


def command(data: Path, recipe: Path, out: Path, *more: str) -> list[str]:
    task = json.loads(recipe.read_text())["task"]
    options = ["--data", str(data), "--recipe", str(recipe), "--out", str(out), "--threads", "1", "--hold-out", "2"]
    return ["-m", "edge_stra", "train", task, *options, "--device", "cpu", *more]


def state_of(out: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(out / "last.pt", weights_only=True)["learner"]
    return state


def losses_of(out: Path) -> list[float]:
    return [epoch["loss"] for epoch in json.loads((out / "history.json").read_text())["epochs"]]


@pytest.mark.slow
def test_a_run_killed_at_a_random_step_and_resumed_ends_bitwise_where_the_unbroken_run_ends(faces: Path) -> None:
    recipe = faces / "recipe.json"
    save_weights(random_model(FER), faces / "teacher.safetensors", name=FER)
    distilled = {"teacher_share": 0.5, "augment": {"degrees": 10, "erase": 0.5, "mix": 0.4}}
    distilled |= {"sam_rho": 0.05, "mean_of_last": 6}
    recipe.write_text(json.dumps(small("fer", stages=[{"epochs": 6, "size": [32, 32]}], **distilled)))
    teacher = ["--teacher", str(faces / "teacher.safetensors")]
    line = command(faces, recipe, faces / "whole", *teacher)
    subprocess.run([sys.executable, *line], check=True, capture_output=True, timeout=300)
    line = command(faces, recipe, faces / "broken", *teacher, "--checkpoint-seconds", "0")
    process = subprocess.Popen([sys.executable, *line], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    last, epochs = faces / "broken" / "last.pt", random.randrange(1, 4)  # of six, and some steps more
    while not last.exists() or torch.load(last, weights_only=True)["place"][0] < epochs:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (faces / "broken" / "history.json").exists()
    kept = torch.load(last, weights_only=True)["history"]
    subprocess.run([sys.executable, *line, "--resume"], check=True, capture_output=True, timeout=300)
    done = json.loads((faces / "broken" / "history.json").read_text())["epochs"]
    assert len(kept) >= epochs and done[: len(kept)] == kept  # with their seconds: a run begun anew has others
    whole, broken = state_of(faces / "whole"), state_of(faces / "broken")
    assert all(torch.equal(whole[key], broken[key]) for key in whole)
    assert losses_of(faces / "whole") == losses_of(faces / "broken")
    assert read_weights(faces / "broken" / "best.safetensors")
    means = [read_weights(faces / name / "mean.safetensors") for name in ("whole", "broken")]
    assert all(torch.equal(means[0][key], means[1][key]) for key in means[0])
    final = read_weights(faces / "broken" / "final.safetensors")
    assert all(torch.equal(final[key], whole[f"network.{key}"]) for key in final)


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_same_batch(people: Path) -> None:
    """Two gloo processes, batch norm shared, triplets over both: one step of float32 SGD is the same step.

    One, from weights that are alive: an untrained network magnifies two orders of summation to 5 % of a step, this one
    to 2 %; without shared norms they are 160 % apart.
    """
    save_weights(random_model(REID), people / "alive.safetensors", name=REID)
    recipe = people / "recipe.json"
    exact = {"precision": "fp32", "optimizer": "sgd", "learning_rate": 0.01, "dropout": 0.0, "batch": 24}
    exact |= {"sam_rho": 0.005}  # further uphill the two lie further apart: 7 % at 0.05
    pairs = {"identities_per_batch": 6, "triplet_weight": 1.0, "augment": {"erase": 0.5, "translate": 0.1}}
    recipe.write_text(json.dumps(small("reid", **exact, **pairs, stages=[{"epochs": 1, "size": [64, 32]}])))
    start = ["--init", str(people / "alive.safetensors")]
    subprocess.run([sys.executable, *command(people, recipe, people / "one", *start)], check=True, capture_output=True)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [*torchrun, *command(people, recipe, people / "two", *start)],
        check=True,
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    one, two = state_of(people / "one"), state_of(people / "two")
    task = create_task(REID, load_recipe(str(recipe)), people, 2)
    run = Run(task, ALONE, Place(people / "begin"), 0, people / "alive.safetensors")
    run.begin()
    begin = run.learner.state_dict()
    for key in (key for key in one if one[key].ndim > 1):
        moved, apart = one[key] - begin[key], one[key] - two[key]
        assert float(moved.norm()) > 0, key
        assert float(apart.norm()) <= 0.05 * float(moved.norm()), key
    for key in (key for key in one if key.endswith("running_var")):
        assert float((one[key] - two[key]).norm()) <= 1e-4 * float(one[key].norm()), key
    assert losses_of(people / "one") == pytest.approx(losses_of(people / "two"), rel=1e-5)


def test_frozen_blocks_keep_weights_and_statistics(faces: Path) -> None:
    run = run_of(small("fer", stages=[{"epochs": 1, "size": [32, 32], "frozen": 3}]), faces, faces / "out")
    before = {key: value.clone() for key, value in run.learner.network.state_dict().items()}
    finish(run)
    after = run.learner.network.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    frozen = ("features.0.", "features.1.", "features.2.")
    assert not [key for key in changed if key.startswith(frozen)]
    assert "features.3.conv.0.weight" in changed
    assert "features.3.conv.1.running_mean" in changed


def test_blocks_thaw_again_in_a_later_stage(faces: Path) -> None:
    run = run_of(small("fer"), faces, faces / "out")
    run.prepare(3)
    assert not any(p.requires_grad for p in run.learner.network.features[:3].parameters())
    run.prepare(0)
    assert all(p.requires_grad for p in run.learner.parameters())
    assert all(module.training for module in run.learner.modules())


def test_the_best_epoch_is_of_the_last_size(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = [{"epochs": 1, "size": [32, 32]}, {"epochs": 3, "size": [48, 48]}]
    run = run_of(small("fer", stages=stages), faces, faces / "out")
    scores, averages = iter([90.0, 50.0, 60.0, 55.0]), []

    def score(network: torch.nn.Module, size: object, device: object) -> Score:
        averages.append({key: value.clone() for key, value in network.state_dict().items()})
        return Score("accuracy", next(scores))

    monkeypatch.setattr(run.task, "score", score)
    assert finish(run) == 60
    kept = read_weights(faces / "out" / "best.safetensors")
    assert all(torch.equal(kept[key], averages[2][key]) for key in kept)
    assert not torch.equal(kept["head.linear.weight"], averages[3]["head.linear.weight"])


@pytest.mark.parametrize(("last", "first"), [(2, 2), (4, 0)])
def test_the_mean_is_of_the_averages_after_the_last_epochs(last: int, first: int, faces: Path) -> None:
    recipe = small("fer", stages=[{"epochs": 3, "size": [32, 32]}], mean_of_last=last)
    run, states = run_of(recipe, faces, faces / "out"), []
    run.trained = True
    extend = run.extend_mean

    def watched() -> None:
        states.append({key: value.clone() for key, value in run.average.state_dict().items()})
        extend()

    run.extend_mean = watched  # type: ignore[method-assign]
    finish(run)
    mean = read_weights(faces / "out" / "mean.safetensors")
    assert len(states) == 4  # the start, and three epochs
    for key in ("head.linear.weight", "features.0.1.running_var"):
        assert torch.allclose(mean[key], torch.stack([s[key] for s in states[first:]]).mean(0), atol=1e-6)
        assert not torch.allclose(mean[key], states[-1][key], atol=1e-5)
    assert json.loads((faces / "out" / "history.json").read_text())["mean"]["averages"] == last


def test_a_random_head_is_not_taken_into_a_mean(faces: Path) -> None:
    run = run_of(small("fer", mean_of_last=3), faces, faces / "out")
    with pytest.raises(ModelError, match=r"trained weights of the model \(--init\), but is not; give at most 2"):
        finish(run)


@pytest.mark.parametrize(("score_of_mean", "kept"), [(70.0, "mean"), (50.0, "average")])
def test_the_mean_is_kept_as_the_best_where_it_is(
    score_of_mean: float, kept: str, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(small("fer", mean_of_last=2), faces, faces / "out")
    scores = iter([55.0, 60.0, score_of_mean])
    monkeypatch.setattr(run.task, "score", lambda network, size, device: Score("accuracy", next(scores)))
    assert finish(run) == max(60.0, score_of_mean)
    best, wanted = read_weights(faces / "out" / "best.safetensors"), getattr(run, kept).state_dict()
    assert all(torch.equal(best[key], wanted[key]) for key in best)


def step_watched(run: Run, rate: float = 0.01) -> list[tuple[torch.Tensor, torch.Tensor, float]]:
    """One step by gradient descent at `rate`; of each pass: weights before it [n], gradients [n], loss."""
    run.prepare(0)
    seen, find = [], run.find_gradients

    def watched(inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        before = flat(run.learner.parameters())
        parts = find(inputs, labels)
        seen.append((before, flat(p.grad for p in run.learner.parameters()), float(sum(parts.values()).detach())))
        return parts

    run.find_gradients = watched  # type: ignore[method-assign]
    run.step(torch.arange(8), 0, 1)
    return seen


def flat(tensors: Iterable[torch.Tensor | None]) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten().clone() for tensor in tensors if tensor is not None])


def descent(faces: Path, rho: float, dropout: float = 0.2) -> Run:
    changes = {"optimizer": "sgd", "momentum": 0.0, "precision": "fp32", "dropout": dropout, "sam_rho": rho}
    return run_of(small("fer", schedule={"kind": "steps"}, learning_rate=0.01, **changes), faces, faces / "out")


def test_a_sharpness_aware_step_takes_the_gradient_found_uphill(faces: Path) -> None:
    run = descent(faces, rho=0.1)
    (start, first, _), (moved, second, _) = step_watched(run)
    torch.testing.assert_close(moved - start, 0.1 * first / first.norm(), atol=1e-7, rtol=1e-3)
    assert not torch.allclose(second, first, rtol=0.01)
    torch.testing.assert_close(flat(run.learner.parameters()), start - 0.01 * second, atol=1e-7, rtol=1e-5)


def test_norms_keep_the_statistics_of_the_weights_themselves(faces: Path) -> None:
    plain, aware = descent(faces, rho=0.0), descent(faces, rho=0.5)
    assert [len(step_watched(run)) for run in (plain, aware)] == [1, 2]
    assert torch.equal(flat(plain.learner.buffers()), flat(aware.learner.buffers()))


def test_what_a_quantized_run_rounds_and_frozen_blocks_keep_their_statistics_too(people: Path) -> None:
    changes = {"quantized": True, "precision": "fp32", "optimizer": "sgd", "momentum": 0.0}
    kept = []
    for rho in (0.0, 0.5):
        run = run_of(small("reid", sam_rho=rho, **changes), people, people / "out")
        run.prepare(3)
        run.step(torch.arange(8), 0, 1)
        kept.append(flat(run.learner.buffers()))
    assert torch.equal(*kept)


def test_gradients_that_are_not_finite_end_a_run_before_they_reach_the_weights(faces: Path) -> None:
    run = descent(faces, rho=1e38)  # so far uphill that the second pass overflows
    run.prepare(0)
    before = flat(run.learner.parameters())
    with pytest.raises(ModelError, match="gradients are not finite at step 0"):
        run.step(torch.arange(8), 0, 1)
    assert torch.equal(flat(run.learner.parameters()), before)


def test_a_recipe_is_the_same_whatever_its_note_says() -> None:
    one, other = (parse_recipe(small("fer", note=note), "test") for note in ("before", "after"))
    assert one == other


def test_both_passes_of_a_sharpness_aware_step_see_the_same(faces: Path) -> None:
    (_, slope, first), (_, slope_again, second) = step_watched(descent(faces, rho=1e-20, dropout=0.5))
    assert first == second
    torch.testing.assert_close(slope_again, slope)


@pytest.mark.parametrize(("position", "decay"), [(0, 0.1), (200, 0.9)])  # (1 + p) / (10 + p), then the recipe's
def test_the_average_moves_towards_weights_and_statistics(faces: Path, position: int, decay: float) -> None:
    run = run_of(small("fer"), faces, faces / "out")
    run.prepare(0)
    before = {key: value.clone() for key, value in run.average.state_dict().items()}
    run.step(torch.arange(8), position, 1000)
    new = run.learner.network.state_dict()
    for key, kept in run.average.state_dict().items():
        wanted = before[key].lerp(new[key], 1 - decay) if kept.is_floating_point() else new[key]
        torch.testing.assert_close(kept, wanted, msg=key)
    assert not torch.equal(before["features.0.1.running_var"], new["features.0.1.running_var"])


def test_the_schedules_rate_reaches_the_optimizer_and_norms_do_not_decay(faces: Path) -> None:
    run = run_of(small("fer", weight_decay=0.05), faces, faces / "out")
    run.prepare(0)
    told = run.step(torch.arange(8), 50, 100)
    rate = 0.001 * factor(run.recipe.schedule, 50, 100, 0)
    kernels, others = run.optimizer.param_groups
    assert told["rate"] == kernels["lr"] == others["lr"] == pytest.approx(rate) and rate < 0.001
    assert (kernels["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    assert all(p.ndim > 1 for p in kernels["params"]) and all(p.ndim <= 1 for p in others["params"])
    assert len(kernels["params"]) + len(others["params"]) == len(list(run.learner.parameters()))


def test_the_loss_of_a_case_computed_by_hand(people: Path) -> None:
    """Logits 2 and 0; the labels 0.95 and 0.05. One crop of each identity, 3 apart: log(1 + exp(0 - 3))."""
    task = run_of(
        small("reid", diversity_weight=0.25, triplet_weight=0.5, label_smoothing=0.1), people, people / "out"
    ).task
    logits, features = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    parts = task.loss((logits, features, torch.tensor(3.0)), torch.tensor([0, 1]), ALONE)
    hand = {
        "cross_entropy": np.log(1 + np.exp(-2)) + 0.05 * 2,
        "diversity": 0.75,
        "triplet": 0.5 * np.log1p(np.exp(-3)),
    }
    assert {name: float(part) for name, part in parts.items()} == pytest.approx(hand, abs=1e-3)


def test_no_epoch_of_a_seed_has_the_order_of_another_seeds(faces: Path) -> None:
    task = run_of(small("fer"), faces, faces / "out").task
    orders = [tuple(task.order(epoch, seed).flatten().tolist()) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9
    assert torch.equal(task.order(1, 2), task.order(1, 2))


def test_a_history_says_what_the_run_started_from(faces: Path) -> None:
    start = faces / "start.safetensors"
    save_weights(random_model(FER), start, name=FER)
    recipe = parse_recipe(small("fer", stages=[{"epochs": 1, "size": [32, 32]}]), "test")
    task = create_task(FER, recipe, faces, 0)
    finish(Run(task, ALONE, Place(faces / "out"), 3, init=start))
    told = json.loads((faces / "out" / "history.json").read_text())
    assert told["init"] == hashlib.sha256(start.read_bytes()).hexdigest()
    assert told["data"] == "28 training and 28 validation pictures"
    again = Run(task, ALONE, Place(faces / "out"), 3, init=None)
    again.resume()
    assert again.init == told["init"]
    save_weights(random_model(FER, seed=5), faces / "other.safetensors", name=FER)
    with pytest.raises(ModelError, match="another recipe, seed, start or teacher"):
        Run(task, ALONE, Place(faces / "out"), 3, init=faces / "other.safetensors").resume()
    with pytest.raises(ModelError, match="no such file"):
        Run(task, ALONE, Place(faces / "out"), 3, init=faces / "none.safetensors")


def first_losses(people: Path, init: Path | None) -> tuple[float, Run]:
    """Cross-entropy over the training crops as a run begins, with the head's norm as in training."""
    recipe = parse_recipe(small("reid", label_smoothing=0.1), "test")
    task = create_task(REID, recipe, people, 0)
    run = Run(task, ALONE, Place(people / "out"), 3, init)
    run.begin()
    inputs = normalise(task.pictures.pixels.float() / 255, task.spec.input)
    run.learner.network.eval().head.norm.train()
    with torch.no_grad():
        logits = run.learner(inputs)[0]
    return float(torch.nn.functional.cross_entropy(logits, task.pictures.labels)), run


def test_a_classifier_begins_at_the_means_of_what_was_trained_before(people: Path) -> None:
    save_weights(random_model(REID), people / "start.safetensors", name=REID)
    blank, _ = first_losses(people, None)
    fitted, run = first_losses(people, people / "start.safetensors")
    assert blank == pytest.approx(np.log(8), abs=0.05)
    assert fitted < 0.75 * blank
    weight = run.learner.classifier.weight.detach()  # type: ignore[union-attr]
    assert float(weight.norm(dim=1).std()) < 1e-5 * float(weight.norm(dim=1).mean())


def test_one_identity_leaves_its_classifier_as_it_was(people: Path) -> None:
    save_weights(random_model(REID), people / "start.safetensors", name=REID)
    for path in (people / "bounding_box_train").glob("000[2-8]*"):
        path.unlink()
    loss, run = first_losses(people, people / "start.safetensors")
    assert loss == 0  # of one class
    assert run.learner.classifier is not None and bool(run.learner.classifier.weight.isfinite().all())


def test_imagenets_features_fit_no_classifier(people: Path, tmp_path: Path) -> None:
    features = {k: v for k, v in random_model("mobilenetv2.reid").state_dict().items() if "head." not in k}
    torch.save(features, tmp_path / "imagenet.pt")
    assert first_losses(people, tmp_path / "imagenet.pt")[0] == pytest.approx(np.log(8), abs=0.05)


def test_a_gpu_that_is_not_there_is_told_in_one_line() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ModelError, match="needs a GPU that PyTorch can use, but there is none"):
        join("cuda")


def test_a_process_without_a_gpu_of_its_own_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ModelError, match=r"needs a GPU of its own, but this is number 1 .* there are 1; give torchrun"):
        join("cuda")


def written_run(folder: Path, model: str, seed: int, scores: list[float], **changes: object) -> str:
    """A finished run's history: two epochs at one size, the rest at another."""
    folder.mkdir()
    stages = [{"epochs": 2, "size": [44, 44]}, {"epochs": len(scores) - 2, "size": [88, 88]}]
    epochs = [{"epoch": index + 1, "accuracy": score} for index, score in enumerate(scores)]
    run = {"model": model, "seed": seed, "recipe": small("fer", stages=stages), "epochs": epochs} | changes
    (folder / "history.json").write_text(json.dumps(run))
    return str(folder)


def compare(*folders: str) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).parents[1] / "scripts" / "compare_runs.py"
    return subprocess.run([sys.executable, str(script), *folders], capture_output=True, text=True, check=False)


def test_runs_are_compared_by_their_epochs_at_the_last_size(tmp_path: Path) -> None:
    runs = [
        written_run(tmp_path / "a", "plain", 0, [90, 91, 60, 62, 61]),
        written_run(tmp_path / "b", "plain", 1, [90, 91, 60, 64, 63]),
        written_run(tmp_path / "c", "stra", 0, [10, 20, 70, 69, 68]),
    ]
    done = compare(*runs)
    assert done.stdout.splitlines()[2:] == [
        "| plain | 0 | 62.00 | 61.00 |",
        "| plain | 1 | 64.00 | 63.00 |",
        "| stra | 0 | 70.00 | 68.00 |",
        "| plain | 2 seeds | 63.00 ± 1.41 | 62.00 ± 1.41 |",
    ]


def test_runs_from_before_recipes_had_more_entries_compare(tmp_path: Path) -> None:
    old = written_run(tmp_path / "old", "plain", 0, [90, 91, 60])
    recipe = json.loads((tmp_path / "old" / "history.json").read_text())["recipe"]
    new = written_run(
        tmp_path / "new", "stra", 0, [1, 2, 70], recipe=asdict(parse_recipe(recipe, "test")) | {"note": "as before"}
    )
    assert "| stra | 0 | 70.00 | 70.00 |" in compare(old, new).stdout
    other = written_run(tmp_path / "other", "stra", 0, [1, 2, 70], recipe=recipe | {"sam_rho": 0.1})
    assert "runs must have one recipe" in compare(old, other).stderr


def test_runs_that_do_not_compare_are_refused_in_one_line(tmp_path: Path) -> None:
    first = written_run(tmp_path / "a", "plain", 0, [1, 2, 3])
    other = written_run(tmp_path / "b", "stra", 0, [1, 2, 3], init="abc")
    nameless, odd = (written_run(tmp_path / name, "stra", 1, [1, 2, 3]) for name in ("c", "d"))
    (tmp_path / "c" / "history.json").write_text(
        json.dumps(json.loads((tmp_path / "c/history.json").read_text()) | {"seed": None})
    )
    (tmp_path / "d" / "history.json").write_text("[]")
    unknown = written_run(
        tmp_path / "e", "stra", 1, [1, 2, 3], recipe=small("fer", tusk=1, stages=[{"epochs": 3, "size": [88, 88]}])
    )
    for folders, message in (
        ((first, other), "runs must have one init"),
        ((first, first), "runs must differ in model or seed"),
        ((first, str(tmp_path)), "must hold a finished run"),
        ((first, nameless), "must hold a finished run"),
        ((first, odd), "must hold a finished run"),
        ((first, unknown), "unknown entry 'tusk'"),
    ):
        done = compare(*folders)
        assert done.returncode == 1 and done.stdout == ""
        assert message in done.stderr and done.stderr.count("\n") == 1


def test_a_folder_with_another_run_is_left_alone(faces: Path) -> None:
    recipe = small("fer", stages=[{"epochs": 1, "size": [32, 32]}])
    finish(run_of(recipe, faces, faces / "out"))
    with pytest.raises(OutputError, match="--resume"):
        finish(run_of(recipe, faces, faces / "out"))
    with pytest.raises(ModelError, match="another recipe, seed, start or teacher"):
        run_of(recipe | {"batch": 4}, faces, faces / "out").resume()
    (faces / "out" / "last.pt").write_bytes(b"cut off")
    with pytest.raises(ModelError, match="can't be resumed"):
        run_of(recipe, faces, faces / "out").resume()
    (faces / "out" / "last.pt").unlink()
    for resume in (False, True):
        with pytest.raises(OutputError, match=r"best\.safetensors exists; give another --out"):
            train(run_of(recipe, faces, faces / "out"), resume, lambda line: None, lambda values, step: None)


def test_what_is_missing_is_told_before_pictures_are_read(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_stra.training.memory.keep_freed_memory", lambda: None)  # of all tests in this process
    monkeypatch.setattr("edge_stra.training.start.create_task", None)  # what reads them
    (faces / "kept").mkdir()
    (faces / "kept" / "last.pt").touch()
    (faces / "file").touch()
    save_weights(create_model(REID), faces / "people.safetensors")
    cases = {
        ("--out", "kept"): "last.pt exists",
        ("--out", "file"): "must be a folder, but is a file",
        ("--out", "out", "--init", "people.safetensors"): "must hold the weights of mobilenetv2_stra.fer",
        ("--out", "out", "--init", "none.pt"): "none.pt must be a weights file",
        ("--out", "out", "--recipe", "fer_distill", "--teacher", "no.pt"): "no.pt must be a weights file",
    }
    monkeypatch.chdir(faces)
    for words, said in cases.items():
        result = CliRunner().invoke(main, ["train", "fer", "--data", str(faces), *words])
        assert result.exit_code == 1 and said in result.stderr, (words, result.output)
    assert [path.name for path in (faces / "kept").iterdir()] == ["last.pt"] and not (faces / "out").exists()


def test_people_in_folders_without_cameras_train_and_are_scored(tmp_path: Path) -> None:
    for index, picture in enumerate(structured_pictures(32, (64, 32), seed=4)):
        folder = tmp_path / "people" / f"person {index // 4}"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{index}.jpg"), picture)
    recipe = small("reid", stages=[{"epochs": 1, "size": [64, 32]}], identities_per_batch=2)
    run = run_of(recipe, tmp_path / "people", tmp_path / "out", held=3)
    finish(run)
    assert 0 < run.best <= 100


def test_a_checkpoint_without_its_parts_is_told_in_one_line(faces: Path) -> None:
    recipe = small("fer", stages=[{"epochs": 1, "size": [32, 32]}])
    finish(run_of(recipe, faces, faces / "out"))
    state = torch.load(faces / "out" / "last.pt", weights_only=True)
    del state["place"]
    torch.save(state, faces / "out" / "last.pt")
    with pytest.raises(ModelError, match="can't be resumed: it is damaged"):
        run_of(recipe, faces, faces / "out").resume()


def test_a_full_disk_leaves_the_checkpoint_before_it(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(small("fer", stages=[{"epochs": 1, "size": [32, 32]}]), faces, faces / "out")
    run.place.folder.mkdir()
    run.save()
    before = run.file.read_bytes()

    def full(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/3")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match="failed writing file data/3; the one before it is kept"):
        run.save()
    assert [p.name for p in run.place.folder.iterdir()] == ["last.pt"]
    assert run.file.read_bytes() == before


@pytest.mark.parametrize("text", ["[" * 100_000, "\x80"])
def test_a_recipe_that_is_no_json_is_told_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match="must be a recipe in JSON, but can't be parsed"):
        load_recipe(str(tmp_path / "odd.json"))


def test_crops_of_nobody_are_told_of(people: Path) -> None:
    assert "left out" not in create_task(REID, parse_recipe(small("reid"), "test"), people, 4).remark
    for path in sorted((people / "bounding_box_train").iterdir())[:4]:
        path.rename(path.with_name("0000" + path.name[4:]))
    for held in (0, 4):
        task = create_task(REID, parse_recipe(small("reid"), "test"), people, held)
        assert "4 crops of the identities 0 and -1 are left out" in task.remark
        assert task.remark.count(";") == (held > 0)
        assert task.summary.startswith("12 crops of 3" if held else "28 crops of 7")


def test_held_out_people_of_one_camera_are_refused_before_training(people: Path) -> None:
    for path in (people / "bounding_box_train").iterdir():
        path.rename(path.with_name(path.name.replace("_c2", "_c1")))
    with pytest.raises(DataError, match="must each be seen by two cameras"):
        create_task(REID, parse_recipe(small("reid"), "test"), people, 4)


@pytest.mark.parametrize(
    "text",
    [b"emotion,pixels,Usage\n\xff\xfe,1,Training\n", b"emotion,pixels,Usage\n0," + b"1 " * 70_000 + b",Training\n"],
)
def test_a_csv_that_cannot_be_read_is_told_in_one_line(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "fer.csv").write_bytes(text)
    with pytest.raises(DataError, match="must be FER2013's CSV in UTF-8"):
        load_fer(tmp_path / "fer.csv", (48, 48))


def test_a_run_is_not_resumed_on_other_pictures(faces: Path) -> None:
    recipe = small("fer", stages=[{"epochs": 1, "size": [32, 32]}])
    finish(run_of(recipe, faces, faces / "out"))
    run_of(recipe, faces, faces / "out").resume()
    cv2.imwrite(str(faces / "train" / FER_LABELS[0] / "0.png"), np.full((48, 48), 9, np.uint8))
    with pytest.raises(ModelError, match="on other data"):
        run_of(recipe, faces, faces / "out").resume()


def test_without_identities_held_out_the_last_average_is_kept_or_the_mean(people: Path) -> None:
    recipe = small("reid", stages=[{"epochs": 1, "size": [64, 32]}])
    assert np.isnan(finish(run_of(recipe, people, people / "all")))
    assert read_weights(people / "all" / "best.safetensors")
    score = finish(run_of(recipe, people, people / "some", held=4))
    assert 0 < score <= 100
    longer = recipe | {"stages": [{"epochs": 2, "size": [64, 32]}], "mean_of_last": 2}
    finish(run_of(longer, people, people / "mean"))
    best, mean = (read_weights(people / "mean" / f"{name}.safetensors") for name in ("best", "mean"))
    assert all(torch.equal(best[key], mean[key]) for key in mean)
    last = torch.load(people / "mean" / "last.pt", weights_only=True)["average"]
    assert not torch.equal(best["head.project.weight"], last["head.project.weight"])


class Answers(torch.nn.Module):
    """Knows the pictures that it was told of, by their bytes, and gives zeros for all others."""

    def __init__(self, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        super().__init__()
        self.known = {x.numpy().tobytes(): y for x, y in zip(inputs, outputs, strict=True)}
        self.none = torch.zeros_like(outputs[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.known.get(row.numpy().tobytes(), self.none) for row in x])


def test_the_score_is_of_the_validation_split(faces: Path) -> None:
    task = run_of(small("fer"), faces, faces / "out").task
    assert isinstance(task, FerTask)
    inputs = task.inputs(task.held_out.pixels, (32, 32), ALONE.device)
    said = task.held_out.labels.clone()
    said[::3] = (said[::3] + 1) % len(FER_LABELS)
    network = Answers(inputs, torch.nn.functional.one_hot(said, len(FER_LABELS)).float())
    score = task.score(network, (32, 32), ALONE.device)
    assert score.name == "accuracy" and score.value == pytest.approx(100 * (1 - len(said[::3]) / len(said)))


def test_the_score_of_people_is_of_queries_in_the_gallery(people: Path) -> None:
    task = run_of(small("reid"), people, people / "out", held=4).task
    assert isinstance(task, ReidTask) and task.query is not None and task.gallery is not None
    pixels = torch.cat([task.query[0], task.gallery[0]])
    inputs = task.inputs(pixels, (64, 32), ALONE.device)
    embeddings = torch.randn(len(pixels), 3, generator=torch.Generator().manual_seed(0))
    asked = len(task.query[0])
    score = task.score(Answers(inputs, embeddings), (64, 32), ALONE.device)
    expected = rank(embeddings[:asked].numpy(), task.query[1], embeddings[asked:].numpy(), task.gallery[1])["map"]
    assert score is not None and score.name == "map" and score.value == pytest.approx(expected)
    assert 0 < expected < 100


def test_pictures_of_the_validation_split_are_left_out_of_training(faces: Path) -> None:
    training, held_out = load_fer(faces, (48, 48))
    mixed = type(training)(
        torch.cat([training.pixels, held_out.pixels[5:8]]), torch.cat([training.labels, held_out.labels[5:8]])
    )
    kept = without_duplicates(mixed, held_out.pixels)
    assert torch.equal(kept.pixels, training.pixels)
    assert torch.equal(kept.labels, training.labels)


def test_labels_come_from_folder_names(faces: Path) -> None:
    paths, labels = list_fer(faces / "train")
    assert [FER_LABELS[i] for i in labels] == [p.parent.name for p in paths]
    (faces / "train" / "fear").rename(faces / "train" / "unknown")
    with pytest.raises(DataError, match="fear is missing"):
        list_fer(faces / "train")
    (faces / "train" / "unknown").rename(faces / "train" / "Fearful")
    assert [path.name for path in list_fer(faces / "train")[0]] == [path.name for path in paths]
    (faces / "train" / "contempt").mkdir()
    assert len(list_fer(faces / "train")[0]) == len(paths), "a folder without pictures is in nobody's way"
    (faces / "train" / "contempt" / "1.PNG").touch()
    with pytest.raises(DataError, match="but holds contempt"):
        list_fer(faces / "train")
    (faces / "validation" / "angry").mkdir()
    with pytest.raises(DataError, match="anger and angry are both anger; join them"):
        list_fer(faces / "validation")


def write_csv(path: Path, rows: list[tuple[object, object, str]], space: str = "") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["emotion", f"{space}pixels", f"{space}Usage"])
        writer.writerows(rows)
    return path


@pytest.mark.parametrize(("suffix", "space"), [(".csv", ""), (".CSV", " ")])
def test_the_kaggle_csv_is_read_without_its_private_test(tmp_path: Path, suffix: str, space: str) -> None:
    pixels = [" ".join(str((i * 7 + shift) % 256) for i in range(48 * 48)) for shift in range(3)]
    rows: list[tuple[object, object, str]] = [(3, pixels[0], "Training"), (6, pixels[1], "PublicTest")]
    path = write_csv(tmp_path / f"f{suffix}", [*rows, (9, "no picture", "PrivateTest")], space)
    training, held_out = load_fer(path, (48, 48))
    assert training.labels.tolist() == [FER_LABELS.index("happiness")]
    assert held_out.labels.tolist() == [FER_LABELS.index("neutral")]
    assert training.pixels[0, 0, 0, :3].tolist() == [0, 7, 14]
    assert held_out.pixels[0, 0, 1, 0] == (48 * 7 + 1) % 256


def test_the_kaggle_csv_is_unpacked_into_folders_that_train_as_it_does(tmp_path: Path) -> None:
    pixels = [" ".join(str((i * 7 + shift) % 256) for i in range(48 * 48)) for shift in range(3)]
    rows: list[tuple[object, object, str]] = [(3, pixels[0], "Training"), (5, pixels[2], "Training")]
    source, out = write_csv(tmp_path / "f.csv", [*rows, (6, pixels[1], "PublicTest")]), tmp_path / "out"
    done = unpack(source, out)
    assert done.returncode == 0, done.stderr
    with pytest.raises(DataError, match="holds none"):  # five classes of this small set have no picture
        load_fer(out, (48, 48))
    (face,) = (out / "train" / "happiness").iterdir()
    assert cv2.imread(str(face), cv2.IMREAD_GRAYSCALE)[0, :3].tolist() == [0, 7, 14]
    found = {str(path.relative_to(out)) for path in out.rglob("*.png")}
    assert found == {"train/happiness/00000.png", "train/surprise/00001.png", "validation/neutral/00000.png"}
    again = unpack(source, out)
    assert again.returncode == 1 and "holds something" in again.stderr and "Traceback" not in again.stderr


def test_a_csv_that_finds_no_room_leaves_no_part_of_a_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Path(__file__).resolve().parents[1] / "scripts" / "unpack_fer.py"
    names = runpy.run_path(str(script))
    rows: list[tuple[object, object, str]] = [
        (label, " ".join(["7"] * 2304), usage) for usage in ("Training", "PublicTest") for label in range(7)
    ]
    source, out, written = write_csv(tmp_path / "f.csv", rows), tmp_path / "out", list[Path]()

    class Full:
        """A picture that the disk has room for, until the tenth."""

        def tofile(self, path: Path) -> None:
            written.append(path)
            if len(written) == 10:
                raise OSError(errno.ENOSPC, "No space left on device")
            path.write_bytes(b"a picture")

    monkeypatch.setattr(names["cv2"], "imencode", lambda suffix, picture: (True, Full()))
    with pytest.raises(OSError, match="No space left"):
        names["unpack"](source, out)
    assert len(written) == 10 and list(out.iterdir()) == []


def unpack(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).resolve().parents[1] / "scripts" / "unpack_fer.py"
    return subprocess.run([sys.executable, str(script), str(source), str(out)], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(3, "1 2 3", "Training")], "line 2: must have 48x48 pixels"),
        ([(7, " ".join(["0"] * 2304), "Training")], "an emotion of 0 to 6"),
        ([("x", " ".join(["0"] * 2304), "Training")], "must be whole numbers"),
        ([(1, " ".join(["0"] * 2304), "Training")], "PublicTest"),
    ],
)
def test_a_csv_that_does_not_fit_is_named_with_its_line(
    tmp_path: Path, rows: list[tuple[object, object, str]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_fer(write_csv(tmp_path / "f.csv", rows), (48, 48))


def test_augmentation_of_nothing_resizes_or_mirrors_only() -> None:
    pictures = torch.rand(16, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    draws = draw(16, Augmentation(), torch.Generator().manual_seed(1))
    result = augment_batch(pictures, (24, 24), draws)
    same = (result - pictures).abs().amax(dim=(1, 2, 3)) < 1e-5
    mirrored = (result - pictures.flip(3)).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert bool((same | mirrored).all())
    assert 0 < int(mirrored.sum()) < 16


def test_brightness_is_a_gain_and_contrast_a_spread_around_the_mean() -> None:
    picture = torch.tensor([[[[0.2, 0.4]]]])
    plain = draw(1, Augmentation(mirror=False), torch.Generator().manual_seed(0))
    brighter = replace(plain, gain=torch.full_like(plain.gain, 1.5))
    steeper = replace(plain, contrast=torch.full_like(plain.contrast, 1.5))
    assert augment_batch(picture, (1, 2), brighter).flatten().tolist() == pytest.approx([0.3, 0.6])
    assert augment_batch(picture, (1, 2), steeper).flatten().tolist() == pytest.approx([0.15, 0.45])
    several = draw(500, Augmentation(brightness=0.2, contrast=0.3), torch.Generator().manual_seed(0))
    for changes, most in ((several.gain, 0.2), (several.contrast, 0.3)):
        assert 0.9 * most < float((changes - 1).abs().max()) <= most


def test_augmentation_is_seeded_and_does_not_depend_on_how_a_batch_is_shared() -> None:
    how = load_recipe("reid").augment
    pictures = torch.rand(8, 3, 64, 32)
    first, again, other = (draw(8, how, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    whole = augment_batch(pictures, (96, 48), first)
    assert torch.equal(whole, augment_batch(pictures, (96, 48), again))
    assert not torch.equal(whole, augment_batch(pictures, (96, 48), other))
    half = augment_batch(pictures[4:], (96, 48), first.share(slice(4, 8)))
    assert torch.equal(whole[4:], half)
    assert 0 <= float(whole.min()) <= float(whole.max()) <= 1


def test_a_rotation_keeps_right_angles_and_lengths_of_pictures_that_are_no_squares() -> None:
    """A ramp along each axis shows where a pixel's value came from: its slopes are the rotation."""
    height, width = 64, 32
    y, x = torch.meshgrid(torch.arange(height) / 100.0, torch.arange(width) / 100.0, indexing="ij")
    ramps = torch.stack([x, y])[None].repeat(8, 1, 1, 1)  # (8, 2, h, w)
    draws = draw(8, Augmentation(mirror=False, degrees=20), torch.Generator().manual_seed(0))
    middle = augment_batch(ramps, (height, width), draws)[:, :, 24:40, 12:20] * 100
    across, down = middle.diff(dim=3).mean((2, 3)), middle.diff(dim=2).mean((2, 3))  # (8, 2): of x, y
    assert torch.allclose(across.norm(dim=1), torch.ones(8), atol=1e-3)
    assert torch.allclose(down.norm(dim=1), torch.ones(8), atol=1e-3)
    assert float((across * down).sum(1).abs().max()) < 1e-3
    assert float(across[:, 1].abs().max()) > 0.1


def test_what_is_erased_has_the_drawn_shape_in_pixels() -> None:
    pictures = torch.rand(500, 3, 128, 64, generator=torch.Generator().manual_seed(0))
    draws = draw(500, Augmentation(mirror=False, erase=1.0), torch.Generator().manual_seed(1))
    gone = (augment_batch(pictures, (128, 64), draws) - pictures).abs().amax(1) > 1e-4  # (500, h, w)
    rows, columns = gone.any(2).sum(1), gone.any(1).sum(1)
    inside = ~(gone[:, 0].any(1) | gone[:, -1].any(1) | gone[:, :, 0].any(1) | gone[:, :, -1].any(1))
    shape = (rows / columns)[inside]
    assert int(inside.sum()) > 100
    assert 0.4 < float(shape.min()) < 0.7 and 1.4 < float(shape.max()) < 2.5


def test_no_more_is_erased_than_the_recipe_says() -> None:
    for largest in (0.2, 0.4):
        how = Augmentation(mirror=False, erase=0.5, erase_area=largest)
        rectangle = draw(2000, how, torch.Generator().manual_seed(0)).rectangle
        area = 4 * rectangle[:, 2] * rectangle[:, 3]
        assert 850 < int((area > 0).sum()) < 1150
        assert 0.02 <= float(area[area > 0].min()) < 0.03
        assert largest - 0.01 < float(area.max()) <= largest + 1e-6


def test_either_of_two_neighbours_takes_its_share_of_the_other() -> None:
    values = torch.tensor([[0.0, 8.0], [4.0, 0.0], [1.0, 1.0], [3.0, 5.0]])
    share = torch.tensor([0.25, 0.0, 0.5, 1.0])
    expected = torch.tensor([[1.0, 6.0], [4.0, 0.0], [2.0, 3.0], [1.0, 1.0]])
    assert torch.equal(mix_pairs(values, share), expected)
    assert torch.equal(mix_pairs(values[2:], share[2:]), expected[2:])  # a process with half of the batch
    pictures = values.view(4, 2, 1, 1).expand(4, 2, 3, 3)
    assert torch.equal(mix_pairs(pictures, share)[:, :, 1, 2], expected)


def test_shares_of_the_other_picture_are_spread_up_to_the_recipes() -> None:
    share = draw(1000, Augmentation(mix=0.4), torch.Generator().manual_seed(0)).mix
    assert 0 <= float(share.min()) < 0.02 and 0.38 < float(share.max()) <= 0.4
    assert float(share.mean()) == pytest.approx(0.2, abs=0.02)
    assert not draw(8, Augmentation(), torch.Generator()).mix.any()


def test_a_step_mixes_labels_as_it_mixes_pictures(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(small("fer", augment={"mix": 0.4}), faces, faces / "out")
    seen: dict[str, torch.Tensor] = {}
    run.learner.register_forward_pre_hook(lambda learner, inputs: seen.update(inputs=inputs[0]))
    loss = run.task.loss

    def listen(outputs: Outputs, labels: torch.Tensor, world: World) -> dict[str, torch.Tensor]:
        seen["labels"] = labels
        return loss(outputs, labels, world)

    monkeypatch.setattr(run.task, "loss", listen)
    run.prepare(0)
    chosen = run.task.order(0, 3)[0]
    run.step(chosen, 0, 10)
    share = draw(8, run.recipe.augment, torch.Generator().manual_seed(3 * 1_000_003)).mix
    labels = torch.nn.functional.one_hot(run.task.pictures.labels[chosen], 7).float()
    assert torch.equal(seen["labels"], mix_pairs(labels, share))
    assert not torch.equal(seen["labels"], labels)
    run.recipe = parse_recipe(small("fer"), "test")  # the same draws, and nothing mixed
    mixed = seen["inputs"]
    run.step(chosen, 0, 10)
    assert torch.allclose(mixed, mix_pairs(seen["inputs"], share), atol=1e-5)


def test_targets_are_the_label_and_what_teachers_say_of_the_picture_and_its_mirror_image(faces: Path) -> None:
    recipe = parse_recipe(small("fer", teacher_share=0.25), "test")
    task = create_task(FER, recipe, faces, 0)
    files, said = [], []
    inputs = normalise(resize_batch(task.pictures.pixels.float() / 255, (88, 88)), task.spec.input)
    for seed in (1, 2):
        teacher = random_model(FER, seed).eval()
        files.append(faces / f"{seed}.safetensors")
        save_weights(teacher, files[-1], name=FER)
        with torch.inference_mode():
            said += [teacher(inputs).softmax(1), teacher(inputs.flip(3)).softmax(1)]
    targets = ask_teachers(load_teachers(files, task), task, torch.device("cpu"), iter)
    label = torch.nn.functional.one_hot(task.pictures.labels, 7)
    assert torch.allclose(targets, 0.75 * label + 0.25 * torch.stack(said).mean(0), atol=1e-5)
    assert len(set(task.teachers)) == 2


def test_teachers_and_recipes_that_do_not_belong_together_are_refused(faces: Path) -> None:
    asking, silent = small("fer", teacher_share=0.5), small("fer")
    file = faces / "reid.safetensors"
    save_weights(random_model(REID), file, name=REID)
    for recipe, count in ((asking, 0), (silent, 2)):
        with pytest.raises(ModelError, match=f"there are {count} teachers and the share is"):
            check_teachers(parse_recipe(recipe, "test"), count)
    task = create_task(FER, parse_recipe(asking, "test"), faces, 0)
    with pytest.raises(ModelError, match=r"must be of the task fer, but .* holds mobilenetv2_stra.reid"):
        load_teachers([file], task)
    with pytest.raises(ModelError, match="no such file"):
        load_teachers([faces / "none.safetensors"], task)


def test_a_resumed_run_keeps_its_teachers_and_what_they_said(faces: Path) -> None:
    recipe = small("fer", stages=[{"epochs": 1, "size": [32, 32]}], teacher_share=0.5)

    def taught(teachers: tuple[str, ...]) -> Run:
        run = run_of(recipe, faces, faces / "out")
        run.task.teachers, run.ask = teachers, lambda: torch.full((28, 7), 1 / 7)
        return run

    finish(taught(("one", "two")))
    resumed = taught(("one", "two"))
    resumed.resume()
    assert torch.equal(resumed.task.targets, torch.full((28, 7), 1 / 7))
    for others in ((), ("one",)):
        with pytest.raises(ModelError, match="another recipe, seed, start or teacher"):
            taught(others).resume()


def test_a_checkpoint_from_before_a_recipe_had_more_entries_is_resumed(faces: Path) -> None:
    recipe = small("fer", stages=[{"epochs": 1, "size": [32, 32]}])
    finish(run_of(recipe, faces, faces / "out"))
    state = torch.load(faces / "out" / "last.pt", weights_only=True)
    stored = json.loads(state["recipe"])
    del stored["teacher_share"], stored["augment"]["mix"], state["teachers"], state["data_sha256"]
    torch.save(state | {"recipe": json.dumps(stored)}, faces / "out" / "last.pt")
    run = run_of(recipe, faces, faces / "out")
    run.resume()
    assert run.epoch == 1


def test_a_zoom_of_48_over_44_shows_44_of_48_pixels() -> None:
    ramp = torch.arange(48.0).expand(1, 1, 48, 48) / 47
    draws = draw(1, Augmentation(mirror=False, zoom=48 / 44), torch.Generator().manual_seed(0))
    shown = augment_batch(ramp, (44, 44), draws)[0, 0, 0]
    assert torch.allclose(shown, ramp[0, 0, 0, 2:46], atol=1e-5)


def test_the_rate_rises_to_its_peak_and_falls_to_almost_nothing() -> None:
    rates = [factor(Schedule(warmup_fraction=0.2), step, 100, 0) for step in range(101)]
    assert rates[20] == pytest.approx(1)
    assert max(rates) == rates[20]
    assert rates[100] == pytest.approx(1e-3)


def test_the_papers_schedules_fall_in_steps() -> None:
    fer, reid = load_recipe("fer_paper").schedule, load_recipe("reid_paper").schedule
    assert [factor(fer, 0, 1, epoch) for epoch in (0, 84, 85, 95)] == pytest.approx([1, 1, 0.9, 0.9**3])
    assert [factor(reid, 0, 1, epoch) for epoch in (0, 19, 20, 45)] == pytest.approx([1, 1, 0.2, 0.04])


def test_shuffled_batches_show_each_picture_at_most_once() -> None:
    order = shuffled(21, 4, seed=5)
    assert order.shape == (5, 4)
    assert len(set(order.flatten().tolist())) == 20
    assert not torch.equal(order, shuffled(21, 4, seed=6))


def test_batches_by_identity_hold_so_many_crops_of_so_many_identities() -> None:
    labels = np.repeat(np.arange(10), [2, 3, 4, 5, 6, 7, 8, 9, 10, 30])
    order = by_identity(labels, batch=12, identities=3, seed=1)
    assert order.shape[1] == 12
    for step in order.numpy():
        _, counts = np.unique(labels[step], return_counts=True)
        assert counts.tolist() == [4, 4, 4]
    shown = np.unique(order.numpy())
    assert len(shown) > 0.7 * len(labels)
    assert torch.equal(order, by_identity(labels, 12, 3, seed=1))


def test_the_triplet_loss_of_a_case_computed_by_hand() -> None:
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0], [0.0, 9.0]])
    identities = torch.tensor([1, 1, 2, 2])
    # farthest of its own: 5, 5, 8, 8; nearest other: 1, min(sqrt(18), sqrt(34)), 1, sqrt(34)
    expected = [5 - 1, 5 - 18**0.5, 8 - 1, 8 - 34**0.5]
    result = triplet_loss(features, identities)
    assert float(result) == pytest.approx(np.log1p(np.exp(expected)).mean(), rel=1e-5)
    assert float(triplet_loss(features, torch.ones(4))) == 0


def test_the_triplet_loss_has_finite_slopes_where_crops_are_equal() -> None:
    features = torch.zeros(4, 3, requires_grad=True)
    triplet_loss(features, torch.tensor([1, 1, 2, 2])).backward()  # type: ignore[no-untyped-call]
    assert features.grad is not None and bool(features.grad.isfinite().all())


def test_every_recipe_of_the_package_is_whole() -> None:
    folder = resources.files("edge_stra.training").joinpath("recipes")
    names = [path.name.removesuffix(".json") for path in folder.iterdir() if path.name.endswith(".json")]
    assert {"fer", "reid_paper", "fer_distill"} <= set(names)
    for name in names:
        recipe = load_recipe(name)
        assert recipe.task == name.split("_")[0]
        assert recipe.note


def test_a_stage_is_found_by_its_epoch() -> None:
    stages = (Stage(2, (64, 64)), Stage(3, (88, 88), frozen=4))
    recipe = Recipe("fer", stages, 8, (48, 48), 0.1)
    assert [recipe.stage_of(epoch) for epoch in range(5)] == [stages[0]] * 2 + [stages[1]] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bach": 8}, "unknown entry 'bach'"),
        ({"batch": "8"}, "batch must be of type int"),
        ({"task": "cars"}, "task must be one of fer, reid"),
        ({"stages": []}, "must list its stages"),
        ({"stages": [{"epochs": 2}]}, "is not whole"),
        ({"stages": [{"epochs": 2, "size": [0, 4]}]}, "must be \\[height, width\\]"),
        ({"schedule": {"kind": "magic"}}, "one_cycle or steps"),
        ({"identities_per_batch": 3}, "must be a multiple"),
        ({"teacher_share": 1.5}, "teacher_share must be a share, 0 to 1, but is 1.5"),
        ({"teacher_share": float("nan")}, "but is nan"),
        ({"teacher_share": 0.5, "triplet_weight": 1}, "teacher_share serves fer alone, without triplets"),
        ({"augment": {"mix": 0.5}, "batch": 7}, "batch must be even, but is 7"),
        ({"task": "reid", "teacher_share": 0.5}, "teacher_share serves fer alone"),
        ({"task": "reid", "dropout": 0.5}, "dropout serves fer alone"),
        ({"augment": {"scale": 1.0}}, "scale must be below 1, but is 1.0"),
        ({"augment": {"zoom": 0}}, "zoom must be above 0, but is 0"),
        ({"dropout": 1.5}, "dropout must be a share, 0 to 1, but is 1.5"),
        ({"mean_of_last": 4}, "mean_of_last must be at most 3"),
        ({"batch": 0}, "batch must be at least 1, but is 0"),
        ({"task": "reid", "batch": 1}, "batch must be at least 2 for people"),
        ({"stages": [{"epochs": 0, "size": [44, 44]}]}, "epochs must be at least 1"),
        ({"schedule": {"kind": "steps", "every": 0}}, "every must be at least 1"),
        ({"learning_rate": float("inf")}, "learning_rate must be a finite number, but is inf"),
    ],
)
def test_a_recipe_that_does_not_fit_is_named_with_its_entry(change: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parse_recipe(small("fer") | change, "mine.json")


def test_recipes_and_data_of_another_kind_are_refused(people: Path) -> None:
    with pytest.raises(ModelError, match="unknown recipe"):
        load_recipe("nothing")
    with pytest.raises(ModelError, match="no such file"):
        load_recipe("nothing.json")
    (people / "bad.json").write_text("{")
    with pytest.raises(ModelError, match="can't be parsed"):
        load_recipe(str(people / "bad.json"))
    with pytest.raises(EdgeStraError, match="recipe is for reid"):
        create_task(FER, parse_recipe(small("reid"), "test"), people, 2)
    with pytest.raises(DataError, match="no such folder"):
        create_task(FER, parse_recipe(small("fer"), "test"), people, 2)
    with pytest.raises(DataError, match="at least one batch of 64 pictures, but has 32 crops of 8 identities"):
        run_of(small("reid", batch=64), people, people / "out").task.order(0, 0)
    many = small("reid", batch=64, identities_per_batch=16)
    with pytest.raises(DataError, match="pictures of 16 identities, but has 32 crops of 8 identities"):
        run_of(many, people, people / "out").task.order(0, 0)
