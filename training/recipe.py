"""Recipes: what a training run does, as data. A recipe is a JSON file; those of this package go by name."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from edge_stra.artifact import MAX_JSON_BYTES
from edge_stra.spec import ModelError

Size = tuple[int, int]
COUNTS = ("epochs", "batch", "every")  # at least 1
SHARES = (
    "dropout",
    "ema_decay",
    "erase",
    "erase_area",
    "label_smoothing",
    "mix",
    "teacher_share",
    "warmup_fraction",
)  # 0 to 1
CHANGES = ("scale", "brightness", "contrast")  # 0 to below 1: at 1 a picture vanishes, beyond it turns over
T = TypeVar("T")


@dataclass(frozen=True)
class Augmentation:
    """Random changes of each picture; a fraction is of the picture's side, or either way of 1."""

    mirror: bool = True
    degrees: float = 0.0  # rotation, at most this either way
    zoom: float = 1.0  # fixed: 48/44 shows 44 of 48 pixels, as a crop does
    scale: float = 0.0  # random zoom
    translate: float = 0.0
    brightness: float = 0.0  # gain
    contrast: float = 0.0
    erase: float = 0.0  # chance of one erased rectangle
    erase_area: float = 0.2  # at most this share of the picture
    mix: float = 0.0  # at most this share of another picture, and of its label, mixed in; fer alone


@dataclass(frozen=True)
class Stage:
    """Epochs at one picture size; the first `frozen` blocks of features keep their weights and statistics."""

    epochs: int
    size: Size
    frozen: int = 0


@dataclass(frozen=True)
class Schedule:
    """The learning rate's factor over the run.

    one_cycle: up in a straight line for `warmup_fraction` of the steps, then down a cosine to 1e-3 of the peak.
    steps: times `factor` every `every` epochs, from epoch `after` on.
    """

    kind: str = "one_cycle"
    warmup_fraction: float = 0.1
    factor: float = 1.0
    every: int = 1
    after: int = 0


@dataclass(frozen=True)
class Recipe:
    """One training run. Raises ModelError, through `load_recipe`, for what it does not know."""

    task: str  # fer | reid
    stages: tuple[Stage, ...]
    batch: int  # over all processes
    stored: Size  # height, width in which pictures are kept in memory
    learning_rate: float
    schedule: Schedule = field(default_factory=Schedule)
    augment: Augmentation = field(default_factory=Augmentation)
    optimizer: str = "adamw"  # adamw | adam | sgd
    momentum: float = 0.9  # of sgd
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    diversity_weight: float = 1.0  # the paper's for both tasks
    triplet_weight: float = 0.0
    identities_per_batch: int = 0  # 0: plain shuffling; else this many identities, batch / identities crops of each
    teacher_share: float = 0.0  # of the target: what `--teacher` says; the label is the rest of it; fer alone
    dropout: float = 0.0
    ema_decay: float = 0.0  # 0: no moving average
    mean_of_last: int = 0  # epochs whose moving averages the mean is of; epochs + 1: the start too; 0: no mean
    sam_rho: float = 0.0  # how far SAM looks uphill; 0: not at all (training/sharpness.py)
    precision: str = "bf16"  # bf16: mixed, weights in float32 | fp32
    quantized: bool = False  # quantization-aware: int8 weights and activations in the forward pass
    note: str = field(default="", compare=False)  # for people: runs of one recipe may differ in it

    @property
    def epochs(self) -> int:
        return sum(stage.epochs for stage in self.stages)

    def stage_of(self, epoch: int) -> Stage:
        for stage in self.stages:
            if epoch < stage.epochs:
                return stage
            epoch -= stage.epochs
        return self.stages[-1]


def load_recipe(name: str) -> Recipe:
    """A recipe by its name in this package, or from a JSON file. Raises ModelError."""
    path = Path(name)
    if path.suffix == ".json":
        if not path.is_file():
            raise ModelError(f"{path} must be a recipe, but there is no such file")
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelError(f"{path} must be a recipe of at most {MAX_JSON_BYTES >> 20} MiB, but is larger")
        text = path.read_bytes()
    else:
        folder = resources.files("edge_stra.training").joinpath("recipes")
        names = sorted(p.name.removesuffix(".json") for p in folder.iterdir() if p.name.endswith(".json"))
        if name not in names:
            raise ModelError(f"unknown recipe {name!r}; the recipes are {', '.join(names)}, or give a .json file")
        text = folder.joinpath(f"{name}.json").read_bytes()
    try:
        data = json.loads(text)  # of bytes: UTF-8, or UTF-16 as some Windows shells write it
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{name} must be a recipe in JSON, but can't be parsed: {error}") from error
    return parse_recipe(data, name)


