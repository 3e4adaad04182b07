"""Biases of channels without weights: whole in the file, where the quantizer cuts them off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("litert_torch", reason="needs the export extra")

import torch
from edge_stra.calibration import quantize as quantization
from edge_stra.calibration.biases import FULL, ROOM, find_biases
from edge_stra.calibration.ranges import find_extremes
from edge_stra.calibration.recipes import RECIPES
from edge_stra.converters.tflite import convert
from torch import nn

from edge_stra.parity import sqnr_db
from edge_stra.runtime import find_runtime, read_tensors
from edge_stra.spec import Statistics
from edge_stra.targets.tflite_schema import compact, parse

pytestmark = pytest.mark.slow
SIZE = (8, 8)
PICTURES = [np.random.default_rng(i).standard_normal((1, *SIZE, 3)).astype(np.float32) for i in range(8)]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A conv, a depthwise one and a linear layer; each has a channel of hardly any weights and a large bias."""
    torch.manual_seed(0)
    first, deep, last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Linear(512, 4)
    with torch.no_grad():
        for layer, channel, weight, bias in ((first, 3, 0.0, 1.0), (deep, 5, 3e-6, 0.7), (last, 1, 0.0, -2.0)):
            layer.weight[channel] = weight
            assert layer.bias is not None
            layer.bias[channel] = bias
    return nn.Sequential(first, nn.ReLU6(), deep, nn.ReLU6(), nn.Flatten(), last).eval()


@pytest.fixture(scope="module")
def graph(network: nn.Module) -> bytes:
    return convert(network, SIZE)


@pytest.fixture(scope="module")
def quantized(graph: bytes) -> Callable[[str], bytes]:
    def of(name: str) -> bytes:
        statistics = Statistics(find_extremes(read_tensors(graph, PICTURES)), {}, {}, RECIPES[name].settings)
        return quantization.quantize(graph, RECIPES[name], statistics)

    return of


def run(model: bytes, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """float32 in and out, whatever the file takes."""
    interpreter = find_runtime()[1](model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    if source["dtype"] == np.int8:
        scale, zero = source["quantization"]
        x = np.clip(np.rint(x / scale) + zero, -128, 127).astype(np.int8)
    interpreter.set_tensor(source["index"], x)
    interpreter.invoke()
    found = interpreter.get_tensor(target["index"]).astype(np.float32)
    scale, zero = target["quantization"]
    return np.asarray((found - zero) * scale if scale else found)


@pytest.mark.parametrize("name", ["int8", "int8-full"])
def test_channels_without_weights_keep_their_bias(
    name: str, network: nn.Module, quantized: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.inference_mode():
        wanted = np.concatenate([network(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy() for x in PICTURES])
    model = compact(quantized(name))
    assert sqnr_db(wanted, np.concatenate([run(model, x) for x in PICTURES])) > 45  # measured: 55
    largest = [int(np.abs(units).max()) for *_, units in find_biases(parse(model))]
    assert len(largest) == 3 and all(abs(most - ROOM) <= ROOM // 1000 for most in largest)
    monkeypatch.setattr(quantization, "hold_biases", lambda graph, model: model)
    cut = quantized(name)
    assert all(np.abs(units).max() >= FULL for *_, units in find_biases(parse(cut)))
    assert sqnr_db(wanted, np.concatenate([run(cut, x) for x in PICTURES])) < 10


def test_the_other_channels_stay_as_they_are(
    quantized: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = find_biases(parse(quantized("int8")))
    monkeypatch.setattr(quantization, "hold_biases", lambda graph, model: model)
    for (*_, weight, bias, units), (*_, old, before, cut) in zip(
        held, find_biases(parse(quantized("int8"))), strict=True
    ):
        same = np.abs(cut) < FULL
        assert same.sum() == len(same) - 1
        assert np.array_equal(weight.quantization.scale[same], old.quantization.scale[same])
        assert np.array_equal(bias.quantization.scale[same], before.quantization.scale[same])
        assert np.array_equal(units[same], cut[same])


def test_weights_and_scales_are_those_of_the_larger_scale(
    network: nn.Module, quantized: Callable[[str], bytes]
) -> None:
    model = parse(quantized("int8"))
    for layer, (x, weight, bias, units) in zip((network[0], network[2], network[5]), find_biases(model), strict=True):
        scale, channel = weight.quantization.scale, int(np.abs(units).argmax())
        assert np.allclose(bias.quantization.scale, x.quantization.scale[0] * scale, rtol=1e-6)
        assert np.allclose(units[channel] * bias.quantization.scale[channel], layer.bias[channel].item(), rtol=1e-6)
        kernels = model.buffers[weight.buffer].data.view(np.int8).reshape(weight.shape)
        held = np.take(kernels, channel, weight.quantization.quantizedDimension) * scale[channel]
        assert np.abs(held - layer.weight[channel].flatten()[0].item()).max() <= scale[channel] / 2


def test_a_graph_whose_biases_fit_stays_the_same_bytes(graph: bytes) -> None:
    torch.manual_seed(1)
    plain = convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), SIZE)
    statistics = Statistics(find_extremes(read_tensors(plain, PICTURES)), {}, {}, RECIPES["int8"].settings)
    model = quantization.quantize(plain, RECIPES["int8"], statistics)
    assert quantization.hold_biases(plain, model) is model
