"""Export: weights -> reference -> reformulated -> quantized artifact, kept only where parity is proven."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_stra import __version__
from edge_stra.artifact import FORMAT, Artifact, check_output, manifest_path, open_artifact
from edge_stra.calibration.equalise import equalise
from edge_stra.data import list_pictures, spread
from edge_stra.loading import is_random, load_model
from edge_stra.models.attention import StRA
from edge_stra.models.mobilenetv2 import MobileNetV2
from edge_stra.models.registry import get_spec
from edge_stra.parity import Comparison, check, compare, outputs_of, render
from edge_stra.preprocess import load_input, to_input
from edge_stra.reformulate import reformulate
from edge_stra.runtime import make_predictor
from edge_stra.spec import DataError, InputSpec, ModelError, ModelSpec, OutputError, ParityError
from edge_stra.synthetic import synthetic_pictures
from edge_stra.targets import Target, check_precision, get_target

TOOLS = ("torch", "numpy", "opencv-python-headless")
PARITY_PICTURES, LEAST_PICTURES = 32, 8
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
    ios: int | None = None
    own_spec: ModelSpec | None = None  # of the weights, where other than the model's (`edge_stra.spec_file`)

    @property
    def spec(self) -> ModelSpec:
        return self.own_spec or get_spec(self.model)


@dataclass(frozen=True)
class Build:
    """What a target's builder gives: the network that was converted (as `rewrite` makes it), a function that writes
    the artifact at a path, and what the manifest says of how it was made."""

    network: nn.Module
    write: Callable[[Path], None]
    facts: dict[str, Any]


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
    """8 to 32 pictures of a folder or list, evenly spread; synthetic ones where there is none. Raises DataError."""
    if source is None:
        return synthetic_inputs(spec, PARITY_PICTURES, SYNTHETIC_SEED)
    paths = list_pictures(source)
    if len(paths) < LEAST_PICTURES:  # one picture of one label proves nothing
        raise DataError(
            f"{source} must hold at least {LEAST_PICTURES} pictures to compare on (and 32 to calibrate on), but has "
            f"{len(paths)}; give more, or none: then drawn ones serve"
        )
    inputs = [load_input(path, spec.input) for path in spread(paths, PARITY_PICTURES)]
    return inputs, {"kind": "pictures", "name": source.name, "count": len(inputs)}


def rewrite(model: MobileNetV2, spec: ModelSpec, equalised: bool) -> MobileNetV2:
    """The form that is converted: reformulated, its streams balanced where that is asked for."""
    network = reformulate(model, spec.input.size_hw)
    return equalise(network) if equalised else network


def tool_versions(target: Target) -> dict[str, str]:
    found = {"edge-stra": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for name in (*TOOLS, *target.tools):
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
    produced = outputs_of(make_predictor(artifact), inputs)
    label = f"{artifact.target} {artifact.quantize}"
    return [
        compare(("reference", "reformulated"), reference, rewritten, classifier),
        compare(("reformulated", label), rewritten, produced, classifier),
        compare(("reference", label), reference, produced, classifier),
    ]


def export(request: Request, say: Say = lambda line: None) -> Exported:
    """Writes OUT/NAME.QUANTIZE and its manifest, or nothing; `Target` says with which suffix.

    Raises EdgeStraError: ParityError where the artifact does not agree with its PyTorch model.
    """
    target = get_target(request.target)
    check_precision(target, request.quantize)
    builder = target.load_builder()
    builder.check(request)
    spec = request.spec
    if request.own_spec is not None and request.weights is None:
        raise ModelError(f"a specification is of weights of your own, but none are given for {request.model}")
    path = request.out / f"{request.model}.{request.quantize}{target.suffix}"
    check_output(path, request.overwrite)
    check_output(manifest_path(path), request.overwrite)
    say(f"loading {request.model}")
    model, weights = load_model(request.model, request.weights, spec)
    if request.weights not in (None, "random"):
        say(believed(spec, model))
    inputs, pictures = parity_inputs(spec, request.pictures or request.calibration)
    built: Build = builder.build(request, spec, model, say)
    manifest = {
        "format": FORMAT,
        "target": target.name,
        "quantize": request.quantize,
        **built.facts,
        "model": spec.to_json(),
        "weights": weights,
        "tools": tool_versions(target),
    }
    return keep_if_equal(path, built, manifest, pictures, model, inputs, say)


def believed(spec: ModelSpec, model: MobileNetV2) -> str:
    """What is taken for granted of weights from a file: nothing in them says it, and a slip would be silent."""
    size, pixels = " x ".join(map(str, spec.input.size_hw)), spec.input
    kind = "ImageNet's" if pixels == InputSpec(pixels.size_hw, pixels.color) else f"{pixels.mean_rgb}, {pixels.std_rgb}"
    outputs = f"; outputs, in this order: {', '.join(spec.labels)}" if spec.labels else ""
    block = model.slot_block.conv[model.slot_block.slot_index]
    facts = spec.network
    network = f"the stem at stride {facts.stem_stride}, the last stage at {facts.last_stage_stride}, batch norms' eps "
    network += f"{facts.batch_norm_eps:g}"
    if isinstance(block, StRA):
        network += f", StRA of {block.modes} modes, window {block.window}, {attention_of(block)}"
    told = f"taken to be trained on: {size} {pixels.color}, mean and deviation {kind}{outputs} (else give --spec)"
    return f"{told}; as this network: {network}"


def attention_of(block: StRA) -> str:
    if block.mode is None:
        return "without mode attention"
    return "with modes that interact" if block.mode_interaction else "with modes that do not interact"


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def advice(manifest: dict[str, Any], failures: list[str]) -> str:
    """What to do about an artifact that failed its comparison."""
    if any(failure.startswith("reformulated") for failure in failures) or manifest["quantize"] == "fp32":
        return "that is a fault of edge-stra or its tools: report it, with the weights"
    if manifest.get("calibration"):
        return "give more pictures, like those that it will see, with --calibration, or take a finer --quantize"
    return "take a finer --quantize"


def keep_if_equal(
    path: Path,
    built: Build,
    manifest: dict[str, Any],
    pictures: dict[str, Any],
    model: MobileNetV2,
    inputs: Inputs,
    say: Say,
) -> Exported:
    """Judges the artifact in a hidden folder beside its place and moves it there, with its manifest, if it passes."""
    try:
        with tempfile.TemporaryDirectory(prefix=".edge-stra-", dir=path.parent) as folder:
            candidate = Path(folder) / path.name
            built.write(candidate)
            artifact = open_artifact(candidate)
            comparisons = compare_all(model, built.network, artifact, inputs)
            failures = check(artifact, comparisons[0], comparisons[2], is_random(manifest["weights"]))
            if failures:
                say(render(comparisons))
                raise ParityError(
                    f"the artifact does not agree with PyTorch and is not kept: {'; '.join(failures)}; "
                    f"{advice(manifest, failures)}"
                )
            report = {"pictures": pictures, "comparisons": [c.to_json() for c in comparisons]}
            manifest = manifest | {"sha256": artifact.sha256, "bytes": size_of(candidate), "parity": report}
            manifest_path(candidate).write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
            if path.is_dir():  # a folder can't be replaced in one step: the old one goes when all else is done
                os.replace(path, Path(folder) / "replaced")
            os.replace(candidate, path)
            os.replace(manifest_path(candidate), manifest_path(path))
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror or error}") from error
    return Exported(path, manifest, comparisons)
