"""What the modes of a StRA block do on pictures: masks, attention coefficients and local output as numpy arrays.

The quantities are those of figures 3 and 4 of arXiv 2106.06672, computed by the PyTorch reference. Symbols: G modes,
K window, a map of h x w nodes (N = h*w). `edge_stra.apps.modes` draws them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_stra.loading import load_model
from edge_stra.models.attention import StRA
from edge_stra.models.mobilenetv2 import MobileNetV2
from edge_stra.models.registry import MODEL_NAMES, create_model, get_spec
from edge_stra.models.weights import model_of
from edge_stra.preprocess import read_rgb, resize_exact, softmax, to_input
from edge_stra.shipped import shipped_weights
from edge_stra.spec import ModelError, ModelSpec

Array = NDArray[np.float32]
Progress = Callable[[list[Path]], Iterable[Path]]
DIGITS = 6  # of the numbers for JSON
STRA_NAMES = tuple(name for name in MODEL_NAMES if "_stra." in name)


class Masks:
    """What is said of masks [G, h, w], those of one picture or the mean ones of a folder."""

    masks: Array

    @property
    def mask_entropy(self) -> Array:
        """[G]: the entropy of each mask, 0 (one node) to 1 (all alike)."""
        return relative_entropy(self.masks, (1, 2))

    @property
    def overlap(self) -> Array:
        """[G, G]: of each pair of masks."""
        return overlaps(self.masks)


@dataclass(frozen=True)
class Explanation(Masks):
    """One picture. output: [labels] logits or [512] embedding. masks: [G, h, w], the sum of each is 1.

    coefficients: [G, K*K, h, w], the sum over axis 1 is 1; taps by row, the centre in the middle.
    mode_local: [G, h, w], the L2 norm of each mode's share of local attention's output at each node.
    """

    spec: ModelSpec
    output: Array
    masks: Array
    coefficients: Array
    mode_local: Array

    @property
    def local(self) -> Array:
        """[h, w]: the L2 norm over all channels of local attention's output."""
        norm: Array = np.sqrt((self.mode_local**2).sum(0))
        return norm

    @property
    def probabilities(self) -> dict[str, float] | None:
        """The probability of each label, or None where the model gives an embedding."""
        if not self.spec.labels:
            return None
        return {label: float(p) for label, p in zip(self.spec.labels, softmax(self.output), strict=True)}

    @property
    def label(self) -> str | None:
        return self.spec.labels[int(self.output.argmax())] if self.spec.labels else None

    @property
    def coefficient_entropy(self) -> Array:
        """[G, h, w]: the entropy of each node's coefficients, 0 (one neighbour) to 1 (all K*K alike)."""
        return relative_entropy(self.coefficients, 1)

    @property
    def diversity_loss(self) -> float:
        """G - sum_i max_g M_i^g: 0 where the masks do not overlap."""
        return float(len(self.masks) - self.masks.max(0).sum())

    def to_json(self) -> dict[str, Any]:
        """The prediction (None for an embedding), the numbers of each mode, the masks' overlap and diversity loss."""
        said = self.probabilities
        prediction = {"label": self.label, "probabilities": plain(said)} if said else None
        modes = mask_numbers(self.masks)
        for mode, entropy in zip(modes, self.coefficient_entropy.mean((1, 2)), strict=True):
            mode["coefficient_entropy_relative"] = plain(entropy)
        return {
            "prediction": prediction,
            "modes": modes,
            "overlap": plain(self.overlap),
            "diversity_loss": plain(self.diversity_loss),
        }


@dataclass(frozen=True)
class Distribution(Masks):
    """A folder. masks: [G, h, w], the mean mask of each mode; the sum of each is 1. picture: uint8 [H, W, 3], the mean.

    overlap_with_mean: [G], the mean overlap of a single picture's mask with the mean mask: 1 where the mask is the
    same on every picture, less the more it moves. pictures: their number.
    """

    spec: ModelSpec
    masks: Array
    picture: NDArray[np.uint8]
    overlap_with_mean: Array
    pictures: int

    def to_json(self) -> dict[str, Any]:
        modes = mask_numbers(self.masks)
        for mode, same in zip(modes, self.overlap_with_mean, strict=True):
            mode["overlap_with_mean"] = plain(same)
        return {"pictures": self.pictures, "modes": modes, "overlap": plain(self.overlap)}


def load_explainable(weights: str, name: str | None) -> tuple[MobileNetV2, ModelSpec, str]:
    """The network, its specification and the source of its weights, for `edge-stra explain`.

    weights: a model's name (its shipped weights), or a file or "random" for the model `name`, which a file may say
    itself. Raises ModelError where the name is missing, unknown or another one, where the model has no StRA block, and
    what `load_model` raises.
    """
    if weights in MODEL_NAMES and name not in (None, weights):
        raise ModelError(f"{weights} and --model {name} must be one model; leave --model out, or give a weights file")
    chosen = weights if weights in MODEL_NAMES else chosen_model(weights, name)
    spec = get_spec(chosen)
    stra_of(create_model(chosen), chosen)
    if weights == chosen and shipped_weights(chosen) is None:
        raise ModelError(
            f"no weights are shipped for {chosen}; give a weights file, or `random`, with --model {chosen}"
        )
    model, origin = load_model(chosen, None if weights == chosen else weights)
    return model, spec, str(origin["source"])


