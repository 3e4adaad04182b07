"""Builds a .tflite: reformulated network -> float graph -> calibrated -> quantized."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edge_stra.builds.pictures import calibration_inputs
from edge_stra.builds.switches import recipe_of, refuse_switches
from edge_stra.builds.travelling import travelling_statistics
from edge_stra.calibration.bias import apply_corrections, measure_corrections
from edge_stra.calibration.parts import find_parts
from edge_stra.calibration.quantize import quantize
from edge_stra.calibration.ranges import choose_ranges, collect_histograms, find_extremes
from edge_stra.converters.tflite import convert
from edge_stra.export import Build, Inputs, Request, Say, rewrite
from edge_stra.models.mobilenetv2 import MobileNetV2
from edge_stra.runtime import read_tensors
from edge_stra.spec import ModelSpec, Recipe, Statistics
from edge_stra.targets.tflite import embed
from edge_stra.targets.tflite_schema import compact


def check(request: Request) -> None:
    """Refuses switches that do not fit, before any work. Raises ModelError."""
    refuse_switches(request, "ios")
    recipe_of(request)


def build(request: Request, spec: ModelSpec, model: MobileNetV2, say: Say) -> Build:
    recipe = recipe_of(request)
    network = rewrite(model, spec, recipe.equalise)
    say("calibrating and converting" if recipe.needs_pictures else "converting")
    graph, statistics = calibrated_graph(request, spec, recipe, network)
    say("quantizing and comparing with PyTorch")
    data = embed(compact(quantize(graph, recipe, statistics)), spec, request.quantize)
    facts = {
        "recipe": recipe.name,
        "settings": asdict(recipe.settings),
        "calibration": statistics.source if statistics else None,
    }

    def write(path: Path) -> None:
        path.write_bytes(data)

    return Build(network, write, facts)


def calibrated_graph(
    request: Request, spec: ModelSpec, recipe: Recipe, network: nn.Module
) -> tuple[bytes, Statistics | None]:
    """The float graph that a recipe quantizes, and the statistics that it needs for that.

    They come from the pictures that the user gave, from the package for shipped weights, or from synthetic
    pictures for random ones. Raises DataError where none of the three applies: there is no default data set.
    """
    if not recipe.needs_pictures:
        return convert(network, spec.input.size_hw), None
    if request.calibration is None and request.weights is None:
        statistics = travelling_statistics(request, recipe)
        return convert(apply_corrections(network, statistics.corrections), spec.input.size_hw), statistics
    inputs, source = calibration_inputs(request, spec)
    return measure_statistics(recipe, spec, network, inputs, source)


def measure_statistics(
    recipe: Recipe, spec: ModelSpec, network: nn.Module, inputs: Inputs, source: dict[str, Any]
) -> tuple[bytes, Statistics]:
    """The float graph, with corrections where the recipe has them, and its statistics.

    network: as `rewrite` gives it for the recipe; inputs: [1, H, W, 3] each, read more than once.
    """
    graph, corrections = corrected_graph(recipe, spec, network, inputs)
    ranges = find_extremes(read_tensors(graph, inputs)) if recipe.needs_calibration else {}
    ranges |= clipped_ranges(recipe, graph, ranges, inputs)
    return graph, Statistics(ranges, corrections, source, recipe.settings)


def corrected_graph(
    recipe: Recipe, spec: ModelSpec, network: nn.Module, inputs: Inputs
) -> tuple[bytes, dict[str, NDArray[np.float32]]]:
    """The float graph and the corrections in it: only for layers whose weights the recipe makes int8."""
    graph = convert(network, spec.input.size_hw)
    if not recipe.correct_bias:
        return graph, {}
    corrections = measure_corrections(network, inputs, find_parts(graph, recipe).layers(network))
    return convert(apply_corrections(network, corrections), spec.input.size_hw), corrections


def clipped_ranges(
    recipe: Recipe, graph: bytes, extremes: dict[str, tuple[float, float]], inputs: Inputs
) -> dict[str, tuple[float, float]]:
    """What takes the place of the extremes where the recipe clips: a second pass over the pictures."""
    if not recipe.needs_calibration or recipe.ranges == "minmax":
        return {}
    tensors = read_tensors(graph, inputs, find_parts(graph, recipe).tensors)
    return choose_ranges(recipe.ranges, collect_histograms(extremes, tensors))
