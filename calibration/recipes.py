"""Quantization recipes: data, not code. A rule's scope is a regular expression on the output tensor's name."""

from __future__ import annotations

from dataclasses import replace

from edge_stra.calibration.ranges import RANGES

from edge_stra.spec import ModelError, Recipe, Rule

ATTENTION = ".*fast_attention.*"
# Stem, first block, and the expansion that reads it: the noise of these tensors alone costs 29 to 32 dB, every
# later one 42 dB and more, because that expansion takes small differences of large values (docs/quantization.md).
EARLY = r".*(Sequential_features/[^/]*Sequential_0/|InvertedResidual_1/|InvertedResidual_2/.*Conv2d_0;).*"
PLACEMENT = ".*fast_attention.Strip.*"
MODE_ATTENTION = ".*FastModeAttention.*"

RECIPES: dict[str, Recipe] = {
    "fp32": Recipe("float32", ()),
    # The early layers hold 0.2 % of the weights and, in half precision, nearly all of the noise: 48 dB, 64 without.
    "fp16": Recipe(
        "weights_float16",
        (
            Rule(".*", ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"), "float16"),
            Rule(EARLY, ("CONV_2D", "DEPTHWISE_CONV_2D"), "float"),
        ),
    ),
    # XNNPACK quantizes activations on the fly for convs and linears, not for depthwise convs: those stay float.
    "dynamic": Recipe(
        "dynamic_wi8_af32",
        (Rule(".*", ("CONV_2D", "FULLY_CONNECTED"), "dynamic8"), Rule(EARLY, ("CONV_2D",), "float")),
    ),
    # The fast one. The products and softmaxes of attention run in float: XNNPACK takes SOFTMAX in float only,
    # and an int8 BATCH_MATMUL of this size is about 8 times slower than the float one.
    "int8": Recipe(
        "static_wi8_ai8_attention_f32",
        (
            Rule(".*", ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "MEAN", "PAD"), "int8"),
            Rule(EARLY, ("CONV_2D", "DEPTHWISE_CONV_2D", "PAD"), "float"),
            Rule(ATTENTION, ("ADD", "MUL", "DEPTHWISE_CONV_2D"), "float"),
        ),
        correct_bias=True,
        ranges="mse",
    ),
    "int8-full": Recipe(
        "static_wi8_ai8_early_softmax_modes_ai16",
        (
            Rule(".*", ("*",), "int8"),
            Rule(EARLY, ("CONV_2D", "DEPTHWISE_CONV_2D", "PAD"), "int16"),
            Rule(PLACEMENT, ("BATCH_MATMUL",), "int8-tensor"),  # per channel, its 0/1 constant comes out as zeros
            # In 8 bits these two round in float and differ by one between x86 and Arm; in 16 bits they are integer.
            Rule(".*", ("SOFTMAX", "MEAN"), "int16"),
            # Products of vectors, and gates made of them, spread too widely for 8 bits; small tensors, little cost.
            Rule(MODE_ATTENTION, ("*",), "int16"),
        ),
        correct_bias=True,
    ),
}


def adjust(
    precision: str, ranges: str | None = None, bias_correction: bool | None = None, equalise: bool | None = None
) -> Recipe:
    """The recipe of a precision with a user's switches; None leaves what the recipe says.

    Raises ModelError for an unknown precision or kind of ranges, and for a switch that could change nothing.
    """
    if precision not in RECIPES:
        raise ModelError(f"unknown precision {precision!r}; the precisions are {', '.join(RECIPES)}")
    recipe = RECIPES[precision]
    static = ", ".join(name for name, r in RECIPES.items() if r.needs_calibration)
    int8 = ", ".join(name for name, r in RECIPES.items() if r.quantizes_weights)
    if ranges is not None and ranges not in RANGES:
        raise ModelError(f"unknown ranges {ranges!r}; they are {', '.join(RANGES)}")
    if ranges is not None and not recipe.needs_calibration:
        raise ModelError(f"--ranges needs a precision with int8 activations ({static}), but this is {precision}")
    for switch, on in (("--bias-correction", bias_correction), ("--equalise", equalise)):
        if on and not recipe.quantizes_weights:
            raise ModelError(f"{switch} needs a precision with int8 weights ({int8}), but this is {precision}")
    return replace(
        recipe,
        ranges=recipe.ranges if ranges is None else ranges,
        correct_bias=recipe.correct_bias if bias_correction is None else bias_correction,
        equalise=recipe.equalise if equalise is None else equalise,
    )
