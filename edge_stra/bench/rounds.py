"""How long artifacts take on this machine, against each other, and whether the machine was quiet enough to tell.

What is timed is `predictor(x)`: from a float32 input to a float32 output, quantization included, decoding and resizing
of pictures not. The artifacts take turns (A B C A B C ...), so that a drift of the machine hits all alike.

The ratio to the baseline is the median of the ratios within rounds. Its spread is a 95 % interval of that median from
a moving-block bootstrap (Kuensch, Annals of Statistics 17, 1989): runs that follow each other are alike, so blocks of
them are drawn, of n^(1/3) rounds each (the rate of Hall, Horowitz and Jing, Biometrika 82, 1995).
"""

from __future__ import annotations

import gc
import math
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stra import __version__
from edge_stra.artifact import Artifact, open_artifact
from edge_stra.bench import machine
from edge_stra.bench.probe import ask, drawn_input, unmeasured
from edge_stra.bench.text import percent
from edge_stra.doctor import describe_cpu, describe_delegate
from edge_stra.quiet import quiet_tools
from edge_stra.runtime import make_predictor
from edge_stra.spec import ArtifactError, DataError

LEAST_RUNS = 10  # below, a p90 is one run
RUNS, WARM_UP = 200, 20
STEPS = 20  # of the progress bar: it is drawn between blocks of rounds, never within one
RESAMPLES, INTERVAL_PERCENT = 1000, (2.5, 97.5)
# Limits of noise, chosen so that a quiet desktop and a cool Raspberry Pi stay below: beyond them, differences of a few
# percent between artifacts can't be told from the machine.
MOST_SPREAD = 0.05  # median absolute deviation, of the median
MOST_TAIL = 1.25  # p90, of the median
MOST_DRIFT = 0.05  # second half's median against the first half's
MOST_FRONT_END = 1.25  # the profiled run against the interpreter's, either way

Milliseconds = NDArray[np.float64]
Progress = Callable[[list[range]], Iterable[range]]
Probe = Callable[[str, Path, int], dict[str, Any]]  # what, artifact, threads -> the answer


@dataclass(frozen=True)
class Timing:
    """Figures of one artifact's runs, in milliseconds but for the last three.

    p90: linear between runs. mad: median absolute deviation from the median, as it is (times 1.4826 it would estimate
    a standard deviation). spread: mad / median. tail: p90 / median. drift: second half's median / first half's - 1.
    """

    median_ms: float
    p90_ms: float
    min_ms: float
    mad_ms: float
    spread: float
    tail: float
    drift: float


@dataclass(frozen=True)
class Ratio:
    """Time of an artifact / time of the baseline: median over rounds, and the 95 % interval of that median."""

    median: float
    low: float
    high: float


def interleave(
    functions: Sequence[Callable[[], object]],
    rounds: int,
    clock: Callable[[], int] = time.perf_counter_ns,
    progress: Progress = iter,
) -> Milliseconds:
    """Milliseconds [rounds, functions]: in each round every function runs once, in order.

    The garbage collector is off meanwhile, as in timeit.
    """
    times = np.zeros((rounds, len(functions)))
    step = max(1, math.ceil(rounds / STEPS))
    collected = gc.isenabled()
    gc.disable()
    try:
        for block in progress([range(start, min(start + step, rounds)) for start in range(0, rounds, step)]):
            for turn in block:
                for column, function in enumerate(functions):
                    start_ns = clock()
                    function()
                    times[turn, column] = (clock() - start_ns) / 1e6
    finally:
        if collected:
            gc.enable()
    return times


def timing(times: Milliseconds) -> Timing:
    """Figures of runs [n] in ms, in the order they were made; n at least 2."""
    median = float(np.median(times))
    mad = float(np.median(np.abs(times - median)))
    p90 = float(np.percentile(times, 90))
    first, second = (float(np.median(half)) for half in np.array_split(times, 2))
    return Timing(median, p90, float(times.min()), mad, mad / median, p90 / median, second / first - 1)


def paired_ratio(times: Milliseconds, base: Milliseconds, seed: int = 0) -> Ratio:
    """The ratio of two artifacts' runs [n] that took turns; the same arguments give the same interval."""
    ratios = times / base
    low, high = np.percentile(bootstrap_medians(ratios, seed), INTERVAL_PERCENT)
    return Ratio(float(np.median(ratios)), float(low), float(high))


def bootstrap_medians(values: Milliseconds, seed: int) -> Milliseconds:
    """Medians [RESAMPLES] of series made of blocks of `values` [n] that are drawn with replacement."""
    count = len(values)
    block = math.ceil(count ** (1 / 3))
    random = np.random.default_rng(seed)
    starts = random.integers(0, count - block + 1, (RESAMPLES, math.ceil(count / block)))
    offsets = np.arange(block)
    return np.array([np.median(values[(row[:, None] + offsets).ravel()[:count]]) for row in starts])


def noise_warnings(name: str, figures: Timing) -> list[str]:
    """Why the runs of one artifact are doubtful, in themselves."""
    found = []
    if figures.spread > MOST_SPREAD:
        found.append(
            f"{name} is noisy: runs lie {percent(figures.spread)} off their median (limit {percent(MOST_SPREAD)})"
        )
    if figures.tail > MOST_TAIL:
        found.append(f"{name} is noisy: p90 is {figures.tail:.2f} times the median (limit {MOST_TAIL})")
    if abs(figures.drift) > MOST_DRIFT:
        way, cause = ("slower", "throttling or other work") if figures.drift > 0 else ("faster", "a busy start")
        found.append(
            f"{name} drifts: the second half of its runs is {percent(abs(figures.drift))} {way} than the first "
            f"(limit {percent(MOST_DRIFT)}): {cause}"
        )
    return found


