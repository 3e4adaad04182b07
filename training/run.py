"""A training run: plain PyTorch, one process or several, resumable to the step, the best epoch kept.

The whole state is one file, `last.pt`, written every few minutes and at the end of every epoch. A run that was
killed and resumed goes on as the unbroken run would have: orders, augmentation and dropout depend on the seed and
the step alone.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from edge_stra.training.augment import augment_batch, draw, mix_pairs
from edge_stra.training.distributed import World, average_over, share_norms
from edge_stra.training.qat import plain_state
from edge_stra.training.recipe import Recipe, Schedule, parse_recipe
from edge_stra.training.sharpness import uphill
from edge_stra.training.tasks import Learner, Task, normalise
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from edge_stra.artifact import sha256_of, write_atomically
from edge_stra.models.mobilenetv2 import MobileNetV2
from edge_stra.models.weights import UNREADABLE, load_imagenet, load_weights, read_weights, save_weights
from edge_stra.spec import ModelError, OutputError, first_line

LAST, BEST, FINAL, HISTORY = "last.pt", "best.safetensors", "final.safetensors", "history.json"
MEAN = "mean.safetensors"


@dataclass(frozen=True)
class Place:
    """Where a run keeps what it writes, and how often."""

    folder: Path
    checkpoint_seconds: float = 240.0


def factor(schedule: Schedule, step: int, steps: int, epoch: int) -> float:
    """The learning rate's factor at a step of `steps`, in an epoch."""
    if schedule.kind == "steps":
        return schedule.factor ** max(0, (epoch - schedule.after) // schedule.every)
    warmup = max(1, int(steps * schedule.warmup_fraction))
    if step < warmup:
        return 0.05 + 0.95 * step / warmup
    return 1e-3 + (1 - 1e-3) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Exponential moving average of weights and BN statistics; counters are copied."""
    new = plain_state(model)
    for name, kept in average.state_dict().items():
        if kept.is_floating_point():
            kept.lerp_(new[name], 1 - decay)
        else:
            kept.copy_(new[name])


def create_optimizer(learner: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Weight decay for matrices and kernels only, not for biases and norms."""
    kernels = [p for p in learner.parameters() if p.ndim > 1]
    others = [p for p in learner.parameters() if p.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=recipe.learning_rate, fused=True)


def initialise(network: MobileNetV2, path: Path, name: str) -> bool:
    """Weights of the same model (True), or ImageNet features alone. Raises ModelError where neither fits."""
    trained = any(key.startswith("head.") for key in read_weights(path))
    if trained:
        load_weights(network, path, name)
    else:
        load_imagenet(network, path)
    return trained


class Run:
    """Learner, average, optimizer and the place in the schedule, saved and resumed whole."""

    def __init__(self, task: Task, world: World, place: Place, seed: int, init: Path | None) -> None:
        torch.manual_seed(seed)
        self.init: str | None = None  # SHA-256 of what the run started from
        self.task, self.recipe, self.world, self.place, self.seed = task, task.recipe, world, place, seed
        self.learner: Learner = task.create_learner()
        self.trained = False  # before, as the same model
        if init is not None:
            self.trained = initialise(self.learner.network, init, task.spec.name)
            self.init = sha256_of(init)
        self.average = copy.deepcopy(self.learner.network).eval()
        self.mean, self.meant = copy.deepcopy(self.average), 0  # of `meant` averages, one after each of the last epochs
        if recipe_rounds := self.recipe.quantized:
            self.learner.round_numbers()
        for module in (self.learner, self.average, self.mean):  # after rounding: the ranges that it adds move along
            module.to(world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if world.size > 1 and not recipe_rounds:  # where numbers are rounded, no norm takes statistics
            share_norms(self.learner)
        self.optimizer = create_optimizer(self.learner, self.recipe)
        self.epoch, self.index, self.best, self.loss_sum = 0, 0, -1.0, 0.0
        self.history: list[dict[str, Any]] = []
        self.forward: nn.Module = self.learner
        self.ask: Callable[[], Tensor] | None = None  # gives the targets, at the start of a run that has teachers

    @property
    def file(self) -> Path:
        return self.place.folder / LAST

    def begin(self) -> None:
        """What comes before the first step of a run that is not resumed."""
        if self.recipe.mean_of_last > self.recipe.epochs and not self.trained:
            raise ModelError(
                f"mean_of_last {self.recipe.mean_of_last} takes in what the run begins from, which must be trained "
                f"weights of the model (--init), but is not; give at most {self.recipe.epochs}"
            )
        if self.ask:
            self.task.targets = self.ask()
        if self.trained:
            self.task.start_classifier(self.learner, self.world.device)
        self.extend_mean()

    def extend_mean(self) -> None:
        """Takes the average into the mean where the epoch that has ended is among the recipe's last ones."""
        if self.epoch + self.recipe.mean_of_last > self.recipe.epochs:
            self.meant += 1
            update_average(self.mean, self.average, 1 - 1 / self.meant)

    def save(self) -> None:
        if not self.world.leads:
            return
        state = {
            "learner": self.learner.state_dict(),
            "average": self.average.state_dict(),
            "mean": self.mean.state_dict() if self.meant else {},
            "meant": self.meant,
            "optimizer": self.optimizer.state_dict(),
            "place": [self.epoch, self.index, self.best, self.loss_sum],
            "history": self.history,
            "recipe": json.dumps(asdict(self.recipe), sort_keys=True),
            "seed": self.seed,
            "teachers": list(self.task.teachers),
            "init": self.init,
            "data_sha256": self.task.data_sha256,
        }
        if self.task.teachers:
            state["targets"] = self.task.targets  # what a resumed run need not ask for again
        temporary = self.file.with_suffix(".tmp")
        try:
            torch.save(state, temporary)
            temporary.replace(self.file)
        except (OSError, RuntimeError) as error:  # torch tells of a full disk by a RuntimeError
            temporary.unlink(missing_ok=True)
            raise OutputError(
                f"{self.file} can't be written: {first_line(error)}; the one before it is kept"
            ) from error

    def resume(self) -> None:
        """Goes back to the last checkpoint.

        Raises ModelError where it is of another recipe, model, seed or start, or of other data or teachers.
        """
        try:
            state = torch.load(self.file, self.world.device, weights_only=True)
            started = state.get("init", self.init)
            same = parse_recipe(json.loads(state["recipe"]), str(self.file)) == self.recipe  # older ones lack entries
            same &= self.init in (None, started) and state["seed"] == self.seed
            same &= state.get("data_sha256", self.task.data_sha256) == self.task.data_sha256
            if not (same and state.get("teachers", []) == list(self.task.teachers)):
                raise ModelError(
                    f"{self.file} belongs to a run with another recipe, seed, start or teacher, or on other data; give "
                    "those, or another --out"
                )
            self.learner.load_state_dict(state["learner"])
            self.average.load_state_dict(state["average"])
            if state.get("meant"):  # older checkpoints, and runs before the mean begins, have none
                self.mean.load_state_dict(state["mean"])
                self.meant = state["meant"]
            self.optimizer.load_state_dict(state["optimizer"])
            self.epoch, self.index, self.best, self.loss_sum = state["place"]
            self.history = state["history"]
            self.init = state.get("init")  # older checkpoints lack it
            self.task.targets = state["targets"].cpu() if self.task.teachers else self.task.targets
        except UNREADABLE as error:
            raise ModelError(f"{self.file} can't be resumed: it is damaged, or of another model or data set") from error

    def prepare(self, frozen: int) -> None:
        """Freezes the first blocks of features; wraps what is left for several processes."""
        network = self.learner.network
        self.learner.train()
        for index, block in enumerate(network.features):
            block.requires_grad_(index >= frozen)
            block.train(index >= frozen)
        if self.recipe.quantized:
            keep_statistics(self.learner)
        self.forward = self.learner
        if self.world.size > 1:
            self.forward = DistributedDataParallel(self.learner, forward_sync_buffers=False)

    def find_gradients(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One forward and backward pass; returns the parts of the loss."""
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            outputs = self.forward(inputs)
        parts = self.task.loss(outputs, labels, self.world)
        torch.stack(list(parts.values())).sum().backward()  # type: ignore[no-untyped-call]
        return parts

    def check_gradients(self, position: int) -> None:
        """Raises ModelError before a step that would make weights, average and the next checkpoint NaN."""
        length = torch.stack(torch._foreach_norm([p.grad for p in self.learner.parameters() if p.grad is not None]))
        if not bool(length.isfinite().all()):
            raise ModelError(
                f"the gradients are not finite at step {position}; a smaller learning rate may help. The last "
                "checkpoint is from before it"
            )

    def step(self, chosen: Tensor, position: int, steps: int) -> dict[str, float]:
        """One step on the pictures `chosen` [batch]; returns the parts of the loss and the learning rate."""
        recipe, world = self.recipe, self.world
        rate = recipe.learning_rate * factor(recipe.schedule, position, steps, self.epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        step_seed = self.seed * 1_000_003 + position
        torch.manual_seed(step_seed + world.rank * 7_919)  # dropout: a process of its own, the same after a resume
        share = world.share(len(chosen))
        draws = draw(len(chosen), recipe.augment, torch.Generator().manual_seed(step_seed))
        draws = draws.share(share).to(world.device)
        pixels = self.task.pictures.pixels[chosen[share]].to(world.device).float() / 255
        labels = self.task.targets[chosen[share]].to(world.device)
        size = recipe.stage_of(self.epoch).size
        inputs = normalise(augment_batch(pixels, size, draws), self.task.spec.input)
        if recipe.augment.mix:
            inputs, labels = mix_pairs(inputs, draws.mix), mix_pairs(labels, draws.mix)
        parts = self.find_gradients(inputs, labels)
        if recipe.sam_rho:
            torch.manual_seed(step_seed + world.rank * 7_919)  # the same dropout in both passes
            with uphill(self.learner, recipe.sam_rho):
                self.find_gradients(inputs, labels)
        self.check_gradients(position)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = min(recipe.ema_decay, (1 + position) / (10 + position))
        update_average(self.average, self.learner.network, decay)
        means = average_over(torch.stack([part.detach() for part in parts.values()]), world).tolist()
        return dict(zip(parts, means, strict=True)) | {"rate": rate}


def keep_statistics(module: nn.Module) -> None:
    """Batch norms use, and keep, the statistics that they have."""
    for child in module.modules():
        if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
            child.eval()


def train(
    run: Run, resume: bool, log: Callable[[str], None], scalars: Callable[[dict[str, float], int], None]
) -> float:
    """Trains to the end of the recipe; writes `best.safetensors`, `final.safetensors` and `history.json`, and
    `mean.safetensors` where the recipe asks for a mean.

    Returns the best score in percent (NaN where nothing was held out: then the mean is kept, or the last average).
    `log` takes a line at the end of each epoch, `scalars` what TensorBoard draws, with the step. Raises OutputError
    where the folder holds another run and `resume` is off.
    """
    place, task, recipe, world = run.place, run.task, run.recipe, run.world
    place.folder.mkdir(parents=True, exist_ok=True)
    check_place(place.folder, resume)
    if run.file.exists():
        run.resume()
    else:
        run.begin()
    lengths = [len(task.order(epoch, run.seed)) for epoch in range(recipe.epochs)]
    steps = sum(lengths)
    saved = time.monotonic()
    with progress(world, steps, sum(lengths[: run.epoch]) + run.index) as bar:
        while run.epoch < recipe.epochs:
            started, first = time.monotonic(), sum(lengths[: run.epoch])
            stage = recipe.stage_of(run.epoch)
            run.prepare(stage.frozen)
            order = task.order(run.epoch, run.seed)
            while run.index < len(order):
                parts = run.step(order[run.index], first + run.index, steps)
                loss = sum(value for name, value in parts.items() if name != "rate")
                run.index += 1
                run.loss_sum += loss
                bar.update()
                bar.set_postfix(epoch=run.epoch, loss=f"{run.loss_sum / run.index:.3f}", refresh=False)
                if run.index % 20 == 0:
                    scalars({"loss": loss} | parts, first + run.index)
                if time.monotonic() - saved > place.checkpoint_seconds:
                    run.save()
                    saved = time.monotonic()
            entry = {"epoch": run.epoch + 1, "loss": run.loss_sum / len(order), "seconds": time.monotonic() - started}
            run.epoch, run.index, run.loss_sum = run.epoch + 1, 0, 0.0
            run.extend_mean()
            if world.leads:
                entry |= keep_best(run, run.average)
                scalars({k: v for k, v in entry.items() if k not in ("epoch", "seconds")}, sum(lengths[: run.epoch]))
                log(json.dumps(entry))
            run.history.append(entry)
            run.save()
            saved = time.monotonic()
    if world.leads:
        save_plain(run, place.folder / FINAL)
        report = {"model": task.spec.name, "recipe": asdict(recipe), "seed": run.seed}
        report |= {"init": run.init, "data": task.summary, "teachers": list(task.teachers), "epochs": run.history}
        if run.meant:
            save_weights(run.mean, place.folder / MEAN, name=task.spec.name)
            report["mean"] = {"averages": run.meant} | keep_best(run, run.mean)
            log(json.dumps({"mean": report["mean"]}))
        write_atomically(place.folder / HISTORY, json.dumps(report, indent=1).encode())
    return run.best if run.best >= 0 else math.nan


def save_plain(run: Run, path: Path) -> None:
    """The last step's own weights, not averaged: what a moving average lags behind after a change of picture size."""
    network = copy.deepcopy(run.average)
    network.load_state_dict(plain_state(run.learner.network))
    save_weights(network, path, name=run.task.spec.name)


def keep_best(run: Run, network: MobileNetV2) -> dict[str, float]:
    """Scores a network; keeps it where it is the best so far at the model's own size, or where nothing is scored."""
    size = run.recipe.stage_of(run.epoch - 1).size
    score = run.task.score(network, size, run.world.device)
    final = size == run.recipe.stages[-1].size
    if final and (score is None or score.value > run.best):
        run.best = score.value if score else run.best
        save_weights(network, run.place.folder / BEST, name=run.task.spec.name)
    return {score.name: score.value} if score else {}


def check_place(folder: Path, resume: bool) -> None:
    """Raises OutputError where a folder is none, holds a run and `resume` is off, or one that can't be resumed."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} must be a folder, but is a file; give another --out")
    kept = [name for name in (LAST, BEST, FINAL, MEAN, HISTORY) if (folder / name).exists()]
    if kept and not (resume and LAST in kept):
        way = "give --resume to go on with that run, or another --out" if LAST in kept else "give another --out"
        raise OutputError(f"{folder / kept[0]} exists; {way}")


@contextlib.contextmanager
def progress(world: World, total: int, initial: int) -> Iterator[Any]:
    """A bar over the whole run with the time left, on the process that leads."""
    with tqdm(
        total=total, initial=initial, disable=not world.leads, mininterval=2, unit="step", dynamic_ncols=True
    ) as bar:
        yield bar
