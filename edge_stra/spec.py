"""The frozen words that everything else speaks in. Imports nothing of ours.

Errors (catch `EdgeStraError` for all):

    EdgeStraError
      ModelError      an unknown model, or weights that do not fit it
      DataError       images or calibration data that can't be used
      ArtifactError   an artifact or manifest that is damaged, unknown or does not match
      ParityError     an artifact that does not agree with its PyTorch model
      OutputError     a place that can't be written, or that holds something already
      MissingError    a package or file that is not installed; the message says how to add it
        BrokenError   a package that is installed and does not load; the message says why
      SourceError     a camera, video or stream that can't be opened or read
      GalleryError    a gallery that can't be reached, is damaged, or is of another model
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNSURE = "unsure"  # what the apps call a face below their threshold: no label may be called so
FER_LABELS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
IMAGENET_MEAN_RGB = (0.485, 0.456, 0.406)
IMAGENET_STD_RGB = (0.229, 0.224, 0.225)


class EdgeStraError(Exception):
    """The root of this project's errors: one line that says what was expected, what came, what to do."""


class ModelError(EdgeStraError):
    pass


class DataError(EdgeStraError):
    pass


class ArtifactError(EdgeStraError):
    pass


class ParityError(EdgeStraError):
    pass


class OutputError(EdgeStraError):
    pass


class MissingError(EdgeStraError):
    pass


class BrokenError(MissingError):
    pass


class SourceError(EdgeStraError):
    pass


class GalleryError(EdgeStraError):
    pass


def is_absent(error: ImportError, module: str) -> bool:
    """Whether `import module` failed because it is not installed, and not because something below it does not load."""
    return isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")


