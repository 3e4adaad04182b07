"""StRA in a form that every mobile converter takes, exactly equal to the reference.

What stands in the way of a device is local attention: `unfold` makes K*K shifted copies of a whole map,
at rank 6, through operators that no delegate takes. Here the K*K coefficients of a node, which are few,
are moved instead of the D values, which are many:

    reference                                   here, for a strip of R rows of the map

    values  -> unfold -> [G,D,K*K,N] --+        coefficients [R*W, G, K*K]
                                       |               | place: one small matmul with a constant 0/1
    coefficients ------> [G,K*K,N] ----*               v
                                       |        banded matrix [G, R*W, (R+2p)*W]     p = K // 2
                                     sum            |
                                       |            |      values of the strip and its p rows around
    local attention      [G,D,N] <-----+            |      [G, (R+2p)*W, D]
                                                    v        v
                                                    matmul -> [G, R*W, D], local attention

         keys  row y-1      row y        row y+1
       q  | a b c . . . | d e f . . . | g h i . . . |      one row of the matrix for each node of the strip:
       u  | . a b c . . | . d e f . . | . g h i . . |      its K*K coefficients, shifted by one with each node
       e  | . . a b c . | . . d e f . | . . g h i . |

A neighbour outside the image brings the value 0, so its column is simply left out: nothing is padded.
The strip is as high as the map needs: one strip for a small map, four rows for a larger one
(benchmarks/attempts.md). Every step below is exact algebra; only the order of additions differs:

 1. BN folds into the convs beside it. The softmax over nodes ignores a constant, so the mask's last bias goes.
 2. nu is laid around each node by a depthwise conv with a constant 0/1 kernel, K*K outputs for each mode.
 3. The mask's first conv is linear in s, and s is linear in u: its weights are multiplied into the value
    conv, which gives D + h channels for each mode, and both come out of one banded product.
 4. The two passes of mode attention need only <z, s> and <z', s>, since
    <z', y> = <z', s> + r <z', z>. They become two rows of one product, and the results one more:

        output = s + [r  r'  1] [z; z'; beta]       then ReLU6, beta being the bias of the BN that follows

 5. The scale gamma of that BN goes into the value conv; z is taken back from gamma * z where modes meet,
    and <z, s> is taken with z / gamma.
 6. The scales of both gates' BN are multiplied into z and z', which are D numbers, not into <z, s>, which is N.
 7. Values and the mask's hidden values leave one conv and share one int8 scale, but not one range: where BN's
    statistics say that these are far apart, the hidden ones are taken 2^k times as large, and divided before tanh.

        |..... values .....|                  |..... values .....|
        |.................... hidden ....|    |.. hidden ..|           one scale for both, without and with 2^-2
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_stra.models.attention import ModeAttention, StRA
from edge_stra.spec import ModelError

MAX_PLACEMENT_NUMBERS = 65_536
"""The largest 0/1 constant of a strip, in numbers; above it the band is laid out by padding (larger file otherwise)."""
MAX_CONCAT_INPUTS = 4
"""XNNPACK takes CONCATENATION with at most 5 inputs (xnnpack_delegate.cc, VisitConcatenationNode)."""
MIN_SQUARED_NORM = 1e-24
"""The square of 1e-12, below which torch's `normalize`, and so the reference, leaves a row as it is."""
MIN_GAMMA_RATIO = 1e-4
"""Below this ratio of the smallest to the largest gamma, step 5 would lose digits; the scale stays a multiply."""

MIN_RANGE_STEPS = 1.5
"""Powers of two between values and hidden values from which step 7 is worth the multiply that it takes."""
MAX_RANGE_STEPS = 12
"""Beyond this a network is damaged or made up, and half floats would overflow."""


