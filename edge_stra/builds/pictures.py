"""Where the pictures for calibration come from."""

from __future__ import annotations

from typing import Any

from edge_stra.calibration.data import MAX_PICTURES, read_calibration
from edge_stra.export import Inputs, Request, synthetic_inputs
from edge_stra.spec import DataError, ModelSpec

RANDOM_PICTURES = 64


def calibration_inputs(request: Request, spec: ModelSpec, most: int = MAX_PICTURES) -> tuple[Inputs, dict[str, Any]]:
    """The pictures that the user gave, `most` of them, or drawn ones for random weights, and what a manifest says.

    Raises DataError otherwise: there is no default data set.
    """
    if request.calibration is not None:
        return read_calibration(request.calibration, spec.input, most)
    if request.weights == "random":
        return synthetic_inputs(spec, RANDOM_PICTURES, seed=0)
    whose = "for weights of your own" if request.weights else f"for {request.target}"
    raise DataError(f"{request.quantize} needs calibration {whose}; give --calibration FOLDER with pictures")
