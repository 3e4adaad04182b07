"""Builds a .mlpackage: reformulated network -> ML Program, compressed."""

from __future__ import annotations

from pathlib import Path

from edge_stra.builds.pictures import calibration_inputs
from edge_stra.builds.switches import refuse_switches
from edge_stra.converters.coreml import check_request, convert
from edge_stra.export import Build, Request, Say, rewrite
from edge_stra.models.mobilenetv2 import MobileNetV2
from edge_stra.spec import ModelSpec

MOST_PICTURES = 128
"""For the ranges of w8a8: the executor is slow, and they settle before."""


def check(request: Request) -> None:
    """Refuses an iOS that is too old and switches of other targets, before any work. Raises ModelError."""
    refuse_switches(request, "ranges", "bias_correction", "equalise")
    check_request(request.spec, request.quantize, request.ios, len(request.spec.labels))


def build(request: Request, spec: ModelSpec, model: MobileNetV2, say: Say) -> Build:
    network = rewrite(model, spec, False)
    w8a8 = request.quantize == "w8a8"
    inputs, source = calibration_inputs(request, spec, MOST_PICTURES) if w8a8 else (None, None)
    ios = check_request(spec, request.quantize, request.ios, len(spec.labels))

    def write(path: Path) -> None:
        say("converting, and comparing with PyTorch by the executor")
        convert(network, spec, request.quantize, path, ios, inputs)

    return Build(network, write, {"minimum_ios": ios, "calibration": source})