def fold_batch_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of a conv that does what `conv` followed by `norm` does in evaluation mode."""
    scale, shift = affine_of(norm)
    bias = shift if conv.bias is None else shift + conv.bias * scale
    return (conv.weight * scale.view(-1, 1, 1, 1)).detach(), bias.detach()


def affine_of(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """BN in evaluation mode as x * scale + shift, computed in float64."""
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None and var is not None
    scale = norm.weight.double() / (var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - mean.double() * scale
    return scale.to(norm.weight).detach(), shift.to(norm.weight).detach()


def rms_after(norm: nn.BatchNorm1d | nn.BatchNorm2d, bias: Tensor | None) -> float:
    """Root mean square of what BN scales, before its shift, by its statistics; without the bias of the conv before."""
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None and var is not None
    scale, _ = affine_of(norm)
    mean = mean if bias is None else mean - bias.detach()
    return float((scale.double().square() * (var.double() + mean.double().square())).mean().sqrt())


def hidden_range(mode: ModeAttention, norm: nn.BatchNorm2d | None) -> float:
    """The power of two that brings the mask's hidden values to the size of the values (step 7); 1 where they are near.

    The values' size is taken from the BN behind the block, whose input is mostly the local attention.
    """
    if norm is None:
        return 1.0
    first, first_norm = mode.mask[0], mode.mask[1]
    assert isinstance(first, nn.Conv2d) and isinstance(first_norm, nn.BatchNorm2d)
    values, hidden = rms_after(norm, None), rms_after(first_norm, first.bias)
    if not (values > 0 and hidden > 0):
        return 1.0
    steps = math.log2(values / hidden)
    return 2.0 ** round(steps) if MIN_RANGE_STEPS <= abs(steps) <= MAX_RANGE_STEPS else 1.0


def conv_of(weight: Tensor, bias: Tensor | None, like: nn.Conv2d) -> nn.Conv2d:
    """A conv with the geometry of `like` and these weights; the number of outputs may differ."""
    conv = nn.Conv2d(
        like.in_channels,
        len(weight),
        like.kernel_size,  # type: ignore[arg-type]
        like.stride,  # type: ignore[arg-type]
        like.padding,  # type: ignore[arg-type]
        groups=like.groups,
        bias=bias is not None,
    )
    conv.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return conv


def choose_strip_rows(height: int, width: int, window: int) -> int:
    """Rows R of a strip, as measured in benchmarks/attempts.md.

    Small maps are fastest in one piece; larger ones in strips of about 4 rows, the products growing as
    R * (R + 2p) and the copies of the rows around as 1 / R. Never more than 16 strips.
    """
    if height * width <= 64:
        return height
    return max(4 if window <= 5 else 6, -(-height // 16))


def concat(parts: list[Tensor], dim: int) -> Tensor:
    """`torch.cat` of any number of tensors, in groups that the delegate takes."""
    while len(parts) > 1:
        groups = [parts[i : i + MAX_CONCAT_INPUTS] for i in range(0, len(parts), MAX_CONCAT_INPUTS)]
        parts = [torch.cat(group, dim) if len(group) > 1 else group[0] for group in groups]
    return parts[0]


class Strip(nn.Module):
    """Lays the coefficients of rows `top` to `bottom` out as a banded matrix over rows `first` to `last`."""

    place: Tensor | None

    def __init__(self, size_hw: tuple[int, int], window: int, top: int, bottom: int) -> None:
        super().__init__()
        height, self.width = size_hw
        self.window, self.top, self.bottom = window, top, bottom
        self.first, self.last = max(0, top - window // 2), min(height, bottom + window // 2)
        numbers = (bottom - top) * self.width * window**2 * (self.last - self.first) * self.width
        place = self._placement() if numbers <= MAX_PLACEMENT_NUMBERS else None
        self.register_buffer("place", place)

    def _placement(self) -> Tensor:
        """[R*W, K*K, keys] of 0 and 1: where each coefficient of each node goes; outside the image nowhere."""
        rows, reach, taps = self.bottom - self.top, self.window // 2, range(self.window)
        place = torch.zeros(rows * self.width, self.window**2, (self.last - self.first) * self.width)
        for row in range(rows):
            for column in range(self.width):
                for tap_y in taps:
                    for tap_x in taps:
                        y, x = self.top + row + tap_y - reach, column + tap_x - reach
                        if self.first <= y < self.last and 0 <= x < self.width:
                            key = (y - self.first) * self.width + x
                            place[row * self.width + column, tap_y * self.window + tap_x, key] = 1
        return place

    def forward(self, coefficients: Tensor) -> Tensor:
        """[N, G, K*K] of the whole map -> [G, R*W, keys]."""
        own = coefficients[self.top * self.width : self.bottom * self.width]  # (r*w, g, kk)
        if self.place is not None:
            return (own @ self.place).permute(1, 0, 2)  # (g, r*w, keys)
        return self._by_padding(own)

    def _by_padding(self, own: Tensor) -> Tensor:
        """The same band by PAD and RESHAPE alone: a row padded by one more than it is long comes out shifted.

        [a b c 0 0 0 0 | a b c 0 0 0 0 | ...] cut into rows that are one shorter: [a b c 0 0 0 | 0 a b c 0 0 | ...].
        Once for x, once for y.
        """
        groups, window, width, reach = own.shape[1], self.window, self.width, self.window // 2
        rows = self.bottom - self.top
        band = own.reshape(rows, width, groups, window, window).permute(2, 0, 3, 1, 4)  # (g, r, ky, w, kx)
        band = functional.pad(band, (0, width)).reshape(groups * rows * window, width * (width + window))
        band = band[:, : width * (width + window - 1)].reshape(groups, rows, window, width, width + window - 1)
        band = band[..., reach : reach + width].permute(0, 3, 1, 2, 4)  # (g, w, r, ky, keys x)
        band = functional.pad(band, (0, 0, 0, rows)).reshape(groups * width, rows * (rows + window) * width)
        band = band[:, : rows * (rows + window - 1) * width]
        band = band.reshape(groups, width, rows, (rows + window - 1) * width).permute(0, 2, 1, 3)  # (g, r, w, keys)
        start = (self.first - (self.top - reach)) * width
        band = band[..., start : start + (self.last - self.first) * width]
        return band.reshape(groups, rows * width, -1)


class FastInteraction(nn.Module):
    """Z' = softmax(P sqrt(G)) Z with P = Z Z^T, rows of unit length; Z and Z' are [G, 1, D].

    A row of P may be scaled freely before it is normalised, so it is taken with z_g / |z_g| instead of z_g:
    the square of its norm then spreads over 4 decades instead of 8, which 16 bits and half floats can hold.
    """

    def forward(self, z: Tensor) -> Tensor:
        groups, _, depth = z.shape
        unit = z * torch.rsqrt((z * z).sum(dim=2, keepdim=True).clamp_min(MIN_SQUARED_NORM))  # (g, 1, d)
        rows = z.reshape(1, groups, depth)
        # A product and a sum: as a matmul of one batch the converter would make a FULLY_CONNECTED with a
        # computed weight of it, which XNNPACK does not take.
        affinity = (unit * rows).sum(dim=2).reshape(1, groups, groups)  # P, (1, g, g)
        squares = (affinity * affinity).sum(dim=2, keepdim=True).clamp_min(MIN_SQUARED_NORM)
        affinity = (affinity * (torch.rsqrt(squares) * math.sqrt(groups))).softmax(dim=2)
        return (affinity @ rows).reshape(groups, 1, depth)


class FastModeAttention(nn.Module):
    """Both passes of mode attention on S [G, N, D] and the mask's hidden values [G, N, h] (steps 1, 4, 5, 6)."""

    mask_bias: Tensor
    mask_weight: Tensor
    first_scale: Tensor
    first_shift: Tensor
    second_scale: Tensor
    second_shift: Tensor
    overlap_scale: Tensor
    gamma: Tensor | None
    inverse: Tensor | None
    beta: Tensor | None

    def __init__(
        self, mode: ModeAttention, channels: int, gamma: Tensor, beta: Tensor | None, hidden_range: float
    ) -> None:
        super().__init__()
        self.hidden_range = hidden_range
        groups = mode.modes
        depth = channels // groups
        self.interact = FastInteraction() if mode.interaction else nn.Identity()
        first, first_norm, _, last, last_norm = mode.mask
        weight, bias = fold_batch_norm(first, first_norm)  # type: ignore[arg-type]
        self.hidden = len(weight) // groups
        self.first_weight = weight.view(groups, self.hidden, depth) * hidden_range  # for the value conv (steps 3, 7)
        self.register_buffer("mask_bias", bias.view(groups, 1, self.hidden))
        weight, _ = fold_batch_norm(last, last_norm)  # type: ignore[arg-type]
        self.register_buffer("mask_weight", weight.view(groups, 1, self.hidden).transpose(1, 2).contiguous())
        gamma = gamma.view(groups, 1, depth)
        for name, norm in (("first", mode.first_norm), ("second", mode.second_norm)):
            scale, shift = (value.view(groups, 1, 1) for value in affine_of(norm))
            self.register_buffer(f"{name}_scale", scale / gamma)  # step 6, and what step 5 put into S
            self.register_buffer(f"{name}_shift", shift)
        self.register_buffer("overlap_scale", affine_of(mode.second_norm)[0].view(groups, 1, 1))
        scaled = not bool((gamma == 1).all())
        self.register_buffer("gamma", gamma if scaled else None)
        self.register_buffer("inverse", 1 / gamma if scaled else None)
        self.register_buffer("beta", None if beta is None else beta.view(groups, 1, depth))

    def forward(self, local: Tensor, hidden: Tensor) -> Tensor:
        """local: gamma * S [G, N, D]; returns what is to be added to it, [G, N, D]."""
        groups, nodes, _ = local.shape
        if self.hidden_range != 1:
            hidden = hidden * (1 / self.hidden_range)
        mask = (torch.tanh(hidden + self.mask_bias) @ self.mask_weight).reshape(groups, 1, nodes).softmax(dim=2)
        scaled_z = (mask.reshape(groups, nodes, 1) * local).sum(dim=1, keepdim=True)  # gamma * z, (g, 1, d)
        z = scaled_z if self.inverse is None else scaled_z * self.inverse
        mixed = self.interact(z)  # z', (g, 1, d)
        pair = concat([z * self.first_scale, mixed * self.second_scale], 1)  # (g, 2, d)
        # In this order the nodes fill the columns of the product's tiles, which the two vectors never would.
        along = pair @ local.transpose(1, 2)  # <z, s> and <z', s>, each times the scale of its gate, (g, 2, n)
        overlap = (mixed * (z * self.overlap_scale)).sum(dim=2, keepdim=True)  # <z', z> likewise, (g, 1, 1)
        gate = torch.sigmoid(along[:, :1] + self.first_shift)  # r, (g, 1, n)
        mixed_gate = torch.sigmoid(along[:, 1:] + gate * overlap + self.second_shift)
        gates, vectors = [gate, mixed_gate], [scaled_z, mixed if self.gamma is None else mixed * self.gamma]
        if self.beta is not None:
            gates.append(torch.ones_like(self.first_shift).expand(groups, 1, nodes))
            vectors.append(self.beta)
        return concat(gates, 1).transpose(1, 2) @ concat(vectors, 1)  # (g, n, d)


