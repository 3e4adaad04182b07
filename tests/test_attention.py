"""StRA in reference form: against the authors' numbers and the equations in slow loops; its loss, its arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_stra.models.attention import StRA, diversity_loss
from edge_stra.spec import ModelError

Floats = NDArray[np.float64]

GOLDEN_TOLERANCE = 1e-4  # the requirement, float32
LOOP_TOLERANCE = 1e-12  # float64 on values of about 1: a few hundred roundings of 1e-16
SOFTMAX_TOLERANCE = 1e-5  # float32 sums of at most 128 terms, each rounded to 6e-8
GOLDEN_PREFIXES = {
    "mask_conv.": "logit.",
    "value_conv.": "value.",
    "moe.gap_weight.": "mode.mask.",
    "moe.bn.": "mode.first_norm.",
    "moe.bn2.": "mode.second_norm.",
}


def golden_state(arrays: dict[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    state = {}
    for name, value in arrays.items():
        for theirs, ours in GOLDEN_PREFIXES.items():
            if name.startswith(f"param.{theirs}"):
                state[ours + name.removeprefix(f"param.{theirs}")] = torch.from_numpy(value)
    return state


@pytest.mark.parametrize("what", ["local", "output", "diversity"])
def test_block_equals_the_authors_module(shared_file: Callable[[str], Path], what: str) -> None:
    golden = dict(np.load(shared_file("golden/stra_block_c512_g8_k3.npz")))
    block = StRA(512, modes=8, window=3).eval()
    missing, unexpected = block.load_state_dict(golden_state(golden), strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing)
    with torch.no_grad():
        attention = block.attend(torch.from_numpy(golden["input"]))
    assert attention.masks is not None
    per_image = torch.stack([diversity_loss(mask[None]) for mask in attention.masks])
    ours = {"local": attention.local, "output": attention.output, "diversity": per_image}[what].numpy()
    assert ours.shape == golden[what].shape
    assert np.abs(ours - golden[what]).max() <= GOLDEN_TOLERANCE


# --- the equations, one node at a time -------------------------------------------------------------------------


def array(tensor: Tensor | None) -> Floats:
    assert tensor is not None
    return tensor.detach().double().numpy()


def norm_loop(x: Floats, norm: Any) -> Floats:
    """x [channels, ...], BN in evaluation mode."""
    result = np.empty_like(x)
    for c in range(len(x)):
        mean, var = array(norm.running_mean)[c], array(norm.running_var)[c]
        result[c] = (x[c] - mean) / math.sqrt(var + norm.eps) * array(norm.weight)[c] + array(norm.bias)[c]
    return result


def grouped_conv_loop(x: Floats, conv: Any, groups: int) -> Floats:
    """x [channels, H, W] through a 1x1 conv whose group g reads and writes the g-th part of the channels alone."""
    weight = array(conv.weight)[:, :, 0, 0]
    outputs, inputs = weight.shape
    result = np.zeros((outputs, *x.shape[1:]))
    for o in range(outputs):
        group = o // (outputs // groups)
        for i in range(inputs):
            result[o] += weight[o, i] * x[group * inputs + i]
        if conv.bias is not None:
            result[o] += array(conv.bias)[o]
    return result


def branch_loop(x: Floats, branch: Any, groups: int) -> Floats:
    """Grouped conv, BN, Tanh, grouped conv, BN."""
    hidden = np.tanh(norm_loop(grouped_conv_loop(x, branch[0], groups), branch[1]))
    return norm_loop(grouped_conv_loop(hidden, branch[3], groups), branch[4])


def softmax_loop(values: list[float]) -> list[float]:
    powers = [math.exp(v) for v in values]
    return [p / sum(powers) for p in powers]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def local_loop(x: Floats, block: StRA) -> Floats:
    """Eq. 2 for one image [C, H, W]."""
    groups, window, depth = block.modes, block.window, block.channels // block.modes
    logits = branch_loop(x, block.logit, groups)
    nu, omega = logits[:groups], logits[groups:]
    u = grouped_conv_loop(x, block.value, groups)
    _, height, width = x.shape
    result = np.zeros_like(x)
    for g in range(groups):
        for y in range(height):
            for x_ in range(width):
                scores, neighbours = [], []
                for tap in range(window**2):
                    ny, nx = y + tap // window - window // 2, x_ + tap % window - window // 2
                    inside = 0 <= ny < height and 0 <= nx < width
                    neighbours.append((ny, nx) if inside else None)
                    scores.append(omega[g * window**2 + tap, y, x_] + (nu[g, ny, nx] if inside else 0.0))
                for share, place in zip(softmax_loop(scores), neighbours, strict=True):
                    if place is not None:
                        result[g * depth : (g + 1) * depth, y, x_] += (
                            share * u[g * depth : (g + 1) * depth, place[0], place[1]]
                        )
    return result


def gate_loop(z: Floats, nodes: Floats, norm: Any) -> Floats:
    """sigmoid(BN_G(<z_g, s_i>)): z [G, D], nodes [G, D, N] -> [G, N]."""
    groups, _, count = nodes.shape
    products = np.array([[float(np.dot(z[g], nodes[g, :, i])) for i in range(count)] for g in range(groups)])
    return np.vectorize(sigmoid)(norm_loop(products, norm))


def mode_loop(local: Floats, block: StRA) -> tuple[Floats, Floats]:
    """Eq. 1 and 3 for one image; returns the output [C, H, W] and the masks [G, N]."""
    mode = block.mode
    assert mode is not None
    groups = block.modes
    raw = branch_loop(local, mode.mask, groups).reshape(groups, -1)
    masks = np.array([softmax_loop(list(row)) for row in raw])
    nodes = local.reshape(groups, -1, masks.shape[1])  # (g, d, n)
    count = nodes.shape[2]
    z = np.array([sum(masks[g, i] * nodes[g, :, i] for i in range(count)) for g in range(groups)])
    r = gate_loop(z, nodes, mode.first_norm)
    y = np.array([[nodes[g, :, i] + r[g, i] * z[g] for i in range(count)] for g in range(groups)]).transpose(0, 2, 1)
    if block.mode_interaction:
        mixed = np.zeros_like(z)
        for g in range(groups):
            row = [float(np.dot(z[g], z[other])) for other in range(groups)]
            length = math.sqrt(sum(v * v for v in row))
            for other, share in enumerate(softmax_loop([v / length * math.sqrt(groups) for v in row])):
                mixed[g] += share * z[other]
        z = mixed
    r = gate_loop(z, y, mode.second_norm)
    output = np.array([[y[g, :, i] + r[g, i] * z[g] for i in range(count)] for g in range(groups)])
    return output.transpose(0, 2, 1).reshape(local.shape), masks


VARIANTS = {
    "full": {},
    "without mode interaction": {"mode_interaction": False},
    "without mode attention": {"mode_attention": False},
}


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("window", [1, 3, 5])
@pytest.mark.parametrize(("modes", "channels"), [(2, 16), (4, 16)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_block_equals_the_equations_node_by_node(
    live: Callable[..., nn.Module],
    images: Callable[..., Tensor],
    variant: str,
    modes: int,
    channels: int,
    window: int,
    training: bool,
) -> None:
    shape = (2, channels, 3, 4)
    block = StRA(channels, modes, window, mask_hidden=3, **VARIANTS[variant]).double()  # type: ignore[arg-type]
    live(block, (8, *shape[1:]))
    block.training = training  # its own sums alone: the norms inside keep their statistics
    x = images(shape, torch.float64)
    with torch.no_grad():
        attention = block.attend(x)
    for index, picture in enumerate(array(x)):
        local = local_loop(picture, block)
        assert np.abs(array(attention.local[index]) - local).max() <= LOOP_TOLERANCE
        output = local
        if block.mode is not None:
            output, masks = mode_loop(local, block)
            assert attention.masks is not None
            assert np.abs(array(attention.masks[index]) - masks).max() <= LOOP_TOLERANCE
        assert np.abs(array(attention.output[index]) - output).max() <= LOOP_TOLERANCE


def test_variants_differ_from_each_other(live: Callable[..., nn.Module], images: Callable[..., Tensor]) -> None:
    """Else the comparison above could not tell them apart."""
    block = live(StRA(16, 4, 3), (8, 16, 3, 4))
    x = images((1, 16, 3, 4))
    with torch.no_grad():
        full = block.attend(x)  # type: ignore[operator]
        block.mode.interaction = False  # type: ignore[union-attr]
        plain = block.attend(x)  # type: ignore[operator]
    assert (full.output - plain.output).abs().max() > 1e-3
    assert (full.output - full.local).abs().max() > 1e-2


def test_forward_gives_the_output_of_attend(live: Callable[..., nn.Module], images: Callable[..., Tensor]) -> None:
    block, x = live(StRA(32, 8), (4, 32, 5, 4)), images((2, 32, 5, 4))
    assert torch.equal(block(x), block.attend(x).output)  # type: ignore[operator]


@pytest.mark.parametrize("window", [3, 5, 7])
def test_coefficients_and_masks_are_shares(
    live: Callable[..., nn.Module], images: Callable[..., Tensor], window: int
) -> None:
    block, x = live(StRA(32, 8, window), (4, 32, 5, 4)), images((2, 32, 5, 4))
    attention = block.attend(x)  # type: ignore[operator]
    assert attention.coefficients.shape == (2, 8, window**2, 20) and attention.masks.shape == (2, 8, 20)
    for shares, axis in ((attention.coefficients, 2), (attention.masks, 2)):
        assert shares.min() >= 0
        assert (shares.sum(dim=axis) - 1).abs().max() <= SOFTMAX_TOLERANCE


# --- the diversity loss ----------------------------------------------------------------------------------------

DIVERSITY_CASES = {
    "one mode loses nothing": ([[[0.25, 0.75]]], 0.0),
    "modes on nodes of their own lose nothing": ([[[1.0, 0.0], [0.0, 1.0]]], 0.0),
    "equal modes lose all but one": ([[[1.0, 0.0], [1.0, 0.0]]], 1.0),
    "even masks lose all but one": ([[[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]], 2.0),
    "overlap in part": ([[[0.75, 0.25], [0.5, 0.5]]], 2 - 0.75 - 0.5),
    "mean over images": ([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]], 0.5),
}


@pytest.mark.parametrize("case", DIVERSITY_CASES)
def test_diversity_loss_by_hand(case: str) -> None:
    masks, expected = DIVERSITY_CASES[case]
    assert float(diversity_loss(torch.tensor(masks))) == expected  # sums of powers of two: exact


@pytest.mark.parametrize("modes", [1, 2, 8])
@pytest.mark.parametrize("nodes", [1, 2, 36])
@pytest.mark.parametrize("sharpness", [0.0, 1.0, 30.0])
def test_diversity_loss_is_at_least_0_and_below_the_number_of_modes(modes: int, nodes: int, sharpness: float) -> None:
    masks = (torch.randn(4, modes, nodes, dtype=torch.float64) * sharpness).softmax(dim=2)
    loss = float(diversity_loss(masks))
    assert -1e-12 <= loss <= modes - 1 + 1e-12  # each image keeps one mode's whole sum at least: L <= G - 1


def test_diversity_loss_of_equal_masks_grows_as_modes_are_added() -> None:
    losses = [float(diversity_loss(torch.full((1, modes, 4), 0.25))) for modes in (1, 2, 4, 8)]
    assert losses == [0.0, 1.0, 3.0, 7.0]


# --- initial values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [3, 5])
@pytest.mark.parametrize("mode_attention", [False, True])
def test_a_block_starts_as_a_conv_of_one_window_a_mode(
    live: Callable[..., nn.Module], images: Callable[..., Tensor], window: int, mode_attention: bool
) -> None:
    """Also at the border, where a conv pads with 0. At rest: what depends on the picture is turned off."""
    block, x = live(StRA(64, 8, window, mode_attention=mode_attention), (4, 64, 5, 4)), images((2, 64, 5, 4))
    generator = torch.Generator().manual_seed(3)
    windows = torch.rand(8, 1, 3, 3, generator=generator) + 0.1
    numbers = torch.randn(8, 8, 1, 1, generator=generator)  # of each channel, of either sign
    conv = (numbers * windows).view(64, 1, 3, 3)
    assert isinstance(block, StRA)
    block.start_as(conv)
    block.logit[-1].weight.data.zero_()  # type: ignore[union-attr, operator]
    block.logit[-1].running_mean.zero_()  # type: ignore[union-attr, operator]
    wanted = nn.functional.conv2d(x, conv, padding=1, groups=64)
    error = float((block.attend(x).local.detach() - wanted).abs().max() / wanted.abs().max())
    assert error < (1e-6 if window == 3 else 0.03), error  # a wider window keeps a little for each further neighbour


def test_a_block_starts_near_a_conv_though_its_logits_are_random(images: Callable[..., Tensor]) -> None:
    """Fresh from its constructor, in training mode, with gates and logits as `start_as` leaves them."""
    torch.manual_seed(0)
    block, x = StRA(64, 8), images((8, 64, 6, 6)).relu()
    conv = torch.randn(64, 1, 1, 1) * torch.tensor([[3.0, 2, 3], [2, 1, 2], [3, 2, 3]]) / 21
    before = likeness(block(x), nn.functional.conv2d(x, conv, padding=1, groups=64))
    block.start_as(conv)
    after = likeness(block(x), nn.functional.conv2d(x, conv, padding=1, groups=64))
    assert abs(before) < 0.3 and after > 0.95, (before, after)


def likeness(first: Tensor, second: Tensor) -> float:
    return float(nn.functional.cosine_similarity(first.detach().flatten(), second.flatten(), dim=0))


def test_a_block_of_one_node_starts_with_the_sum_of_the_conv(
    live: Callable[..., nn.Module], images: Callable[..., Tensor]
) -> None:
    block, x = live(StRA(64, 8, window=1), (4, 64, 5, 4)), images((2, 64, 5, 4))
    assert isinstance(block, StRA)
    conv = images((64, 1, 3, 3))
    block.start_as(conv)
    assert torch.allclose(block.attend(x).local, x * conv.sum(dim=(2, 3)).view(64, 1, 1), atol=1e-5)


KERNELS = {
    "a strong centre against a weak ring": (torch.tensor([0.12] * 4 + [-0.9] + [0.12] * 4), [4]),
    "all negative": (-torch.ones(9), list(range(9))),
    "of sum 0": (torch.tensor([-1.0, 0, 1, -2, 0, 2, -1, 0, 1]), None),
    "nothing": (torch.zeros(9), None),
}


@pytest.mark.parametrize("case", KERNELS)
def test_the_stronger_sign_of_a_kernel_is_kept(case: str) -> None:
    kernel, largest = KERNELS[case]
    block = StRA(64, 8)
    block.start_as(kernel.view(1, 1, 3, 3).repeat(64, 1, 1, 1))
    assert all(bool(value.isfinite().all()) for value in block.state_dict().values())
    shares = block.logit[-1].bias.detach()[8:].view(8, 9).softmax(1)  # type: ignore[union-attr, operator, index]
    assert float(shares.min()) >= 0.001
    if largest is not None:
        assert float(shares[:, largest].sum(1).min()) > 0.98
        assert float(block.value.weight.detach().amax()) == 0  # no other channel, and this one times a negative number


def test_gates_start_nearly_closed(images: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    block, x = StRA(64, 8).eval(), images((2, 64, 6, 6)) * 0.05
    block.start_as(images((64, 1, 3, 3)))
    with torch.no_grad():
        attention = block.attend(x)
    assert 0 < float((attention.output - attention.local).norm() / attention.local.norm()) < 0.3


@pytest.mark.parametrize("kernels", [torch.ones(64, 1, 5, 5), torch.full((64, 1, 3, 3), torch.nan)])
def test_kernels_that_do_not_fit_are_refused(kernels: Tensor) -> None:
    with pytest.raises(ModelError, match=r"kernels must be finite, \(64, 1, 3, 3\)"):
        StRA(64, 8).start_as(kernels)


# --- arguments -------------------------------------------------------------------------------------------------

BAD_ARGUMENTS = {
    "channels not divisible by modes": {"channels": 60, "modes": 8},
    "channels not divisible by modes * ratio": {"channels": 40, "modes": 8},
    "no channels": {"channels": 0},
    "negative channels": {"channels": -64},
    "even window": {"channels": 64, "window": 4},
    "no window": {"channels": 64, "window": 0},
    "negative window": {"channels": 64, "window": -3},
    "no modes": {"channels": 64, "modes": 0},
    "no ratio": {"channels": 64, "ratio": 0},
    "no hidden channels": {"channels": 64, "mask_hidden": 0},
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments_are_refused(case: str) -> None:
    with pytest.raises(ModelError, match=r"must be .* but got"):
        StRA(**BAD_ARGUMENTS[case])
