"""Artifact -> callable on arrays; the only file that knows TFLite interpreters (`edge_stra.targets` knows the others).

Taken in this order: ai-edge-litert, tflite-runtime, TensorFlow's interpreter. All run float models on
XNNPACK, as one delegate, by default.
"""

from __future__ import annotations

import importlib
import operator
import os
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stra.artifact import Artifact, open_artifact
from edge_stra.extras import install_command
from edge_stra.quiet import quiet_tools
from edge_stra.spec import ArtifactError, BrokenError, MissingError, ModelSpec, first_line, is_absent
from edge_stra.targets import TARGETS

RUNTIMES = (
    ("ai-edge-litert", "ai_edge_litert.interpreter", "Interpreter"),
    ("tflite-runtime", "tflite_runtime.interpreter", "Interpreter"),
    ("tensorflow", "tensorflow", "lite.Interpreter"),
)
TENSOR_DTYPES = ("float32", "int8", "uint8", "int16")
"""Of a file's input and output."""


def find_runtime(wanted: str | None = None) -> tuple[str, type[Any]]:
    """The name and the interpreter class of the first runtime that is installed (or of the one that is wanted).

    Raises MissingError, with the command that installs one; BrokenError where one is installed and none loads.
    """
    problems = []
    for name, module, attribute in RUNTIMES:
        if wanted not in (None, name):
            continue
        try:
            found: Any = importlib.import_module(module)
        except ImportError as error:
            if not is_absent(error, module):
                problems.append(f"{name} is installed, but can't be loaded: {first_line(error)}; install it again")
            continue
        try:
            return name, operator.attrgetter(attribute)(found)
        except AttributeError as error:  # what was left of a package that is gone
            problems.append(f"{name} is installed, but not whole: {first_line(error)}; install it again")
    if problems:
        raise BrokenError("; ".join(problems))
    names = wanted or ", ".join(name for name, _, _ in RUNTIMES)
    raise MissingError(f"no TFLite runtime is installed ({names}); run: {install_command('pi')}")


class Predictor:
    """A loaded artifact: `predictor(x)` with x float32 [1, H, W, 3] gives the float32 output [1, K].

    Integer inputs and outputs are quantized and dequantized here. One Predictor serves one thread. Raises DataError
    where x is no such input, ArtifactError where the file can't be loaded or run.
    """

    def __init__(self, artifact: Artifact, threads: int = 1) -> None:
        if artifact.target != "tflite":
            raise ArtifactError(f"{artifact.path} must be a .tflite file here, but is of {artifact.target}")
        self.artifact, self.spec = artifact, artifact.spec
        self.runtime_name, interpreter_class = find_runtime()
        try:
            self.interpreter = interpreter_class(model_path=os.fsencode(artifact.path), num_threads=threads)
            self.interpreter.allocate_tensors()
            inputs, outputs = self.interpreter.get_input_details(), self.interpreter.get_output_details()
        except (ValueError, RuntimeError) as error:
            cause = first_line(error)
            raise ArtifactError(f"{artifact.path} can't be loaded by {self.runtime_name}: {cause}") from error
        self.input, self.output = one_tensor(artifact, inputs, "input"), one_tensor(artifact, outputs, "output")
        check_tensors(artifact, self.input["shape"], self.output["shape"])

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        self.spec.input.check(x)
        self.interpreter.set_tensor(self.input["index"], quantize_array(x, self.input))
        invoke(self.interpreter, self.artifact.path)
        return dequantize_array(self.interpreter.get_tensor(self.output["index"]), self.output)

    def raw(self, x: NDArray[np.float32]) -> NDArray[Any]:
        """The output as the file gives it: int8 for an integer model."""
        self(x)
        result: NDArray[Any] = self.interpreter.get_tensor(self.output["index"])
        return result


def load_predictor(path: Path, threads: int = 1) -> Any:
    """Verifies an artifact of any target and loads it: a Predictor, or its like, called as that one is.

    Raises ArtifactError, MissingError; its calls DataError for an array that is no such input, ArtifactError where the
    file can't be run.
    """
    return make_predictor(open_artifact(path), threads)


def make_predictor(artifact: Artifact, threads: int = 1) -> Any:
    """`load_predictor`, of an artifact that is verified."""
    return TARGETS[artifact.target].load_predictor()(artifact, threads)


@dataclass(frozen=True)
class Delegated:
    """What the runtime's default delegate, XNNPACK, has taken of a loaded file.

    operators: how many the file has. parts: the indices of those in each part that was taken; None where the runtime
    does not tell.
    """

    runtime: str
    operators: int
    parts: tuple[frozenset[int], ...] | None


def delegated(path: Path) -> Delegated:
    """Loads a .tflite file to see what the delegate takes: seen, never guessed. Raises ArtifactError, MissingError."""
    if not path.exists():
        raise ArtifactError(f"{path} must be a .tflite file, but there is no such file; export one first")
    if path.suffix != ".tflite" or not path.is_file():
        raise ArtifactError(f"{path} must be a .tflite file, which alone TFLite's delegates take, but is another")
    name, interpreter_class = find_runtime()
    try:
        with quiet_tools():
            interpreter = interpreter_class(model_path=os.fsencode(path), num_threads=1)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ArtifactError(f"{path} can't be loaded by {name}: {first_line(error)}; export it again") from error
    if not hasattr(interpreter, "_get_ops_details"):
        return Delegated(name, 0, None)
    # The list keeps the nodes that a delegate replaced, and appends one DELEGATE for each part it took.
    nodes = interpreter._get_ops_details()
    kept = [node for node in nodes if node["op_name"] != "DELEGATE"]
    parts = [node for node in nodes if node["op_name"] == "DELEGATE"]
    return Delegated(name, len(kept), tuple(part_operators(part, kept) for part in parts))


