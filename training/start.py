"""From what the command line gives to a finished run: reads, joins other processes, trains, and cleans up."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
from edge_stra.training.distributed import join
from edge_stra.training.recipe import load_recipe
from edge_stra.training.run import BEST, Place, Run, check_place, initialise, train
from edge_stra.training.tasks import create_task
from edge_stra.training.teachers import ask_teachers, check_teachers, load_teachers
from torch.utils.tensorboard import SummaryWriter

from edge_stra.models.mobilenetv2 import has_native_bfloat16
from edge_stra.models.registry import create_model, get_spec
from edge_stra.models.weights import check_file
from edge_stra.spec import ModelError


def start(
    model: str,
    recipe_name: str,
    data: Path,
    out: Path,
    init: Path | None,
    teachers: list[Path],
    held: int,
    seed: int,
    resume: bool,
    device: str,
    checkpoint_seconds: float,
    say: Callable[[str], None],
    bar: Callable[[str], Callable[[list[Any]], Iterable[Any]]],
) -> dict[str, Any] | None:
    """Trains; returns {"model", "score", "weights"} on the process that leads, None on the others.

    Raises EdgeStraError for a recipe, data, weights or a folder that do not fit.
    """
    recipe, spec = load_recipe(recipe_name), get_spec(model)
    world = join(device)
    try:
        if recipe.batch % world.size:
            raise ModelError(f"the recipe's batch of {recipe.batch} must be a multiple of the {world.size} processes")
        if recipe.augment.mix and recipe.batch % (2 * world.size):
            raise ModelError(f"mix takes pairs, so batch must be a multiple of {2 * world.size}, but is {recipe.batch}")
        check_teachers(recipe, len(teachers))
        check_place(out, resume)  # before the pictures are read, as the files that were named
        for path in (*([init] if init else []), *teachers):
            check_file(path)
        if init is not None:
            initialise(create_model(model), init, model)
        if (size := recipe.stages[-1].size) != spec.input.size_hw and world.leads:
            own = " x ".join(map(str, spec.input.size_hw))
            say(f"the recipe ends, and scores, at {' x '.join(map(str, size))}; `export` and `evaluate` take {own}")
        task = create_task(model, recipe, data, held, bar("reading pictures") if world.leads else iter)
        networks = load_teachers(teachers, task)
        run = Run(task, world, Place(out, checkpoint_seconds), seed, init)
        if networks:
            run.ask = partial(
                ask_teachers, networks, task, world.device, bar("asking teachers") if world.leads else iter
            )
        if world.leads:
            out.mkdir(parents=True, exist_ok=True)
            say(f"{spec.name}, recipe {recipe_name}: {task.summary}, {recipe.epochs} epochs, {world.device}")
            if task.remark:
                say(task.remark)
            x86 = platform.machine().lower() in ("x86_64", "amd64")  # torch tells nothing of other CPUs
            slow = world.device.type == "cpu" and x86 and not has_native_bfloat16(world.device)
            if recipe.precision == "bf16" and slow:
                say('this CPU only imitates bfloat16: a recipe with "precision": "fp32" is faster here')
            if run.trained and spec.task == "reid" and held:
                say("the identities held out must be the same all along: where --init has seen them, scores flatter")
            with SummaryWriter(str(out)) as board:

                def scalars(values: dict[str, float], step: int) -> None:
                    for name, value in values.items():
                        board.add_scalar(name, value, step)

                best = train(run, resume, say, scalars)
            return {
                "model": model,
                "score": None if math.isnan(best) else best,
                "weights": str(out / BEST),
            }
        train(run, resume, lambda line: None, lambda values, step: None)
        return None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
