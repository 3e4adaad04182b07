"""Executed aarch64 instructions of one inference, StRA against the plain MobileNetV2: a proxy, never a speed.

    EDGE_STRA_PI=DIR/pi-python python benchmarks/instructions.py [--quantize fp32 int8 int8-full] [--json]

EDGE_STRA_PI names the aarch64 Python of a userland, as the tests do (benchmarks/instructions.md says what DIR holds).
EDGE_STRA_QEMU names a qemu-aarch64 that takes plugins, unless one is on the PATH; a static one takes none. PI_CPU names
the CPU that is emulated. Exports with seeded random weights, whose values do not change which instructions run, and
compares the outputs with this machine's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stra.parity import sqnr_db
from edge_stra.spec import EdgeStraError, MissingError, ParityError

HERE = Path(__file__).resolve().parent
RUNTIME = "ai-edge-litert"
WARM_UP, COUNTED, PROCESSES = 1, 2, 2
MAX_SPREAD = 1e-3  # measured 3e-5; what changes from run to run is the allocator and Python around `invoke`
MIN_SQNR_DB = {"fp32": 90.0, "int8": 50.0}  # as in tests/test_pi.py; int8-full must be equal in every bit
GUEST_SECONDS = 3600
NOTE = "Executed instructions are a proxy: no clock, cache, memory or pipeline is modelled. They are not a speed."


class CountError(EdgeStraError):
    """A count that can't be trusted."""


@dataclass(frozen=True)
class Userland:
    """qemu: one that takes plugins. root, site: parts of its userland. cpu: of `qemu-aarch64 -cpu help`."""

    qemu: Path
    root: Path
    site: Path
    python: Path
    cpu: str


@dataclass(frozen=True)
class Count:
    """Instructions of one inference, the median; spread: (largest - smallest) / median over inferences, processes."""

    instructions: int
    spread: float


def find_userland(environment: Mapping[str, str]) -> Userland:
    """Raises MissingError with what is missing: the userland, a QEMU that takes plugins, or a C compiler."""
    if not (named := environment.get("EDGE_STRA_PI")):
        raise MissingError(
            "EDGE_STRA_PI must name a userland's aarch64 Python, but is not set; see benchmarks/instructions.md"
        )
    folder = Path(named).resolve().parent
    pythons = sorted((folder / "root/usr/bin").glob("python3.*"))
    if not pythons or not (folder / "site").is_dir():
        raise MissingError(
            f"EDGE_STRA_PI must name pi-python beside its root/ and site/, but {folder} lacks them; "
            "see benchmarks/instructions.md"
        )
    qemu = environment.get("EDGE_STRA_QEMU") or shutil.which("qemu-aarch64", path=environment.get("PATH"))
    if not qemu or "-plugin" not in output([qemu, "--help"]):
        raise MissingError(
            f"a qemu-aarch64 that takes plugins is needed, but {f'{qemu} takes none' if qemu else 'there is none'}; "
            "install qemu-user (qemu-user-static takes none), or name one in EDGE_STRA_QEMU"
        )
    if not shutil.which("cc", path=environment.get("PATH")):
        raise MissingError("no C compiler (cc) for the counting plugin is installed; install gcc")
    return Userland(Path(qemu), folder / "root", folder / "site", pythons[0], environment.get("PI_CPU") or "cortex-a72")