def first_line(error: BaseException) -> str:
    """What a library's error says first, at most 160 characters: for a message of one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


@dataclass(frozen=True)
class InputSpec:
    """How pixels become the input tensor [1, H, W, 3].

    The picture is resized to `size_hw` (whole, without keeping its aspect), made grey and repeated to three
    channels where `color` is "grey", divided by 255, and normalised with mean and std in RGB order.
    """

    size_hw: tuple[int, int]
    color: str  # "rgb" or "grey"
    mean_rgb: tuple[float, float, float] = IMAGENET_MEAN_RGB
    std_rgb: tuple[float, float, float] = IMAGENET_STD_RGB

    def check(self, x: NDArray[np.float32]) -> None:
        """Raises DataError where `x` is not one picture as `edge_stra.preprocess.to_input` makes it."""
        wanted = (1, *self.size_hw, 3)
        if not isinstance(x, np.ndarray) or x.shape != wanted or x.dtype != np.float32:
            came = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
            raise DataError(
                f"the input must be a numpy array, float32 {wanted}, but is {came}; edge_stra.preprocess makes it"
            )


@dataclass(frozen=True)
class NetworkSpec:
    """What of a network's architecture leaves no trace in its weights. The defaults are this project's own models."""

    stem_stride: int = 2  # of the first conv; the paper's network for 44x44 has 1
    last_stage_stride: int = 1  # of the 160-channel stage; the usual MobileNetV2 has 2 (paper, section 4: 1)
    mode_interaction: bool = True  # of the StRA block (`edge_stra.models.attention`)
    batch_norm_eps: float = 1e-5  # torch's; TensorFlow's is 1e-3

    @staticmethod
    def from_json(data: dict[str, Any]) -> NetworkSpec:
        """Of entries that are each optional. Raises ValueError, or TypeError for unknown ones."""
        found = NetworkSpec(**data)
        if any(
            type(stride) is not int or stride not in (1, 2) for stride in (found.stem_stride, found.last_stage_stride)
        ):
            raise ValueError("stem_stride and last_stage_stride must be 1 or 2")
        if type(found.mode_interaction) is not bool:
            raise ValueError("mode_interaction must be true or false")
        if not isinstance(found.batch_norm_eps, int | float) or not 0 < found.batch_norm_eps < 1:
            raise ValueError("batch_norm_eps must be above 0 and below 1")
        return found


@dataclass(frozen=True)
class ModelSpec:
    """What a model is for, what goes in and out, and what its weights don't tell. `labels` is empty for an embedder."""

    name: str
    task: str  # "fer" or "reid"
    input: InputSpec
    labels: tuple[str, ...]
    output: str  # "logits" or "embedding"
    network: NetworkSpec = NetworkSpec()

    def to_json(self) -> dict[str, Any]:
        """As a file holds it: lists, not tuples; without `network` where that is this project's own."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        if self.network == NetworkSpec():  # files from before it was known, and those shipped, have the same bytes
            del plain["network"]
        return plain

    @staticmethod
    def from_json(data: dict[str, Any]) -> ModelSpec:
        """The inverse of `to_json`. Raises ArtifactError where a field is missing or of a wrong type."""
        try:
            pixels = data["input"]
            height, width = pixels["size_hw"]
            mean = tuple(float(v) for v in pixels["mean_rgb"])
            std = tuple(float(v) for v in pixels["std_rgb"])
            if not isinstance(data["labels"], list | tuple) or not all(math.isfinite(v) for v in (*mean, *std)):
                raise ValueError("labels must be a list, mean and std finite numbers")
            if type(height) is not int or type(width) is not int:
                raise ValueError(f"size_hw must be two whole numbers, but is {pixels['size_hw']!r}")
            if (
                len(mean) != 3
                or len(std) != 3
                or min(std) <= 0
                or not 8 <= min(height, width) <= max(height, width) <= 4096
            ):
                raise ValueError("sizes must be 8 to 4096, mean and std three numbers each, std above 0")
            if pixels["color"] not in ("rgb", "grey") or data["output"] not in ("logits", "embedding"):
                raise ValueError(f"unknown color {pixels['color']!r} or output {data['output']!r}")
            if data["output"] == "logits" and not data["labels"]:
                raise ValueError("logits must have labels, but there are none")
            return ModelSpec(
                name=str(data["name"]),
                task=str(data["task"]),
                input=InputSpec((height, width), pixels["color"], mean, std),  # type: ignore[arg-type]
                labels=tuple(str(label) for label in data["labels"]),
                output=data["output"],
                network=NetworkSpec.from_json(data.get("network", {})),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ArtifactError(f"the model specification must be complete, but: {error!r}; export it again") from error


@dataclass(frozen=True)
class Rule:
    """One line of a recipe: operators whose output tensor's name matches `scope` are done in `kind`.

    kind: "int8" and "int16" (static, per-channel weights of 8 bits), "int8-tensor" (with one scale for all channels),
    "dynamic8" (weights of 8 bits,
    activations quantized while running), "float16" (weights alone), "float" (left as they are).
    Later rules win.
    """

    scope: str
    operators: tuple[str, ...]
    kind: str


@dataclass(frozen=True)
class Settings:
    """The switches that an artifact was made with, as its manifest records them.

    ranges: how those of 8-bit activations were chosen (`edge_stra.calibration.ranges`), None where there are none.
    """

    ranges: str | None
    bias_correction: bool
    equalise: bool

    def __str__(self) -> str:
        marks = {"bias correction": self.bias_correction, "equalisation": self.equalise}
        words = [f"ranges {self.ranges}"] if self.ranges else []
        return ", ".join(words + [f"{what} {'on' if on else 'off'}" for what, on in marks.items()])


@dataclass(frozen=True)
class Recipe:
    """How a float32 graph is quantized; data, applied by `edge_stra.calibration.quantize`.

    ranges, correct_bias and equalise are what a user may switch (`edge_stra.calibration.recipes.adjust`).
    """

    name: str
    rules: tuple[Rule, ...]
    correct_bias: bool = False
    ranges: str = "minmax"
    equalise: bool = False

    @property
    def needs_calibration(self) -> bool:
        return any(rule.kind.startswith("int") for rule in self.rules)

    @property
    def quantizes_weights(self) -> bool:
        """Whether some weights become int8."""
        return self.needs_calibration or any(rule.kind == "dynamic8" for rule in self.rules)

    @property
    def needs_pictures(self) -> bool:
        return self.needs_calibration or self.correct_bias

    @property
    def settings(self) -> Settings:
        return Settings(self.ranges if self.needs_calibration else None, self.correct_bias, self.equalise)


@dataclass(frozen=True)
class Statistics:
    """Everything that static quantization needs to know of data.

    low_high: smallest and largest value of each float tensor of the graph, by name. corrections: what is added
    to the bias of each conv or linear, float32 [channels], by module name (empty where the recipe has none).
    source: count and SHA-256 of the pictures. settings: what they were measured for; None where nobody asks.
    """

    low_high: dict[str, tuple[float, float]]
    corrections: dict[str, NDArray[np.float32]]
    source: dict[str, Any]
    settings: Settings | None = None
