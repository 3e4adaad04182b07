"""A float32 .tflite and a recipe -> a quantized .tflite, through ai-edge-quantizer."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from edge_stra.calibration.biases import hold_biases

from edge_stra.extras import install_command
from edge_stra.quiet import quiet_tools
from edge_stra.spec import DataError, MissingError, Recipe, Statistics
from edge_stra.targets.tflite_schema import parse

STATIC_BITS = {"int8": 8, "int8-tensor": 8, "int16": 16}
"""Bits of activations by kind of rule."""


def load_quantizer() -> Any:
    """ai-edge-quantizer's modules. Raises MissingError with the command that adds it."""
    try:
        from ai_edge_quantizer import qtyping, quantizer, recipe_manager
    except ImportError as error:
        raise MissingError(f"quantization needs ai-edge-quantizer; run: {install_command('export')}") from error
    return qtyping, quantizer, recipe_manager


def tool_recipe(recipe: Recipe) -> list[dict[str, Any]]:
    """Our rules in ai-edge-quantizer's own format."""
    qtyping, _, recipe_manager = load_quantizer()
    manager = recipe_manager.RecipeManager()
    for rule in recipe.rules:
        for operator in rule.operators:
            name = qtyping.TFLOperationName(operator)
            if rule.kind in STATIC_BITS:
                granularity = (
                    qtyping.QuantGranularity.TENSORWISE
                    if rule.kind == "int8-tensor"
                    else qtyping.QuantGranularity.CHANNELWISE
                )
                manager.add_static_config(rule.scope, name, STATIC_BITS[rule.kind], 8, granularity)
            elif rule.kind == "dynamic8":
                manager.add_dynamic_config(rule.scope, name, 8)
            elif rule.kind == "float16":
                weight = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
                config = qtyping.OpQuantizationConfig(weight_tensor_config=weight, explicit_dequantize=True)
                manager.add_quantization_config(rule.scope, name, config, "float_casting")
            else:
                manager.add_quantization_config(rule.scope, name, algorithm_key="no_quantize")
    result: list[dict[str, Any]] = manager.get_quantization_recipe()
    return result


def quantize(model: bytes, recipe: Recipe, statistics: Statistics | None) -> bytes:
    """Applies a recipe. Raises DataError where statistics are absent or do not fit the graph."""
    if not recipe.rules:
        return model
    with quiet_tools():
        _, quantizer, _ = load_quantizer()
        tool = quantizer.Quantizer(bytearray(model))
        tool.load_quantization_recipe(tool_recipe(recipe))
        tool_statistics = None
        if recipe.needs_calibration:
            if statistics is None:
                raise DataError(f"the recipe {recipe.name} needs calibration; give --calibration FOLDER with pictures")
            tool_statistics = range_statistics(model, statistics)
        quantized = bytes(tool.quantize(tool_statistics, enable_progress_report=False).quantized_model)
    return hold_biases(model, quantized) if recipe.needs_calibration else quantized


def computed_tensors(model: bytes) -> dict[str, int]:
    """Name -> rank of every float tensor that is not a constant of the file."""
    parsed = parse(model)
    tensors: dict[str, int] = {}
    for tensor in parsed.subgraphs[0].tensors:
        data = parsed.buffers[tensor.buffer].data
        if tensor.type == schema.TensorType.FLOAT32 and (data is None or len(data) == 0):
            tensors[tensor.name.decode()] = 0 if tensor.shape is None else len(tensor.shape)
    return tensors


def range_statistics(model: bytes, statistics: Statistics) -> dict[str, dict[str, Any]]:
    """Ranges in ai-edge-quantizer's format: arrays of the tensor's rank, one number each.

    Raises DataError where a tensor of the graph has no range: the statistics are of another graph.
    """
    tensors = computed_tensors(model)
    if missing := sorted(set(tensors) - set(statistics.low_high)):
        raise DataError(
            f"the calibration statistics must cover the graph's {len(tensors)} tensors, but {len(missing)} are missing "
            f"(such as ...{missing[0][-60:]}): they are of another version of model or tools; give --calibration FOLDER"
        )
    return {
        name: {
            key: np.full((1,) * rank, value, np.float32)
            for key, value in zip(("min", "max"), statistics.low_high[name], strict=True)
        }
        for name, rank in tensors.items()
    }
