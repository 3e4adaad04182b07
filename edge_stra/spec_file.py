"""What weights of a user's own take and give, where that is not what the model of their name does: a JSON file.

    {"labels": ["happy", "sad"],
     "input": {"size_hw": [112, 112], "color": "rgb", "mean_rgb": [0.5, 0.5, 0.5], "std_rgb": [0.5, 0.5, 0.5]},
     "network": {"stem_stride": 1, "last_stage_stride": 2, "mode_interaction": false, "batch_norm_eps": 0.001}}

Each entry is optional and takes the place of the model's own. The entry `model` of a manifest has the same ones.
"""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from edge_stra.artifact import MAX_JSON_BYTES
from edge_stra.spec import UNSURE, ArtifactError, ModelError, ModelSpec, NetworkSpec

ODD = r",\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"  # files hold labels one a line, or with commas between
LABEL = re.compile(rf"[^\s{ODD}](?:[^{ODD}]{{0,62}}[^\s{ODD}])?")
MOST_LABELS = 1000
SIZES = (32, 448)  # pixels of a side: what the tests and `benchmarks/scale.py` know to be exact, with the usual strides
INPUT = ("size_hw", "color", "mean_rgb", "std_rgb")
NETWORK = tuple(field.name for field in fields(NetworkSpec))


def read_spec(path: Path, usual: ModelSpec) -> ModelSpec:
    """The specification `usual` with what a file says instead. Raises ModelError for an entry that does not fit."""
    if not path.is_file():
        raise ModelError(f"{path} must be a specification in JSON, but there is no such file")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ModelError(f"{path} must be a specification of at most {MAX_JSON_BYTES >> 20} MiB, but is larger")
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} must be a specification in JSON, but can't be parsed: {error}") from error
    entries = check_entries(path, "", data, ("labels", "input", "network"))
    pixels = check_entries(path, "input: ", entries.get("input", {}), INPUT)
    network = check_entries(path, "network: ", entries.get("network", {}), NETWORK)
    whole = usual.to_json()
    whole |= {"labels": entries.get("labels", whole["labels"]), "input": whole["input"] | pixels, "network": network}
    try:
        spec = ModelSpec.from_json(whole)
    except ArtifactError as error:
        raise ModelError(f"{path}: {str(error).removesuffix('; export it again')}") from error
    check_labels(path, spec.labels, entries.get("labels"), usual)
    mean, std = spec.input.mean_rgb, spec.input.std_rgb
    if not (0 <= min(mean) <= max(mean) <= 1 and max(std) <= 1):  # else every picture would be nearly the same
        raise ModelError(
            f"{path}: mean_rgb must be 0 to 1 and std_rgb at most 1, of pixels from 0 to 1, but are {list(mean)} and "
            f"{list(std)}; divide by 255 what is of pixels from 0 to 255"
        )
    if not SIZES[0] <= min(spec.input.size_hw) <= max(spec.input.size_hw) <= SIZES[1]:
        raise ModelError(f"{path}: size_hw must be {SIZES[0]} to {SIZES[1]} pixels, but is {list(spec.input.size_hw)}")
    return spec


def check_entries(path: Path, where: str, data: Any, known: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ModelError(f"{path}: {where}there must be a JSON object, but there is {type(data).__name__}")
    if unknown := sorted(set(data) - set(known)):
        raise ModelError(f"{path}: {where}unknown entry {unknown[0]!r}; the entries are {', '.join(known)}")
    return data


def check_labels(path: Path, labels: tuple[str, ...], given: Any, usual: ModelSpec) -> None:
    """Raises ModelError for labels that no file could hold, and for any of a model that gives embeddings."""
    if given and not usual.labels:
        raise ModelError(f"{path}: {usual.name} gives an embedding, but has labels; leave them out")
    if not usual.labels:
        return
    if not all(isinstance(label, str) for label in given or ()):
        raise ModelError(f"{path}: labels must be a list of words")
    if not 2 <= len(labels) <= MOST_LABELS or len({label.lower() for label in labels}) < len(labels):
        shown = ascii(labels[:10])
        raise ModelError(
            f"{path}: labels must be 2 to {MOST_LABELS}, each once in any case, but are {len(labels)}: {shown}"
        )
    if odd := [label for label in labels if not LABEL.fullmatch(label) or label == UNSURE]:
        raise ModelError(
            f"{path}: a label must have 1 to 64 characters, no comma or line break, and not be {UNSURE!r}, but is "
            f"{odd[0]!a}"
        )