def output(command: list[str]) -> str:
    """What a command prints. Raises MissingError where it can't be started."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout
    except OSError as error:
        raise MissingError(f"{command[0]} can't be started: {error.strerror}; name another") from error


def build_plugin(folder: Path) -> Path:
    """Compiles the counting plugin into a folder. Raises CountError."""
    made = folder / "instructions_plugin.so"
    command = ["cc", "-shared", "-fPIC", "-O2", str(HERE / "instructions_plugin.c"), "-o", str(made)]
    if (done := subprocess.run(command, capture_output=True, text=True, check=False)).returncode:
        raise CountError(f"cc must compile the counting plugin, but says: {done.stderr.strip()[:200]!r}")
    return made


def count_marks(userland: Userland, plugin: Path, script: Path, arguments: Iterable[object]) -> list[int]:
    """The count at each mark that an aarch64 Python script makes. Raises CountError."""
    settings = (f"PYTHONPATH={userland.site}", "OPENBLAS_NUM_THREADS=1", "PYTHONHASHSEED=0")
    command = [userland.qemu, "-cpu", userland.cpu, "-L", userland.root, "-plugin", plugin]
    command += [word for setting in settings for word in ("-E", setting)] + [userland.python, script, *arguments]
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=GUEST_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise CountError(f"{script.name} must end within {GUEST_SECONDS} s under QEMU, but does not") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise CountError(f"{script.name} must end with 0 under QEMU, but ends with {done.returncode}: {last[:200]}")
    return parse_marks(done.stderr)


def parse_marks(text: str) -> list[int]:
    """The counts among a process's messages. Raises CountError where a second thread made them inexact."""
    marks = [line.split()[1:] for line in text.splitlines() if line.startswith("instructions ")]
    if threads := sorted({vcpus for _, vcpus in marks} - {"1"}):
        raise CountError(f"the guest must have one thread, but has had {threads[-1]}: the plugin's sum is not atomic")
    return [int(count) for count, _ in marks]


def differences(marks: list[int], artifacts: int) -> NDArray[np.int64]:
    """Instructions between the two marks of each inference, [artifacts, inferences], the warm-up left out.

    Raises CountError where marks are missing.
    """
    wanted = artifacts * (WARM_UP + COUNTED) * 2
    if len(marks) != wanted:
        raise CountError(f"{wanted} marks were expected, but {len(marks)} came; run it again")
    pairs = np.array(marks, np.int64).reshape(artifacts, WARM_UP + COUNTED, 2)
    return (pairs[..., 1] - pairs[..., 0])[:, WARM_UP:]


def settle(name: str, counts: NDArray[np.int64], limit: float = MAX_SPREAD) -> Count:
    """One count from several. Raises CountError where they are not positive or differ by more than `limit`."""
    middle = float(np.median(counts))
    if counts.min() <= 0:
        raise CountError(f"{name}: counts must be positive, but one is {counts.min()}; the plugin has not counted")
    spread = float(counts.max() - counts.min()) / middle
    if spread > limit:
        raise CountError(f"{name}: counts must agree to {limit:.1%}, but differ by {spread:.1%}; run it again, alone")
    return Count(round(middle), spread)


def agreement(name: str, quantize: str, here: NDArray[Any], there: NDArray[Any]) -> float:
    """SQNR in dB of aarch64 against this machine, infinite where equal. Raises ParityError below what is required."""
    if quantize not in MIN_SQNR_DB:
        if here.dtype != there.dtype or not np.array_equal(here, there):
            raise ParityError(f"{name} must be equal in every bit on aarch64, but is not; compare the runtimes")
        return float("inf")
    if not (reached := sqnr_db(here, there)) >= MIN_SQNR_DB[quantize]:
        raise ParityError(f"{name} must agree on aarch64 to {MIN_SQNR_DB[quantize]:g} dB, but does to {reached:.1f}")
    return reached


def prepare(models: list[str], precisions: list[str], folder: Path) -> dict[str, NDArray[Any]]:
    """Exports each model and its plain twin where the folder lacks them, and writes their inputs.

    Gives the name of each, and its outputs here.
    """
    import torch

    from edge_stra.export import Request, export, synthetic_inputs
    from edge_stra.runtime import Predictor, load_predictor, quantize_array

    torch.set_num_threads(1)
    outputs = {}
    for model, quantize in ((m, q) for task in models for q in precisions for m in (task, plain(task))):
        if not (path := folder / f"{model}.{quantize}.tflite").is_file():
            export(Request(model, quantize, folder, weights="random"))
        predictor: Predictor = load_predictor(path)
        inputs, _ = synthetic_inputs(predictor.spec, WARM_UP + COUNTED, seed=5)
        np.save(folder / f"{path.stem}.in.npy", np.concatenate([quantize_array(x, predictor.input) for x in inputs]))
        outputs[path.stem] = np.concatenate([predictor.raw(x) for x in inputs])
        print(f"prepared {path.stem}", file=sys.stderr)
    return outputs


