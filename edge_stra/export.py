"""Export: weights -> reference -> reformulated -> quantized artifact, kept only where parity is proven."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_stra import __version__
from edge_stra.artifact import FORMAT, Artifact, check_output, embed, manifest_path, open_artifact, sha256_of
from edge_stra.calibration.bias import apply_corrections, measure_corrections
from edge_stra.calibration.data import read_calibration
from edge_stra.calibration.equalise import equalise
from edge_stra.calibration.parts import find_parts
from edge_stra.calibration.quantize import quantize
from edge_stra.calibration.ranges import choose_ranges, collect_histograms
from edge_stra.calibration.recipes import adjust
from edge_stra.calibration.statistics import load_statistics
from edge_stra.converters.tflite import convert
from edge_stra.data import list_pictures, spread
from edge_stra.loading import is_random, load_model
from edge_stra.models.mobilenetv2 import MobileNetV2
from edge_stra.models.registry import get_spec
from edge_stra.parity import Comparison, check, compare, outputs_of
from edge_stra.preprocess import load_input, to_input
from edge_stra.reformulate import reformulate
from edge_stra.runtime import Predictor, measure_ranges, read_tensors
from edge_stra.shipped import shipped_statistics
from edge_stra.spec import DataError, ModelError, ModelSpec, OutputError, ParityError, Recipe, Statistics
from edge_stra.synthetic import synthetic_pictures

TOOLS = ("torch", "litert-torch", "ai-edge-quantizer", "ai-edge-litert", "numpy", "opencv-python-headless")
PARITY_PICTURES = 32
SYNTHETIC_SEED = 1

Inputs = list[NDArray[np.float32]]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What a user asks of an export, as in `edge-stra export --help`; None leaves a switch as the recipe says."""

    model: str
    quantize: str
    out: Path
    target: str = "tflite"
    weights: str | None = None
    calibration: Path | None = None
    pictures: Path | None = None
    overwrite: bool = False
    ranges: str | None = None
    bias_correction: bool | None = None
    equalise: bool | None = None


@dataclass(frozen=True)
class Exported:
    path: Path
    manifest: dict[str, Any]
    comparisons: list[Comparison]


def synthetic_inputs(spec: ModelSpec, count: int, seed: int) -> tuple[Inputs, dict[str, Any]]:
    """Seeded pictures that need no data set, and what a manifest says of them."""
    pictures = synthetic_pictures(spec.task, count, spec.input.size_hw, seed)
    return [to_input(p, spec.input) for p in pictures], {"kind": "synthetic", "count": count, "seed": seed}


def parity_inputs(spec: ModelSpec, source: Path | None) -> tuple[Inputs, dict[str, Any]]:
    """At most 32 pictures of a folder or list, evenly spread; synthetic ones where there is none."""
    if source is None:
        return synthetic_inputs(spec, PARITY_PICTURES, SYNTHETIC_SEED)
    inputs = [load_input(path, spec.input) for path in spread(list_pictures(source), PARITY_PICTURES)]
    return inputs, {"kind": "pictures", "name": source.name, "count": len(inputs)}


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
    if request.calibration is not None:
        inputs, source = read_calibration(request.calibration, spec.input)
    elif request.weights == "random":
        inputs, source = synthetic_inputs(spec, 64, seed=0)
    else:
        raise DataError(
            f"{request.quantize} needs calibration for weights of your own; give --calibration FOLDER with pictures"
        )
    return measure_statistics(recipe, spec, network, inputs, source)


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


def measure_statistics(
    recipe: Recipe, spec: ModelSpec, network: nn.Module, inputs: Inputs, source: dict[str, Any]
) -> tuple[bytes, Statistics]:
    """The float graph, with corrections where the recipe has them, and its statistics.

    network: as `rewrite` gives it for the recipe; inputs: [1, H, W, 3] each, read more than once.
    """
    graph, corrections = corrected_graph(recipe, spec, network, inputs)
    ranges = measure_ranges(graph, inputs) if recipe.needs_calibration else {}
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