def chosen_model(weights: str, name: str | None) -> str:
    """The model of a weights file or of "random". Raises ModelError where nothing says it."""
    if weights != "random" and Path(weights).is_file():
        return model_of(Path(weights), name)
    if name is None:
        raise ModelError(
            f"{weights!r} must be a weights file that is there, or a model: {', '.join(STRA_NAMES)}; "
            "`random` needs --model NAME"
        )
    return name


def stra_of(model: MobileNetV2, name: str) -> StRA:
    """The block in the slot. Raises ModelError where it is no StRA block with mode attention."""
    slot = model.slot_block.conv[model.slot_block.slot_index]
    if not isinstance(slot, StRA) or slot.mode is None:
        raise ModelError(f"the model must have modes (StRA), but {name} has none; take one of {', '.join(STRA_NAMES)}")
    return slot


def explain(model: MobileNetV2, spec: ModelSpec, x: Array) -> Explanation:
    """What the block computed on one input [1, H, W, 3], and the model's output.

    `model` is in evaluation mode. Raises ModelError where it has no StRA block, or gives numbers that are not finite.
    """
    slot, seen = stra_of(model, spec.name), list[torch.Tensor]()
    hook = slot.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        with torch.inference_mode():
            output = model(torch.from_numpy(x).permute(0, 3, 1, 2))
            attention = slot.attend(seen[0])
    finally:
        hook.remove()
    assert attention.masks is not None  # stra_of has seen to it
    height, width = seen[0].shape[2:]
    of_modes = attention.local[0].reshape(slot.modes, -1, height, width)  # (g, d, h, w)
    found = Explanation(
        spec,
        output[0].numpy(),
        attention.masks[0].reshape(slot.modes, height, width).numpy(),
        attention.coefficients[0].reshape(slot.modes, -1, height, width).numpy(),
        of_modes.norm(dim=1).numpy(),
    )
    if not all(np.isfinite(a).all() for a in (found.output, found.masks, found.coefficients, found.mode_local)):
        raise ModelError(f"{spec.name} must give finite numbers, but gave NaN or infinity; look at its weights")
    return found


def explain_picture(model: MobileNetV2, spec: ModelSpec, rgb_u8: NDArray[np.uint8]) -> Explanation:
    """`explain` for a picture [height, width, 3], taken whole."""
    return explain(model, spec, to_input(rgb_u8, spec.input))


def explain_folder(model: MobileNetV2, spec: ModelSpec, paths: list[Path], progress: Progress = iter) -> Distribution:
    """The spatial distribution of each mode: its mean mask over the pictures. Raises DataError, ModelError."""
    total = np.zeros((*spec.input.size_hw, 3))
    masks = []
    for path in progress(paths):
        rgb_u8 = read_rgb(path)
        masks.append(explain_picture(model, spec, rgb_u8).masks)
        total += resize_exact(rgb_u8, spec.input.size_hw)
    every = np.stack(masks)  # (pictures, g, h, w)
    mean = every.mean(0, dtype=np.float64).astype(np.float32)
    same = np.minimum(every, mean).sum((2, 3)).mean(0)  # (g,)
    return Distribution(spec, mean, np.rint(total / len(paths)).astype(np.uint8), same, len(paths))


def relative_entropy(weights: Array, axis: int | tuple[int, ...]) -> Array:
    """The entropy over `axis` (the sum there is 1), as a share of the largest possible: 0 one entry, 1 all alike."""
    axes = (axis,) if isinstance(axis, int) else axis
    count = np.prod([weights.shape[a] for a in axes])
    # Where a weight is 0, its product with the logarithm is 0 too, not NaN.
    nats = -(weights * np.log(np.maximum(weights, np.finfo(np.float32).tiny))).sum(axes)
    share: Array = np.clip(nats / np.log(max(2, count)), 0, 1)
    return share


def overlaps(masks: Array) -> Array:
    """The sum of minima of each pair of masks [G, h, w] -> [G, G]: 0 disjoint, 1 equal."""
    common: Array = np.minimum(masks[:, None], masks[None]).sum((2, 3))
    return common


def centres(masks: Array) -> Array:
    """Each mask's centre of mass [G, 2] as (y, x), 0 to 1 from the top left; a node stands for an equal cell."""
    height, width = masks.shape[1:]
    y = masks.sum(2) @ ((np.arange(height) + 0.5) / height)
    x = masks.sum(1) @ ((np.arange(width) + 0.5) / width)
    return np.stack([y, x], 1).astype(np.float32)


def mask_numbers(masks: Array) -> list[dict[str, Any]]:
    """For each mode, counted from 1: entropy in nats and as a share of log N, centre of mass (y, x), largest weight."""
    relative, nodes = relative_entropy(masks, (1, 2)), masks[0].size
    return [
        {
            "mode": index + 1,
            "entropy_nats": plain(relative[index] * np.log(nodes)),
            "entropy_relative": plain(relative[index]),
            "centre_yx": plain(centre),
            "largest_weight": plain(masks[index].max()),
        }
        for index, centre in enumerate(centres(masks))
    ]


def plain(value: Any) -> Any:
    """Numbers, arrays and dictionaries of them as JSON takes them."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    return np.round(np.asarray(value, np.float64), DIGITS).tolist()