def parse_recipe(data: Any, name: str) -> Recipe:
    """A recipe from what its JSON holds. Raises ModelError, naming the entry that does not fit."""
    if not isinstance(data, dict):
        raise ModelError(f"{name} must be a recipe, a JSON object, but is {type(data).__name__}")
    data = dict(data)
    stages = data.get("stages", [])
    if not isinstance(stages, list) or not stages:
        raise ModelError(f"{name} must list its stages, like [{{'epochs': 10, 'size': [64, 64]}}], but has {stages!r}")
    parsed: dict[str, Any] = {"stages": tuple(build(Stage, stage, f"{name}, a stage") for stage in stages)}
    for key, kind in (("schedule", Schedule), ("augment", Augmentation)):
        if key in data:
            parsed[key] = build(kind, data[key], f"{name}, {key}")
    recipe = build(Recipe, data | parsed, name)
    choices = {"task": ("fer", "reid"), "optimizer": ("adamw", "adam", "sgd"), "precision": ("bf16", "fp32")}
    for key, allowed in choices.items():
        if getattr(recipe, key) not in allowed:
            raise ModelError(f"{name}: {key} must be one of {', '.join(allowed)}, but is {getattr(recipe, key)!r}")
    if recipe.schedule.kind not in ("one_cycle", "steps"):
        raise ModelError(f"{name}: the schedule must be one_cycle or steps, but is {recipe.schedule.kind!r}")
    if recipe.identities_per_batch and recipe.batch % recipe.identities_per_batch:
        raise ModelError(
            f"{name}: batch must be a multiple of identities_per_batch, but {recipe.batch} is none of "
            f"{recipe.identities_per_batch}"
        )
    if recipe.task == "reid" and recipe.batch < 2:
        raise ModelError(f"{name}: batch must be at least 2 for people, whose head is normalised over it, but is 1")
    if recipe.mean_of_last > recipe.epochs + 1:
        raise ModelError(
            f"{name}: mean_of_last must be at most {recipe.epochs + 1}, one for each epoch and one for the start, but "
            f"is {recipe.mean_of_last}"
        )
    soft = {"teacher_share": recipe.teacher_share, "mix": recipe.augment.mix}  # targets that are no single label
    for key, part in soft.items():
        if part and (recipe.task == "reid" or recipe.triplet_weight or recipe.identities_per_batch):
            raise ModelError(f"{name}: {key} serves fer alone, without triplets and identities_per_batch")
    if recipe.dropout and recipe.task == "reid":
        raise ModelError(f"{name}: dropout serves fer alone: the head of reid has none")
    if recipe.augment.mix and recipe.batch % 2:
        raise ModelError(f"{name}: mix takes pictures in pairs, so batch must be even, but is {recipe.batch}")
    return recipe


def build(kind: type[T], data: Any, name: str) -> T:
    """A dataclass of numbers, words and sizes from a JSON object. Raises ModelError for unknown or missing entries."""
    if not isinstance(data, dict):
        raise ModelError(f"{name} must be a JSON object, but is {data!r}")
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(data) - set(known)):
        raise ModelError(f"{name} has the unknown entry {unknown[0]!r}; the entries are {', '.join(known)}")
    values = {key: check_value(value, str(known[key].type), key, f"{name}: {key}") for key, value in data.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise ModelError(f"{name} is not whole: {str(error).split('__init__() ')[-1]}") from error


def check_value(value: Any, kind: str, key: str, name: str) -> Any:
    """`value` where it is of the kind that the field `key` names, and in its range. Raises ModelError."""
    if kind == "Size":
        if not (isinstance(value, list) and len(value) == 2 and all(type(v) is int and v > 0 for v in value)):
            raise ModelError(f"{name} must be [height, width] in pixels, but is {value!r}")
        return tuple(value)
    allowed = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}.get(kind)
    if allowed and (type(value) not in allowed or (not isinstance(value, str) and value < 0)):
        raise ModelError(f"{name} must be of type {kind}, not below 0, but is {value!r}")
    if key in COUNTS and value < 1:
        raise ModelError(f"{name} must be at least 1, but is {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ModelError(f"{name} must be a finite number, but is {value!r}")
    if key in CHANGES and value >= 1:
        raise ModelError(f"{name} must be below 1, but is {value!r}")
    if key == "zoom" and value == 0:
        raise ModelError(f"{name} must be above 0, but is {value!r}")
    if key in SHARES and value > 1:
        raise ModelError(f"{name} must be a share, 0 to 1, but is {value!r}")
    return value
