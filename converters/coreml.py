"""Reformulated PyTorch network -> ML Program in a .mlpackage: pixels in, label or embedding out.

What the program holds, around the network:

    image, bytes 0..255 -> (p - c) / 64 -> stem -> ... -> head -> logits -> softmax -> classify
                                                                 embedding of unit length

edge_stra/converters/coreml_network.py says what c is, and what else is done to the network for half floats.

jit.trace, not torch.export: coremltools 9 does not read the programs that torch 2.13 exports ("Unsupported fx node
alias").
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from edge_stra.converters.coreml_activations import measure, quantize_activations
from edge_stra.converters.coreml_network import PixelNetwork
from edge_stra.converters.coreml_package import name_logits, write_package
from edge_stra.converters.coreml_weights import compress_weights
from numpy.typing import NDArray

from edge_stra import __version__
from edge_stra.artifact import inner_spec
from edge_stra.extras import install_command
from edge_stra.models.mobilenetv2 import MobileNetV2
from edge_stra.quiet import quiet_tools
from edge_stra.spec import DataError, MissingError, ModelError, ModelSpec
from edge_stra.targets.coreml import INNER_SPEC, INPUT, to_pixels

LABEL, PROBABILITIES, EMBEDDING = "classLabel", "probabilities", "embedding"
IOS_VERSIONS = (16, 17, 18)
# Precision -> the oldest iOS that runs it, and why. Source: the operator sets that coremltools 9 has for each iOS
# (coremltools/converters/mil/mil/ops/defs/iOS16/constexpr_ops.py, iOS17/quantization_ops.py).
MINIMUM_IOS: dict[str, tuple[int, str]] = {
    "fp32": (16, "the oldest that edge-stra serves; ML Programs came with iOS 15"),
    "fp16": (16, "the oldest that edge-stra serves; ML Programs came with iOS 15"),
    "w8": (16, "constexpr_affine_dequantize came with iOS 16"),
    "palette4": (16, "constexpr_lut_to_dense came with iOS 16"),
    "palette6": (16, "constexpr_lut_to_dense came with iOS 16"),
    "w8a8": (17, "quantize and dequantize came with iOS 17"),
}
LICENCE = "Weights that come with edge-stra: research use only, for what their training data allow. Yours: yours."
OUTPUTS = {
    LABEL: "The most probable label.",
    f"{LABEL}_probs": "The probability of each label, 0 to 1.",
    EMBEDDING: "512 numbers of unit length.",
}
DESCRIPTIONS = {
    "fer": "Facial expression of one cropped face, as one of its labels.",
    "reid": "Re-identification: the crop of one person to an embedding of unit length, compared by Euclidean distance.",
}


def check_request(spec: ModelSpec, quantize: str, ios: int | None, outputs: int) -> int:
    """The oldest iOS that the program will be for. Raises ModelError where the request can't be met.

    outputs: how many numbers the network gives.
    """
    if quantize not in MINIMUM_IOS:
        raise ModelError(f"unknown precision {quantize!r} for coreml; the precisions are {', '.join(MINIMUM_IOS)}")
    least, reason = MINIMUM_IOS[quantize]
    chosen = least if ios is None else ios
    if chosen < least:
        raise ModelError(f"{quantize} needs iOS {least} or later, but iOS {chosen} is asked for: {reason}")
    if chosen not in IOS_VERSIONS:
        raise ModelError(f"--ios must be one of {', '.join(map(str, IOS_VERSIONS))}, but is {chosen}")
    if spec.labels and len(spec.labels) != outputs:
        raise ModelError(f"{spec.name} must have one label for each output, but has {len(spec.labels)} for {outputs}")
    return chosen


def import_coremltools() -> Any:
    """The package. Raises MissingError where it is not installed."""
    try:
        with quiet_tools():
            import coremltools
    except ImportError as error:
        raise MissingError(f"the coreml target needs coremltools; run: {install_command('coreml')}") from error
    return coremltools


def float_program(network: MobileNetV2, spec: ModelSpec, half: bool, ios: int) -> Any:
    """The uncompressed program as coremltools' MLModel, in float32 or float16. Raises ModelError, MissingError."""
    ct = import_coremltools()
    channels, classifier = (1 if spec.input.color == "grey" else 3), bool(spec.labels)
    example = torch.zeros(1, channels, *spec.input.size_hw)
    layout = ct.colorlayout.GRAYSCALE if channels == 1 else ct.colorlayout.RGB
    output = PROBABILITIES if classifier else EMBEDDING
    pixels = PixelNetwork(network, spec.input, classifier, half).eval()
    with quiet_tools(), torch.no_grad():
        return ct.convert(
            torch.jit.trace(pixels, example, check_trace=False),  # type: ignore[no-untyped-call]
            convert_to="mlprogram",
            inputs=[ct.ImageType(INPUT, example.shape, color_layout=layout)],
            outputs=[ct.TensorType(output, dtype=np.float32)],
            classifier_config=ct.ClassifierConfig(list(spec.labels), LABEL, PROBABILITIES) if classifier else None,
            minimum_deployment_target=getattr(ct.target, f"iOS{ios}"),
            compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
            skip_model_load=True,
        )


