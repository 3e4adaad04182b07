"""torch on the CPU, channels last: eager, or compiled by inductor with frozen weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from protocol import Array, Function, Load, Loaded, serve
from torch import nn

from edge_stra.models.registry import create_model, get_spec
from edge_stra.models.weights import load_weights
from edge_stra.reformulate import reformulate


def build(request: Load) -> nn.Module:
    """The network in the wanted form, from weights that `run.py` saved."""
    model = create_model(request.model).eval()
    load_weights(model, Path(request.file), request.model)
    return reformulate(model, get_spec(request.model).input.size_hw) if request.form == "reformulated" else model


def load(request: Load) -> Loaded:
    torch.set_num_threads(request.threads)
    network: Any = build(request).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if request.option == "compile":
        from torch._inductor import config

        config.freezing = True
        network = torch.compile(network)

    def bind(x: Array) -> Function:
        source = torch.from_numpy(x).permute(0, 3, 1, 2)  # channels last already

        def run() -> Array:
            with torch.inference_mode():
                output: Array = network(source).numpy()
            return output

        return run

    return Loaded(bind, ("torch",))


if __name__ == "__main__":
    serve(load)
