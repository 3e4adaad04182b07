"""`edge-stra models` and `edge-stra models pull`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edge_stra.commands.common import PathType, emit, say
from edge_stra.extras import install_command
from edge_stra.pull import MODELS
from edge_stra.quiet import printable
from edge_stra.shipped import shipped_artifacts


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@click.pass_context
def models(context: click.Context, as_json: bool) -> None:
    """List the models: task, input, multiply-accumulates, parameters, and whether weights are shipped.

    Parameters are counted without the classifier. MACs count convs, linears and batched products. The table ends
    with the detectors of the demos, which `edge-stra models pull` fetches.
    """
    if context.invoked_subcommand is not None:
        if as_json:
            raise click.UsageError(f"--json must follow the command: edge-stra models {context.invoked_subcommand}")
        return
    try:
        from edge_stra.models.macs import count_macs
        from edge_stra.models.registry import MODEL_NAMES, count_parameters, create_model, get_spec
    except ModuleNotFoundError:
        say(f"counting needs PyTorch ({install_command('export')}); these are the artifacts that are here:")
        artifacts = shipped_artifacts()
        emit([{"artifact": str(path)} for path in artifacts], as_json, "\n".join(map(str, artifacts)))
        if not as_json:
            click.echo(printable("\n".join(["", *detector_lines()])))
        return
    from edge_stra.shipped import shipped_weights

    rows = []
    for name in MODEL_NAMES:
        spec, model = get_spec(name), create_model(name).eval()
        rows.append(
            {
                "name": name,
                "task": spec.task,
                "input_hw": list(spec.input.size_hw),
                "macs": count_macs(model, spec.input.size_hw),
                "parameters": count_parameters(model),
                "shipped": shipped_weights(name) is not None,
            }
        )
    lines = [f"{'name':<28}{'task':<6}{'input':>9}{'M MACs':>9}{'M params':>10}  shipped weights"]
    for r in rows:
        size = f"{r['input_hw'][0]}x{r['input_hw'][1]}"  # type: ignore[index]
        millions = f"{r['macs'] / 1e6:>9.1f}{r['parameters'] / 1e6:>10.2f}"  # type: ignore[operator]
        lines.append(f"{r['name']:<28}{r['task']:<6}{size:>9}{millions}  {'yes' if r['shipped'] else '-'}")
    emit(rows, as_json, "\n".join([*lines, "", *detector_lines()]))


def detector_lines() -> list[str]:
    """The detectors that can be pulled, and where each one is."""
    from edge_stra.pull import find_pulled
    from edge_stra.spec import MissingError

    lines = [f"{'detector':<28}{'licence':<15}at hand"]
    for name, model in MODELS.items():
        try:
            found = find_pulled(name)
            where = str(found) if found else f"- (edge-stra models pull {name})"
        except MissingError:
            where = f"- (${model.variable} names a file that is absent)"
        lines.append(f"{name:<28}{model.licence:<15}{where}")
    return lines


@models.command()
@click.argument("name", type=click.Choice(list(MODELS)))
@click.option("--to", "folder", type=PathType, help="Folder.  [default: the user's cache, where the demos look]")
@click.option("--from", "source", type=PathType, help="A file that is here already, instead of the network.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
def pull(name: str, folder: Path | None, source: Path | None, as_json: bool) -> None:
    """Fetch a detector of the demos from its project, at a fixed commit and with a fixed SHA-256.

    A download that broke off goes on where it stopped. yunet finds faces, fastestdet finds people.

    \b
    Examples:
      edge-stra models pull fastestdet
      edge-stra models pull yunet --from yunet_n_320_320.onnx
    """
    from edge_stra.pull import pull as pull_model

    model = MODELS[name]
    with click.progressbar(length=model.size_bytes, label=model.file, file=sys.stderr) as bar:
        report = pull_model(name, folder, source, bar.update)
    say(f"licence: {report['licence']}; from {model.source}")
    emit(report, as_json, f"{report['done']}: {report['path']}")
