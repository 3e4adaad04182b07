"""Latency of StRA against the plain MobileNetV2, in one interleaved run, one thread.

    python benchmarks/latency.py [--model mobilenetv2_stra.reid] [--quantize fp32 int8] [--runs 100] [--processes 8]

Seeded random weights: latency does not depend on their values. Both networks run in turns within one process; where
their memory comes to lie differs from process to process, and with it the ratio by some percent, so several processes
are measured, every other one with the networks loaded in the other order. Prints the median over the processes of
each median and of the ratio StRA / plain, with the least and the greatest ratio. Figures mean something as ratios only.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from edge_stra.artifact import open_artifact
from edge_stra.bench.probe import drawn_input
from edge_stra.bench.rounds import WARM_UP, interleave
from edge_stra.doctor import describe_delegate
from edge_stra.export import Request, export
from edge_stra.models.registry import MODEL_NAMES
from edge_stra.runtime import Predictor, find_runtime


def measure(paths: dict[str, Path], runs: int) -> dict[str, float]:
    """Median milliseconds of each file, the models taking turns; meant for a process of its own."""
    predictors = [Predictor(open_artifact(path)) for path in paths.values()]
    work = [partial(predictor, drawn_input(predictor.spec)) for predictor in predictors]
    interleave(work, WARM_UP)
    return dict(zip(paths, np.median(interleave(work, runs), axis=0).tolist(), strict=True))


def measure_in_processes(paths: dict[str, Path], runs: int, processes: int) -> list[dict[str, float]]:
    """`measure` in one fresh process after the other."""
    orders = [dict(reversed(paths.items())) if i % 2 else paths for i in range(processes)]
    found = []
    for order in orders:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(measure, (order, runs)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = [name for name in MODEL_NAMES if "_stra." in name]
    parser.add_argument("--model", choices=choices, default="mobilenetv2_stra.reid")
    parser.add_argument("--quantize", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--runs", type=int, default=100, help="of each network in each process")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = {"stra": args.model, "plain": args.model.replace("_stra", "")}
    report = []
    with tempfile.TemporaryDirectory() as folder:
        for quantize in args.quantize:
            made = {k: export(Request(n, quantize, Path(folder), weights="random")).path for k, n in names.items()}
            found = measure_in_processes(made, args.runs, args.processes)
            ratios = [times["stra"] / times["plain"] for times in found]
            report.append(
                {
                    "quantize": quantize,
                    "model": args.model,
                    "median_ms": {k: float(np.median([times[k] for times in found])) for k in names},
                    "ratio": float(np.median(ratios)),
                    "ratio_range": [min(ratios), max(ratios)],
                    "partitions": {k: describe_delegate(path).get("parts") for k, path in made.items()},
                    "bytes": {k: p.stat().st_size for k, p in made.items()},
                }
            )
    if args.json:
        print(json.dumps({"machine": platform.machine(), "runtime": find_runtime()[0], "rows": report}, indent=1))
        return
    runs = f"{args.processes} processes of {args.runs} runs"
    print(f"{args.model} against {names['plain']}, {find_runtime()[0]}, one thread, {runs}, {platform.machine()}")
    for r in report:
        low, high = r["ratio_range"]
        print(
            f"{r['quantize']:<10} StRA {r['median_ms']['stra']:.2f} ms, plain {r['median_ms']['plain']:.2f} ms, "
            f"ratio {r['ratio']:.2f} ({low:.2f} to {high:.2f}), partitions {r['partitions']['stra']} and "
            f"{r['partitions']['plain']}, file {r['bytes']['stra'] / 1e6:.1f} MB"
        )


if __name__ == "__main__":
    main()
