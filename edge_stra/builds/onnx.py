"""Builds a .onnx: reformulated network -> float32 graph -> float16, or calibrated int8."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from edge_stra.builds.pictures import calibration_inputs
from edge_stra.builds.switches import recipe_of, refuse_switches
from edge_stra.builds.travelling import travelling_statistics
from edge_stra.calibration.bias import apply_corrections
from edge_stra.converters.onnx import OPSET, convert, to_float16
from edge_stra.converters.onnx_quantize import by_module, measure_statistics, quantize
from edge_stra.export import Build, Request, Say, rewrite
from edge_stra.models.mobilenetv2 import MobileNetV2
from edge_stra.spec import ModelSpec, Recipe, Statistics
from edge_stra.targets.onnx import embed


def check(request: Request) -> None:
    """Refuses switches that do not fit, before any work. Raises ModelError."""
    refuse_switches(request, "ios")
    recipe_of(request)


def build(request: Request, spec: ModelSpec, model: MobileNetV2, say: Say) -> Build:
    recipe = recipe_of(request)
    network = rewrite(model, spec, recipe.equalise)
    facts: dict[str, Any] = {"opset": OPSET}
    if recipe.needs_calibration:
        say("calibrating and converting")
        graph, statistics = calibrated_graph(request, spec, recipe, network)
        data = quantize(graph, statistics)
        facts |= {"settings": asdict(recipe.settings), "calibration": statistics.source}
    else:
        say("converting")
        graph = convert(network, spec)
        data = to_float16(graph) if request.quantize == "fp16" else graph
    say("comparing with PyTorch")
    file = embed(data, spec, request.quantize)

    def write(path: Path) -> None:
        path.write_bytes(file)

    return Build(network, write, facts)


def calibrated_graph(request: Request, spec: ModelSpec, recipe: Recipe, network: nn.Module) -> tuple[bytes, Statistics]:
    """The float graph and its statistics: those that travel with shipped weights, else measured on pictures."""
    if request.calibration is None and request.weights is None:
        statistics = by_module(travelling_statistics(request, recipe))
        return convert(apply_corrections(network, statistics.corrections), spec), statistics
    inputs, source = calibration_inputs(request, spec)
    return measure_statistics(recipe, spec, network, inputs, source)
