"""`edge-stra inspect`."""

from __future__ import annotations

from pathlib import Path

import click

from edge_stra.commands.common import PathType, emit, emit_json, emit_text
from edge_stra.spec import ArtifactError


@click.command()
@click.argument("artifact", type=PathType)
@click.option("--delegate", type=click.Choice(["xnnpack", "edgetpu", "gpu", "all"]), default="xnnpack",
              show_default=True, help="Whose partitions and reasons are shown, and whom --fail-on asks.")  # fmt: skip
@click.option("--operators", is_flag=True, help="Also list every operator.")
@click.option("--fail-on", type=click.Choice(["undelegated"]),
              help="Exit code 1 where an operator is not taken, or breaks a principle.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="JSON of all delegates instead of a table.")
def inspect(artifact: Path, delegate: str, operators: bool, fail_on: str | None, as_json: bool) -> None:
    """Predict which operators of an artifact an accelerator takes, in how many partitions, and why not the others.

    Nothing is run. Of a .mlpackage: which operators break what Apple publishes of the Neural Engine; --delegate and
    --operators are for .tflite files. The rules of XNNPACK are those of ai-edge-litert 2.3.0, those of the Coral Edge
    TPU and the GPU delegate what is published. `edge-stra doctor ARTIFACT` says what XNNPACK really takes here.

    \b
    Examples:
      edge-stra inspect out/mobilenetv2_stra.fer.int8.tflite
      edge-stra inspect out/mobilenetv2_stra.fer.int8.tflite --fail-on undelegated
      edge-stra inspect out/mobilenetv2_stra.fer.fp16.mlpackage
      edge-stra inspect out/mobilenetv2_stra.fer.int8-full.tflite --delegate edgetpu --operators
    """
    if artifact.suffix == ".mlpackage":
        from edge_stra.delegates import neural_engine

        seen = neural_engine.examine(artifact)
        emit(neural_engine.report(seen), as_json, neural_engine.render(seen))
        if fail_on is not None:
            seen.check()
        return
    if artifact.suffix == ".onnx":
        raise ArtifactError(f"{artifact} must be a .tflite file or a .mlpackage: there are no rules for ONNX runtimes")
    from edge_stra.delegates import partitions, table

    found = partitions.inspect(artifact)
    chosen = list(found.findings) if delegate == "all" else [delegate]
    if as_json:
        emit_json(partitions.report(found))
    else:
        emit_text(table.render(found, chosen, operators))
    if fail_on is not None:
        found.check(chosen)
