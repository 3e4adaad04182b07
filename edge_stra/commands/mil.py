"""`edge-stra mil`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_stra.commands.common import PathType, emit, say
from edge_stra.quiet import printable

if TYPE_CHECKING:
    from edge_stra.mil import Package


@click.command()
@click.argument("package", type=PathType)
@click.option("--inputs", type=PathType, help="An .npz with an array for each input; drawn ones if not given.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of drawn inputs.")
@click.option("--wanted", multiple=True, help="Also give this value of the program, by its name; repeatable.")
@click.option("--out", type=PathType, help="Write the outputs into this .npz.")
@click.option("--overwrite", is_flag=True, help="Replace an .npz that exists.")
@click.option("--operators", is_flag=True, help="List every operator with its inputs, outputs and shapes.")
@click.option("--compare", is_flag=True, help="On macOS: run Core ML too, and say how far apart the two are.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
def mil(
    package: Path,
    inputs: Path | None,
    seed: int,
    wanted: tuple[str, ...],
    out: Path | None,
    overwrite: bool,
    operators: bool,
    compare: bool,
    as_json: bool,
) -> None:
    """Describe a saved Core ML package (.mlpackage with an ML Program), and run it without Core ML, on any system.

    Inputs and outputs, least iOS version, precision, operators, weights by kind; then one run of the program, operator
    by operator. Any such package will do, not only those of edge-stra.

    \b
    Examples:
      edge-stra mil model.mlpackage
      edge-stra mil model.mlpackage --operators --json
      edge-stra mil model.mlpackage --inputs inputs.npz --out outputs.npz
      edge-stra mil model.mlpackage --compare
    """
    from edge_stra.artifact import check_output, write_atomically
    from edge_stra.mil import open_package, report
    from edge_stra.mil.apple import check_platform
    from edge_stra.mil.inputs import draw_input, pack_outputs, read_inputs

    if compare:
        check_platform()
    if out is not None:
        check_output(out, overwrite)
    opened = open_package(package)
    data = report.describe(opened) | ({"operations": report.listing(opened)} if operators else {})
    if not as_json:  # before the run: it is worth having of a program that can't be run, too
        click.echo(printable("\n".join(report.render(opened, operators))))
    given = read_inputs(inputs) if inputs else {feature.name: draw_input(feature, seed) for feature in opened.inputs}
    outputs, seconds = run(opened, given, wanted)
    source = f"inputs of {inputs}" if inputs else f"drawn inputs, seed {seed}"
    summaries = {name: report.summarise(value) for name, value in outputs.items()}
    lines = ["", f"one run in {seconds:.3f} s, {source}"]
    lines += [report.render_output(name, summary) for name, summary in summaries.items()]
    if any(summary.get("not_finite") for summary in summaries.values()):
        say("warning: an output is NaN or infinite: the weights may be damaged, or half floats too narrow")
    data |= {"inputs_from": source, "seconds": seconds, "values": summaries}
    if compare:
        data["core_ml"] = against_core_ml(opened, given, outputs)
        lines += ["", *(report.render_output(row["output"], row) for row in data["core_ml"])]
    data |= {"proves": report.PROVES, "proves_not": report.PROVES_NOT}
    emit(data, as_json, "\n".join([*lines, "", report.PROVES, report.PROVES_NOT]))
    if out is not None:
        write_atomically(out, pack_outputs(outputs))
        say(f"outputs: {out}")


def run(package: Package, inputs: dict[str, Any], wanted: tuple[str, ...]) -> tuple[dict[str, Any], float]:
    """The outputs, and the seconds of a run."""
    import time

    from edge_stra.mil.executor import compile_package

    executor = compile_package(package)
    start = time.perf_counter()
    outputs = executor.run(inputs, wanted)
    return outputs, time.perf_counter() - start


def against_core_ml(package: Package, inputs: dict[str, Any], outputs: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each output and each choice of compute units."""
    from edge_stra.mil import apple

    rows = []
    for units in apple.COMPUTE_UNITS:
        found = apple.predict(package.path, apple.as_core_ml(package, inputs), units)
        rows += [{"units": units, **row} for row in apple.differences(package, outputs, found)]
    return rows