def weights_of(program: Any) -> Path:
    """The file with the weights of an MLModel."""
    return Path(program.weights_dir) / "weight.bin"


def describe(description: Any, spec: ModelSpec, quantize: str, ios: int, program_sha256: str) -> None:
    """Writes the metadata into a ModelDescription.

    With the program's hash in it a gallery can be bound to specification and weights alone, which compiling on the
    phone keeps: scales of activations are in neither.
    """
    size, pixels = "x".join(map(str, spec.input.size_hw)), spec.input
    inner = inner_spec(spec, "coreml", quantize) | {"ios": ios, "program_sha256": program_sha256}
    metadata = description.metadata
    metadata.author, metadata.versionString, metadata.license = "edge-stra", __version__, LICENCE
    metadata.shortDescription = f"{DESCRIPTIONS[spec.task]} {spec.name}, {quantize}, for iOS {ios} and later."
    metadata.userDefined.pop("com.github.apple.coremltools.conversion_date", None)  # equal input, equal bytes
    metadata.userDefined[INNER_SPEC] = json.dumps(inner)
    metadata.userDefined["labels"] = ",".join(spec.labels)
    metadata.userDefined["preprocessing"] = (
        f"inside: give a {pixels.color} picture of {size} (height x width), bytes 0 to 255; the program itself "
        f"subtracts the mean {pixels.mean_rgb} and divides by the deviation {pixels.std_rgb} of 0 to 1"
    )
    description.input[0].shortDescription = f"The crop, {pixels.color}, {size} (height x width); not normalised."
    for output in description.output:
        output.shortDescription = OUTPUTS[output.name]


def convert(
    network: MobileNetV2,
    spec: ModelSpec,
    quantize: str,
    out: Path,
    ios: int | None = None,
    inputs: list[NDArray[np.float32]] | None = None,
) -> None:
    """Writes the folder `out`, whose name ends in .mlpackage and which must not exist.

    network: reformulated, [1, 3, H, W] normalised -> [1, K]. ios: the oldest iOS to serve, by default the oldest that
    the precision can. inputs: for w8a8, normalised [1, H, W, 3] each, at least one; others need none. Raises
    ModelError for a request that can't be met, DataError without inputs, MissingError without coremltools.
    """
    with torch.no_grad():
        outputs = network(torch.zeros(1, 3, *spec.input.size_hw)).shape[1]
    ios = check_request(spec, quantize, ios, outputs)
    if quantize == "w8a8" and not inputs:
        raise DataError("w8a8 needs pictures that show how large activations get; give --calibration FOLDER")
    program = float_program(network, spec, quantize != "fp32", ios)
    with quiet_tools():
        if quantize == "w8a8" and inputs:
            pictures = [to_pixels(x, spec, out) for x in inputs]
            program = quantize_activations(program, measure(program.get_spec(), weights_of(program), pictures))
        program = compress_weights(program, quantize)
    model = program.get_spec()
    if spec.labels:
        name_logits(model.mlProgram)
    digest = hashlib.sha256(model.mlProgram.SerializeToString(deterministic=True)).hexdigest()
    describe(model.description, spec, quantize, ios, digest)
    write_package(out, model, weights_of(program))
