"""Quantization recipes: data, not code. A rule's scope is a regular expression on the output tensor's name."""

from __future__ import annotations

from edge_stra.spec import Recipe, Rule

ATTENTION = ".*fast_attention.*"
INTERACTION = ".*FastInteraction.*"

RECIPES: dict[str, Recipe] = {
    "fp32": Recipe("float32", ()),
    "fp16": Recipe("weights_float16", (Rule(".*", ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"), "float16"),)),
    "dynamic": Recipe("dynamic_wi8_af32", (Rule(".*", ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"), "dynamic8"),)),
    # The fast one. The products and softmaxes of attention run in float: XNNPACK takes SOFTMAX in float only,
    # and an int8 BATCH_MATMUL of this size is about 8 times slower than the float one.
    "int8": Recipe(
        "static_wi8_ai8_attention_f32",
        (
            Rule(".*", ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "MEAN", "PAD"), "int8"),
            Rule(ATTENTION, ("ADD", "MUL", "DEPTHWISE_CONV_2D"), "float"),
        ),
    ),
    "int8-full": Recipe(
        "static_wi8_ai8_interaction_ai16",
        (
            Rule(".*", ("*",), "int8"),
            # Products of vectors, squared: 8 bits leave nothing of the smaller ones. 16 x 8 numbers, no cost.
            Rule(INTERACTION, ("MUL", "SUM", "RSQRT", "MAXIMUM", "SOFTMAX", "BATCH_MATMUL", "RESHAPE"), "int16"),
        ),
        integer_io=True,
    ),
}
