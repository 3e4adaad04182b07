"""Latency of StRA against the plain MobileNetV2, in one interleaved run, one thread.

    python benchmarks/latency.py [--model mobilenetv2_stra.reid] [--quantize fp32 int8] [--runs 200]

Seeded random weights: latency does not depend on their values. Prints medians and the ratio StRA / plain,
with the spread of the ratio over ten parts of the run. Figures mean something as ratios only.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from edge_stra.artifact import open_artifact
from edge_stra.bench import WARM_UP, interleave
from edge_stra.bench_probe import drawn_input
from edge_stra.doctor import describe_delegate
from edge_stra.export import Request, export
from edge_stra.runtime import Predictor, find_runtime

PARTS = 10


def measure(predictors: dict[str, Predictor], runs: int) -> dict[str, np.ndarray]:
    """Milliseconds of each run, [runs], the models taking turns."""
    work = [partial(predictor, drawn_input(predictor.spec)) for predictor in predictors.values()]
    interleave(work, WARM_UP)
    return dict(zip(predictors, interleave(work, runs).T, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenetv2_stra.reid")
    parser.add_argument("--quantize", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = {"stra": args.model, "plain": args.model.replace("_stra", "")}
    report = []
    with tempfile.TemporaryDirectory() as folder:
        for quantize in args.quantize:
            made = {k: export(Request(n, quantize, Path(folder), weights="random")).path for k, n in names.items()}
            predictors = {k: Predictor(open_artifact(path)) for k, path in made.items()}
            times = measure(predictors, args.runs)
            medians = {k: float(np.median(t)) for k, t in times.items()}
            parts = [
                np.median(a) / np.median(b)
                for a, b in zip(*(np.array_split(times[k], PARTS) for k in names), strict=True)
            ]
            report.append(
                {
                    "quantize": quantize,
                    "model": args.model,
                    "median_ms": medians,
                    "ratio": medians["stra"] / medians["plain"],
                    "ratio_range": [float(min(parts)), float(max(parts))],
                    "partitions": {k: describe_delegate(path).get("parts") for k, path in made.items()},
                    "bytes": {k: p.stat().st_size for k, p in made.items()},
                }
            )
    if args.json:
        print(json.dumps({"machine": platform.machine(), "runtime": find_runtime()[0], "rows": report}, indent=1))
        return
    conditions = f"{find_runtime()[0]}, one thread, {args.runs} runs, {platform.machine()}"
    print(f"{args.model} against {names['plain']}, {conditions}")
    for r in report:
        low, high = r["ratio_range"]
        print(
            f"{r['quantize']:<10} StRA {r['median_ms']['stra']:.2f} ms, plain {r['median_ms']['plain']:.2f} ms, "
            f"ratio {r['ratio']:.2f} ({low:.2f} to {high:.2f}), partitions {r['partitions']['stra']} and "
            f"{r['partitions']['plain']}, file {r['bytes']['stra'] / 1e6:.1f} MB"
        )


if __name__ == "__main__":
    main()
