"""What is measured in a process of its own: load time, memory, and the time of each operator.

    python -m edge_stra.bench.probe load|operators ARTIFACT THREADS

A fresh process owes nothing to what was loaded before, and a crash of native code there ends nothing else. It prints
one line of JSON.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stra.artifact import Artifact, open_artifact
from edge_stra.preprocess import to_input
from edge_stra.runtime import find_runtime, make_predictor
from edge_stra.spec import ModelSpec
from edge_stra.synthetic import synthetic_pictures
from edge_stra.targets.onnx_runtime import load_runtime

LOADS = 5
PROBE_SECONDS = 120
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def ask(what: str, artifact: Path, threads: int) -> dict[str, Any]:
    """The answer of a fresh process, with "measured": true; or false and a note that says why there is none."""
    command = [sys.executable, "-m", "edge_stra.bench.probe", what, str(artifact.absolute()), str(threads)]
    # -m looks for modules in the working folder first, where a user may have a json.py, or another version of ours.
    folder = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PROBE_SECONDS, check=True, cwd=folder)
        answer = json.loads(done.stdout.decode().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return unmeasured(f"took more than {PROBE_SECONDS} s")
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode("utf-8", "replace").strip().splitlines()
        return unmeasured(f"ended with code {error.returncode}: {lines[-1][:400] if lines else 'no message'}")
    except (OSError, ValueError, IndexError) as error:
        return unmeasured(f"gave no answer: {error!r}"[:200])
    return dict(answer)


def drawn_input(spec: ModelSpec) -> NDArray[np.float32]:
    """A seeded picture with structure as the artifact's input, float32 [1, H, W, 3]."""
    return to_input(synthetic_pictures(spec.task, 1, spec.input.size_hw, seed=3)[0], spec.input)


def unmeasured(note: str) -> dict[str, Any]:
    return {"measured": False, "note": note}


def measure_load(path: Path, threads: int) -> dict[str, Any]:
    """Load time and memory of one artifact, in this process.

    load_ms: median of `LOADS` times constructing the interpreter and allocating its tensors; the runtime is imported
    and the file is in the page cache before. memory_bytes: by how much the peak of resident memory rises from just
    before the first load until after the first inference; pages of the mapped file that were read count.
    process_bytes: that peak itself, with Python, numpy, OpenCV and the runtime.
    """
    artifact = open_artifact(path)
    if artifact.target == "tflite":
        find_runtime()
    elif artifact.target == "onnx":
        load_runtime()
    x = drawn_input(artifact.spec)
    before = peak_bytes() if reset_peak() else None
    seconds = [load_seconds(artifact, threads, x)]
    after = peak_bytes()
    seconds += [load_seconds(artifact, threads, None) for _ in range(LOADS - 1)]
    memory = None if before is None or after is None else after - before
    return {
        "measured": True,
        "load_ms": 1e3 * statistics.median(seconds),
        "memory_bytes": memory,
        "process_bytes": after,
    }


def load_seconds(artifact: Artifact, threads: int, x: NDArray[np.float32] | None) -> float:
    """The time of one load; the inference that follows, where there is an input, is not in it."""
    start = time.perf_counter()
    predictor = make_predictor(artifact, threads)
    seconds = time.perf_counter() - start
    if x is not None:
        predictor(x)
    return seconds


def reset_peak() -> bool:
    """Sets the peak of resident memory to what is resident now (proc(5), clear_refs), else importing hides loading.

    False where the system can't: a rise of the peak would be told too small there.
    """
    try:
        CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def peak_bytes(status: Path = STATUS) -> int | None:
    """The peak of resident memory: VmHWM on Linux, else getrusage's.

    getrusage comes second because on Linux its figure survives exec: that of a child begins with its parent's.
    """
    try:
        for line in status.read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def main() -> None:
    what, path, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if what == "load":
        answer = measure_load(path, threads)
    else:
        from edge_stra.bench.operator_times import measure_operators

        answer = measure_operators(path, threads)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
