"""`edge-stra run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edge_stra.commands.common import PathType, emit, say
from edge_stra.spec import DataError, OutputError


@click.command()
@click.argument("artifact", type=PathType)
@click.argument("images", nargs=-1, required=True, type=PathType)
@click.option("--out", type=PathType, help="Annotated picture, or a folder for several.")
@click.option("--detector", type=click.Choice(["auto", "yunet", "haar", "none"]), default="auto", show_default=True,
              help="How faces are found; none takes the whole picture as one face.")  # fmt: skip
@click.option("--yunet", type=PathType, help="YuNet's .onnx file.")
@click.option("--overwrite", is_flag=True, help="Replace annotated pictures that exist.")
@click.option("--flip-average", is_flag=True, help="See each crop and its mirror image: steadier, twice the time.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
def run(
    artifact: Path,
    images: tuple[Path, ...],
    out: Path | None,
    detector: str,
    yunet: Path | None,
    overwrite: bool,
    flip_average: bool,
    as_json: bool,
) -> None:
    """Predict on pictures with the device runtime alone.

    An expression model finds faces and names the expression of each; of several pictures one that can't be read is
    told of, and the others are done. A re-identification model prints the
    embedding of one picture, or the distance of two.

    \b
    Examples:
      edge-stra run out/mobilenetv2_stra.fer.int8.tflite photo.jpg --out annotated.png
      edge-stra run out/mobilenetv2_stra.fer.int8.tflite crop.png --detector none --json
      edge-stra run out/mobilenetv2_stra.reid.int8.tflite anna1.jpg anna2.jpg
    """
    from edge_stra.mirror import Mirrored
    from edge_stra.runtime import load_predictor

    predictor = load_predictor(artifact)
    if predictor.spec.task != "fer" and (out or yunet or detector != "auto"):
        raise click.UsageError(f"--out, --detector and --yunet are for expression models, but {artifact} is none")
    say(f"runtime: {predictor.runtime_name}")
    if flip_average:
        predictor = Mirrored(predictor)
    if predictor.spec.task == "fer":
        from edge_stra.apps.pictures import annotate_pictures

        if out is not None and len(images) > 1 and out.suffix:
            raise OutputError(f"--out must be a folder for {len(images)} pictures, but {out} looks like a file")
        rows, used = annotate_pictures(predictor, images, out, detector, yunet, overwrite)
        say(f"detector: {used}")
        bad = [row["error"] for row in rows if "error" in row]
        if len(bad) == len(rows) == 1:
            raise DataError(bad[0])
        read = [row for row in rows if "error" not in row]
        lines = [f"{r['image']}: {len(r['faces'])} face(s)" + "".join(face_line(f) for f in r["faces"]) for r in read]
        if detector != "none" and not all(r["faces"] for r in read):
            say("where a picture is one face already, --detector none takes it whole")
        for row in rows:
            if "annotated" in row:
                say(f"picture: {row['annotated']}")
        emit(rows, as_json, "\n".join(lines))
        if bad:
            raise DataError(f"{len(bad)} of {len(rows)} pictures can't be read; the first: {bad[0]}")
    else:
        from edge_stra.apps.pictures import compare_pictures

        result = compare_pictures(predictor, images)
        text = (
            f"distance {result['distance']:.4f}"
            if "distance" in result
            else " ".join(f"{v:.6f}" for v in result["embedding"])
        )
        emit(result, as_json, text)


def face_line(face: dict[str, Any]) -> str:
    probabilities = sorted(face["probabilities"].items(), key=lambda pair: -pair[1])
    return f"\n  {face['label']:<10} at {face['box_xywh']}: " + ", ".join(f"{k} {v:.0%}" for k, v in probabilities)
