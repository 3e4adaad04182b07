"""What each switch of `edge-stra export` does to the drift of int8 and int8-full, and all combinations of them.

    python benchmarks/quantization.py --calibration FER/train --images FER/validation [--pictures 400]

Prints SQNR of the outputs against the float32 reference and the top-1 agreement. Pictures of both
folders are spread evenly over the sorted list; figures of two rows come from the same ones.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from edge_stra.calibration.parts import find_parts
from edge_stra.calibration.quantize import quantize
from edge_stra.calibration.ranges import RANGES, choose_ranges, collect_histograms, find_extremes
from edge_stra.calibration.recipes import RECIPES

from edge_stra.artifact import open_artifact
from edge_stra.builds.tflite import corrected_graph
from edge_stra.data import list_pictures, spread
from edge_stra.export import Inputs, rewrite, torch_function
from edge_stra.loading import load_model
from edge_stra.models.registry import get_spec
from edge_stra.parity import compare, outputs_of
from edge_stra.preprocess import load_input
from edge_stra.runtime import Predictor, read_tensors
from edge_stra.spec import ModelSpec, Recipe, Statistics
from edge_stra.targets.tflite import embed

Corrections = dict[str, np.ndarray]
Extremes = dict[str, tuple[float, float]]


def read(folder: Path, count: int, spec: ModelSpec) -> Inputs:
    return [load_input(path, spec.input) for path in spread(list_pictures(folder), count)]


class Bench:
    """Pictures, their float32 outputs, and the graphs that several rows share."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.spec = get_spec(args.model)
        self.model = load_model(args.model, args.weights)[0]
        self.calibration = read(args.calibration, args.calibration_pictures, self.spec)
        self.inputs = read(args.images, args.pictures, self.spec)
        self.reference = outputs_of(torch_function(self.model), self.inputs)
        self.graphs: dict[tuple[bool, str], tuple[bytes, Corrections, Extremes]] = {}

    def graph(self, recipe: Recipe, precision: str) -> tuple[bytes, Corrections, Extremes]:
        """The float graph, its corrections and its extremes; without corrections the same for all precisions."""
        key = (recipe.equalise, precision if recipe.correct_bias else "")
        if key not in self.graphs:
            network = rewrite(self.model, self.spec, recipe.equalise)
            graph, corrections = corrected_graph(recipe, self.spec, network, self.calibration)
            self.graphs[key] = graph, corrections, find_extremes(read_tensors(graph, self.calibration))
        return self.graphs[key]

    def rows(self, precision: str, equalised: bool, corrected: bool) -> Iterator[dict[str, Any]]:
        """One row for each kind of ranges, from the same histograms."""
        recipe = replace(RECIPES[precision], correct_bias=corrected, equalise=equalised)
        graph, corrections, extremes = self.graph(recipe, precision)
        tensors = read_tensors(graph, self.calibration, find_parts(graph, recipe).tensors)
        histograms = collect_histograms(extremes, tensors)
        for kind in RANGES:
            ranges = extremes | choose_ranges(kind, histograms)
            data = quantize(graph, recipe, Statistics(ranges, corrections, {}))
            switches = {"ranges": kind, "bias_correction": corrected, "equalise": equalised}
            yield {"quantize": precision} | switches | self.measure(data, precision)

    def measure(self, data: bytes, precision: str) -> dict[str, Any]:
        """SQNR, cosine and first choices of one quantized graph."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "candidate.tflite"
            path.write_bytes(embed(data, self.spec, precision))
            produced = outputs_of(Predictor(open_artifact(path)), self.inputs)
        result = compare(("float32", precision), self.reference, produced, classifier=bool(self.spec.labels))
        return {"sqnr_db": result.sqnr_db, "cosine": result.cosine, "top1": result.top1}


def render(table: list[dict[str, Any]]) -> str:
    lines = [
        "| precision | ranges | bias correction | equalised | SQNR dB | cosine | top-1 agreement % |",
        "|---" * 7 + "|",
    ]
    for row in table:
        marks = " | ".join("yes" if row[key] else "no" for key in ("bias_correction", "equalise"))
        top1 = "" if row["top1"] is None else f"{row['top1']:.1%}"
        figures = f"{row['sqnr_db']:.1f} | {row['cosine']:.4f} | {top1}"
        lines.append(f"| {row['quantize']} | {row['ranges']} | {marks} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenetv2_stra.fer")
    parser.add_argument("--weights")
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--quantize", nargs="+", default=["int8", "int8-full"])
    parser.add_argument("--pictures", type=int, default=400, help="of --images")
    parser.add_argument("--calibration-pictures", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(args)
    table: list[dict[str, Any]] = []
    combinations = list(product((False, True), args.quantize, (False, True)))
    with click.progressbar(length=len(combinations) * len(RANGES), label="quantizing", file=sys.stderr) as bar:
        for equalised, precision, corrected in combinations:
            for row in bench.rows(precision, equalised, corrected):
                table.append(row)
                bar.update(1)
    table.sort(key=lambda row: args.quantize.index(row["quantize"]))
    print(json.dumps(table, indent=1) if args.json else render(table))


if __name__ == "__main__":
    main()
