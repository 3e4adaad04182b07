"""A .tflite file as a function, and the memory that it takes; `scale.py` starts this in a process of its own.

python benchmarks/scale_probe.py FILE
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from edge_stra.bench.probe import peak_bytes, reset_peak


def runner(path: Path) -> Callable[[], object]:
    """A function that runs a file once on a drawn input."""
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]["index"]
    x = np.random.default_rng(0).uniform(-1, 1, source["shape"]).astype(np.float32)

    def run() -> object:
        interpreter.set_tensor(source["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(target)

    return run


def measure_memory(path: Path) -> int | None:
    """What `probe` prints, measured in this process."""
    before = peak_bytes() if reset_peak() else None
    runner(path)()
    after = peak_bytes()
    return None if before is None or after is None else after - before


if __name__ == "__main__":
    print(json.dumps(measure_memory(Path(sys.argv[1]))))
