"""Augmentation of whole batches on the device that trains: one grid_sample for all of the geometry."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Augmentation:
    degrees: float  # rotation, at most this either way
    scale: float  # zoom, at most this fraction either way
    translate: float  # shift, at most this fraction of the side
    brightness: float  # gain, at most this fraction either way
    contrast: float
    erase: float  # chance of one erased rectangle


def resize_batch(pictures: Tensor, size: int) -> Tensor:
    """[B, 1, h, w] in 0..1 -> [B, 1, size, size], bilinear with half-pixel centres as OpenCV does it."""
    return functional.interpolate(pictures, size=(size, size), mode="bilinear", align_corners=False)


def augment_batch(pictures: Tensor, size: int, how: Augmentation, random: torch.Generator) -> Tensor:
    """[B, 1, h, w] in 0..1 -> [B, 1, size, size] in 0..1, each picture changed in its own way."""
    batch = len(pictures)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=random) * (high - low) + low

    angle = draw(-how.degrees, how.degrees) * math.pi / 180
    zoom_x, zoom_y = (1 / (draw(1 - how.scale, 1 + how.scale)) for _ in "xy")
    flip = torch.where(draw(0, 1) < 0.5, -1.0, 1.0)
    shift_x, shift_y = (draw(-2 * how.translate, 2 * how.translate) for _ in "xy")
    rows = [
        torch.stack([angle.cos() * zoom_x * flip, -angle.sin() * zoom_y, shift_x], 1),
        torch.stack([angle.sin() * zoom_x * flip, angle.cos() * zoom_y, shift_y], 1),
    ]
    theta = torch.stack(rows, 1).to(pictures.device)  # (b, 2, 3)
    grid = functional.affine_grid(theta, [batch, 1, size, size], align_corners=False)
    result = functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    gain = draw(1 - how.brightness, 1 + how.brightness, 1, 1, 1).to(result)
    contrast = draw(1 - how.contrast, 1 + how.contrast, 1, 1, 1).to(result)
    middle = result.mean(dim=(2, 3), keepdim=True)
    result = (((result - middle) * contrast + middle) * gain).clamp(0, 1)
    return erase_batch(result, how.erase, random)


def erase_batch(pictures: Tensor, chance: float, random: torch.Generator) -> Tensor:
    """Random erasing (arXiv 1708.04896): a rectangle of 2 to 20 % of the area, filled with the mean."""
    batch, _, height, width = pictures.shape
    area = torch.rand(batch, generator=random) * 0.18 + 0.02
    aspect = torch.exp((torch.rand(batch, generator=random) * 2 - 1) * math.log(2.0))
    half_h, half_w = (area * aspect).sqrt() / 2, (area / aspect).sqrt() / 2
    centre = torch.rand(batch, 2, generator=random)
    y = (torch.arange(height) + 0.5) / height
    x = (torch.arange(width) + 0.5) / width
    inside = ((y - centre[:, :1]).abs() < half_h[:, None])[:, :, None] & ((x - centre[:, 1:]).abs() < half_w[:, None])[
        :, None
    ]
    chosen = torch.rand(batch, generator=random) < chance
    mask = (inside & chosen[:, None, None])[:, None].to(pictures.device)
    return torch.where(mask, pictures.mean(dim=(2, 3), keepdim=True), pictures)
