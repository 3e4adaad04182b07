"""OpenVINO's CPU plugin, latency mode, float32 kept float32; int8: NNCF's post-training quantization."""

from __future__ import annotations

from pathlib import Path

import openvino
from protocol import Array, Function, Load, Loaded, calibration_inputs, planar, serve


def quantize(model: openvino.Model, request: Load) -> openvino.Model:
    path = Path(request.folder) / f"{Path(request.file).stem}.int8.xml"
    if path.is_file() and request.reuse:
        return openvino.Core().read_model(path)
    import nncf

    pictures = list(calibration_inputs(request))
    quantized = nncf.quantize(
        model,
        nncf.Dataset(pictures),
        preset=nncf.QuantizationPreset.PERFORMANCE,
        target_device=nncf.TargetDevice.CPU,
        subset_size=len(pictures),
    )
    openvino.save_model(quantized, path, compress_to_fp16=False)
    return quantized


def load(request: Load) -> Loaded:
    core = openvino.Core()
    model = core.read_model(request.file)
    packages: tuple[str, ...] = ("openvino",)
    if request.precision == "int8":
        model, packages = quantize(model, request), ("openvino", "nncf")
    settings = {
        "INFERENCE_NUM_THREADS": request.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    query = core.compile_model(model, "CPU", settings).create_infer_request()

    def bind(x: Array) -> Function:
        tensor = openvino.Tensor(planar(x))

        def run() -> Array:
            query.set_input_tensor(tensor)
            query.infer()
            output: Array = query.get_output_tensor().data.copy()
            return output

        return run

    return Loaded(bind, packages)


if __name__ == "__main__":
    serve(load)