def part_operators(part: dict[str, Any], nodes: list[dict[str, Any]]) -> frozenset[int]:
    """The operators between a part's outputs and its inputs. Those whose outputs nobody reads can't be seen."""
    producers = {int(tensor): node for node in nodes for tensor in node["outputs"]}
    outside = {int(tensor) for tensor in part["inputs"]}
    found: dict[int, dict[str, Any]] = {}
    waiting = [int(tensor) for tensor in part["outputs"]]
    while waiting:
        tensor = waiting.pop()
        node = producers.get(tensor)
        if node is None or tensor in outside or node["index"] in found:
            continue
        found[node["index"]] = node
        waiting.extend(int(source) for source in node["inputs"])
    return frozenset(found)


def open_plain(model: bytes) -> Any:
    """ai-edge-litert's interpreter with plain kernels, which keeps every tensor readable; a delegate does not.

    Raises MissingError where another runtime is all there is.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError as error:
        raise MissingError(f"reading tensors needs ai-edge-litert; run: {install_command('pi')}") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that keeping all tensors is meant for inspection: it is
        interpreter = Interpreter(
            model_content=model,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            num_threads=os.cpu_count(),
        )
        interpreter.allocate_tensors()
    return interpreter


def read_float(interpreter: Any, detail: dict[str, Any]) -> NDArray[np.float32]:
    """A tensor's value as float32."""
    return dequantize_array(interpreter.get_tensor(detail["index"]), detail)


def read_tensors(
    model: bytes, inputs: Iterable[NDArray[np.float32]], names: Collection[str] | None = None
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """(name, value) of each float tensor of a float32 .tflite, or of those named, for each input [1, H, W, 3]."""
    interpreter = open_plain(model)
    index = interpreter.get_input_details()[0]["index"]
    details = [
        d for d in interpreter.get_tensor_details() if d["dtype"] == np.float32 and d["name"] and 0 not in d["shape"]
    ]
    if names is not None:
        details = [d for d in details if d["name"] in names]
    for x in inputs:
        interpreter.set_tensor(index, x)
        interpreter.invoke()
        for detail in details:
            yield detail["name"], interpreter.get_tensor(detail["index"])


def invoke(interpreter: Any, path: Path) -> None:
    """One run of a loaded file. Raises ArtifactError where an operator fails."""
    try:
        interpreter.invoke()
    except (ValueError, RuntimeError) as error:
        raise ArtifactError(f"{path} can't be run: {first_line(error)}; export it again") from error


def one_tensor(artifact: Artifact, details: list[dict[str, Any]], what: str) -> dict[str, Any]:
    """The only input or output. Raises ArtifactError where there are others, or its values can't be read as floats."""
    if len(details) != 1:
        raise ArtifactError(f"{artifact.path} must have one {what}, but has {len(details)}; export it again")
    detail = details[0]
    dtype, (scale, _) = np.dtype(detail["dtype"]).name, detail["quantization"]
    if dtype not in TENSOR_DTYPES:
        raise ArtifactError(
            f"{artifact.path} must have an {what} of {', '.join(TENSOR_DTYPES)}, but has {dtype}; export it again"
        )
    if dtype != "float32" and not 0 < scale < np.inf:
        raise ArtifactError(
            f"{artifact.path} must have a positive scale for its {dtype} {what}, but has {scale}; export it again"
        )
    return detail


def check_tensors(artifact: Artifact, input_shape: Any, output_shape: Any) -> None:
    """Raises ArtifactError where the graph's tensors are not those of the specification."""
    spec: ModelSpec = artifact.spec
    wanted = (1, *spec.input.size_hw, 3)
    came = tuple(int(v) for v in input_shape)
    if came != wanted:
        raise ArtifactError(f"{artifact.path} must take an input of {wanted} by its specification, but takes {came}")
    given = tuple(int(v) for v in output_shape)
    if len(given) != 2 or given[0] != 1 or given[1] < 1:
        raise ArtifactError(f"{artifact.path} must give an output of (1, K), but gives {given}; export it again")
    width = given[1]
    if spec.labels and width != len(spec.labels):
        raise ArtifactError(f"{artifact.path} has {len(spec.labels)} labels by its specification, but {width} outputs")


def quantize_array(x: NDArray[np.float32], detail: dict[str, Any]) -> NDArray[Any]:
    """Float to the tensor's type: round half to even, saturate."""
    if detail["dtype"] == np.float32:
        return x
    scale, zero = detail["quantization"]
    limits = np.iinfo(detail["dtype"])
    result: NDArray[Any] = np.clip(np.rint(x / np.float32(scale)) + zero, limits.min, limits.max).astype(
        detail["dtype"]
    )
    return result


def dequantize_array(x: NDArray[Any], detail: dict[str, Any]) -> NDArray[np.float32]:
    if detail["dtype"] == np.float32:
        return x.astype(np.float32)
    scale, zero = detail["quantization"]
    result: NDArray[np.float32] = (x.astype(np.float32) - zero) * np.float32(scale)
    return result
