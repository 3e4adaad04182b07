"""Weights of an ML Program in few bits: int8 for each output channel, or a palette of 16 or 64 values."""

from __future__ import annotations

import re
from typing import Any

from edge_stra.converters.coreml_package import operations

EARLY = re.compile(r"network_features_(0_|1_|2_conv_0_)")
"""Stem, first block and the expansion that reads it, as in calibration/recipes.py: they hold most of the noise."""
EXACT = re.compile(r".*_neighbours_")
"""The 0/1 kernel that lays neighbours around a node."""
LEAST_WEIGHTS = 2048
LEAST_PALETTE_WEIGHTS = 10_000


def compress_weights(program: Any, quantize: str) -> Any:
    """An MLModel with the weights of convs and linears as the precision says; those that stay are in half floats."""
    import coremltools.optimize.coreml as cto

    if quantize in ("w8", "w8a8"):
        config = cto.OpLinearQuantizerConfig(
            mode="linear_symmetric", dtype="int8", granularity="per_channel", weight_threshold=LEAST_WEIGHTS
        )
        compress = cto.linear_quantize_weights
    elif quantize.startswith("palette"):
        bits = int(quantize.removeprefix("palette"))
        config = cto.OpPalettizerConfig(mode="kmeans", nbits=bits, weight_threshold=LEAST_PALETTE_WEIGHTS)
        compress = cto.palettize_weights
    else:
        return program
    constants = [op.outputs[0].name for op in operations(program.get_spec().mlProgram) if op.type == "const"]
    kept = {name: None for name in constants if EARLY.match(name) or EXACT.match(name)}
    by_type = {"conv": config, "linear": config}
    return compress(program, cto.OptimizationConfig(op_type_configs=by_type, op_name_configs=kept))
