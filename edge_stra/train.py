"""Training of the expression models: plain PyTorch, resumable, the best epoch by validation kept.

    python -m edge_stra.train --data FER2013_FOLDER --init IMAGENET.pt --out runs/fer

`--data` holds `train` and `validation`, each with seven class folders. Training pictures that are the same,
pixel for pixel, as one of the validation split are left out: FER2013 holds about 1,850 duplicates, and a
validation figure with them in the training set would flatter.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from edge_stra.augment import Augmentation, augment_batch, resize_batch
from edge_stra.data import list_fer, read_grey
from edge_stra.models.registry import create_model, get_spec
from edge_stra.models.weights import load_imagenet, save_weights

STORED_SIZE = 48  # FER2013's pictures
CHECKPOINT_SECONDS = 240.0


def load_recipe(name: str) -> dict[str, Any]:
    recipe: dict[str, Any] = json.loads(resources.files("edge_stra").joinpath(f"recipes/{name}.json").read_text())
    return recipe


def load_split(folder: Path) -> tuple[Tensor, Tensor]:
    """uint8 pictures [count, 1, 48, 48] and their labels [count]."""
    paths, labels = list_fer(folder)
    return torch.from_numpy(read_grey(paths, STORED_SIZE))[:, None], torch.from_numpy(labels)


def without_duplicates(pictures: Tensor, labels: Tensor, held_out: Tensor) -> tuple[Tensor, Tensor]:
    """The training pictures that are not, pixel for pixel, in the held-out split."""
    seen = {picture.numpy().tobytes() for picture in held_out}
    keep = torch.tensor([picture.numpy().tobytes() not in seen for picture in pictures])
    return pictures[keep], labels[keep]


def normalise(grey: Tensor, name: str) -> Tensor:
    """Grey [B, 1, H, W] in 0..1 -> the network's input [B, 3, H, W], channels last."""
    spec = get_spec(name).input
    mean, std = (torch.tensor(v).view(1, 3, 1, 1).to(grey) for v in (spec.mean_rgb, spec.std_rgb))
    return ((grey - mean) / std).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def validate(model: nn.Module, name: str, pictures: Tensor, labels: Tensor, size: int) -> float:
    """Accuracy in percent, float32, the whole picture resized, no flips."""
    model.eval()
    correct = 0
    for part, truth in zip(torch.split(pictures, 256), torch.split(labels, 256), strict=True):
        logits = model(normalise(resize_batch(part.float() / 255, size), name))
        correct += int((logits.argmax(1) == truth).sum())
    return 100 * correct / len(labels)


def one_cycle(step: int, steps: int, warmup_fraction: float) -> float:
    """The learning rate's factor: linear up, cosine down to 1e-3 of the peak."""
    warmup = max(1, int(steps * warmup_fraction))
    if step < warmup:
        return 0.05 + 0.95 * step / warmup
    return 1e-3 + (1 - 1e-3) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def epoch_sizes(recipe: dict[str, Any]) -> list[int]:
    return [stage["size"] for stage in recipe["stages"] for _ in range(stage["epochs"])]


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Exponential moving average of weights; BN statistics and counters are averaged or copied likewise."""
    for kept, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


def batches(count: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Shuffled indices; a last batch that is not full is dropped. The same seed gives the same order."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    yield from torch.split(order[: count // batch * batch], batch)


def parameter_groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels only, not for biases and norms."""
    kernels = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": kernels, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


