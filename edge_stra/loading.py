"""A model's name and a source of weights -> the network in evaluation mode, and what a manifest says of it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from torch import nn

from edge_stra.models.attention import options_of
from edge_stra.models.mobilenetv2 import MobileNetV2
from edge_stra.models.random_weights import SEED, random_model
from edge_stra.models.registry import create_model, get_spec
from edge_stra.models.weights import fit_weights, read_weights
from edge_stra.shipped import shipped_weights
from edge_stra.spec import ModelError, ModelSpec


def state_sha256(model: nn.Module) -> str:
    """A hash of all tensors by name, whatever file they came from."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            digest.update(name.encode() + b"\0" + value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def is_random(weights: dict[str, Any]) -> bool:
    """Whether a manifest's `weights` are the seeded random ones."""
    return str(weights["source"]).startswith("random")


def load_model(name: str, weights: str | None, own: ModelSpec | None = None) -> tuple[MobileNetV2, dict[str, Any]]:
    """The network with weights from a file, "random", or (None) those that are shipped.

    `own`: the specification of the weights, where not the model's: as many classes as it has labels, and its network. A
    StRA block has the modes, window and hidden channels that the weights have. Returns it with {"source", "sha256"}.
    Raises ModelError for an unknown name, where nothing is shipped, and where a file does not fit.
    """
    spec = own or get_spec(name)
    classes = len(spec.labels) or None
    if weights == "random":
        model, source = random_model(name, classes=classes, network=spec.network), f"random, seed {SEED}"
    else:
        path = Path(weights) if weights else shipped_weights(name)
        if path is None:
            raise ModelError(
                f"no weights are shipped for {name}; give --weights FILE, or --weights random for a benchmark"
            )
        state, source = read_weights(path), f"file {path.name}" if weights else "shipped"
        model = create_model(name, classes=classes, block=options_of(state), network=spec.network).eval()
        fit_weights(model, state, path, name)
    return model, {"source": source, "sha256": state_sha256(model)}
