"""The models by name, in the convention `architecture.tag`: `mobilenetv2_stra.fer`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from edge_stra.models.attention import StRA
from edge_stra.models.mobilenetv2 import ClassificationHead, EmbeddingHead, MobileNetV2, Slot, depthwise_slot
from edge_stra.spec import FER_LABELS, InputSpec, ModelError, ModelSpec, NetworkSpec

DEFAULT = NetworkSpec()


@dataclass(frozen=True)
class Architecture:
    width: float
    slot: Slot


ARCHITECTURES = {
    "mobilenetv2": Architecture(1.0, depthwise_slot),
    "mobilenetv2_stra": Architecture(1.0, StRA),
    "mobilenetv2_140": Architecture(1.4, depthwise_slot),
    "mobilenetv2_140_stra": Architecture(1.4, StRA),
}
# tag -> (input, labels, output). FER's 88x88 with the stem's stride 2 costs what the paper's 44x44 with
# stride 1 does (the maps after the stem are the same) and starts from ImageNet weights.
TAGS: dict[str, tuple[InputSpec, tuple[str, ...], str]] = {
    "fer": (InputSpec((88, 88), "grey"), FER_LABELS, "logits"),
    "reid": (InputSpec((256, 128), "rgb"), (), "embedding"),
}
MODEL_NAMES = tuple(f"{architecture}.{tag}" for architecture in ARCHITECTURES for tag in TAGS)


def get_spec(name: str) -> ModelSpec:
    """What goes in and out of a model. Raises ModelError for an unknown name."""
    if name not in MODEL_NAMES:
        raise ModelError(f"unknown model {name!r}; the models are {', '.join(MODEL_NAMES)}")
    tag = name.split(".")[1]
    pixels, labels, output = TAGS[tag]
    return ModelSpec(name, tag, pixels, labels, output)


def create_model(
    name: str,
    dropout: float = 0.0,
    classes: int | None = None,
    block: Mapping[str, Any] | None = None,
    network: NetworkSpec = DEFAULT,
) -> MobileNetV2:
    """The untrained network in training mode; `classes`: as many as the model has labels, where not given.

    `block`: arguments of the StRA block other than the paper's, as `options_of` reads them from weights; a plain
    network has none. `network`: what weights don't tell. Raises ModelError for an unknown name, and where no such block
    can be.
    """
    spec = get_spec(name)
    architecture = ARCHITECTURES[name.split(".")[0]]
    count = classes or len(spec.labels)
    head = partial(ClassificationHead, classes=count, dropout=dropout) if spec.labels else EmbeddingHead
    slot = architecture.slot
    if slot is StRA:
        slot = partial(StRA, mode_interaction=network.mode_interaction, **(block or {}))
    elif not network.mode_interaction:
        raise ModelError(f"{name} has no modes that could interact, but its specification has mode_interaction false")
    model = MobileNetV2(head, architecture.width, slot, network.stem_stride, network.last_stage_stride)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eps = network.batch_norm_eps
    return model


def count_parameters(model: nn.Module) -> int:
    """Parameters without the classifier (the paper counts them so); an embedding head counts."""
    head = {id(p) for m in model.modules() if isinstance(m, ClassificationHead) for p in m.parameters()}
    return sum(p.numel() for p in model.parameters() if id(p) not in head)
