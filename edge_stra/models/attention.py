"""Structure-Regularized Attention (StRA) in reference form: readable, and true to the equations.

Source: Zhang, Shen, Li, Liu, "Structure-Regularized Attention for Deformable Object Representation",
arXiv 2106.06672, equations 1 to 3. Symbols: B batch, C channels, G modes, D = C/G channels per mode,
K window, N = H*W nodes. Channels are mode-major: mode g owns channels g*D .. (g+1)*D-1.

This form is for training and as the yardstick of every export. It uses `unfold`, which no mobile
converter survives: `edge_stra.reformulate` rewrites it exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_stra.spec import ModelError

LEAST_SHARE = 0.01
"""`StRA.start_as`: no coefficient starts much below this, over K*K: near 0 the softmax leaves it no gradient."""
RESTING_LOGIT_SCALE = 0.1
RESTING_GATE = -2.0
"""`StRA.start_as`: the standard deviation of the logits, and the gates before their sigmoid (0.12 after it)."""


class Attention(NamedTuple):
    """What one StRA block computed.

    output: [B, C, H, W]; local: [B, C, H, W], the result of local attention alone;
    coefficients: [B, G, K*K, N], softmax over K*K; masks: [B, G, N], softmax over N, or None where the
    block has no mode attention.
    """

    output: Tensor
    local: Tensor
    coefficients: Tensor
    masks: Tensor | None


class StRA(nn.Module):
    """Local attention within each mode, then mode attention across the map (Eq. 1 to 3).

    Args:
        channels: C of input and output; divisible by `modes` and by `ratio * modes`.
        modes: G. window: K, odd. ratio: r, reduction of the logit branch.
        mask_hidden: h, hidden channels of each mode's mask.
        mode_attention: False leaves local attention alone (the paper's ablation).
        mode_interaction: False lets the second pass use z itself instead of Z' = P Z.
    """

    def __init__(
        self,
        channels: int,
        modes: int = 8,
        window: int = 3,
        ratio: int = 4,
        mask_hidden: int = 8,
        mode_attention: bool = True,
        mode_interaction: bool = True,
    ) -> None:
        super().__init__()
        numbers = {"channels": channels, "modes": modes, "window": window, "ratio": ratio, "mask_hidden": mask_hidden}
        for name, number in numbers.items():
            if number < 1:
                raise ModelError(f"{name} must be at least 1, but got {number}")
        if channels % (modes * ratio):
            raise ModelError(f"channels must be a multiple of modes * ratio = {modes * ratio}, but got {channels}")
        if window % 2 == 0:
            raise ModelError(f"window must be odd, but got {window}")
        self.channels, self.modes, self.window = channels, modes, window
        self.mode_interaction = mode_interaction
        hidden, logits = channels // ratio, modes * (1 + window * window)
        self.logit = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, groups=modes),
            nn.BatchNorm2d(hidden),
            nn.Tanh(),
            nn.Conv2d(hidden, logits, 1, groups=modes),
            nn.BatchNorm2d(logits),
        )
        self.value = nn.Conv2d(channels, channels, 1, groups=modes, bias=False)
        self.mode = ModeAttention(channels, modes, mask_hidden, mode_interaction) if mode_attention else None

    @torch.no_grad()
    def start_as(self, conv: Tensor) -> None:
        """Initial values with which the block does nearly what a trained depthwise conv [C, 1, 3, 3] did in its place.

        A mode has one window of positive coefficients for all its channels. MobileNetV2's last conv is nearly that
        after training on ImageNet: one window for all channels, times a number for each, positive or negative, holds
        96 % of the energy of its 960 kernels.

            kernels of a mode [D, 9]  ~  c [D] x p [9]      rank 1; p above 0, its sum 1
                                          |      |
              diagonal of the value conv -+      +- softmax of the biases of omega

        What depends on the picture starts small, with logits and gates near rest, and grows as it is trained.
        Raises ModelError for kernels of another shape, or not finite.
        """
        if tuple(conv.shape) != (self.channels, 1, 3, 3) or not bool(conv.isfinite().all()):
            raise ModelError(f"kernels must be finite, ({self.channels}, 1, 3, 3), but are {tuple(conv.shape)} or not")
        kernels = conv.detach().double()
        if self.window == 1:
            kernels = kernels.sum(dim=(2, 3))
        else:
            kernels = functional.pad(kernels, ((self.window - 3) // 2,) * 4)
        kernels = kernels.reshape(self.modes, -1, self.window**2)  # (g, d, kk)
        main = torch.linalg.svd(kernels, full_matrices=False).Vh[:, :1]  # (g, 1, kk), of either sign
        sides = torch.cat([main.clamp_min(0), (-main).clamp_min(0)], 1)
        stronger = sides.square().sum(dim=2).argmax(dim=1)
        windows = sides[torch.arange(self.modes), stronger]  # (g, kk)
        windows = (windows / windows.sum(1, keepdim=True)).clamp_min(LEAST_SHARE / self.window**2)
        windows /= windows.sum(1, keepdim=True)  # p
        scale = (kernels @ windows[:, :, None])[..., 0] / windows.square().sum(1, keepdim=True)  # c, (g, d)
        self.value.weight.copy_(torch.diag_embed(scale).flatten(0, 1)[:, :, None, None])
        last = self.logit[-1]
        assert isinstance(last, nn.BatchNorm2d)
        last.weight.fill_(RESTING_LOGIT_SCALE)
        last.bias[: self.modes] = 0.0
        last.bias[self.modes :] = windows.log().flatten()
        if self.mode is not None:
            for norm in (self.mode.first_norm, self.mode.second_norm):
                norm.bias.fill_(RESTING_GATE)

    def local_attention(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 2: s_i = sum_{j in N_K(i)} a_ij u(x_j); returns S [B, G, D, N] and a [B, G, K*K, N].

        A neighbour outside the image takes part in the softmax with nu = 0 and brings the value 0.
        """
        batch, _, height, width = x.shape
        nodes, taps, pad = height * width, self.window**2, self.window // 2
        nu, omega = self.logit(x).split([self.modes, self.modes * taps], dim=1)
        nu = functional.unfold(nu, self.window, padding=pad).view(batch, self.modes, taps, nodes)
        omega = omega.reshape(batch, self.modes, taps, nodes)
        coefficients = (omega + nu).softmax(dim=2)  # (b, g, kk, n)
        if self.training:
            return self.banded_sum(self.value(x), coefficients), coefficients
        values = functional.unfold(self.value(x), self.window, padding=pad)
        values = values.view(batch, self.modes, self.channels // self.modes, taps, nodes)
        return torch.einsum("bgkn,bgdkn->bgdn", coefficients, values), coefficients

    def banded_sum(self, values: Tensor, coefficients: Tensor) -> Tensor:
        """The same sum as one product for each mode, without K*K copies of the values to keep for the gradients.

        values [B, C, H, W], coefficients [B, G, K*K, N] -> S [B, G, D, N]. Column i of a mode's band holds a_ij at
        the rows j that are in the window of i, and 0 elsewhere:

                                      node i ->
            S [D, N]  =  u [D, N]  @  a a . .   node j
                                      a a a .     |
                                      . a a a     v
                                      . . a a

        On the 16 x 8 nodes of people (C = 960, x86) it takes half the time of a sum over shifted maps, forward and
        backward; it grows with the square of the nodes, so for large maps it is the slower one.
        """
        batch, _, height, width = values.shape
        nodes = height * width
        numbers = torch.arange(1.0, nodes + 1, device=values.device).view(1, 1, height, width)
        neighbours = functional.unfold(numbers, self.window, padding=self.window // 2)[0].long()  # (kk, n), 0: outside
        positions = neighbours * nodes + torch.arange(nodes, device=values.device)
        band = values.new_zeros(batch * self.modes, (nodes + 1) * nodes)
        weights = coefficients.reshape(len(band), -1).to(values.dtype)
        band = band.index_copy(1, positions.flatten(), weights).view(-1, nodes + 1, nodes)[:, 1:]
        total = torch.bmm(values.reshape(len(band), -1, nodes), band)
        return total.view(batch, self.modes, -1, nodes)

    def attend(self, x: Tensor) -> Attention:
        """All that the block computes on x [B, C, H, W], for training losses and for pictures."""
        local, coefficients = self.local_attention(x)
        output, masks = local, None
        if self.mode is not None:
            output, masks = self.mode(local, x.shape[2:])
        return Attention(output.reshape(x.shape), local.reshape(x.shape), coefficients, masks)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x).output


class ModeAttention(nn.Module):
    """Eq. 1 and 3: pool each mode through its mask, let modes interact, give the result back to the nodes."""

    def __init__(self, channels: int, modes: int, hidden: int, interaction: bool) -> None:
        super().__init__()
        self.modes, self.interaction = modes, interaction
        self.mask = nn.Sequential(
            nn.Conv2d(channels, modes * hidden, 1, groups=modes),
            nn.BatchNorm2d(modes * hidden),
            nn.Tanh(),
            nn.Conv2d(modes * hidden, modes, 1, groups=modes),
            nn.BatchNorm2d(modes),
        )
        self.first_norm = nn.BatchNorm1d(modes)
        self.second_norm = nn.BatchNorm1d(modes)

    def forward(self, local: Tensor, size_hw: torch.Size) -> tuple[Tensor, Tensor]:
        """local: S [B, G, D, N], size_hw: (H, W). Returns the output [B, G, D, N] and M [B, G, N]."""
        batch, modes, depth, nodes = local.shape
        mask = self.mask(local.reshape(batch, modes * depth, *size_hw))
        mask = mask.reshape(batch, modes, nodes).softmax(dim=2)
        z = torch.einsum("bgn,bgdn->bgd", mask, local)  # modal vectors
        first = local + _gate(self.first_norm, z, local) * z.unsqueeze(3)
        if self.interaction:
            affinity = functional.normalize(z @ z.transpose(1, 2), dim=2)  # rows of P, (b, g, g)
            z = (affinity * modes**0.5).softmax(dim=2) @ z
        second = first + _gate(self.second_norm, z, first) * z.unsqueeze(3)
        return second, mask


def _gate(norm: nn.Module, z: Tensor, nodes: Tensor) -> Tensor:
    """sigmoid(BN_G(<z_g, s_i^g>)): z [B, G, D], nodes [B, G, D, N] -> [B, G, 1, N]."""
    return torch.sigmoid(norm(torch.einsum("bgd,bgdn->bgn", z, nodes))).unsqueeze(2)


LOGIT, MASK = "logit.0.weight", "mode.mask.0.weight"
MOST_READ = 128  # window, and hidden channels of a mask: beyond it a small file would ask for a huge network


def options_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What shapes tell of the StRA block in a network's weights: its arguments but `channels`.

    {} where there is none, or one of shapes that no block has. `mode_interaction` has no weights of its own: the
    specification tells it.
    """
    block = next((key.removesuffix(LOGIT) for key in state if key.endswith(f".{LOGIT}")), None)
    if block is None:
        return {}
    first, last = state[block + LOGIT], state.get(f"{block}logit.3.weight")
    value, mask = state.get(f"{block}value.weight"), state.get(block + MASK)
    kernels = [kernel for kernel in (first, last, value, mask) if kernel is not None]
    if value is None or last is None or any(k.ndim < 2 or not k.numel() for k in kernels):
        return {}
    hidden, depth = first.shape[:2]
    if not len(value) // depth:
        return {}
    modes = len(value) // depth
    found = {"modes": modes, "ratio": len(value) // hidden, "window": math.isqrt(max(0, len(last) // modes - 1))}
    found |= {"mode_attention": False} if mask is None else {"mask_hidden": len(mask) // modes}
    return found if max(found["window"], found.get("mask_hidden", 0)) <= MOST_READ else {}


def diversity_loss(masks: Tensor) -> Tensor:
    """L_d = G - sum_i max_g M_i^g, the mean over the batch; masks [B, G, N], 0 <= L_d < G."""
    return (masks.shape[1] - masks.amax(dim=1).sum(dim=1)).mean()
