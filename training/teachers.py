"""Distillation: what trained networks say of the training pictures, as a part of the target.

Labels of FER2013 are noisy, and a network that has learnt them answers differently for a face and its mirror image.
The mean over both, and over several networks, is steadier; a student that is asked for that mean, whatever it is shown,
is meant to become as steady alone (docs/training.md says what came of it once). Sources: Hinton, Vinyals, Dean, arXiv
1503.02531, at temperature 1; Furlanello et al., "Born Again Neural Networks", arXiv 1805.04770.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from edge_stra.training.recipe import Recipe
from edge_stra.training.tasks import EVALUATION_BATCH, Task
from torch import Tensor, nn

from edge_stra.loading import load_model
from edge_stra.models.registry import get_spec
from edge_stra.models.weights import weights_model
from edge_stra.spec import ModelError

Bar = Callable[[list[Tensor]], Iterable[Tensor]]


def check_teachers(recipe: Recipe, count: int) -> None:
    """Raises ModelError for teachers without a recipe that asks them, or the reverse."""
    if bool(count) != bool(recipe.teacher_share):
        raise ModelError(
            f"--teacher and a recipe's teacher_share belong together, but there are {count} teachers and the share is "
            f"{recipe.teacher_share}"
        )


def load_teachers(paths: list[Path], task: Task) -> list[nn.Module]:
    """Networks of the task; their hashes become the task's. Raises ModelError for any other."""
    loaded = []
    for path in paths:
        name = weights_model(path) or task.spec.name
        if get_spec(name).task != task.spec.task:
            raise ModelError(f"a teacher must be of the task {task.spec.task}, but {path} holds {name}")
        loaded.append(load_model(name, str(path)))
    task.teachers = tuple(sorted(weights["sha256"] for _, weights in loaded))
    return [network for network, _ in loaded]


def ask_teachers(teachers: list[nn.Module], task: Task, device: torch.device, bar: Bar) -> Tensor:
    """The task's targets [N, classes] with the teachers' share in them."""
    return task.targets.lerp(opinions(teachers, task, device, bar), task.recipe.teacher_share)


@torch.inference_mode()
def opinions(teachers: list[nn.Module], task: Task, device: torch.device, bar: Bar) -> Tensor:
    """Mean probabilities [N, classes], float32, of each of the task's pictures and its mirror image by each teacher."""
    size = task.spec.input.size_hw
    teachers = [t.to(device, memory_format=torch.channels_last).eval() for t in teachers]  # type: ignore[call-overload]
    parts = []
    for pixels in bar(list(torch.split(task.pictures.pixels, EVALUATION_BATCH))):
        inputs = task.inputs(pixels, size, device)
        answers = [teacher(shown).softmax(1) for shown in (inputs, inputs.flip(3)) for teacher in teachers]
        parts.append(torch.stack(answers).mean(0).cpu())
    return torch.cat(parts)
