"""Augmentation of whole batches on the device that trains: one grid_sample for all of the geometry.

What is drawn and what is done are apart, so that each of several processes can draw for the whole batch and change
its own share: the result does not depend on how many processes there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from edge_stra.training.recipe import Augmentation, Size
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Draws:
    """What happens to each picture of a batch, all of one value a picture, [B, ...]."""

    theta: Tensor  # [B, 2, 3], output to input coordinates, both -1..1, of a square picture
    gain: Tensor  # [B, 1, 1, 1]
    contrast: Tensor  # [B, 1, 1, 1]
    rectangle: Tensor  # [B, 4]: centre y, x and half height, width, in 0..1 of a square; 0 erases nothing
    mix: Tensor  # [B]: the share that the picture's neighbour in the batch takes

    def share(self, part: slice) -> Draws:
        return Draws(*(getattr(self, f.name)[part] for f in fields(self)))

    def to(self, device: torch.device) -> Draws:
        return Draws(*(getattr(self, f.name).to(device) for f in fields(self)))


def draw(batch: int, how: Augmentation, random: torch.Generator) -> Draws:
    """The changes of a batch; the same generator state gives the same."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=random) * (high - low) + low

    angle = uniform(-how.degrees, how.degrees) * math.pi / 180
    zoom_x, zoom_y = (1 / (how.zoom * uniform(1 - how.scale, 1 + how.scale)) for _ in "xy")
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0) if how.mirror else torch.ones(batch)
    shift_x, shift_y = (uniform(-2 * how.translate, 2 * how.translate) for _ in "xy")
    rows = [
        torch.stack([angle.cos() * zoom_x * flip, -angle.sin() * zoom_y, shift_x], 1),
        torch.stack([angle.sin() * zoom_x * flip, angle.cos() * zoom_y, shift_y], 1),
    ]
    gain = uniform(1 - how.brightness, 1 + how.brightness, 1, 1, 1)
    contrast = uniform(1 - how.contrast, 1 + how.contrast, 1, 1, 1)
    rectangles = draw_rectangles(batch, how.erase, how.erase_area, random)
    mix = torch.rand(batch, generator=random) * how.mix
    return Draws(torch.stack(rows, 1), gain, contrast, rectangles, mix)


def draw_rectangles(batch: int, chance: float, largest: float, random: torch.Generator) -> Tensor:
    """Random erasing (arXiv 1708.04896): 2 % of the area to `largest`, sides at most 2:1; [B, 4], zeros for none."""
    area = torch.rand(batch, generator=random) * (largest - 0.02) + 0.02
    aspect = torch.exp((torch.rand(batch, generator=random) * 2 - 1) * math.log(2.0))
    centre = torch.rand(batch, 2, generator=random)
    halves = torch.stack([(area * aspect).sqrt() / 2, (area / aspect).sqrt() / 2], 1)
    chosen = torch.rand(batch, generator=random) < chance
    return torch.cat([centre, halves], 1) * chosen[:, None]


def resize_batch(pictures: Tensor, size: Size) -> Tensor:
    """[B, C, h, w] in 0..1 -> [B, C, height, width], bilinear with half-pixel centres as OpenCV does it."""
    if pictures.shape[2:] == size:
        return pictures
    return functional.interpolate(pictures, size=size, mode="bilinear", align_corners=False)


def augment_batch(pictures: Tensor, size: Size, draws: Draws) -> Tensor:
    """[B, C, h, w] in 0..1 -> [B, C, height, width] in 0..1, each picture changed in its own way."""
    batch, channels = pictures.shape[:2]
    aspect = pictures.shape[2] / pictures.shape[3]  # y and x are of different lengths, which a rotation exchanges
    theta = draws.theta * draws.theta.new_tensor([[1, aspect, 1], [1 / aspect, 1, 1]])
    grid = functional.affine_grid(theta, [batch, channels, *size], align_corners=False)
    result = functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    middle = result.mean(dim=(1, 2, 3), keepdim=True)
    result = (((result - middle) * draws.contrast + middle) * draws.gain).clamp(0, 1)
    return erase(result, draws.rectangle)


def erase(pictures: Tensor, rectangle: Tensor) -> Tensor:
    """Fills each picture's rectangle with the picture's mean colour."""
    height, width = pictures.shape[2:]
    y = (torch.arange(height, device=pictures.device) + 0.5) / height
    x = (torch.arange(width, device=pictures.device) + 0.5) / width
    aspect = math.sqrt(width / height)  # the same shape in pixels, and the same area
    rows = (y - rectangle[:, :1]).abs() < rectangle[:, 2:3] * aspect  # (b, h)
    columns = (x - rectangle[:, 1:2]).abs() < rectangle[:, 3:] / aspect  # (b, w)
    inside = (rows[:, :, None] & columns[:, None])[:, None]
    return torch.where(inside, pictures.mean(dim=(2, 3), keepdim=True), pictures)


def mix_pairs(values: Tensor, share: Tensor) -> Tensor:
    """[B, ...] -> the same: of each pair of neighbours, either takes `share` [B] of the other. B is even.

    Neighbours are strangers, since an epoch's order is random, and stay together when processes share a batch.
    Source: mixup, arXiv 1710.09412; the share is uniform from 0 to the recipe's `mix`, where mixup has a beta's.
    """
    others = values.view(-1, 2, *values.shape[1:]).flip(1).reshape(values.shape)
    return values.lerp(others, share.view(-1, *[1] * (values.ndim - 1)))
