"""`edge-stra check`."""

from __future__ import annotations

from pathlib import Path

import click

from edge_stra.commands.common import PathType, emit
from edge_stra.spec import ArtifactError, ParityError


@click.command()
@click.argument("artifact", type=PathType)
@click.option("--weights", help="The weights it was made from, where they are not shipped or random.")
@click.option("--images", type=PathType, help="Folder of pictures. Default: drawn ones.")
@click.option("--layers", is_flag=True, help="Of a .tflite: also each module's output against its tensor, worst first.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of tables.")
def check(artifact: Path, weights: str | None, images: Path | None, layers: bool, as_json: bool) -> None:
    """Repeat the parity check of an artifact against its PyTorch model. Exit code 1 where it fails.

    \b
    Example:
      edge-stra check out/mobilenetv2_stra.fer.int8.tflite --images faces/ --layers
    """
    from edge_stra import parity
    from edge_stra.layers import compare_layers
    from edge_stra.layers import render as render_layers
    from edge_stra.recheck import recheck

    if layers and artifact.suffix != ".tflite":  # of others tensors can't be told by module
        raise ArtifactError(f"--layers must be asked of a .tflite file, but got {artifact.name}")
    result = recheck(artifact, weights, images)
    text, data = parity.render(result.comparisons), {"comparisons": [c.to_json() for c in result.comparisons]}
    if layers:
        rows = compare_layers(result.network, result.artifact, result.inputs[:8])
        text, data["layers"] = f"{text}\n\n{render_layers(rows)}", [row.to_json() for row in rows]
    emit(data, as_json, text)
    if result.failures:
        raise ParityError("; ".join(result.failures))
