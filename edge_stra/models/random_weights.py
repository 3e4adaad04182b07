"""Seeded weights whose network is alive: for benchmarks and tests, where trained weights are not wanted.

With PyTorch's own initialisation and untouched BN statistics the activations vanish layer by layer, and any
two graphs agree. Here BN has affine parameters of its own and statistics measured on structured pictures.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edge_stra.models.mobilenetv2 import InvertedResidual, MobileNetV2
from edge_stra.models.registry import DEFAULT, create_model, get_spec
from edge_stra.preprocess import to_input
from edge_stra.spec import NetworkSpec
from edge_stra.synthetic import synthetic_pictures

SEED = 20210606
STATISTICS_PICTURES = 32
BRANCH_SCALE = 0.25
"""Of the BN that ends a residual branch. As in trained networks the stream then outweighs its branches; with equal
weight every block would double the noise of the one before, and quantization errors with it."""


def random_model(
    name: str, seed: int = SEED, classes: int | None = None, network: NetworkSpec = DEFAULT
) -> MobileNetV2:
    """A model of the registry with seeded weights and live BN statistics, in evaluation mode.

    The same weights to the last bit whatever the number of threads, which changes the order of additions.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _random_model(name, seed, classes, network)
    finally:
        torch.set_num_threads(threads)


def _random_model(name: str, seed: int, classes: int | None, network: NetworkSpec) -> MobileNetV2:
    spec, task = get_spec(name).input, get_spec(name).task
    generator = torch.Generator().manual_seed(seed)
    model = create_model(name, classes=classes, network=network)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
                if isinstance(module, nn.Conv2d) and module.groups == module.in_channels:
                    module.weight.abs_()  # smoothing, as most trained ones: a difference of neighbours is mostly noise
                if module.bias is not None:
                    module.bias.normal_(0, 0.1, generator=generator)
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.bias.normal_(0, 0.3, generator=generator)
            norm.momentum = None  # a plain average over the batches below
        for block in model.modules():
            if isinstance(block, InvertedResidual) and block.residual:
                last = block.conv[-1]
                assert isinstance(last, nn.BatchNorm2d)
                last.weight.mul_(BRANCH_SCALE)
        model.train()
        pictures = synthetic_pictures(task, STATISTICS_PICTURES, spec.size_hw, seed)
        inputs = np.concatenate([to_input(picture, spec) for picture in pictures])
        for part in torch.split(torch.from_numpy(inputs).permute(0, 3, 1, 2), 8):
            model(part)
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()
