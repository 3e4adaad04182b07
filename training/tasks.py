"""The two tasks: their pictures, the order of an epoch, the loss, and what counts as better."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from edge_stra.training.augment import resize_batch
from edge_stra.training.distributed import World, gather
from edge_stra.training.losses import triplet_loss
from edge_stra.training.order import by_identity, shuffled
from edge_stra.training.qat import prepare_rounding
from edge_stra.training.recipe import Recipe, Size
from edge_stra.training.sets import Pictures, Progress, load_crops, load_fer, read_crops
from torch import Tensor, nn
from torch.nn import functional

from edge_stra.evaluation.ranking import rank
from edge_stra.identities import Crops, count_answerable, query_and_gallery
from edge_stra.models.mobilenetv2 import EmbeddingHead, MobileNetV2
from edge_stra.models.registry import create_model, get_spec
from edge_stra.spec import DataError, InputSpec, ModelError

EVALUATION_BATCH = 128
LEAST_SMOOTHING = 0.01  # that a classifier begins with: without any, its logits would have to be infinite


def normalise(pictures: Tensor, spec: InputSpec) -> Tensor:
    """Pixels [B, C, H, W] in 0..1, grey or RGB -> the network's input [B, 3, H, W], channels last."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1).to(pictures) for v in (spec.mean_rgb, spec.std_rgb))
    return ((pictures - mean) / std).contiguous(memory_format=torch.channels_last)


