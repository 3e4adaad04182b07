"""`edge-stra explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edge_stra.commands.common import PathType, bar, emit, say
from edge_stra.spec import DataError


@click.command()
@click.argument("weights")
@click.argument("images", nargs=-1, type=PathType)
@click.option("--model", help="The model that WEIGHTS, a file or `random`, is for.")
@click.option("--folder", type=PathType, help="Folder of pictures: the mean mask of each mode over all of them.")
@click.option("--most", type=click.IntRange(min=1), default=500, show_default=True,
              help="Pictures of --folder at most, evenly spread.")  # fmt: skip
@click.option("--out", type=PathType, default=Path("explained"), show_default=True, help="Folder for the pictures.")
@click.option("--json", "as_json", is_flag=True, help="JSON with numbers of each mode instead of text.")
def explain(
    weights: str, images: tuple[Path, ...], model: str | None, folder: Path | None, most: int, out: Path, as_json: bool
) -> None:
    """Draw what the modes of a model with StRA learned: masks, local output and attention coefficients.

    WEIGHTS is the name of a model (its shipped weights), or a .safetensors or torch checkpoint, with --model where
    the file does not say its model. A picture is taken whole, as one face or one person: crop it first.

    \b
    Examples:
      edge-stra explain mobilenetv2_stra.fer face.png
      edge-stra explain mobilenetv2_stra.fer --folder fer2013/validation --most 200
      edge-stra explain mine.safetensors --model mobilenetv2_stra.reid person1.jpg person2.jpg --json
    """
    from functools import partial

    import torch

    from edge_stra.apps import modes
    from edge_stra.data import list_pictures, spread
    from edge_stra.explain import explain_folder, explain_picture, load_explainable

    if not images and folder is None:
        raise DataError("give pictures to explain, or --folder with a folder of them")
    torch.set_num_threads(1)
    listed = spread(list_pictures(folder), most) if folder else []
    network, spec, source = load_explainable(weights, model)
    inputs = [*images, *listed]
    sheets = modes.sheet_paths([path.stem for path in images], out, inputs)
    of_folder = modes.sheet_paths([folder.resolve().name], out, inputs, "distribution") if folder else []
    say(f"{spec.name}, weights: {source}")
    one = partial(explain_picture, network, spec)
    shown = modes.explain_pictures(one, bar("pictures")(list(images)), sheets)
    report: dict[str, Any] = {"model": spec.name, "weights": source, "pictures": list(shown)}
    if folder:
        found = explain_folder(network, spec, listed, bar("mean masks"))
        report["folder"] = modes.write_distribution(found, folder, of_folder[0])
        shown.append(report["folder"])
    emit(report, as_json, "\n".join(modes.describe(row) for row in shown))
