"""`edge-stra gallery calibrate`."""

from __future__ import annotations

import contextlib
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from edge_stra.commands.common import FiniteRange, PathType, bar, emit, say, shipped_path
from edge_stra.commands.gallery import MODEL, model_option


@click.command()
@model_option
@click.option("--data", required=True, type=PathType, help="Labelled crops, as said above.")
@click.option("--gallery", metavar="URI", help="Store the threshold in this gallery.")
@click.option("--false-accepts", type=FiniteRange(0, 1, min_open=True, max_open=True), default=0.01,
              show_default=True, help="Share of unknown people's searches that may end with a name.")  # fmt: skip
@click.option("--people", type=click.IntRange(2), help="People that the gallery will hold. [default: all of DATA]")
@click.option("--picture", type=PathType, help="Draw the curves into this .svg file.")
@click.option("--threads", type=click.IntRange(1), help="Default: one for each CPU.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
def calibrate(
    artifact: Path | None,
    data: Path,
    gallery: str | None,
    false_accepts: float,
    people: int | None,
    picture: Path | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Choose the distance that names a person, from labelled crops.

    --data holds crops named as in Market-1501 (0002_c1s1_000451_03.jpg), or one folder of crops for each identity.
    The threshold is chosen on searches in a gallery of these people, since false accepts grow with the gallery: give
    at least as many people as it will hold. Each is enrolled from one camera and searched for with short tracks. The
    pairs' ROC is printed beside it. Crops that the model was trained on flatter all of it.

    \b
    Examples:
      edge-stra gallery calibrate --data crops --picture roc.svg
      edge-stra gallery calibrate --data crops --gallery sqlite:///people.db
    """
    from edge_stra.artifact import open_artifact, write_atomically
    from edge_stra.evaluation.subjects import open_file
    from edge_stra.faces import check_task
    from edge_stra.gallery.open import is_new_file, open_gallery
    from edge_stra.gallery.pairs import calibrate as choose
    from edge_stra.gallery.pairs import count_pairs, run_searches
    from edge_stra.gallery.pictures import maker_of
    from edge_stra.identities import CAMERA, list_crops
    from edge_stra.spec import DataError

    if picture is not None:
        check_svg_path(picture)
    path = artifact or shipped_path(MODEL)
    opened = open_artifact(path)
    check_task(opened.spec, "reid")
    crops = list_crops(data)
    if not any(CAMERA.search(path.stem) for path in crops.paths):
        say(
            "no name holds a camera (like anna/x_c3_001.jpg), so every crop counts as one of its own: pictures of one "
            "moment flatter what is said of known people"
        )
    subject = open_file(str(path), None, threads or os.cpu_count() or 1)
    with contextlib.ExitStack() as stack:
        store = None
        if gallery is not None:
            # Opened with the first embedding's length, before the long work: a wrong gallery is told of at once.
            maker = maker_of(opened, subject.embed(crops.paths[:1]).shape[1])
            if not is_new_file(gallery):
                store = stack.enter_context(closing(open_gallery(gallery, maker)))
        embeddings = subject.embed(crops.paths, bar(subject.label))
        pairs = count_pairs(embeddings, crops.identities, crops.cameras)
        searches = run_searches(embeddings, crops.identities, crops.cameras, people)
        report = choose(pairs, searches, false_accepts)
        report["gallery"] = None
        if gallery is not None and not report["warning"]:
            if store is None:  # made now that there is something to keep
                store = stack.enter_context(closing(open_gallery(gallery, maker)))
            store.set_threshold(report["threshold"])
            report["gallery"] = store.uri
    emit(report, as_json, render(report))
    if picture is not None:
        from edge_stra.gallery.pairs_svg import draw_curves

        drawing = draw_curves(pairs, searches, report["threshold"], false_accepts)
        write_atomically(picture, drawing.encode())
        say(f"picture: {picture}")
    if gallery is not None and report["warning"]:
        raise DataError(f"{report['warning']}; nothing is stored in the gallery, give more --data")


def check_svg_path(path: Path) -> None:
    """Refuses, before any work, a name that is no .svg or a place that can't be written. Raises OutputError."""
    from edge_stra.artifact import check_output
    from edge_stra.spec import OutputError

    if path.suffix.lower() != ".svg":
        raise OutputError(f"--picture must name a .svg file, but got {path}")
    check_output(path, overwrite=True)


def render(report: dict[str, Any]) -> str:
    """The calibration in lines for people."""
    pairs, found = report["pairs"], report["searches"][-1]
    lines = [
        f"pairs: {pairs['same']} of one person across cameras, {pairs['different']} of different people",
        *(
            f"  {100 * p['false_accepts']:8.4f} % false accepts at distance {p['distance']:.4f}: "
            f"{100 * p['true_accepts']:.2f} % true accepts"
            for p in pairs["roc"]
        ),
        f"searches: {found['false_accepts']['of']} probes in a gallery of {found['people']} people, "
        f"{report['entries']} embeddings",
        f"  rank-1 {words(found['rank1'])}",
        f"threshold {report['threshold']:.4f}, chosen on searches for {100 * report['wanted']:g} % false accepts",
        f"  known people: named rightly {words(found['identified'])}",
        f"                named wrongly {words(found['misnamed'])}",
        f"                not named     {words(found['missed'])}",
        "  unknown people who get a name, by the gallery's size:",
        *(f"    {row['people']:>6} people: {words(row['false_accepts'])}" for row in report["searches"]),
    ]
    if report["warning"]:
        lines.append(f"warning: {report['warning']}")
    if report["gallery"]:
        lines.append(f"stored in {report['gallery']}")
    return "\n".join(lines)


def words(share: dict[str, Any]) -> str:
    return (
        f"{100 * share['share']:6.2f} % ({share['count']} of {share['of']}; 95 %: {100 * share['low']:.2f} to "
        f"{100 * share['high']:.2f})"
    )
