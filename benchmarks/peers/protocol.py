"""How `run.py` and the workers speak: one JSON object a line, on a worker's standard input and a pipe of its own.

    -> {"do": "load", "peer": ..., "file": ..., ...}      <- {"ready": {"versions": ..., "outputs": [[...]]}}
    -> {"do": "run", "count": 20}                         <- {"ms": [...]}
    -> {"do": "stop"}                                     (the worker ends)

A worker that fails ends with a traceback: its last line is the reason. Standard output is no part of this, because
libraries print there. This file needs numpy alone: it is imported in every environment.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Function = Callable[[], Array]
REWARM = 3  # runs that are not timed, before each round: another peer had the caches


@dataclass(frozen=True)
class Load:
    """What a worker is to load.

    file: its network (.tflite, .onnx or weights); None where it could not be made. model: a name of the registry.
    form: "reference" or "reformulated". precision: "fp32" or "int8". folder: for what is made on the way.
    parity, calibration: .npy files, float32 [count, H, W, 3]. reuse: take what an earlier run made on the way.
    """

    file: str
    model: str
    form: str
    precision: str
    option: str
    threads: int
    folder: str
    parity: str
    calibration: str
    reuse: bool


@dataclass(frozen=True)
class Loaded:
    """bind: an input [1, H, W, 3] -> a function without arguments that runs it, float32 array to float32 array.

    What `bind` does (a layout that the peer wants, say) is not timed. packages: whose versions matter.
    """

    bind: Callable[[Array], Function]
    packages: tuple[str, ...]


def planar(x: Array) -> Array:
    """[N, H, W, 3] -> [N, 3, H, W], contiguous."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def calibration_inputs(load: Load) -> Iterator[Array]:
    """[1, 3, H, W] each."""
    yield from (planar(x[None]) for x in np.load(load.calibration))


def timed(function: Function, count: int, clock: Callable[[], int] = time.perf_counter_ns) -> list[float]:
    """Milliseconds of `count` runs, without the garbage collector."""
    for _ in range(REWARM):
        function()
    gc.disable()
    times = []
    for _ in range(count):
        start = clock()
        function()
        times.append((clock() - start) / 1e6)
    gc.enable()
    return times


def versions_of(packages: tuple[str, ...]) -> dict[str, str]:
    return {name: metadata.version(name) for name in packages}


def converse(load: Callable[[Load], Loaded], questions: Iterable[str], stream: TextIO) -> None:
    """Answers questions until "stop" or the end of the stream."""
    function: Function | None = None
    for line in questions:
        question = json.loads(line)
        if question["do"] == "stop":
            return
        if question["do"] == "load":
            request = Load(**question["load"])
            loaded = load(request)
            bound = [loaded.bind(x[None]) for x in np.load(request.parity)]
            outputs = [np.asarray(run(), np.float32).reshape(-1).tolist() for run in bound]
            function = bound[0]
            answer: dict[str, Any] = {"ready": {"versions": versions_of(loaded.packages), "outputs": outputs}}
        elif function is None:
            raise RuntimeError("a worker must be told to load before it runs")
        else:
            answer = {"ms": timed(function, int(question["count"]))}
        stream.write(json.dumps(answer) + "\n")
        stream.flush()


def serve(load: Callable[[Load], Loaded]) -> None:
    """The main function of every worker; the first argument is the file descriptor of the answers."""
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as stream:
        converse(load, sys.stdin, stream)


def load_question(load: Load) -> dict[str, Any]:
    return {"do": "load", "load": asdict(load)}
