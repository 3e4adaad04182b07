"""The targets, one row each: how an artifact is called, and which modules make it, read it back and run it.

Modules are named, not imported: a device has no converters, and whoever makes a .tflite needs no coremltools.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from edge_stra.spec import ArtifactError, ModelError


@dataclass(frozen=True)
class Target:
    """What `edge-stra export --target NAME` writes: `MODEL.PRECISION` and `suffix`.

    builder: a module with `check(request)` and `build(request, spec, model, say)` (`edge_stra.export.Build`). reader:
    a module with `read_embedded(path)`, specification and precision from inside the file, and `digest(path)`.
    predictor: module and class, called with an artifact and a number of threads. The first of `precisions` is the
    default.
    """

    name: str
    suffix: str
    precisions: tuple[str, ...]
    tools: tuple[str, ...]
    builder: str
    reader: str
    predictor: str

    def load_builder(self) -> Any:
        return import_module(self.builder)

    def load_reader(self) -> Any:
        return import_module(self.reader)

    def load_predictor(self) -> Any:
        module, name = self.predictor.split(":")
        return getattr(import_module(module), name)


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(
            "tflite",
            ".tflite",
            ("int8", "int8-full", "dynamic", "fp16", "fp32"),
            ("litert-torch", "ai-edge-quantizer", "ai-edge-litert"),
            builder="edge_stra.builds.tflite",
            reader="edge_stra.targets.tflite",
            predictor="edge_stra.runtime:Predictor",
        ),
        Target(
            "coreml",
            ".mlpackage",
            ("fp16", "fp32", "w8", "w8a8", "palette6", "palette4"),
            ("coremltools",),
            builder="edge_stra.builds.coreml",
            reader="edge_stra.targets.coreml",
            predictor="edge_stra.targets.coreml:CoreMLPredictor",
        ),
        Target(
            "onnx",
            ".onnx",
            ("int8", "fp16", "fp32"),
            ("onnx", "onnxscript", "onnxsim", "onnxruntime"),
            builder="edge_stra.builds.onnx",
            reader="edge_stra.targets.onnx",
            predictor="edge_stra.targets.onnx_runtime:OnnxPredictor",
        ),
    )
}


def get_target(name: str) -> Target:
    """Raises ModelError for an unknown one."""
    if name not in TARGETS:
        raise ModelError(f"unknown target {name!r}; the targets are {', '.join(TARGETS)}")
    return TARGETS[name]


def check_precision(target: Target, precision: str) -> None:
    """Raises ModelError for a precision that the target has not."""
    if precision not in target.precisions:
        raise ModelError(
            f"unknown precision {precision!r} for {target.name}; the precisions are {', '.join(target.precisions)}"
        )


def target_of(path: Path) -> Target:
    """The target of an artifact by its name. Raises ArtifactError."""
    for target in TARGETS.values():
        if path.suffix == target.suffix:
            return target
    suffixes = ", ".join(target.suffix for target in TARGETS.values())
    came = f"its name ends in {path.suffix or 'nothing'!r}" if path.is_file() else "there is no such file"
    raise ArtifactError(f"{path} must be an artifact ({suffixes}), but {came}")
