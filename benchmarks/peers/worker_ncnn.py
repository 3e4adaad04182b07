"""ncnn on the CPU, converted from ONNX by pnnx."""

from __future__ import annotations

import shutil
import subprocess
from importlib.metadata import distribution
from pathlib import Path

import ncnn
import numpy as np
from protocol import Array, Function, Load, Loaded, planar, serve

CONVERT_SECONDS = 300


def convert(onnx: Path, folder: Path) -> tuple[Path, Path]:
    """The .param and .bin of a network. pnnx writes beside its input, so that is copied first."""
    folder.mkdir(exist_ok=True)
    source = Path(shutil.copy(onnx, folder / "network.onnx"))
    # The program in the wheel; the wheel's Python module would import torch, which converting from ONNX does not need.
    program = distribution("pnnx").locate_file("pnnx/pnnx")
    subprocess.run([str(program), source.name], cwd=folder, capture_output=True, timeout=CONVERT_SECONDS, check=True)
    return folder / "network.ncnn.param", folder / "network.ncnn.bin"


def load(request: Load) -> Loaded:
    if request.precision == "int8":
        raise RuntimeError("int8 needs ncnn2table and ncnn2int8, programs that the wheels of ncnn and pnnx do not have")
    param, weights = convert(Path(request.file), Path(request.folder) / f"{Path(request.file).stem}.ncnn")
    net = ncnn.Net()
    net.opt.num_threads = request.threads
    unknown = [line.split()[0] for line in param.read_text("utf-8").splitlines()[2:] if not known(line.split()[0])]
    if unknown:
        raise RuntimeError(f"pnnx left operators that ncnn does not have: {', '.join(sorted(set(unknown)))}")
    if net.load_param(str(param)) or net.load_model(str(weights)):
        raise RuntimeError("ncnn can't load what pnnx wrote")

    def bind(x: Array) -> Function:
        picture = planar(x)[0]

        def run() -> Array:
            with net.create_extractor() as extractor:
                extractor.input("in0", ncnn.Mat(picture))
                code, output = extractor.extract("out0")
            if code:
                raise RuntimeError(f"ncnn ended with code {code} while running")
            return np.array(output)

        return run

    return Loaded(bind, ("ncnn", "pnnx"))


def known(layer: str) -> bool:
    """Whether ncnn has a layer of this name."""
    return int(ncnn.layer_to_index(layer)) >= 0


if __name__ == "__main__":
    serve(load)
