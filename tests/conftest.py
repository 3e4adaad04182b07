"""What the tests share: the folder of reference data, and networks whose norms and activations are alive."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from edge_stra.export import Exported

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
LIVE_BATCHES = 2
SETTINGS = (
    *("EDGE_STRA_" + name for name in ("SOURCE", "TOKEN", "MQTT_PASSWORD", "GALLERY", "GALLERY_KEY")),
    *("EDGE_STRA_MILVUS_" + name for name in ("USER", "PASSWORD", "TOKEN")),
    "OPENCV_LOG_LEVEL", "OPENCV_FFMPEG_LOGLEVEL",
)  # fmt: skip

# What a user's shell may set would change what is tested, and a proxy takes addresses of this machine too.
for name in SETTINGS:
    os.environ.pop(name, None)
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost"

# The tensors here are small: threads that wait for each other on a shared machine cost many times what they save.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # a test before may have asked for more, for the whole process


@pytest.fixture(scope="session")
def shared_file() -> Callable[[str], Path]:
    """A function: path below ../shared -> the file. The test is skipped where the file is absent."""

    def find(path: str) -> Path:
        if not (SHARED / path).is_file():
            pytest.skip(f"../shared/{path} is absent: reference data that does not belong to the repository")
        return SHARED / path

    return find


def structured_images(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """[B, C, H, W]: waves of a different direction, phase and strength in each channel, an offset, and some noise."""
    batch, channels, height, width = shape
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    along_y, along_x, phase, strength, offset = torch.rand(5, batch, channels, 1, 1, generator=generator)
    waves = torch.sin(6.28 * (3 * along_y * y + 3 * along_x * x + phase)) * (0.5 + 1.5 * strength)
    return (waves + offset - 0.5 + 0.3 * torch.randn(shape, generator=generator)).to(dtype)


def enliven(module: nn.Module, shape: tuple[int, ...], seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    dtype = next(module.parameters()).dtype
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    with torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over the batches below
            norm.weight.copy_(0.5 + torch.rand(norm.num_features, generator=generator))
            norm.bias.copy_(torch.rand(norm.num_features, generator=generator) - 0.25)
        module.train()
        for _ in range(LIVE_BATCHES):
            module(structured_images(shape, dtype, generator))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return module.eval()


@pytest.fixture(scope="session")
def live() -> Callable[..., nn.Module]:
    """A function: (module, input shape) -> the module in evaluation mode, its BN parameters and statistics alive.

    BN gets scales and shifts away from 1 and 0, and running statistics from passes in training mode over
    structured pictures, so that what follows is neither dead nor saturated.
    """
    return enliven


@pytest.fixture(scope="session")
def images() -> Callable[..., Tensor]:
    """A function: (shape, dtype, seed) -> structured pictures, equal for equal arguments."""

    def make(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
        return structured_images(shape, dtype, torch.Generator().manual_seed(seed))

    return make


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The shipped expression model as float32 .tflite with its manifest, made once."""
    from edge_stra.export import Request, export

    return export(Request("mobilenetv2_stra.fer", "fp32", tmp_path_factory.mktemp("fp32")))
