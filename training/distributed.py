"""Several processes (torchrun) that train as one: shared batch norm, gathered features, one writer.

Everything rests on one primitive, a sum over processes through which gradients flow.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from edge_stra.spec import ModelError


@dataclass(frozen=True)
class World:
    """This process among all: its number, how many there are, and the device that it uses."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    def share(self, batch: int) -> slice:
        """The part of a batch that this process takes."""
        part = batch // self.size
        return slice(self.rank * part, (self.rank + 1) * part)


def join(device: str) -> World:
    """The world that torchrun describes in the environment (nccl on GPUs, gloo on CPUs), or this process alone.

    `device`: auto, cpu or cuda. Raises ModelError for cuda where there is none, or too few.
    """
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    own = torch.device(kind, int(os.environ.get("LOCAL_RANK", "0"))) if kind == "cuda" else torch.device(kind)
    if kind == "cuda" and not torch.cuda.is_available():
        raise ModelError("--device cuda needs a GPU that PyTorch can use, but there is none; leave the option out")
    if kind == "cuda" and (own.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"each process needs a GPU of its own, but this is number {own.index} of this machine and there are "
            f"{torch.cuda.device_count()}; give torchrun fewer with --nproc-per-node, or --device cpu"
        )
    if kind == "cuda":
        torch.cuda.set_device(own)
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    return World(rank, size, own)


class SumOverProcesses(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs, since each one's loss depends on it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def sum_over(values: Tensor) -> Tensor:
    total: Tensor = SumOverProcesses.apply(values)  # type: ignore[no-untyped-call]
    return total


def gather(features: Tensor, world: World) -> Tensor:
    """[B / processes, K] of each process -> [B, K] on all, in the order of the batch."""
    if world.size == 1:
        return features
    places = features.new_zeros(world.size, *features.shape)
    places[world.rank] = features
    return sum_over(places).flatten(0, 1)


def average_over(values: Tensor, world: World) -> Tensor:
    """The mean over processes, without gradients, for what is reported."""
    if world.size > 1:
        dist.all_reduce(values)
    return values / world.size


class SharedBatchNorm(nn.Module):
    """Batch norm over the batch of all processes. torch's SyncBatchNorm is for GPUs alone; this one runs on both."""

    def __init__(self, norm: nn.BatchNorm2d | nn.BatchNorm1d) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))
        self.eps, self.momentum = norm.eps, norm.momentum or 0.1
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.running_mean, Tensor) and isinstance(self.running_var, Tensor)
        if not self.training:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        axes = [0, *range(2, x.ndim)]
        wide = x.float()
        count = x.numel() / x.shape[1] * dist.get_world_size()
        shape = [1, -1] + [1] * (x.ndim - 2)
        mean = sum_over(wide.sum(axes)) / count
        centred = wide - mean.view(shape)
        variance = sum_over(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = (self.weight * (variance + self.eps).rsqrt()).view(shape)
        return (centred * scale + self.bias.view(shape)).to(x.dtype)


def share_norms(module: nn.Module) -> None:
    """Puts SharedBatchNorm in the place of every batch norm; parameters and their names stay."""
    for name, child in module.named_children():
        if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
            setattr(module, name, SharedBatchNorm(child))
        else:
            share_norms(child)
