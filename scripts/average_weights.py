"""Averages the weights of checkpoints along one run, or along runs that began from each other.

    python scripts/average_weights.py runs/4/best.safetensors runs/5/best.safetensors runs/5/last.pt --out m.safetensors
    python scripts/average_weights.py runs/fer/best.safetensors runs/fer/last.pt --shares 0.3 0.7 --out m.safetensors

Of a `last.pt` the moving average is taken. Shares are equal unless they are given. Run `edge-stra evaluate` on the
result: an average of weights far apart is worth nothing, one along a run may be worth more than its best epoch.
Source: Izmailov et al., arXiv 1803.05407; Wortsman et al., arXiv 2203.05482.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from edge_stra.models.registry import create_model
from edge_stra.models.weights import load_weights, save_weights, weights_model
from edge_stra.spec import EdgeStraError, ModelError, OutputError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="the first is a .safetensors file, which says its model")
    parser.add_argument("--shares", type=float, nargs="+", help="one for each file; their sum is 1")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    shares = args.shares or [1 / len(args.files)] * len(args.files)
    try:
        average(args.files, shares, args.out)
    except (EdgeStraError, OSError) as error:
        raise SystemExit(f"Error: {error}") from error
    print(args.out)


def average(files: Sequence[Path], shares: Sequence[float], out: Path) -> None:
    """Writes the average of files of one model.

    Raises ModelError where they are not, or shares do not fit; OutputError where `out` is not named .safetensors.
    """
    if len(shares) != len(files) or min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise ModelError(
            f"there must be a share for each of {len(files)} files, with the sum 1, but there are {shares}"
        )
    if out.suffix != ".safetensors":
        raise OutputError(f"{out} must be named .safetensors, which is what is written")
    if (name := weights_model(files[0])) is None:
        raise ModelError(f"{files[0]} must say which model its weights are of, but does not")
    model = create_model(name)
    states = []
    for file in files:
        load_weights(model, file, name)
        states.append({key: value.clone() for key, value in model.state_dict().items()})
    mixed = {key: mean([state[key] for state in states], shares) for key in states[0]}
    model.load_state_dict(mixed)
    save_weights(model, out, name=name)


def mean(values: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    """The weighted mean, in float64; counters of the first."""
    if not values[0].is_floating_point():
        return values[0]
    total = sum(share * value.double() for share, value in zip(shares, values, strict=True))
    return torch.as_tensor(total).to(values[0])


if __name__ == "__main__":
    main()
