"""Averages the weights of two checkpoints of one run: what a rising and a falling learning rate found, together.

    python scripts/average_weights.py runs/fer/best.safetensors runs/fer/last.pt --share 0.3 --out averaged.safetensors

Of a `last.pt` the moving average is taken. The first file's weights count `--share`, the second's the rest. Run
`edge-stra evaluate` on the result: an average of weights that are far apart is worth nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_stra.models.registry import create_model
from edge_stra.models.weights import load_weights, save_weights, weights_model
from edge_stra.spec import EdgeStraError, ModelError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="a .safetensors file, which says its model")
    parser.add_argument("second", type=Path)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if not 0 <= args.share <= 1:
        raise SystemExit(f"Error: --share must be 0 to 1, but is {args.share}")
    try:
        average(args.first, args.second, args.share, args.out)
    except EdgeStraError as error:
        raise SystemExit(f"Error: {error}") from error
    print(args.out)


def average(first: Path, second: Path, share: float, out: Path) -> None:
    """Writes the average of two files of one model. Raises ModelError where they are not."""
    name = weights_model(first)
    if name is None:
        raise ModelError(f"{first} must say which model its weights are of, but does not")
    model, other = create_model(name), create_model(name)
    load_weights(model, first, name)
    load_weights(other, second, name)
    added = other.state_dict()
    mixed = {
        key: (share * value + (1 - share) * added[key]).to(value) if value.is_floating_point() else value
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(mixed)
    save_weights(model, out, name=name)


if __name__ == "__main__":
    main()
