"""The time of each operator inside and outside the delegate, from LiteRT's own profiler.

The Python interpreter of ai-edge-litert has no profiler, but libLiteRt.so in its wheel exports one through its C API
(litert/c/litert_profiler.h; XNNPACK reports its operators to it). So the file is run here by that library's compiled
model: the same XNNPACK with the same kernels, but not the same front end as `edge_stra.runtime`. Two checks stand
between that and a figure: the output must be the interpreter's, and the operators must add up to the inference.

The C API may change: call this in a process of its own (`edge_stra.bench.probe`). Times come in whole microseconds.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import time
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stra.artifact import open_artifact
from edge_stra.bench.probe import drawn_input, unmeasured
from edge_stra.parity import sqnr_db
from edge_stra.runtime import Predictor, quantize_array

LIBRARIES = ("libLiteRt.so", "libLiteRt.dylib")
WARM_UP, RUNS = 20, 200
CPU, READ, WRITE = 1, 0, 1
# tflite::Profiler::EventType: a node on plain kernels, an operator within a delegate, such a one that counts as a node.
NODE, INNER, INNER_AS_NODE = 2, 4, 8
LEAST_SHARE, MOST_SHARE = 0.6, 1.05  # of an inference that its operators must add up to
TICK_MS = 1e-3  # the profiler cuts each time down to whole microseconds: half a tick is lost on average
LEAST_SQNR_DB = 40.0  # of the profiled output against the interpreter's


class Event(ctypes.Structure):
    """ProfiledEventData of litert/c/litert_profiler_event.h."""

    _fields_ = (
        ("tag", c_char_p),
        ("kind", c_int),
        ("start_us", c_uint64),
        ("elapsed_us", c_uint64),
        ("memory", c_uint64 * 6),
        ("metadata", c_uint64 * 2),
        ("source", c_int),
    )


class LibraryError(Exception):
    pass


def find_library() -> Path | None:
    found = importlib.util.find_spec("ai_edge_litert")
    folders = found.submodule_search_locations if found else None
    paths = [Path(folder) / name for folder in folders or () for name in LIBRARIES]
    return next((path for path in paths if path.is_file()), None)


class Profiled:
    """A file loaded by LiteRT's compiled model, its profiler on. Raises LibraryError. Never freed: the process ends."""

    def __init__(self, library: Path, path: Path, threads: int) -> None:
        self.library = ctypes.CDLL(str(library))
        self.kept: list[Any] = []
        environment, model, options, self.compiled, self.profiler = (c_void_p() for _ in range(5))
        self.call("CreateEnvironment", c_int(0), None, byref(environment))
        self.call("CreateModelFromFile", environment, c_char_p(os.fsencode(path)), byref(model))
        self.call("CreateOptions", byref(options))
        self.call("SetOptionsHardwareAccelerators", options, c_int(CPU))
        self.add_options(options, b"runtime_options_string", b"enable_profiling = true\n")
        self.add_options(options, b"xnnpack", b"num_threads = %d\n" % threads)
        self.call("CreateCompiledModel", environment, model, options, byref(self.compiled))
        self.call("CompiledModelGetProfiler", self.compiled, byref(self.profiler))
        if not self.profiler:
            raise LibraryError("the library gives no profiler")
        signature = c_void_p()
        self.call("GetModelSignature", model, c_size_t(0), byref(signature))
        self.input, self.output = (self.buffer(environment, signature, side) for side in ("Input", "Output"))

    def call(self, name: str, *arguments: Any) -> None:
        function = getattr(self.library, f"LiteRt{name}", None)
        if function is None:
            raise LibraryError(f"the library has no LiteRt{name}")
        function.restype = c_int
        if (status := function(*arguments)) != 0:
            raise LibraryError(f"LiteRt{name} failed with status {status}")

    def add_options(self, options: c_void_p, name: bytes, toml: bytes) -> None:
        text, opaque = ctypes.create_string_buffer(toml), c_void_p()
        release = ctypes.CFUNCTYPE(None, c_void_p)(lambda _: None)
        self.kept += [text, release]
        self.call("CreateOpaqueOptions", c_char_p(name), ctypes.cast(text, c_void_p), release, byref(opaque))
        self.call("AddOpaqueOptions", options, opaque)

    def buffer(self, environment: c_void_p, signature: c_void_p, side: str) -> c_void_p:
        """A buffer for the only input or output."""
        needs, tensor, made = c_void_p(), c_void_p(), c_void_p()
        tensor_type = ctypes.create_string_buffer(256)  # LiteRtRankedTensorType has 72 bytes
        first = c_size_t(0)
        self.call(f"GetCompiledModel{side}BufferRequirements", self.compiled, first, first, byref(needs))
        self.call(f"GetSignature{side}TensorByIndex", signature, first, byref(tensor))
        self.call("GetRankedTensorType", tensor, tensor_type)
        self.call("CreateManagedTensorBufferFromRequirements", environment, tensor_type, needs, byref(made))
        return made

    def write(self, x: NDArray[Any]) -> None:
        data, address = np.ascontiguousarray(x), c_void_p()
        self.call("LockTensorBuffer", self.input, byref(address), c_int(WRITE))
        ctypes.memmove(address, data.ctypes.data, data.nbytes)
        self.call("UnlockTensorBuffer", self.input)

    def read(self, like: NDArray[Any]) -> NDArray[Any]:
        data, address = np.empty_like(like), c_void_p()
        self.call("LockTensorBuffer", self.output, byref(address), c_int(READ))
        ctypes.memmove(data.ctypes.data, address, data.nbytes)
        self.call("UnlockTensorBuffer", self.output)
        return data

    def run(self) -> float:
        """One inference; milliseconds."""
        inputs, outputs, one = (c_void_p * 1)(self.input), (c_void_p * 1)(self.output), c_size_t(1)
        start = time.perf_counter_ns()
        self.call("RunCompiledModel", self.compiled, c_size_t(0), one, inputs, one, outputs)
        return (time.perf_counter_ns() - start) / 1e6

    def profile(self, runs: int) -> tuple[list[float], list[tuple[str, int, int]]]:
        """Milliseconds of each run, and all events as (name, kind, microseconds), in order."""
        self.call("StartProfiler", self.profiler)
        times = [self.run() for _ in range(runs)]
        self.call("StopProfiler", self.profiler)
        count = c_int()
        self.call("GetNumProfilerEvents", self.profiler, byref(count))
        events = (Event * max(1, count.value))()
        self.call("GetProfilerEvents", self.profiler, count, ctypes.cast(events, POINTER(Event)))
        taken = [e for e in events[: count.value] if e.kind in (NODE, INNER, INNER_AS_NODE)]
        return times, [((e.tag or b"").decode("utf-8", "replace"), e.kind, e.elapsed_us) for e in taken]


