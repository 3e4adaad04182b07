"""Core ML's own prediction beside the executor's, on macOS alone.

It was written from coremltools' documentation and has not been run on a Mac: tests check what surrounds it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stra.extras import install_command
from edge_stra.mil.package import Package
from edge_stra.parity import cosine, finite_db, sqnr_db
from edge_stra.quiet import quiet_tools
from edge_stra.spec import DataError, MissingError, ParityError

COMPUTE_UNITS = ("CPU_ONLY", "CPU_AND_NE")


def check_platform() -> None:
    """Raises MissingError where Core ML can't predict."""
    if sys.platform != "darwin":
        raise MissingError(
            f"--compare runs Core ML itself, which only macOS has, but this is {sys.platform}; leave it out"
        )


def predict(path: Path, inputs: Mapping[str, Any], units: str) -> dict[str, Any]:
    """What Core ML gives for inputs as it takes them (`as_core_ml`), on "CPU_ONLY" or "CPU_AND_NE"."""
    check_platform()
    with quiet_tools():
        try:
            import coremltools
        except ModuleNotFoundError as error:
            raise MissingError(f"coremltools is not installed; run: {install_command('coreml')}") from error
        model = coremltools.models.MLModel(str(path), compute_units=getattr(coremltools.ComputeUnit, units))
        found: dict[str, Any] = model.predict(dict(inputs))
    return found


def as_core_ml(package: Package, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Arrays as they are; pictures as PIL images, which are RGB where the model takes BGR: Core ML swaps them.

    Raises DataError for a picture that is no bytes: Core ML would be given another one.
    """
    made: dict[str, Any] = {}
    for feature in package.inputs:
        if feature.name not in inputs:
            continue
        given = np.asarray(inputs[feature.name])
        if feature.kind != "image":
            made[feature.name] = given.astype(feature.dtype)
            continue
        try:
            from PIL import Image
        except ModuleNotFoundError as error:
            raise MissingError(f"Pillow is not installed; run: {install_command('coreml')}") from error
        if feature.colour == "grey_float16":
            made[feature.name] = Image.fromarray(given.astype(np.float32))
            continue
        whole = np.clip(np.rint(given), 0, 255).astype(np.uint8)
        if not np.array_equal(whole, given):
            raise DataError(
                f"the image {feature.name!r} must have whole numbers of 0 to 255, which Core ML takes, but has others; "
                "round them"
            )
        made[feature.name] = Image.fromarray(whole[:, :, ::-1].copy() if feature.colour == "bgr" else whole)
    return made


def differences(package: Package, ours: Mapping[str, Any], core_ml: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each output: the largest difference, SQNR and cosine of Core ML's against the executor's, or equal labels.

    Raises ParityError where an output is missing or has another shape.
    """
    rows = []
    for feature in package.outputs:
        if feature.name not in core_ml:
            raise ParityError(f"Core ML must give {feature.name!r}, but gives {sorted(core_ml)}")
        mine, theirs = ours[feature.name], core_ml[feature.name]
        if isinstance(mine, dict):
            mine, theirs = (np.array([found[key] for key in mine]) for found in (mine, theirs))
        if not isinstance(mine, np.ndarray):
            rows.append({"output": feature.name, "equal": bool(mine == theirs)})
            continue
        rows.append({"output": feature.name, **_numbers(feature.name, mine, _array(feature.colour, theirs))})
    return rows


def _array(colour: str, value: Any) -> NDArray[Any]:
    """An array; of a PIL image the planes in the order of the output's type, without alpha."""
    array = np.asarray(value)
    if colour not in ("rgb", "bgr"):
        return array
    planes = array[:, :, :3]
    return planes[:, :, ::-1] if colour == "bgr" else planes


def _numbers(name: str, mine: NDArray[Any], theirs: NDArray[Any]) -> dict[str, float]:
    if mine.shape != theirs.shape:
        raise ParityError(f"Core ML must give {name!r} of shape {mine.shape}, but gives {theirs.shape}")
    reference, candidate = mine.astype(np.float64).reshape(1, -1), theirs.astype(np.float64).reshape(1, -1)
    return {
        "max_abs": float(np.abs(reference - candidate).max(initial=0.0)),
        "sqnr_db": finite_db(sqnr_db(reference, candidate)),
        "cosine": cosine(reference, candidate),
    }
