"""The parity check of an artifact that exists already, against the weights it says it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edge_stra.artifact import Artifact, open_artifact
from edge_stra.export import compare_all, parity_inputs, rewrite
from edge_stra.loading import is_random, load_model
from edge_stra.models.registry import get_spec
from edge_stra.parity import Comparison, check
from edge_stra.spec import ArtifactError
from edge_stra.targets import TARGETS, check_precision


@dataclass(frozen=True)
class Recheck:
    artifact: Artifact
    network: nn.Module
    inputs: list[NDArray[np.float32]]
    comparisons: list[Comparison]
    failures: list[str]


def read_origin(artifact: Artifact) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """What the manifest says of weights and of the switches; nothing where there is none. Raises ArtifactError."""
    if artifact.manifest is None:
        return None, {}
    weights, settings = artifact.manifest.get("weights"), artifact.manifest.get("settings") or {}
    texts = [weights.get(key) for key in ("source", "sha256")] if isinstance(weights, dict) else [None]
    if not all(isinstance(text, str) for text in texts) or not isinstance(settings, dict):
        raise ArtifactError(
            f"the manifest of {artifact.path} must say what it was made from, but does not; export again"
        )
    return weights, settings


def compared_on(artifact: Artifact) -> str | None:
    """The pictures that the export compared on, where the manifest names any."""
    report = (artifact.manifest or {}).get("parity")
    pictures = report.get("pictures") if isinstance(report, dict) else None
    if not isinstance(pictures, dict) or pictures.get("kind") != "pictures":
        return None
    return f"{pictures.get('count')} pictures of {pictures.get('name')!r}"


def recheck(path: Path, weights: str | None, pictures: Path | None) -> Recheck:
    """Loads both sides and compares. Raises ArtifactError where the weights are not those of the manifest."""
    artifact = open_artifact(path)
    check_precision(TARGETS[artifact.target], artifact.quantize)
    usual = get_spec(artifact.spec.name)
    if (artifact.spec.task, artifact.spec.output) != (usual.task, usual.output):
        raise ArtifactError(f"{path} must be of the task {usual.task}, as {usual.name} is, but is not; export it again")
    if weights is None and artifact.spec != usual:
        raise ArtifactError(
            f"{path} must have the input, labels and network that {usual.name} has here, but has others; give its "
            "--weights if it was exported with --spec, else export it again"
        )
    made_from, settings = read_origin(artifact)
    if weights is None and made_from is not None and is_random(made_from):
        weights = "random"
    if weights is None and made_from is not None and made_from["source"].startswith("file"):
        raise ArtifactError(f"{path} was made from {made_from['source']}; give that file with --weights")
    model, given = load_model(artifact.spec.name, weights, artifact.spec)
    # Random weights are drawn alike everywhere, but their norms' statistics come from products, which CPUs round apart.
    drawn_alike = made_from is not None and is_random(made_from) and given["source"] == made_from["source"]
    if made_from is not None and given["sha256"] != made_from["sha256"] and not drawn_alike:
        raise ArtifactError(
            f"{path} was made from weights {made_from['sha256'][:12]}... ({made_from['source']}), but these are "
            f"{given['sha256'][:12]}... ({given['source']}); give the right --weights, or export again"
        )
    # An equalised artifact holds other numbers in its streams: without this the drift of layers would be wrong.
    network = rewrite(model, artifact.spec, bool(settings.get("equalise")))
    inputs, _ = parity_inputs(artifact.spec, pictures)
    comparisons = compare_all(model, network, artifact, inputs)
    random = is_random(given)
    failures = check(artifact, comparisons[0], comparisons[2], random_weights=random)
    if failures and pictures is None and (seen := compared_on(artifact)):
        failures.append(f"the export compared on {seen}, this check on drawn pictures: give those with --images")
    return Recheck(artifact, network, inputs, comparisons, failures)
