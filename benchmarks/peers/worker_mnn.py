"""MNN on the CPU, converted from ONNX by its own converter; int8: its offline quantization.

Of its methods EMA is taken, a picture at a time: KL and ADMM crash on these networks (MNN 3.6.1). The converter and
the quantizer are called in the wheel's extension module: their command lines would send a report of each use, and
install a package for that.
"""

from __future__ import annotations

import json
from pathlib import Path

import _tools
import MNN
import numpy as np
from protocol import Array, Function, Load, Loaded, planar, serve

IMAGENET_MEAN_RGB, IMAGENET_STD_RGB = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # as edge_stra.spec


def quantize(float_file: Path, request: Load) -> Path:
    """int8 with the same pictures as all peers, which MNN reads from files."""
    height, width = np.load(request.parity).shape[1:3]
    settings = {
        "format": "RGB",
        "mean": [255 * v for v in IMAGENET_MEAN_RGB],
        "normal": [1 / (255 * v) for v in IMAGENET_STD_RGB],
        "width": width,
        "height": height,
        "path": str(Path(request.folder) / "pictures") + "/",
        "used_image_num": len(np.load(request.calibration)),
        "feature_quantize_method": "EMA",
        "batch_size": 1,
        "weight_quantize_method": "MAX_ABS",
    }
    config, result = float_file.with_suffix(".json"), float_file.with_suffix(".quantized.mnn")
    if result.is_file() and request.reuse:
        return result
    config.write_text(json.dumps(settings), "utf-8")
    _tools.mnnquant(["mnnquant", str(float_file), str(result), str(config)])
    return result


def load(request: Load) -> Loaded:
    file = Path(request.folder) / f"{Path(request.file).stem}.{request.precision}.mnn"
    words = ["mnnconvert", "-f", "ONNX", "--modelFile", request.file, "--MNNModel", str(file), "--bizCode", "peers"]
    _tools.mnnconvert(words)
    if request.precision == "int8":
        file = quantize(file, request)
    if not file.is_file():
        raise RuntimeError("MNN's tools wrote no file")
    interpreter = MNN.Interpreter(str(file))
    session = interpreter.createSession({"backend": "CPU", "numThread": request.threads, "precision": "high"})
    source, target = interpreter.getSessionInput(session), interpreter.getSessionOutput(session)
    shape = target.getShape()

    def bind(x: Array) -> Function:
        picture = planar(x)
        host = MNN.Tensor(picture.shape, MNN.Halide_Type_Float, picture, MNN.Tensor_DimensionType_Caffe)
        result = MNN.Tensor(shape, MNN.Halide_Type_Float, np.zeros(shape, np.float32), MNN.Tensor_DimensionType_Caffe)

        def run() -> Array:
            source.copyFrom(host)
            interpreter.runSession(session)
            target.copyToHostTensor(result)
            return np.array(result.getNumpyData(), np.float32)

        return run

    return Loaded(bind, ("MNN",))


if __name__ == "__main__":
    serve(load)
