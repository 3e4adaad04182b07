"""The same network and weights on every runtime, in one interleaved run on one core: latency and parity.

    python benchmarks/peers/run.py --out OUT [--environments build/peers] [--models mobilenetv2_stra.reid ...]
        [--peers OpenVINO ...] [--rounds 10] [--runs 20] [--core 1]

Each row is a process of its own, and each round lets all of them run once, in a drawn order. What is timed goes from a
float32 array to a float32 array. Writes OUT/peers.json, OUT/peers.md and OUT/latency_peers.svg. A peer that fails is a
row with its reason.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from environments import EnvironmentFailed, prepare
from exports import draw, reference_outputs, weights_of
from figures import Result, plot, render, to_json, verdicts
from protocol import Load, load_question
from table import PEERS, PRECISIONS, Row, rows
from worker import HERE, LOAD_SECONDS, Worker, WorkerFailed, why

from edge_stra import __version__
from edge_stra.bench.machine import snapshot
from edge_stra.doctor import describe_cpu
from edge_stra.parity import Array, sqnr_db

EXPORT_SECONDS = 900


@dataclass
class Entry:
    """A row, and its process where there is one."""

    row: Row
    result: Result
    worker: Worker | None = None


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Files:
    """The networks as files, each made once, by a process of its own; WorkerFailed says why one is not there.

    reuse: those of an earlier run, which files.json lists, are taken as they are.
    """

    def __init__(self, folder: Path, reuse: bool) -> None:
        self.folder, self.index = folder, folder / "files.json"
        self.made: dict[str, Path | str] = {}
        if reuse and self.index.is_file():
            self.made = {key: folder / name for key, name in json.loads(self.index.read_text("utf-8")).items()}

    def get(self, row: Row) -> Path:
        precise = row.precision if row.peer.kind == "tflite" else "fp32"  # the others quantize by themselves
        form = row.form if row.peer.kind != "weights" else "reference"
        key = f"{row.peer.kind} {row.model} {form} {precise}"
        if key not in self.made:
            say(f"exporting {key}")
            self.made[key] = make_file(key, self.folder)
            whole = {k: path.name for k, path in self.made.items() if isinstance(path, Path)}
            self.index.write_text(json.dumps(whole), "utf-8")
        found = self.made[key]
        if isinstance(found, str):
            raise WorkerFailed(found)
        return found


def make_file(key: str, folder: Path) -> Path | str:
    """The file, or the reason why there is none."""
    command = [sys.executable, str(HERE / "exports.py"), *key.split(), str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=EXPORT_SECONDS, check=True)
    except subprocess.TimeoutExpired:
        return f"its export took more than {EXPORT_SECONDS} s"
    except subprocess.CalledProcessError as error:
        return f"its export failed: {why(error.stderr, error.returncode)}"
    return Path(done.stdout.decode().splitlines()[-1])


def start(entry: Entry, args: argparse.Namespace, files: Files, folder: Path, expected: Array) -> None:
    """Loads a row into a process and compares its outputs [count, K] with PyTorch's."""
    row, result = entry.row, entry.result
    name = f"{row.peer.name} {row.model} {row.form} {row.precision}"
    say(f"loading {name}")
    try:
        python = prepare(row.peer.environment, args.environments)
        file = files.get(row)
        log = folder / f"{name.replace(' ', '_')}.log"
        entry.worker = Worker(python, row.peer.worker, log, args.core, args.threads, args.nice)
        load = Load(
            str(file), row.model, row.form, row.precision, row.peer.option, args.threads, str(folder),
            str(folder / "parity.npy"), str(folder / "calibration.npy"), args.reuse,
        )  # fmt: skip
        ready = entry.worker.ask(load_question(load), args.load_seconds)["ready"]
    except (EnvironmentFailed, WorkerFailed) as error:
        give_up(entry, str(error))
        return
    outputs = np.array(ready["outputs"], np.float32)
    if outputs.shape != expected.shape or not np.isfinite(outputs).all():
        give_up(entry, f"gives {outputs.shape}, or numbers that are not finite, where PyTorch gives {expected.shape}")
        return
    entry.result = replace(result, versions=ready["versions"], sqnr_db=sqnr_db(expected, outputs))


