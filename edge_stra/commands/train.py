"""`edge-stra train`."""

from __future__ import annotations

from pathlib import Path

import click

from edge_stra.commands.common import FiniteRange, PathType, bar, emit, say


@click.command()
@click.argument("task", type=click.Choice(["fer", "reid"]))
@click.option("--data", required=True, type=PathType,
              help="FER2013: folders `train` and `validation`, or Kaggle's CSV; or a ReID set.")  # fmt: skip
@click.option("--out", required=True, type=PathType, help="Folder for checkpoints, history and TensorBoard's events.")
@click.option("--model", help="A name that `edge-stra models` lists. Default: mobilenetv2_stra.TASK.")
@click.option("--recipe", help="A recipe of the package, or a .json file. Default: the one named like the task.")
@click.option("--init", type=PathType, help="ImageNet features, or weights of the same model, to start from.")
@click.option("--teacher", "teachers", type=PathType, multiple=True,
              help="fer: trained weights that have a say in the target, as the recipe has it. Repeatable.")  # fmt: skip
@click.option("--hold-out", type=click.IntRange(0), default=100, show_default=True,
              help="reid: identities left out of training, to choose by. 0 trains on all.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in --out.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads of this process. Default: all.")
@click.option("--checkpoint-seconds", type=FiniteRange(0), default=240.0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def train(
    task: str,
    data: Path,
    out: Path,
    model: str | None,
    recipe: str | None,
    init: Path | None,
    teachers: tuple[Path, ...],
    hold_out: int,
    seed: int,
    resume: bool,
    device: str,
    threads: int | None,
    checkpoint_seconds: float,
    as_json: bool,
) -> None:
    """Train a model: from ImageNet features, from weights of your own, or from nothing.

    The recipe is data (stages, sizes, losses, augmentation). A run that was killed goes on with --resume, to the
    same result. Under torchrun several processes train as one.

    \b
    Examples:
      edge-stra train fer --data fer2013/ --init imagenet.pt --out runs/fer
      edge-stra train reid --data Market-1501/ --init imagenet.pt --out runs/reid --resume
      edge-stra train fer --data fer2013.csv --recipe mine.json --out runs/mine
      torchrun --nproc-per-node 2 -m edge_stra train fer --data fer2013/ --out runs/two
      tensorboard --logdir runs
    """
    import torch

    from edge_stra.training.memory import keep_freed_memory
    from edge_stra.training.start import start

    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    result = start(
        model or f"mobilenetv2_stra.{task}", recipe or task, data, out, init, list(teachers), hold_out, seed, resume,
        device, checkpoint_seconds, say, bar,
    )  # fmt: skip
    if result is not None:
        text = f"best {result['score']:.2f} %" if result["score"] is not None else "trained; nothing was held out"
        emit(result, as_json, f"{text}\n{result['weights']}")