class Learner(nn.Module):
    """The network with what serves the loss alone: a classifier over identities, for embeddings."""

    def __init__(self, network: MobileNetV2, identities: int = 0) -> None:
        super().__init__()
        self.network = network
        self.classifier: nn.Linear | None = None
        if isinstance(network.head, EmbeddingHead):
            self.classifier = nn.Linear(network.head.project.out_features, identities, bias=False)
            nn.init.normal_(self.classifier.weight, std=0.001)  # all identities alike at the start

    def round_numbers(self) -> None:
        """From now on the network computes as its int8 graph will (see `qat`)."""
        self.rounding = prepare_rounding(self.network)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [B, classes], features for the triplet loss [B, K] (before the head's norm), diversity loss."""
        pooled, diversity = self.network.pooled_with_diversity(x)
        head = self.network.head
        if self.classifier is None:
            return head(pooled), pooled, diversity
        assert isinstance(head, EmbeddingHead)
        features = head.project(pooled)
        return self.classifier(head.norm(features)), features, diversity


@dataclass(frozen=True)
class Score:
    """One measurement on what is held out; `value` in percent is what the best checkpoint is chosen by."""

    name: str
    value: float


class Task(ABC):
    """What is learnt, from which pictures."""

    pictures: Pictures
    targets: Tensor  # [N] int64 labels, or [N, classes] float32 probabilities, of the pictures
    teachers: tuple[str, ...] = ()  # SHA-256 of the weights that had a say in the targets
    summary: str  # of the data, for people and for the history
    remark = ""  # more of it, for people alone: histories of one data set stay equal

    def __init__(self, model: str, recipe: Recipe) -> None:
        self.spec, self.recipe = get_spec(model), recipe
        if self.spec.task != recipe.task:
            raise ModelError(f"{model} is of the task {self.spec.task}, but the recipe is for {recipe.task}")

    @cached_property
    def data_sha256(self) -> str:
        """Of the training pictures and their labels, as they lie in memory."""
        digest = hashlib.sha256(self.pictures.pixels.numpy().data)
        digest.update(self.pictures.labels.numpy().data)
        return digest.hexdigest()

    @abstractmethod
    def create_learner(self) -> Learner: ...

    @abstractmethod
    def score(self, network: nn.Module, size: Size, device: torch.device) -> Score | None:
        """Of a network in evaluation mode; None where nothing is held out."""

    def start_classifier(self, learner: Learner, device: torch.device) -> None:  # noqa: B027
        """Fits what serves the loss alone to a network that was trained before; nothing where there is no such part."""

    def order(self, epoch: int, seed: int) -> Tensor:
        """Indices [steps, batch] of an epoch."""
        recipe, own = self.recipe, seed * 1_000_003 + epoch  # no epoch of one seed has the order of another seed's
        if recipe.identities_per_batch:
            labels = self.pictures.labels.numpy()
            steps = by_identity(labels, recipe.batch, recipe.identities_per_batch, own)
        else:
            steps = shuffled(len(self.pictures), recipe.batch, own)
        if not len(steps):
            people = f" of {recipe.identities_per_batch} identities" if recipe.identities_per_batch else ""
            raise DataError(
                f"training needs at least one batch of {recipe.batch} pictures{people}, but has {self.summary}"
            )
        return steps

    def loss(self, outputs: tuple[Tensor, Tensor, Tensor], labels: Tensor, world: World) -> dict[str, Tensor]:
        """The parts of the loss, weighted; their sum is minimised. `labels`: this process's share of `targets`."""
        logits, features, diversity = outputs
        recipe = self.recipe
        parts = {
            "cross_entropy": functional.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
        }
        if recipe.diversity_weight:
            parts["diversity"] = recipe.diversity_weight * diversity
        if recipe.triplet_weight:
            everyone = gather(labels.float(), world).long() if world.size > 1 else labels
            parts["triplet"] = recipe.triplet_weight * triplet_loss(gather(features.float(), world), everyone)
        return parts

    @torch.inference_mode()
    def outputs(self, network: nn.Module, pixels: Tensor, size: Size, device: torch.device) -> Tensor:
        """What a network in evaluation mode gives for uint8 pixels [N, C, h, w], in float32: [N, K]."""
        network.eval()
        batches = torch.split(pixels, EVALUATION_BATCH)
        return torch.cat([network(self.inputs(batch, size, device)).float().cpu() for batch in batches])

    def inputs(self, pixels: Tensor, size: Size, device: torch.device) -> Tensor:
        """uint8 pixels [N, C, h, w], unchanged but for their size, as the network takes them."""
        return normalise(resize_batch(pixels.to(device).float() / 255, size), self.spec.input)


class FerTask(Task):
    def __init__(self, model: str, recipe: Recipe, data: Path, progress: Progress = iter) -> None:
        super().__init__(model, recipe)
        self.pictures, self.held_out = load_fer(data, recipe.stored, progress)
        self.targets = self.pictures.labels
        if recipe.teacher_share or recipe.augment.mix:
            self.targets = functional.one_hot(self.targets, len(self.spec.labels)).float()
        self.summary = f"{len(self.pictures)} training and {len(self.held_out)} validation pictures"

    def create_learner(self) -> Learner:
        return Learner(create_model(self.spec.name, dropout=self.recipe.dropout))

    def score(self, network: nn.Module, size: Size, device: torch.device) -> Score:
        """Accuracy on the validation split: the whole picture, no mirror image."""
        logits = self.outputs(network, self.held_out.pixels, size, device)
        right = (logits.argmax(1) == self.held_out.labels).float().mean()
        return Score("accuracy", 100 * float(right))


class ReidTask(Task):
    def __init__(self, model: str, recipe: Recipe, data: Path, held: int, progress: Progress = iter) -> None:
        super().__init__(model, recipe)
        # Which identities are held out does not depend on the run's seed: figures of several runs compare.
        crops, held_crops, nobody = load_crops(data, held, seed=0)
        names, labels = np.unique(crops.identities, return_inverse=True)
        self.identities = len(names)
        self.pictures = Pictures(read_crops(crops, recipe.stored, progress), torch.from_numpy(labels))
        self.targets = self.pictures.labels
        self.query: tuple[Tensor, Crops] | None = None
        self.gallery: tuple[Tensor, Crops] | None = None
        if held_crops is not None:
            query, gallery = query_and_gallery(held_crops)
            if not len(query):
                raise DataError(
                    "the identities held out must each be seen by two cameras, but none is; give --hold-out 0"
                )
            self.query = read_crops(query, recipe.stored, progress), query
            self.gallery = read_crops(gallery, recipe.stored, progress), gallery
        self.summary = f"{len(crops)} crops of {self.identities} identities, {held} identities held out"
        if self.query and self.gallery:
            asked = self.query[1]
            self.remark = f"{count_answerable(asked, self.gallery[1])} of {len(asked)} queries have an answer to find"
        if nobody:
            left = f"{nobody} crops of the identities 0 and -1 are left out: Market-1501's distractors and junk"
            self.remark = "; ".join(filter(None, [self.remark, left]))

    def create_learner(self) -> Learner:
        return Learner(create_model(self.spec.name), self.identities)

    @torch.no_grad()
    def start_classifier(self, learner: Learner, device: torch.device) -> None:
        """Each identity's row points to the mean of its features; a random classifier would pull at good ones.

        Features as the head's norm gives them in training. Scaled so that the logit of a crop's own identity leads the
        mean of all by what cross-entropy asks for: with labels smoothed by e over C identities, each of which takes
        e / C, log((C (1 - e) + e) / e).
        """
        network, head, classifier = learner.network.eval(), learner.network.head, learner.classifier
        assert isinstance(head, EmbeddingHead) and classifier is not None
        batches, size = torch.split(self.pictures.pixels, EVALUATION_BATCH), self.recipe.stages[0].size
        pooled = [network.pooled_with_diversity(self.inputs(batch, size, device))[0] for batch in batches]
        found = head.project(torch.cat(pooled))
        norm, labels = head.norm, self.pictures.labels.to(device)  # (n)
        features = functional.batch_norm(found, None, None, norm.weight, norm.bias, training=True)  # (n, k)
        sums = torch.zeros_like(classifier.weight).index_add_(0, labels, features)  # (c, k)
        directions = functional.normalize(sums, dim=1)
        lead = (features * (directions[labels] - directions.mean(dim=0))).sum(dim=1).mean()
        if not lead > 0:  # one identity, or pictures that are all alike: no direction tells them apart
            return
        smoothed = max(self.recipe.label_smoothing, LEAST_SMOOTHING)
        asked = math.log((self.identities * (1 - smoothed) + smoothed) / smoothed)
        classifier.weight.copy_(directions * (asked / lead))

    def score(self, network: nn.Module, size: Size, device: torch.device) -> Score | None:
        """Mean average precision among the identities held out."""
        if self.query is None or self.gallery is None:
            return None
        asked, shown = (self.outputs(network, pixels, size, device).numpy() for pixels, _ in (self.query, self.gallery))
        return Score("map", rank(asked, self.query[1], shown, self.gallery[1])["map"])


def create_task(model: str, recipe: Recipe, data: Path, held: int, progress: Progress = iter) -> Task:
    """The task that a recipe names. Raises DataError for data that it can't read, ModelError for another model."""
    if recipe.task == "fer":
        return FerTask(model, recipe, data, progress)
    return ReidTask(model, recipe, data, held, progress)