def rewrite(model: MobileNetV2, spec: ModelSpec, equalised: bool) -> MobileNetV2:
    """The form that is converted: reformulated, its streams balanced where that is asked for."""
    network = reformulate(model, spec.input.size_hw)
    return equalise(network) if equalised else network


def tool_versions() -> dict[str, str]:
    found = {"edge-stra": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for name in TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def torch_function(network: nn.Module) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """A PyTorch network as a function of NHWC arrays."""

    def call(x: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            result: NDArray[np.float32] = network(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()
        return result

    return call


def compare_all(model: MobileNetV2, network: nn.Module, artifact: Artifact, inputs: Inputs) -> list[Comparison]:
    """Reference -> reformulated -> artifact, and reference -> artifact, which the tolerance is about."""
    classifier = bool(artifact.spec.labels)
    reference, rewritten = (outputs_of(torch_function(n), inputs) for n in (model, network))
    produced = outputs_of(Predictor(artifact), inputs)
    label = f"tflite {artifact.quantize}"
    return [
        compare(("reference", "reformulated"), reference, rewritten, classifier),
        compare(("reformulated", label), rewritten, produced, classifier),
        compare(("reference", label), reference, produced, classifier),
    ]


def export(request: Request, say: Say = lambda line: None) -> Exported:
    """Writes OUT/NAME.QUANTIZE.tflite and .json, or nothing.

    Raises EdgeStraError: ParityError where the artifact does not agree with its PyTorch model.
    """
    if request.target != "tflite":
        raise ModelError(f"unknown target {request.target!r}; the targets are tflite")
    recipe = adjust(request.quantize, request.ranges, request.bias_correction, request.equalise)
    spec = get_spec(request.model)
    path = request.out / f"{request.model}.{request.quantize}.tflite"
    check_output(path, request.overwrite)
    check_output(manifest_path(path), request.overwrite)
    say(f"loading {request.model}")
    model, weights = load_model(request.model, request.weights)
    network = rewrite(model, spec, recipe.equalise)
    say("calibrating and converting" if recipe.needs_pictures else "converting")
    graph, statistics = calibrated_graph(request, spec, recipe, network)
    inputs, pictures = parity_inputs(spec, request.pictures or request.calibration)
    say("quantizing and comparing with PyTorch")
    data = embed(quantize(graph, recipe, statistics), spec, request.quantize)
    manifest = {
        "format": FORMAT,
        "target": "tflite",
        "quantize": request.quantize,
        "recipe": recipe.name,
        "settings": asdict(recipe.settings),
        "model": spec.to_json(),
        "weights": weights,
        "calibration": statistics.source if statistics else None,
        "tools": tool_versions(),
    }
    return keep_if_equal(path, data, manifest, pictures, model, network, inputs)


def keep_if_equal(
    path: Path,
    data: bytes,
    manifest: dict[str, Any],
    pictures: dict[str, Any],
    model: MobileNetV2,
    network: nn.Module,
    inputs: Inputs,
) -> Exported:
    """Judges the artifact in a hidden folder beside its place and moves it there, with its manifest, if it passes."""
    try:
        with tempfile.TemporaryDirectory(prefix=".edge-stra-", dir=path.parent) as folder:
            candidate = Path(folder) / path.name
            candidate.write_bytes(data)
            artifact = open_artifact(candidate)
            comparisons = compare_all(model, network, artifact, inputs)
            failures = check(
                artifact.quantize, artifact.spec, comparisons[0], comparisons[2], is_random(manifest["weights"])
            )
            if failures:
                raise ParityError(f"the artifact does not agree with PyTorch and is not kept: {'; '.join(failures)}")
            report = {"pictures": pictures, "comparisons": [c.to_json() for c in comparisons]}
            manifest = manifest | {"sha256": sha256_of(candidate), "bytes": len(data), "parity": report}
            manifest_path(candidate).write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
            os.replace(candidate, path)
            os.replace(manifest_path(candidate), manifest_path(path))
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror or error}") from error
    return Exported(path, manifest, comparisons)
