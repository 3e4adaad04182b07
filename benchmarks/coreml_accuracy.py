"""What each precision of the Core ML target loses: the SAVED packages on labelled pictures, through the executor.

    scripts/setup coreml
    python benchmarks/coreml_accuracy.py --model mobilenetv2_stra.fer --data FER2013/validation --pictures 1000
        --calibration FER2013/train
    python benchmarks/coreml_accuracy.py --model mobilenetv2_stra.reid --data held --identities 40
        --calibration held/bounding_box_train

Expressions: accuracy on so many pictures, evenly spread over the sorted list of all. People: mAP on the first so many
identities of a folder in Market-1501's layout (scripts/hold_out.py makes one of a training set; the shipped weights
have seen all training identities, so that the figures compare precisions and praise nobody). The first row is PyTorch
in float32, to which SQNR and drop refer. --packages keeps the packages, and takes those that are there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from edge_stra.converters.coreml import MINIMUM_IOS, convert

from edge_stra.artifact import Artifact
from edge_stra.data import list_fer, list_pictures, spread, spread_indices
from edge_stra.evaluation.evaluate import accuracy
from edge_stra.evaluation.ranking import rank
from edge_stra.export import rewrite, torch_function
from edge_stra.identities import list_market
from edge_stra.loading import load_model
from edge_stra.models.registry import get_spec
from edge_stra.parity import compare
from edge_stra.preprocess import load_input
from edge_stra.spec import EdgeStraError
from edge_stra.targets.coreml import CoreMLPredictor, digest, read_embedded

Array = np.ndarray[Any, np.dtype[np.float32]]
CALIBRATION_PICTURES = 64


def fer_judge(data: Path, count: int) -> tuple[list[Path], str, Callable[[Array], float]]:
    """Pictures, the figure's name, and the figure from the outputs [pictures, K]."""
    paths, truth = list_fer(data)
    chosen = spread_indices(len(paths), count)
    return [paths[i] for i in chosen], "accuracy", lambda outputs: accuracy(outputs.argmax(1), truth[chosen])


def reid_judge(data: Path, count: int) -> tuple[list[Path], str, Callable[[Array], float]]:
    """As `fer_judge`, for the first `count` identities."""
    query, gallery = list_market(data)
    known = np.unique(query.identities)[:count]
    query, gallery = (crops.take(np.isin(crops.identities, known)) for crops in (query, gallery))

    def judge(outputs: Array) -> float:
        return float(rank(outputs[: len(query)], query, outputs[len(query) :], gallery)["map"])

    return query.paths + gallery.paths, "mAP", judge


def make(args: argparse.Namespace, folder: Path, quantize: str) -> Artifact:
    """The saved package of a precision, made where it is not there."""
    spec, path = get_spec(args.model), folder / f"{args.model}.{quantize}.mlpackage"
    if not path.is_dir():
        inputs = None
        if quantize == "w8a8":
            pictures = spread(list_pictures(args.calibration), CALIBRATION_PICTURES)
            inputs = [load_input(p, spec.input) for p in pictures]
        convert(rewrite(load_model(args.model, None)[0], spec, False), spec, quantize, path, inputs=inputs)
    return Artifact(path, read_embedded(path)[0], "coreml", quantize, digest(path), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenetv2_stra.fer")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True, help="pictures for w8a8")
    parser.add_argument("--quantize", nargs="+", default=list(MINIMUM_IOS), choices=list(MINIMUM_IOS))
    parser.add_argument("--pictures", type=int, default=1000, help="expressions")
    parser.add_argument("--identities", type=int, default=40, help="people")
    parser.add_argument("--packages", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    spec = get_spec(args.model)
    judge = fer_judge(args.data, args.pictures) if spec.labels else reid_judge(args.data, args.identities)
    paths, figure, of = judge
    reference = torch_function(load_model(args.model, None)[0])
    wanted = np.concatenate([reference(load_input(p, spec.input)) for p in paths])
    rows: list[dict[str, Any]] = [{"quantize": "PyTorch", "pictures": len(paths), figure: of(wanted)}]
    say = (lambda row: None) if args.json else (lambda row: print(line(row, figure), flush=True))
    say(rows[0])
    with tempfile.TemporaryDirectory() as folder:
        for quantize in args.quantize:
            artifact = make(args, args.packages or Path(folder), quantize)
            predictor, start = CoreMLPredictor(artifact), time.perf_counter()
            outputs = np.concatenate([predictor(load_input(p, spec.input)) for p in paths])
            seconds = time.perf_counter() - start
            found = compare(("PyTorch", quantize), wanted, outputs, bool(spec.labels))
            size = sum(f.stat().st_size for f in artifact.path.rglob("*") if f.is_file())
            rows.append(
                {"quantize": quantize, "pictures": len(paths), figure: of(outputs)}
                | {"drop": rows[0][figure] - of(outputs), "sqnr_db": found.sqnr_db, "cosine": found.cosine}
                | {"top1": found.top1, "megabytes": size / 1e6, "seconds_each": seconds / len(paths)}
            )
            say(rows[-1])
    if args.json:
        print(json.dumps(rows, indent=1))


def line(row: dict[str, Any], figure: str) -> str:
    text = f"{row['quantize']:<9} {figure} {row[figure]:6.2f} % on {row['pictures']} pictures"
    if "drop" in row:
        same = "" if row["top1"] is None else f", top-1 agreement {100 * row['top1']:.2f} %"
        text += f", drop {row['drop']:+.2f}, {row['sqnr_db']:.1f} dB, smallest cosine {row['cosine']:.5f}{same}"
        text += f", {row['megabytes']:.1f} MB, {row['seconds_each']:.2f} s a picture"
    return text


if __name__ == "__main__":
    try:
        main()
    except EdgeStraError as error:
        raise SystemExit(f"Error: {error}") from error