def give_up(entry: Entry, reason: str) -> None:
    say(f"  failed: {reason}")
    entry.result = replace(entry.result, reason=reason, rounds=())
    if entry.worker:
        entry.worker.stop()
    entry.worker = None


def take_turns(entries: list[Entry], rounds: int, runs: int) -> None:
    """All rows run `runs` times in each round; a row that fails midway loses its figures and keeps its reason."""
    for index in range(rounds):
        order = [e for e in entries if e.worker]
        random.Random(index).shuffle(order)
        for entry in order:
            assert entry.worker is not None
            try:
                times = tuple(entry.worker.ask({"do": "run", "count": runs})["ms"])
            except WorkerFailed as error:
                give_up(entry, str(error))
                continue
            entry.result = replace(entry.result, rounds=(*entry.result.rounds, times))
        say(f"round {index + 1} of {rounds}")


def describe(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "edge_stra": __version__,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": {k: getattr(args, k) for k in ("threads", "core", "rounds", "runs")},
        "cpu": describe_cpu(),
        "python": platform.python_version(),
        "exported_with": {name: metadata.version(name) for name in ("torch", "litert-torch")},
        "load_before": snapshot().load,
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--environments", type=Path, default=Path("build/peers"))
    parser.add_argument("--models", nargs="+", default=["mobilenetv2_stra.reid", "mobilenetv2.reid"])
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--peers", nargs="+", choices=[p.name for p in PEERS], help="ours and these; all by default")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--runs", type=int, default=20, help="of each row in each round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--core", type=int, help="that all workers run on; by default 0 for one thread")
    parser.add_argument("--load-seconds", type=float, default=LOAD_SECONDS, help="that a row may take to load")
    parser.add_argument("--reuse", action="store_true", help="take OUT/work of an earlier run of the same networks")
    parser.add_argument("--nice", type=int, default=-10, help="priority of the workers, where the user may set it")
    args = parser.parse_args()
    if args.rounds < 2 or args.runs < 1 or args.threads < 1:
        parser.error("--rounds must be at least 2, --runs and --threads at least 1")
    if args.core is not None and (args.threads > 1 or args.core not in range(os.cpu_count() or 1)):
        parser.error("--core takes one of this machine's cores, and one thread: more would share it")
    if args.core is None and args.threads == 1 and hasattr(os, "sched_setaffinity"):
        args.core = 0
    args.environments = args.environments.resolve()
    return args


def main() -> None:
    args = parse()
    entries = []
    for model in args.models:
        folder = (args.out / "work" / model).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        draw(model, folder)
        files, expected = Files(folder, args.reuse), reference_outputs(model, folder)
        for row in rows((model,), args.peers, tuple(args.precisions)):
            trained = weights_of(model) is None
            entry = Entry(row, Result(row.peer.name, model, row.form, row.precision, {}, trained=trained))
            start(entry, args, files, folder, expected)
            entries.append(entry)
    conditions = describe(args)
    say("timing")
    try:
        take_turns(entries, args.rounds, args.runs)
    finally:
        for entry in entries:
            if entry.worker:
                entry.worker.stop()
    say("timed")
    results = [entry.result for entry in entries]
    cpu = conditions["cpu"]
    title = f"{conditions['time'][:10]}, {cpu['machine']} {' '.join(cpu['features'])}, {args.threads} thread(s)"
    found = {name: version for r in results for name, version in r.versions.items()}
    title += "\n" + ", ".join(f"{name} {version}" for name, version in found.items())
    report = conditions | {"rows": [to_json(r, results) for r in results]}
    text = "\n".join([render(results), "", *verdicts(results)])
    (args.out / "peers.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    (args.out / "peers.md").write_text(f"{title}\n\n{text}\n", "utf-8")
    if any(r.rounds for r in results):
        plot(results, title, args.out / "latency_peers.svg")
    print(text)


if __name__ == "__main__":
    main()