def measure_operators(path: Path, threads: int) -> dict[str, Any]:
    """Times of the operators of an artifact as `summarise` gives them, or {"measured": false} with the reason."""
    library = find_library()
    if library is None:
        return unmeasured("only ai-edge-litert's library has a profiler, and it is not installed")
    artifact = open_artifact(path)
    predictor = Predictor(artifact, threads)
    x = drawn_input(artifact.spec)
    wanted = predictor.raw(x)
    try:
        profiled = Profiled(library, path, threads)
        profiled.write(quantize_array(x, predictor.input))
        ratio = against_interpreter(profiled, predictor)
        if not sqnr_db(wanted, profiled.read(wanted)) >= LEAST_SQNR_DB:  # NaN is neither
            return unmeasured("the profiled run gives another output than the interpreter")
        times, events = profiled.profile(RUNS)
    except LibraryError as error:
        return unmeasured(f"this version of ai-edge-litert can't be profiled: {error}")
    found = summarise(times, events)
    return found | {"against_interpreter": ratio} if found["measured"] else found


def against_interpreter(profiled: Profiled, predictor: Predictor) -> float:
    """The compiled model's time over the interpreter's, as they take turns: the median of `WARM_UP` ratios."""
    ratios = []
    for _ in range(WARM_UP):
        start = time.perf_counter_ns()
        predictor.interpreter.invoke()
        own = (time.perf_counter_ns() - start) / 1e6
        ratios.append(profiled.run() / own)
    return float(np.median(ratios[1:]))


def summarise(times: list[float], events: list[tuple[str, int, int]]) -> dict[str, Any]:
    """Figures of the operators of some runs, ready for JSON: times [runs] in ms, events of all runs one after another.

    Only the fastest quarter of the runs counts, and of it the means: a median of whole microseconds would be as coarse
    as they are, and a mean over all runs would follow every interruption.
    """
    each, rest = divmod(len(events), len(times))
    rows = [events[start : start + each] for start in range(0, len(events), each or 1)]
    if each == 0 or rest or any([e[:2] for e in row] != [e[:2] for e in rows[0]] for row in rows):
        return unmeasured("the profiler's events are not the same in each run")
    fast = np.argsort(times)[: max(1, len(times) // 4)]
    elapsed = np.array([[e[2] for e in row] for row in rows], np.float64) * TICK_MS  # (runs, operators) in ms
    means, inference = elapsed[fast].mean(axis=0), float(np.array(times)[fast].mean())
    share = float(means.sum()) / inference
    if share + each * TICK_MS / 2 / inference < LEAST_SHARE or share > MOST_SHARE:
        return unmeasured(f"the operators add up to {100 * share:.0f} % of an inference: too noisy, or a wrong profile")
    names = [name.removeprefix("Delegate/") for name, _, _ in rows[0]]
    outside = np.array([kind == NODE for _, kind, _ in rows[0]])
    return {
        "measured": True,
        "runs": len(times),
        "inference_ms": inference,
        "sum_ms": float(means.sum()),
        "share_of_inference": share,
        "inside": int((~outside).sum()),
        "outside": int(outside.sum()),
        "outside_ms": float(means[outside].sum()),
        "kinds": by_kind(names, outside, means),
        "each": [
            {"name": name, "outside": bool(out), "ms": round(float(ms), 5)}
            for name, out, ms in zip(names, outside, means, strict=True)
        ],
    }


def by_kind(names: list[str], outside: NDArray[np.bool_], means: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Operators of the same name together, the slowest kind first."""
    kinds: dict[tuple[str, bool], list[float]] = {}
    for name, out, ms in zip(names, outside, means, strict=True):
        kinds.setdefault((name, bool(out)), []).append(float(ms))
    total = max(float(means.sum()), 1e-12)
    rows = [
        {"name": name, "outside": out, "count": len(ms), "ms": sum(ms), "share": sum(ms) / total}
        for (name, out), ms in kinds.items()
    ]
    return sorted(rows, key=lambda row: -row["ms"])
