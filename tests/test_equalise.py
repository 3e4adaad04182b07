"""Equalisation of residual streams: exact, and balanced as the paper says."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from edge_stra.calibration.equalise import MAX_SCALE, Stream, equalise, find_streams, scale_stream, stream_scales
from torch import Tensor, nn

from edge_stra.models.attention import StRA
from edge_stra.models.mobilenetv2 import ClassificationHead, MobileNetV2, depthwise_slot
from edge_stra.reformulate import reformulate

SIZE = (32, 32)
Live = Callable[..., nn.Module]
Images = Callable[..., Tensor]


@pytest.fixture(scope="module", params=[0.25, 1.0])
def network(request: pytest.FixtureRequest, live: Live) -> MobileNetV2:
    """A reformulated network in float64. With width 0.25 the first block adds to the stem's ReLU6 output."""
    torch.manual_seed(0)
    slot = StRA if request.param == 1.0 else depthwise_slot
    model = MobileNetV2(lambda channels: ClassificationHead(channels, 7, 0.0), request.param, slot).double()
    fast = reformulate(live(model, (2, 3, *SIZE)), SIZE)  # type: ignore[arg-type]
    return fast


def unbalance(network: MobileNetV2) -> MobileNetV2:
    """The same network with streams scaled by 1/7 to 7, at random."""
    network = copy.deepcopy(network)
    for stream in find_streams(network):
        channels = stream.writers[0].out_channels
        scale_stream(stream, torch.exp(torch.empty(channels, dtype=torch.float64).uniform_(-2, 2)))
    return network


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def test_the_output_stays(network: MobileNetV2, images: Images) -> None:
    x = images((1, 3, *SIZE), torch.float64)
    with torch.inference_mode():
        expected = network(x)
        uneven = unbalance(network)
        assert relative(uneven(x), expected) < 1e-10
        balanced = equalise(uneven)
        assert relative(balanced(x), expected) < 1e-10
        inner = [n.features[:4](x) for n in (uneven, balanced)]
    assert relative(inner[0], inner[1]) > 1e-2, "the stream itself must have changed"


def test_streams_are_those_of_the_network(network: MobileNetV2) -> None:
    streams = find_streams(network)
    narrow = network.features[1].residual  # type: ignore[union-attr]
    # Six stages after the first block, whose own stream exists only where it does not add to the stem's ReLU6 output.
    wanted = [(2, 2), (3, 3), (4, 4), (3, 3), (3, 3), (1, 1)]
    assert [(len(s.writers), len(s.readers)) for s in streams] == (wanted if narrow else [(1, 1), *wanted])
    for stream in streams:
        channels = {conv.out_channels for conv in stream.writers} | {conv.in_channels for conv in stream.readers}
        assert len(channels) == 1
        assert all(conv.kernel_size == (1, 1) and conv.groups == 1 for conv in stream.writers + stream.readers)


def test_both_sides_of_a_stream_get_the_same_ranges(network: MobileNetV2) -> None:
    for stream in find_streams(equalise(unbalance(network))):
        written = torch.stack([c.weight.abs().amax(dim=(1, 2, 3)) for c in stream.writers]).amax(0)
        read = torch.stack([c.weight.abs().amax(dim=(0, 2, 3)) for c in stream.readers]).amax(0)
        torch.testing.assert_close(written, read)


def test_dead_and_almost_dead_channels_stay_finite() -> None:
    stream = Stream([nn.Conv2d(5, 4, 1)], [nn.Conv2d(4, 6, 1)])
    with torch.no_grad():
        stream.writers[0].weight.fill_(4.0)
        stream.readers[0].weight.fill_(1.0)
        stream.writers[0].weight[0] = 0
        stream.readers[0].weight[:, 1] = 0
        stream.readers[0].weight[:, 2] = 1e-30
    assert stream_scales(stream).tolist() == [1.0, 1.0, MAX_SCALE, 2.0]


def test_the_network_given_is_left_alone(network: MobileNetV2) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    equalise(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
