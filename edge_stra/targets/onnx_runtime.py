"""A .onnx artifact -> callable on arrays, through onnxruntime on the CPU; see `edge_stra.runtime` for .tflite."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stra.artifact import Artifact
from edge_stra.extras import install_command
from edge_stra.runtime import check_tensors
from edge_stra.spec import ArtifactError, MissingError, first_line
from edge_stra.targets.onnx import read_onnx

FAULTS = (
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "NoModel",
    "NoSuchFile",
    "NotImplemented",
    "RuntimeException",
)
"""onnxruntime's exceptions, which have no ancestor of their own."""


def load_runtime() -> tuple[Any, tuple[type[Exception], ...]]:
    """onnxruntime and what it raises. Raises MissingError with the command that installs it."""
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError as error:
        raise MissingError(f"a .onnx file needs onnxruntime; run: {install_command('onnx')}") from error
    return onnxruntime, tuple(getattr(state, name) for name in FAULTS)


def open_session(model: bytes, threads: int = 1) -> Any:
    """An onnxruntime session on the CPU with so many threads. Raises what `load_runtime` names."""
    runtime, _ = load_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors alone, which come as exceptions too
    # x86 without VNNI adds pairs of int8 products in 16 bits and saturates; this takes the exact kernels there.
    options.add_session_config_entry("session.x64quantprecision", "1")
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class OnnxPredictor:
    """A loaded .onnx artifact: `predictor(x)` with x float32 [1, H, W, 3] gives the float32 output [1, K].

    Raises ArtifactError for a file that is damaged or not what its specification says, MissingError without
    onnxruntime.
    """

    def __init__(self, artifact: Artifact, threads: int = 1) -> None:
        self.artifact, self.spec = artifact, artifact.spec
        runtime, self.faults = load_runtime()
        self.runtime_name = f"onnxruntime {runtime.__version__}"
        data, _ = read_onnx(artifact.path)
        try:
            self.session = open_session(data, threads)
        except self.faults as error:
            cause = first_line(error)
            raise ArtifactError(f"{artifact.path} can't be loaded by {self.runtime_name}: {cause}") from error
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        shapes = [tensor.shape for tensor in (*inputs, *outputs)]
        if (
            len(inputs) != 1
            or len(outputs) != 1
            or [len(shape) for shape in shapes] != [4, 2]
            or not all(isinstance(size, int) for shape in shapes for size in shape)
            or any(tensor.type != "tensor(float)" for tensor in (*inputs, *outputs))
        ):
            came = ", ".join(f"{t.name} {t.type} {t.shape}" for t in (*inputs, *outputs))
            raise ArtifactError(
                f"{artifact.path} must take one float32 [1, 3, H, W] and give one [1, K], but has {came}"
            )
        batch, channels, height, width = shapes[0]
        check_tensors(artifact, (batch, height, width, channels), shapes[1])
        self.input = inputs[0].name

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        self.spec.input.check(x)
        try:
            (output,) = self.session.run(None, {self.input: np.ascontiguousarray(x.transpose(0, 3, 1, 2))})
        except self.faults as error:
            raise ArtifactError(f"{self.artifact.path} can't be run: {first_line(error)}; export it again") from error
        result: NDArray[np.float32] = output
        return result
