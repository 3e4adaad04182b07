"""One file of the network for the peers; `run.py` starts this once for each, so that a crash is one file's.

    python benchmarks/peers/exports.py tflite|onnx|weights MODEL reference|reformulated PRECISION FOLDER

Writes FOLDER/NAME and prints it. FOLDER/pictures holds the drawn pictures of calibration.
"""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from edge_stra.calibration.data import check_picture
from edge_stra.converters.tflite import convert
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from edge_stra.export import Request, export, torch_function
from edge_stra.loading import load_model
from edge_stra.models.mobilenetv2 import MobileNetV2
from edge_stra.models.registry import get_spec
from edge_stra.parity import Array, outputs_of
from edge_stra.preprocess import to_input
from edge_stra.quiet import quiet_tools
from edge_stra.reformulate import reformulate
from edge_stra.shipped import shipped_weights
from edge_stra.spec import DataError
from edge_stra.synthetic import synthetic_pictures

PARITY_PICTURES, PARITY_SEED = 8, 11
CALIBRATION_PICTURES, CALIBRATION_SEED = 64, 5
OPSET = 18  # the lowest that torch's exporter writes; every peer here reads it


def weights_of(model: str) -> str | None:
    """What `load_model` and `export` want: trained weights where they are shipped, else seeded ones."""
    return None if shipped_weights(model) else "random"


def draw(model: str, folder: Path) -> None:
    """Pictures for all peers: parity.npy and calibration.npy, float32 [count, H, W, 3], and calibration as files."""
    spec = get_spec(model)
    for name, count, seed in (
        ("parity", PARITY_PICTURES, PARITY_SEED),
        ("calibration", CALIBRATION_PICTURES, CALIBRATION_SEED),
    ):
        pictures = list(
            islice(filter(usable, synthetic_pictures(spec.task, 2 * count, spec.input.size_hw, seed)), count)
        )
        np.save(folder / f"{name}.npy", np.concatenate([to_input(p, spec.input) for p in pictures]))
    (folder / "pictures").mkdir(exist_ok=True)
    for index, picture in enumerate(pictures):
        cv2.imwrite(str(folder / "pictures" / f"{index:03}.png"), picture[..., ::-1])


def usable(picture: NDArray[np.uint8]) -> bool:
    """Whether our export would calibrate with a picture: a few drawn ones are too flat."""
    try:
        check_picture(picture, "a drawn picture")
    except DataError:
        return False
    return True


def reference_outputs(model: str, folder: Path) -> Array:
    """[count, K] of PyTorch's float32 reference on parity.npy."""
    network, _ = load_model(model, weights_of(model))
    return outputs_of(torch_function(network), [x[None] for x in np.load(folder / "parity.npy")])


def network_of(model: str, form: str) -> MobileNetV2:
    network, _ = load_model(model, weights_of(model))
    return reformulate(network, get_spec(model).input.size_hw) if form == "reformulated" else network


def write_tflite(model: str, form: str, precision: str, folder: Path) -> Path:
    """Ours, by the project's own export; or the reference as litert-torch converts it without our help."""
    if form == "reformulated":
        pictures = folder / "pictures" if precision == "int8" else None
        request = Request(model, precision, folder, weights=weights_of(model), calibration=pictures, overwrite=True)
        return export(request).path
    path = folder / f"{model}.reference.tflite"
    path.write_bytes(convert(network_of(model, form), get_spec(model).input.size_hw))
    return path


def write_onnx(network: nn.Module, model: str, path: Path) -> Path:
    """torch's own exporter, which optimizes the graph by itself."""
    with quiet_tools():
        picture = torch.zeros(1, 3, *get_spec(model).input.size_hw)
        torch.onnx.export(
            network, (picture,), str(path), opset_version=OPSET, input_names=["input"], output_names=["output"],
            dynamo=True, external_data=False,
        )  # fmt: skip
    return path


def write_weights(model: str, folder: Path) -> Path:
    path = folder / f"{model}.safetensors"
    save_file({k: v.contiguous() for k, v in network_of(model, "reference").state_dict().items()}, path)
    return path


def main() -> None:
    kind, model, form, precision, folder = *sys.argv[1:5], Path(sys.argv[5])
    torch.set_num_threads(1)
    if kind == "tflite":
        path = write_tflite(model, form, precision, folder)
    elif kind == "onnx":
        path = write_onnx(network_of(model, form), model, folder / f"{model}.{form}.onnx")
    else:
        path = write_weights(model, folder)
    print(path)


if __name__ == "__main__":
    main()