def plain(model: str) -> str:
    return model.replace("_stra", "")


def measure(userland: Userland, outputs: Mapping[str, NDArray[Any]], folder: Path) -> dict[str, Count]:
    """The count of each artifact, over processes that are equal but for the chance they meet."""
    plugin, runs = build_plugin(folder), []
    for _ in range(PROCESSES):
        marks = count_marks(userland, plugin, HERE / "instructions_guest.py", [folder, *outputs])
        runs.append(differences(marks, len(outputs)))
    return {name: settle(name, counts) for name, counts in zip(outputs, np.concatenate(runs, axis=1), strict=True)}


def tabulate(model: str, quantize: str, counts: Mapping[str, Count], agreements: Mapping[str, float]) -> dict[str, Any]:
    """A row of the report: StRA and plain, and their ratio."""
    names = {"stra": f"{model}.{quantize}", "plain": f"{plain(model)}.{quantize}"}
    sides = {
        side: asdict(counts[name]) | {"sqnr_db": min(agreements[name], 999.0)}  # JSON knows no infinity
        for side, name in names.items()
    }
    ratio = counts[names["stra"]].instructions / counts[names["plain"]].instructions
    return {"model": model, "quantize": quantize, **sides, "ratio": ratio}


def conditions(userland: Userland) -> dict[str, str]:
    found = {d.name: d.version for d in distributions(path=[str(userland.site)])}
    there, here = f"{found[RUNTIME]} on aarch64", f"{version(RUNTIME)} on {platform.machine()}"
    return {
        "counter": "QEMU TCG plugin (instructions_plugin.c), summed at each translation block",
        "qemu": output([str(userland.qemu), "--version"]).splitlines()[0],
        "cpu": userland.cpu,
        "runtime": f"{RUNTIME} {there}, {here}, XNNPACK, one thread",
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def render(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""

    def decibels(side: Mapping[str, float]) -> str:
        return "every bit" if side["sqnr_db"] >= 999 else f"{side['sqnr_db']:.0f} dB"

    lines = [NOTE, "", *(f"- {key}: {value}" for key, value in report["conditions"].items()), ""]
    lines += [
        "| model | precision | StRA, millions | plain, millions | StRA / plain | spread | equal to here: StRA, plain |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        stra, base = row["stra"], row["plain"]
        millions = f"{stra['instructions'] / 1e6:.2f} | {base['instructions'] / 1e6:.2f}"
        spread = max(stra["spread"], base["spread"])
        lines.append(
            f"| {row['model']} | {row['quantize']} | {millions} | {row['ratio']:.3f} | {spread:.0e} "
            f"| {decibels(stra)}, {decibels(base)} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["mobilenetv2_stra.reid", "mobilenetv2_stra.fer"])
    parser.add_argument("--quantize", nargs="+", default=["fp32", "int8"], choices=["fp32", "int8", "int8-full"])
    parser.add_argument("--folder", type=Path, help="keeps what is exported there, and takes what is there already")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    try:
        userland = find_userland(os.environ)
        with tempfile.TemporaryDirectory() as place:
            folder = args.folder or Path(place)
            folder.mkdir(parents=True, exist_ok=True)
            here = prepare(args.model, args.quantize, folder)
            counts = measure(userland, here, folder)
            there = {name: np.load(folder / f"{name}.out.npy") for name in here}
        agreements = {n: agreement(n, n.rpartition(".")[2], here[n], there[n]) for n in here}
        rows = [tabulate(m, q, counts, agreements) for m in args.model for q in args.quantize]
    except EdgeStraError as error:
        sys.exit(f"Error: {error}")
    report = {"note": NOTE, "conditions": conditions(userland), "rows": rows}
    print(json.dumps(report, indent=1) if args.json else render(report))


if __name__ == "__main__":
    main()
