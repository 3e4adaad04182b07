"""The calibration statistics that travel with shipped weights, for every target that they serve."""

from __future__ import annotations

from edge_stra.calibration.statistics import load_statistics
from edge_stra.export import Request
from edge_stra.shipped import shipped_statistics
from edge_stra.spec import DataError, Recipe, Statistics


def travelling_statistics(request: Request, recipe: Recipe) -> Statistics:
    """Those in the package. Raises DataError where it has none, or only some for other switches."""
    path = shipped_statistics(request.model)
    if path is None or not recipe.needs_calibration:
        raise DataError(f"{request.quantize} with {recipe.settings} needs pictures; give --calibration FOLDER")
    statistics = load_statistics(path, request.quantize)
    if statistics.settings != recipe.settings:
        raise DataError(
            f"{request.quantize} with {recipe.settings} needs --calibration FOLDER: the statistics that travel with "
            f"{request.model} are for {statistics.settings}"
        )
    return statistics
