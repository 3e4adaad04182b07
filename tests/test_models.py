"""The networks' sizes and costs, their names, and what a training pass gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edge_stra.models.attention import StRA, diversity_loss
from edge_stra.models.macs import count_macs
from edge_stra.models.mobilenetv2 import EMBEDDING_SIZE, DepthwiseConv, MobileNetV2, scaled
from edge_stra.models.registry import MODEL_NAMES, count_parameters, create_model, get_spec
from edge_stra.spec import FER_LABELS, ModelError

MACS_TOLERANCE = 0.005  # the requirement; measured 0.0033 (StRA 1.0), 0.0024 (StRA 1.4), 0.0001 (plain)
UNIT_TOLERANCE = 1e-6  # float32 norm of 512 numbers: a few units of 1.2e-7

# Million MACs at 256x128, with the 512-D head, in the convention of the paper's figures.
REID_MEGA_MACS = {
    "mobilenetv2.reid": 350.6,
    "mobilenetv2_stra.reid": 369.5,
    "mobilenetv2_140.reid": 681.0,
    "mobilenetv2_140_stra.reid": 717.8,
}


@pytest.mark.parametrize("name", REID_MEGA_MACS)
def test_macs_are_those_of_the_paper(name: str) -> None:
    assert count_macs(create_model(name), (256, 128)) / 1e6 == pytest.approx(REID_MEGA_MACS[name], rel=MACS_TOLERANCE)


def test_macs_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 4 * 3, 5))
    assert count_macs(model, (8, 6)) == 8 * 4 * 3 * 27 + 8 * 4 * 3 * 5


def test_macs_of_a_block_by_hand() -> None:
    """One term for each product of the equations; C = 64, G = 8, D = 8, K = 3, r = 4, h = 8, N = 20."""
    model = nn.Sequential(nn.Conv2d(3, 64, 1, bias=False), StRA(64))
    channels, modes, depth, nodes = 64, 8, 8, 20
    logit = 64 // 8 * 16 + 16 // 8 * 80
    mask = 64 // 8 * 64 + 64 // 8 * 8
    local = logit + 64 * 8 + 9 * channels  # per node: the logit branch, the values, the weighted sum
    passes = 3 * channels  # per node: z, <z, s>, <z', y>
    assert count_macs(model, (5, 4)) == nodes * (3 * 64 + local + mask + passes) + 2 * modes * modes * depth


def test_counting_leaves_the_model_as_it_was() -> None:
    model = create_model("mobilenetv2_stra.fer")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    count_macs(model, (88, 88))
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


STRA_960 = 240 * 120 + 240 + 2 * 240 + 80 * 30 + 80 + 2 * 80 + 960 * 120 + 64 * 120 + 64 + 128 + 64 + 8 + 16 + 32
STRA_1344 = 336 * 168 + 336 + 2 * 336 + 80 * 42 + 80 + 2 * 80 + 1344 * 168 + 64 * 168 + 64 + 128 + 64 + 8 + 16 + 32
FEATURES_100, FEATURES_140 = 2_223_872, 4_315_776  # the published networks without their classifiers
PARAMETERS = {
    "mobilenetv2.fer": FEATURES_100,
    "mobilenetv2_stra.fer": FEATURES_100 - 9 * 960 + STRA_960,
    "mobilenetv2.reid": FEATURES_100 + 1280 * 512 + 1024,
    "mobilenetv2_stra.reid": FEATURES_100 - 9 * 960 + STRA_960 + 1280 * 512 + 1024,
    "mobilenetv2_140.fer": FEATURES_140,
    "mobilenetv2_140_stra.fer": FEATURES_140 - 9 * 1344 + STRA_1344,
    "mobilenetv2_140.reid": FEATURES_140 + 1792 * 512 + 1024,
    "mobilenetv2_140_stra.reid": FEATURES_140 - 9 * 1344 + STRA_1344 + 1792 * 512 + 1024,
}


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_parameters_without_classifier(name: str) -> None:
    model = create_model(name)
    assert count_parameters(model) == PARAMETERS[name]
    classifier = sum(p.numel() for p in model.head.linear.parameters()) if name.endswith(".fer") else 0  # type: ignore
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name] + classifier


@pytest.mark.parametrize("name", ["", "mobilenetv2", "mobilenetv2.age", "resnet50.fer", "mobilenetv2.fer ", "a.b.c"])
@pytest.mark.parametrize("function", [create_model, get_spec])
def test_an_unknown_name_is_refused_with_the_known_ones(function: Callable[[str], Any], name: str) -> None:
    with pytest.raises(ModelError, match=r"unknown model .* mobilenetv2_stra\.fer"):
        function(name)


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [
        (32, 1.0, 32),
        (32, 1.4, 48),
        (16, 1.4, 24),
        (24, 1.4, 32),
        (64, 1.4, 88),
        (160, 1.4, 224),
        (16, 0.35, 8),
        (24, 0.5, 16),
    ],
)
def test_widths_are_multiples_of_8(channels: int, width: float, expected: int) -> None:
    assert scaled(channels, width) == expected


@pytest.mark.parametrize("name", [n for n in MODEL_NAMES if "140" not in n])
def test_output_is_what_the_specification_says(
    name: str, live: Callable[..., Any], images: Callable[..., Tensor]
) -> None:
    spec = get_spec(name)
    model = live(create_model(name), (2, 3, *spec.input.size_hw))
    with torch.no_grad():
        output = model(images((2, 3, *spec.input.size_hw)))
    if spec.task == "fer":
        assert output.shape == (2, 7) and spec.labels == FER_LABELS
    else:
        assert output.shape == (2, EMBEDDING_SIZE) and spec.labels == ()
        assert (output.norm(dim=1) - 1).abs().max() <= UNIT_TOLERANCE


@pytest.mark.parametrize("name", ["mobilenetv2.fer", "mobilenetv2_stra.fer"])
def test_the_training_pass_gives_the_same_output_and_the_loss(
    name: str, live: Callable[..., Any], images: Callable[..., Tensor]
) -> None:
    model: MobileNetV2 = live(create_model(name), (4, 3, 88, 88))
    x = images((2, 3, 88, 88))
    with torch.no_grad():
        pooled, diversity = model.pooled_with_diversity(x)
        assert torch.equal(model.head(pooled), model(x))
        if name == "mobilenetv2.fer":
            assert float(diversity) == 0
            return
        slot = model.features[17].conv[3]
        assert isinstance(slot, StRA)
        masks = slot.attend(model.features[17].conv[:3](model.features[:17](x))).masks  # type: ignore[index]
        assert masks is not None and torch.equal(diversity, diversity_loss(masks))
        assert 0 < float(diversity) < slot.modes


def test_the_diversity_loss_reaches_the_masks() -> None:
    model = create_model("mobilenetv2_stra.fer")
    _, diversity = model.pooled_with_diversity(torch.randn(2, 3, 88, 88))
    diversity.backward()
    gradient = model.features[17].conv[3].mode.mask[0].weight.grad  # type: ignore[union-attr,index]
    assert gradient is not None and gradient.abs().max() > 0


@pytest.mark.parametrize("size", [7, 8])
def test_strided_convs_of_training_in_bfloat16_compute_what_evaluation_computes(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr("edge_stra.models.mobilenetv2.has_native_bfloat16", lambda device: not asked.append(device))
    conv = DepthwiseConv(6, stride=2).bfloat16().eval()
    x = torch.randn(2, 6, size, size, generator=torch.Generator().manual_seed(5)).bfloat16()
    expected, found = conv(x).detach(), conv.train()(x).detach()
    assert asked and found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 2**-7 * float(expected.abs().max())  # a rounding of bfloat16
