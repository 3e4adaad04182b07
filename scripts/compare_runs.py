"""Compares networks trained by one recipe: each run's score, and for each network the mean and spread over seeds.

    python scripts/compare_runs.py runs/plain_0 runs/plain_1 runs/stra_0 runs/stra_1

Reads `history.json` of finished runs; prints a table in Markdown. The best epoch was chosen on what it is measured on
and flatters; the last one was not chosen.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from edge_stra.training.recipe import parse_recipe

from edge_stra.spec import EdgeStraError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a folder that edge-stra train wrote")
    folders = parser.parse_args().runs
    runs = [read(folder) for folder in folders]
    try:
        recipes = [parse_recipe(run["recipe"], str(folder)) for run, folder in zip(runs, folders, strict=True)]
    except EdgeStraError as error:
        raise SystemExit(str(error)) from error
    if any(recipe != recipes[0] for recipe in recipes):  # whatever entries recipes have got since, and without notes
        raise SystemExit("runs must have one recipe, but these have several: their scores don't compare")
    for key in ("data", "init", "teachers"):
        if any(run.get(key) != runs[0].get(key) for run in runs):
            raise SystemExit(f"runs must have one {key}, but these have several: their scores don't compare")
    if len({(run["model"], run["seed"]) for run in runs}) < len(runs):
        raise SystemExit("runs must differ in model or seed, but two are the same")
    print("| model | seed | best epoch % | last epoch % |\n|---|---|---|---|")
    for run in runs:
        best, last = scores(run)
        print(f"| {run['model']} | {run['seed']} | {best:.2f} | {last:.2f} |")
    for model in dict.fromkeys(run["model"] for run in runs):
        results = [scores(run) for run in runs if run["model"] == model]
        if len(results) > 1:
            columns = " | ".join(spread(list(column)) for column in zip(*results, strict=True))
            print(f"| {model} | {len(results)} seeds | {columns} |")


def read(folder: Path) -> dict[str, Any]:
    try:
        run: dict[str, Any] = json.loads((folder / "history.json").read_text("utf-8"))
        scores(run)
        if not (isinstance(run["model"], str) and isinstance(run["seed"], int)):
            raise ValueError("its model or seed is missing")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise SystemExit(f"{folder} must hold a finished run that held something out, but does not: {error}") from error
    return run


def scores(run: dict[str, Any]) -> tuple[float, float]:
    """Of the best epoch and of the last, at the size of the recipe's last stage; in percent."""
    name = "map" if run["recipe"]["task"] == "reid" else "accuracy"
    sizes = [stage["size"] for stage in run["recipe"]["stages"] for _ in range(stage["epochs"])]
    final = [epoch[name] for epoch, size in zip(run["epochs"], sizes, strict=True) if size == sizes[-1]]
    return max(final), final[-1]


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


if __name__ == "__main__":
    main()
