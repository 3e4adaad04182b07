"""ONNX Runtime on the CPU provider, all graph optimizations; int8: static QDQ, weights per channel."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.registry import QDQRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process
from protocol import Array, Function, Load, Loaded, calibration_inputs, serve


class Pictures(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, load: Load) -> None:
        self.feeds: Iterator[dict[str, Array]] = ({name: x} for x in calibration_inputs(load))

    def get_next(self) -> dict[str, Array] | None:
        return next(self.feeds, None)


def quantize(request: Load) -> str:
    """int8 for both, symmetric for weights. Products stay float: QLinearMatMul refuses constants per channel."""
    prepared, result = (str(Path(request.folder) / f"{Path(request.file).stem}.{k}.onnx") for k in ("prepared", "int8"))
    if Path(result).is_file() and request.reuse:
        return result
    quant_pre_process(request.file, prepared, skip_symbolic_shape=True)  # all shapes are numbers already
    name = onnxruntime.InferenceSession(prepared, providers=["CPUExecutionProvider"]).get_inputs()[0].name
    activations = QuantType.QUInt8 if platform.machine() in ("x86_64", "AMD64") else QuantType.QInt8
    quantize_static(
        prepared,
        result,
        Pictures(name, request),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        op_types_to_quantize=[name for name in QDQRegistry if name != "MatMul"],
        activation_type=activations,
        weight_type=QuantType.QInt8,
    )
    return result


def load(request: Load) -> Loaded:
    file = quantize(request) if request.precision == "int8" else request.file
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def bind(x: Array) -> Function:
        feed = {name: np.ascontiguousarray(x.transpose(0, 3, 1, 2))}

        def run() -> Array:
            output: Array = session.run(None, feed)[0]
            return output

        return run

    return Loaded(bind, ("onnxruntime",))


if __name__ == "__main__":
    serve(load)