def choose(paths: Sequence[Path], baseline: Path | None) -> list[Path]:
    """The files to time, each once, the baseline first. Raises DataError where nothing is left to compare."""
    own = {path.resolve(): path for path in paths}
    if len(own) < len(paths):
        raise DataError("each artifact must be named once; copy a file to time it against itself")
    if baseline is None:
        return list(paths)
    others = [path for resolved, path in own.items() if resolved != baseline.resolve()]
    if not others:
        raise DataError(f"--baseline must be another file than {baseline}; copy it to time it against itself")
    return [baseline, *others]


def labels(paths: Sequence[Path]) -> list[str]:
    """File names where they differ, else whole paths."""
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def bench(
    paths: Sequence[Path],
    baseline: Path | None = None,
    threads: int = 1,
    runs: int = RUNS,
    warm_up: int = WARM_UP,
    progress: Progress = iter,
    probe: Probe = ask,
) -> dict[str, Any]:
    """Everything that `edge-stra bench` says, ready for JSON.

    Raises ArtifactError, DataError, MissingError. What a machine or a runtime can't tell is None or says why.
    """
    if runs < LEAST_RUNS:
        raise DataError(f"--runs must be at least {LEAST_RUNS}, but is {runs}")
    chosen = choose(paths, baseline)
    artifacts = [open_artifact(path) for path in chosen]
    if packages := [artifact.path for artifact in artifacts if artifact.target == "coreml"]:
        raise DataError(
            f"{packages[0]} can't be timed here: Core ML runs on Apple's systems alone, and what computes it elsewhere "
            "is made to be right, not fast; give .tflite or .onnx files"
        )
    before = machine.snapshot()
    with quiet_tools():
        predictors = [make_predictor(artifact, threads) for artifact in artifacts]
    work = [partial(predictor, drawn_input(predictor.spec)) for predictor in predictors]
    interleave(work, warm_up)
    warm = machine.snapshot()
    times = interleave(work, runs, progress=progress)  # (runs, artifacts)
    after = machine.snapshot()
    rows = [
        describe(artifact, name, times[:, column], times[:, 0] if baseline and column else None)
        | {"runtime": with_version(predictor.runtime_name)}
        | look_inside(artifact, threads, probe)
        for column, (artifact, name, predictor) in enumerate(zip(artifacts, labels(chosen), predictors, strict=True))
    ]
    noise = machine.find_warnings(before, warm, after, times.size)
    return {
        "edge_stra": __version__,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": {"threads": threads, "runs": runs, "warm_up": warm_up, "baseline": baseline and rows[0]["name"]},
        "conditions": describe_conditions() | machine.describe(before, warm, after),
        "warnings": noise + find_warnings(rows, threads),
        "artifacts": rows,
    }


def describe(artifact: Artifact, name: str, times: Milliseconds, base: Milliseconds | None) -> dict[str, Any]:
    """One artifact's row: what it is, and its figures from runs [n] in ms."""
    return {
        "name": name,
        "model": artifact.spec.name,
        "quantize": artifact.quantize,
        "sha256": artifact.sha256,
        "input_hw": list(artifact.spec.input.size_hw),
        "file_bytes": artifact.path.stat().st_size,
        "timing": asdict(timing(times)),
        "ratio": None if base is None else asdict(paired_ratio(times, base)),
        "runs_ms": [round(float(t), 6) for t in times],
    }


def look_inside(artifact: Artifact, threads: int, probe: Probe) -> dict[str, Any]:
    """What is not told from runs: the delegate's parts, and what processes of their own measure."""
    load = probe("load", artifact.path, threads)
    if artifact.target != "tflite":
        none = unmeasured("only of .tflite files")
        return {"delegate": none, "load": load, "operators": none}
    try:
        delegate = describe_delegate(artifact.path)
    except ArtifactError as error:  # it was loaded before: only the listing of nodes can fail
        delegate = unmeasured(str(error))
    return {"delegate": delegate, "load": load, "operators": probe("operators", artifact.path, threads)}


def with_version(runtime: str) -> str:
    """A runtime's name with its version, where it is a package's and does not say it itself."""
    try:
        return f"{runtime} {metadata.version(runtime)}"
    except metadata.PackageNotFoundError:
        return runtime


def describe_conditions() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": describe_cpu(),
    }


def find_warnings(rows: list[dict[str, Any]], threads: int) -> list[str]:
    """Noise and drift of each artifact, and comparisons that are not of like with like."""
    found = [line for row in rows for line in noise_warnings(row["name"], Timing(**row["timing"]))]
    found += [f"load time and memory of {r['name']}: {r['load']['note']}" for r in rows if not r["load"]["measured"]]
    cores = describe_cpu()["cores"]
    if cores and threads > cores:
        found.append(f"{threads} threads share {cores} cores: they wait for each other")
    first = rows[0]
    for row in rows[1:]:
        if row["ratio"] is not None and row["input_hw"] != first["input_hw"]:
            found.append(
                f"{row['name']} takes {size(row)} and the baseline {size(first)}: the ratio is of different work"
            )
    for row in rows:
        front = row["operators"].get("against_interpreter")
        if front is not None and not 1 / MOST_FRONT_END <= front <= MOST_FRONT_END:
            found.append(
                f"the operators of {row['name']} come from a run that takes {front:.2f} times the interpreter's: "
                "read their shares with care"
            )
    return found


def size(row: dict[str, Any]) -> str:
    return "x".join(str(v) for v in row["input_hw"])
