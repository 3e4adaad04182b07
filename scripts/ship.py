"""Puts trained weights into the package: float16 safetensors, their calibration statistics, and the int8 .tflite.

    python scripts/ship.py --model mobilenetv2_stra.fer --weights runs/fer/best.safetensors --calibration FER/train

The statistics are measured on the float16 weights, since those are what users export, and for the switches that the
recipes have by default: they carry these with them, and an export with others asks for pictures. 200 pictures of the
folder, evenly spread over its sorted list, and 32 drawn ones: ranges chosen on photographs of one kind alone clip what
is unlike them (16.4 dB on the drawn pictures of an export's comparison, with these 22.8; an earlier
mobilenetv2_stra.reid, int8).
The .tflite is what the apps run where no artifact is given: a device has no PyTorch to export with.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from edge_stra.calibration.recipes import RECIPES
from edge_stra.calibration.statistics import save_statistics

from edge_stra.builds.tflite import measure_statistics
from edge_stra.data import list_pictures, spread
from edge_stra.export import Request, export, rewrite, synthetic_inputs
from edge_stra.loading import load_model
from edge_stra.models.registry import get_spec
from edge_stra.models.weights import save_weights
from edge_stra.preprocess import load_input
from edge_stra.shipped import FOLDER
from edge_stra.spec import EdgeStraError

PICTURES = 200
DRAWN, SEED = 32, 77  # other drawn pictures than those that an export is compared on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--calibration", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    before = {path: path.read_bytes() for path in FOLDER.glob(f"{args.model}.*")}
    try:
        ship(args.model, args.weights, args.calibration)
    except BaseException as error:  # what is shipped has to fit together: all of it new, or all as it was
        for path in FOLDER.glob(f"{args.model}.*"):
            path.write_bytes(before[path]) if path in before else path.unlink()
        if isinstance(error, EdgeStraError):
            raise SystemExit(f"Error: {error}; the files in {FOLDER} are as before") from error
        raise
    print("\n".join(f"{p.name} {p.stat().st_size}" for p in sorted(FOLDER.iterdir())))


def ship(name: str, weights: str, calibration: Path) -> None:
    """Writes the three files, one after the other."""
    spec = get_spec(name)
    inputs = [load_input(path, spec.input) for path in spread(list_pictures(calibration), PICTURES)]
    model, _ = load_model(name, weights)
    save_weights(model, FOLDER / f"{name}.safetensors", torch.float16, name)
    model, _ = load_model(name, None)
    drawn, _ = synthetic_inputs(spec, DRAWN, SEED)
    pictures = f"{len(inputs)} of the training split, {DRAWN} drawn"
    inputs += drawn
    source = {"kind": "shipped statistics", "pictures": pictures, "count": len(inputs)}
    by_recipe = {
        name: measure_statistics(recipe, spec, rewrite(model, spec, recipe.equalise), inputs, source)[1]
        for name, recipe in RECIPES.items()
        if recipe.needs_calibration
    }
    save_statistics(FOLDER / f"{name}.calibration.safetensors", by_recipe)
    export(Request(name, "int8", FOLDER, overwrite=True))


if __name__ == "__main__":
    main()
