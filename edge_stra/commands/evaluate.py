"""`edge-stra evaluate`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from edge_stra.commands.common import FiniteRange, PathType, bar, emit, say
from edge_stra.spec import DataError, OutputError, ParityError


@click.command()
@click.argument("source", metavar="ARTIFACT|CHECKPOINT")
@click.option("--data", required=True, type=PathType, help="Folder of labelled pictures, as said above.")
@click.option("--baseline", help="Another artifact, checkpoint or shipped model: its figures, and the drop from it.")
@click.option("--model", help="The model of a checkpoint that does not say it itself.")
@click.option("--min-accuracy", type=FiniteRange(), help="Exit code 1 below this accuracy, in percent (expression).")
@click.option("--min-map", type=FiniteRange(), help="Exit code 1 below this mAP, in percent (re-identification).")
@click.option("--max-drop", type=FiniteRange(), help="Exit code 1 above this drop from --baseline, in points.")
@click.option(
    "--flip-average",
    is_flag=True,
    help="See each picture and its mirror image, and take the mean; the baseline does not.",
)
@click.option("--threads", type=click.IntRange(1), help="Default: one for each CPU.")
@click.option("--picture", type=PathType, help="Draw the result into this .png: confusion matrix, or nearest crops.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
def evaluate(
    source: str,
    data: Path,
    baseline: str | None,
    model: str | None,
    min_accuracy: float | None,
    min_map: float | None,
    max_drop: float | None,
    flip_average: bool,
    threads: int | None,
    picture: Path | None,
    as_json: bool,
) -> None:
    """How good an artifact, a checkpoint or a shipped model is on labelled pictures.

    \b
    Expression: --data holds one folder for each label. Accuracy, recall of each class, confusion matrix.
    Re-identification: --data holds `query` and `bounding_box_test`, as Market-1501 has them. mAP and rank 1, 5, 10
    by its single-query protocol.

    \b
    Examples:
      edge-stra evaluate out/mobilenetv2_stra.fer.int8.tflite --data fer2013/validation \\
          --baseline mobilenetv2_stra.fer --max-drop 1.0 --picture confusion.png
      edge-stra evaluate out/mobilenetv2_stra.reid.int8.tflite --data Market-1501 --min-map 70 --json
      edge-stra evaluate best.pt --model mobilenetv2_stra.reid --data Market-1501
    """
    from edge_stra.evaluation.confusion import MOST_DRAWN
    from edge_stra.evaluation.evaluate import evaluate as run_evaluation
    from edge_stra.evaluation.evaluate import find_failures, render
    from edge_stra.evaluation.subjects import ARTIFACTS, CHECKPOINTS, open_subject

    if max_drop is not None and baseline is None:
        raise click.UsageError("--max-drop needs --baseline")
    given = [Path(name) for name in (source, baseline) if name]
    if model is not None and not any(
        p.suffix.lower() in CHECKPOINTS or (p.is_file() and p.suffix not in ARTIFACTS) for p in given
    ):
        raise click.UsageError(f"--model names the model of a checkpoint ({', '.join(CHECKPOINTS)}), but none is given")
    if picture is not None:
        check_picture_path(picture)
    workers = threads or os.cpu_count() or 1
    names = models_of([name for name in (source, baseline) if name], model)
    subject = open_subject(source, names[source], workers, flip_average)
    if picture is not None and len(subject.spec.labels) > MOST_DRAWN:
        count = len(subject.spec.labels)
        raise DataError(f"--picture shows at most {MOST_DRAWN} labels, but {subject.label} has {count}; leave it out")
    if subject.spec.task != "fer" and min_accuracy is not None:
        raise click.UsageError(f"--min-accuracy is for expression models, but {subject.label} is none; give --min-map")
    if subject.spec.task != "reid" and min_map is not None:
        raise click.UsageError(
            f"--min-map is for re-identification models, but {subject.label} is none; give --min-accuracy"
        )
    done = run_evaluation(subject, data, open_subject(baseline, names[baseline], workers) if baseline else None, bar)
    told = done.report | ({"flip_average": True} if flip_average else {})
    emit(told, as_json, render(done.report))  # before the picture: the figures stay where it can't be written
    if picture is not None:
        from edge_stra.apps.overlay import write_picture

        write_picture(picture, done.draw())
        say(f"picture: {picture}")
    if failures := find_failures(done.report, min_accuracy if min_map is None else min_map, max_drop):
        raise ParityError("; ".join(failures))


def models_of(sources: list[str], model: str | None) -> dict[str, str | None]:
    """What --model says of each source: of two checkpoints it is for the one that does not say itself what it is."""
    from edge_stra.evaluation.subjects import ARTIFACTS

    files = [name for name in sources if Path(name).is_file() and Path(name).suffix.lower() not in ARTIFACTS]
    if model is None or len(files) < 2:
        return dict.fromkeys(sources, model)
    from edge_stra.models.weights import weights_model

    unnamed = [name for name in files if weights_model(Path(name)) is None]
    return {name: model if name in unnamed or not unnamed else None for name in sources}


def check_picture_path(path: Path) -> None:
    """Refuses, before any work, a name that is no .png or a place that can't be written. Raises OutputError."""
    from edge_stra.artifact import check_output

    if path.suffix.lower() != ".png":
        raise OutputError(f"--picture must name a .png file, but got {path}")
    check_output(path, overwrite=True)