class Run:
    """One training run: model, average, optimizer and the place in the schedule, saved and resumed whole."""

    def __init__(self, name: str, recipe: dict[str, Any], init: Path | None, out: Path, seed: int) -> None:
        torch.manual_seed(seed)
        self.name, self.recipe, self.out, self.seed = name, recipe, out, seed
        self.model = create_model(name, dropout=recipe["dropout"])
        if init is not None:
            load_imagenet(self.model, init)
        self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.model).eval()
        groups = parameter_groups(self.model, recipe["weight_decay"])
        self.optimizer = torch.optim.AdamW(groups, lr=recipe["learning_rate"])
        self.epoch, self.batch_index, self.best = 0, 0, 0.0
        self.history: list[dict[str, float]] = []

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "place": [self.epoch, self.batch_index, self.best],
            "history": self.history,
            "rng": torch.get_rng_state(),
        }
        temporary = self.out / "last.pt.tmp"
        torch.save(state, temporary)
        temporary.replace(self.out / "last.pt")

    def resume(self) -> None:
        state = torch.load(self.out / "last.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.batch_index, self.best = state["place"]
        self.history = state["history"]
        torch.set_rng_state(state["rng"])

    def step(self, pictures: Tensor, labels: Tensor, size: int, position: int, steps: int) -> float:
        recipe = self.recipe
        rate = recipe["learning_rate"] * one_cycle(position, steps, recipe["warmup_fraction"])
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + position)
        grey = augment_batch(pictures.float() / 255, size, Augmentation(**recipe["augment"]), random)
        with torch.autocast("cpu", torch.bfloat16):
            logits, diversity = self.model.forward_with_diversity(normalise(grey, self.name))
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=recipe["label_smoothing"])
        (loss + recipe["diversity_weight"] * diversity).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = min(recipe["ema_decay"], (1 + position) / (10 + position))
        update_average(self.average, self.model, decay)
        return float(loss.detach())

    def train_epoch(self, pictures: Tensor, labels: Tensor, total_epochs: int, size: int) -> float:
        """One epoch from the place where the run stands; returns the mean loss of the part that was run."""
        batch, losses, saved = self.recipe["batch"], [], time.monotonic()
        per_epoch = len(pictures) // batch
        self.model.train()
        bar = tqdm(
            list(batches(len(pictures), batch, self.seed + self.epoch)), desc=f"epoch {self.epoch}", mininterval=10
        )
        for index, chosen in enumerate(bar):
            if index < self.batch_index:
                continue
            position = self.epoch * per_epoch + index
            losses.append(self.step(pictures[chosen], labels[chosen], size, position, total_epochs * per_epoch))
            self.batch_index = index + 1
            bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}", refresh=False)
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                self.save()
                saved = time.monotonic()
        self.epoch, self.batch_index = self.epoch + 1, 0
        return float(np.mean(losses)) if losses else math.nan


def train(
    name: str, recipe: dict[str, Any], data: Path, init: Path | None, out: Path, seed: int, resume: bool
) -> float:
    """Trains `name` and writes `out/best.safetensors`; returns its validation accuracy in percent."""
    out.mkdir(parents=True, exist_ok=True)
    held_out, held_out_labels = load_split(data / "validation")
    pictures, labels = without_duplicates(*load_split(data / "train"), held_out)
    run = Run(name, recipe, init, out, seed)
    if resume and (out / "last.pt").exists():
        run.resume()
    sizes, final_size = epoch_sizes(recipe), get_spec(name).input.size_hw[0]
    print(f"{name}: {len(pictures)} training and {len(held_out)} validation pictures, {len(sizes)} epochs", flush=True)
    while run.epoch < len(sizes):
        size, start = sizes[run.epoch], time.monotonic()
        loss = run.train_epoch(pictures, labels, len(sizes), size)
        accuracy = validate(run.average, name, held_out, held_out_labels, size)
        run.history.append(
            {"epoch": run.epoch, "loss": loss, "accuracy": accuracy, "seconds": time.monotonic() - start}
        )
        print(json.dumps(run.history[-1]), flush=True)
        if size == final_size and accuracy > run.best:
            run.best = accuracy
            save_weights(run.average, out / "best.safetensors")
        run.save()
    (out / "history.json").write_text(json.dumps({"recipe": recipe, "seed": seed, "epochs": run.history}, indent=1))
    return run.best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenetv2_stra.fer")
    parser.add_argument("--recipe", default="fer")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="ImageNet feature weights (.pt)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    best = train(args.model, load_recipe(args.recipe), args.data, args.init, args.out, args.seed, args.resume)
    print(f"best validation accuracy {best:.2f} %")


if __name__ == "__main__":
    main()
