"""ExecuTorch with the XNNPACK delegate; int8: its own XNNPACK quantizer, static, weights per channel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime
from protocol import Array, Function, Load, Loaded, calibration_inputs, planar, serve
from worker_torch import build


def quantize(exported: Any, request: Load) -> Any:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(exported.module(), quantizer)
    for x in calibration_inputs(request):
        prepared(torch.from_numpy(x))
    return convert_pt2e(prepared)


def convert(request: Load) -> Path:
    """The network as a .pte file."""
    path = Path(request.folder) / f"{request.model}.{request.form}.{request.precision}.pte"
    if path.is_file() and request.reuse:
        return path
    example = (torch.from_numpy(next(calibration_inputs(request))),)
    with torch.no_grad():
        exported = torch.export.export(build(request), example)
        if request.precision == "int8":
            exported = torch.export.export(quantize(exported, request), example)
        lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    path.write_bytes(bytes(lowered.buffer))
    return path


def load(request: Load) -> Loaded:
    if request.threads != 1:
        raise RuntimeError("the number of threads can't be set from Python; pinning to one core makes it 1")
    torch.set_num_threads(request.threads)
    program = Runtime.get().load_program(convert(request))
    method = program.load_method("forward")

    def bind(x: Array) -> Function:
        source = torch.from_numpy(planar(x))

        def run() -> Array:
            (output,) = method.execute([source])
            result: Array = output.numpy()
            return result

        run.program = program  # type: ignore[attr-defined]  # the method reads from it
        return run

    return Loaded(bind, ("executorch", "torch"))


if __name__ == "__main__":
    serve(load)