class FastStRA(nn.Module):
    """StRA for maps of one size, [1, C, H, W] -> [1, C, H, W]; see the drawing at the top of this file.

    Args:
        stra: the reference block, in evaluation mode.
        size_hw: height and width of the map.
        norm: the BN that follows the block, together with ReLU6: both become part of it. None for the block alone.
        strip_rows: rows of a strip; by default what was measured fastest.
    """

    gamma: Tensor | None
    beta: Tensor | None

    def __init__(
        self, stra: StRA, size_hw: tuple[int, int], norm: nn.BatchNorm2d | None = None, strip_rows: int | None = None
    ) -> None:
        super().__init__()
        self.size_hw, self.modes, self.depth = size_hw, stra.modes, stra.channels // stra.modes
        self.taps, self.relu6 = stra.window**2, norm is not None
        first, first_norm, _, last, last_norm = stra.logit
        self.logit_hidden = conv_of(*fold_batch_norm(first, first_norm), like=first)  # type: ignore[arg-type]
        self.logit = conv_of(*fold_batch_norm(last, last_norm), like=last)  # type: ignore[arg-type]
        self.neighbours = self._neighbours(stra.window).to(stra.value.weight)
        gamma, beta = affine_of(norm) if norm else (torch.ones_like(stra.value.weight[:, 0, 0, 0]), None)
        separate = bool(gamma.abs().min() <= MIN_GAMMA_RATIO * gamma.abs().max())
        self.register_buffer("gamma", gamma.view(self.modes, 1, self.depth) if separate else None)
        inner = torch.ones_like(gamma) if separate else gamma
        self.register_buffer("beta", None if beta is None else beta.view(self.modes, 1, self.depth))
        weight = stra.value.weight.view(self.modes, self.depth, self.depth)
        parts = [weight * inner.view(self.modes, self.depth, 1)]
        self.mode = None
        if stra.mode is not None:
            scale = hidden_range(stra.mode, norm if not separate else None)
            self.mode = FastModeAttention(stra.mode, stra.channels, inner, None if separate else beta, scale)
            parts.append(self.mode.first_weight @ weight)  # step 3
        self.value = conv_of(torch.cat(parts, 1).flatten(0, 1)[:, :, None, None], None, like=stra.value)
        rows = strip_rows or choose_strip_rows(*size_hw, stra.window)
        tops = range(0, size_hw[0], rows)
        self.strips = nn.ModuleList(Strip(size_hw, stra.window, y, min(y + rows, size_hw[0])) for y in tops)
        self.to(stra.value.weight.dtype)

    def _neighbours(self, window: int) -> nn.Conv2d:
        """Step 2: [B, G, H, W] -> [B, G*K*K, H, W], each node's K*K neighbours, 0 outside the image."""
        conv = nn.Conv2d(self.modes, self.modes * self.taps, window, padding=window // 2, groups=self.modes, bias=False)
        one_hot = torch.eye(self.taps).view(self.taps, 1, window, window).repeat(self.modes, 1, 1, 1)
        conv.weight = nn.Parameter(one_hot, requires_grad=False)
        return conv

    def forward(self, x: Tensor) -> Tensor:
        height, width = self.size_hw
        nodes = height * width
        # Another shape of as many nodes would pass all the reshapes below and give nonsense.
        wanted = [1, self.modes * self.depth, height, width]
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if not tracing and list(x.shape) != wanted:
            raise ModelError(f"a reformulated block takes {wanted} alone, but got {list(x.shape)}; reformulate for it")
        logit = self.logit(torch.tanh(self.logit_hidden(x)))
        nu, omega = logit[:, : self.modes], logit[:, self.modes :]
        coefficients = (omega + self.neighbours(nu)).permute(0, 2, 3, 1).reshape(nodes, self.modes, self.taps)
        coefficients = coefficients.softmax(dim=2)  # (n, g, kk), before the layout: it is small here
        values = self.value(x).permute(0, 2, 3, 1).reshape(nodes, self.modes, -1).permute(1, 0, 2)  # (g, n, d + h)
        parts = []
        for strip in self.strips:
            assert isinstance(strip, Strip)
            parts.append(strip(coefficients) @ values[:, strip.first * width : strip.last * width])
        local = concat(parts, 1)
        output = self.finish(local)  # (g, n, d)
        return output.permute(1, 0, 2).reshape(1, height, width, -1).permute(0, 3, 1, 2)  # (1, c, h, w)

    def finish(self, local: Tensor) -> Tensor:
        """[G, N, D + h] (or D, without mode attention) -> the block's output [G, N, D]."""
        if self.mode is not None:
            local, hidden = local[..., : self.depth], local[..., self.depth :]
            added = self.mode(local, hidden)
            local = local + added
        if self.gamma is not None:
            local = local * self.gamma
        if self.beta is not None and (self.gamma is not None or self.mode is None):
            local = local + self.beta
        return functional.relu6(local) if self.relu6 else local
