"""Picture files in, JSON-ready rows and annotated picture files out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_stra.apps.detect import find_detector
from edge_stra.apps.expression import predict_expressions
from edge_stra.apps.overlay import check_picture_path, draw_expressions, enlarged, write_picture
from edge_stra.apps.reid import distance, embed_picture

from edge_stra.artifact import check_output
from edge_stra.detections import Detect
from edge_stra.faces import Predicts
from edge_stra.preprocess import read_rgb
from edge_stra.spec import DataError, OutputError

WHOLE_PICTURE = "none"


def annotate_pictures(
    predictor: Predicts, paths: Sequence[Path], out: Path | None, detector: str, yunet: Path | None, overwrite: bool
) -> tuple[list[dict[str, Any]], str]:
    """The faces of each picture and the detector's name; with `out`, annotated copies are written.

    `out` is a file for one picture, or a folder. The row of a picture that can't be read holds its "error" in place
    of "faces". Raises OutputError, before any work, where an annotated copy can't be written.
    """
    detect: Detect | None = None
    used = "the whole picture as one face"
    if detector != WHOLE_PICTURE:
        used, detect = find_detector(yunet, detector)
    targets = annotated_paths(paths, out)
    for target in targets:
        if target is not None:
            check_picture_path(target)
            check_output(target, overwrite)
    rows: list[dict[str, Any]] = []
    for path, target in zip(paths, targets, strict=True):
        try:
            rgb_u8 = read_rgb(path)
        except DataError as error:
            rows.append({"image": str(path), "error": str(error)})
            continue
        found = predict_expressions(predictor, rgb_u8, detect)
        faces = [
            {
                "label": e.label,
                "probabilities": dict(e.probabilities),
                "box_xywh": list(e.face.box_xywh),
                "score": e.face.score,
            }
            for e in found
        ]
        row: dict[str, Any] = {"image": str(path), "faces": faces}
        if target is not None:
            write_picture(target, draw_expressions(*enlarged(rgb_u8, found)))
            row["annotated"] = str(target)
        rows.append(row)
    return rows, used


def annotated_paths(paths: Sequence[Path], out: Path | None) -> list[Path | None]:
    """Where each picture's annotated copy goes. Raises OutputError where that is a picture to read, or another's."""
    if out is None:
        return [None] * len(paths)
    targets = [out if out.suffix else out / f"{path.stem}.png" for path in paths]
    read = {path.resolve() for path in paths}
    for target in targets:
        if target.resolve() in read:
            raise OutputError(f"{target} is one of the pictures to read and would be replaced; give another --out")
        if targets.count(target) > 1:
            raise OutputError(f"two of the pictures would both become {target}; run them one by one")
    return list(targets)


def compare_pictures(predictor: Predicts, paths: Sequence[Path]) -> dict[str, Any]:
    """The embedding of one picture, or the Euclidean distance of two. Raises DataError for another number."""
    if len(paths) > 2:
        raise DataError(f"a re-identification model takes one picture or two, but got {len(paths)}")
    embeddings = [embed_picture(predictor, read_rgb(path)) for path in paths]
    if len(embeddings) == 1:
        return {"image": str(paths[0]), "embedding": [float(v) for v in embeddings[0]]}
    return {"images": [str(p) for p in paths], "distance": distance(*embeddings)}
