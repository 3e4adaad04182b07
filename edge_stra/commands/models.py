"""`edge-stra models`."""

from __future__ import annotations

import click

from edge_stra.commands.common import emit


@click.command()
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
def models(as_json: bool) -> None:
    """List the models: task, input, multiply-accumulates, parameters, and whether weights are shipped.

    Parameters are counted without the classifier. MACs count convs, linears and batched products.
    """
    from edge_stra.models.macs import count_macs
    from edge_stra.models.registry import MODEL_NAMES, count_parameters, create_model, get_spec
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
    emit(rows, as_json, "\n".join(lines))
