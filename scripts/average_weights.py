"""Averages the weights of two checkpoints of one run: what a rising and a falling learning rate found, together.

    python scripts/average_weights.py runs/fer/best.safetensors runs/fer/last.pt --share 0.3 --out averaged.safetensors

Of a `last.pt` the moving average is taken. The first file's weights count `--share`, the second's the rest. Run
`edge-stra evaluate` on the result: an average of weights that are far apart is worth nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from edge_stra.loading import load_model
from edge_stra.models.weights import read_weights, save_weights, weights_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="a .safetensors file, which says its model")
    parser.add_argument("second", type=Path)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    name = weights_model(args.first)
    if name is None:
        raise SystemExit(f"{args.first} must say which model its weights are of, but does not")
    first, second = state_of(args.first), state_of(args.second)
    model, _ = load_model(name, str(args.first))
    mixed = {
        key: (args.share * value + (1 - args.share) * second[key]).to(value) if value.is_floating_point() else value
        for key, value in first.items()
    }
    model.load_state_dict(mixed)
    save_weights(model, args.out, name=name)
    print(args.out)


def state_of(path: Path) -> dict[str, Tensor]:
    """A weights file's tensors, or the moving average of a run."""
    if path.suffix != ".pt":
        return read_weights(path)
    average: dict[str, Tensor] = torch.load(path, "cpu", weights_only=True)["average"]
    return average


if __name__ == "__main__":
    main()
