"""Which operators a delegate takes: one table for each delegate, and the source beside each row.

XNNPACK's rows were read in LiteRT's source and then set by what ai-edge-litert 2.3.0 really does; the tests hold them
to it. The Edge TPU's and the GPU delegate's rows are what is published: neither runs here. What no row names is not
taken. Of the Edge TPU's compiler only this table is public, so it may still leave an operator for reasons of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_stra.delegates.cases import (
    conv_groups,
    depth_multiplier,
    edge_concatenation,
    edge_mean,
    edge_pack,
    edge_pad,
    edge_prelu,
    edge_softmax,
    edge_squeeze,
    edge_types,
    gpu_broadcast,
    gpu_keep_dims,
    gpu_matmul,
    gpu_pad,
    gpu_types,
    leaky_slope,
    matmul_weights,
    pool_window,
    quantize_pair,
    same_dilation,
    slice_lengths,
    split_outputs,
)
from edge_stra.delegates.conditions import (
    EVERY,
    F32,
    FLOAT,
    Q8,
    Condition,
    activation,
    at_least,
    bias,
    computed,
    counts,
    equal_quantization,
    integers,
    kind,
    leading_ones,
    matching,
    no_constants,
    not_batch,
    not_version,
    option,
    rank,
    ratio,
    same_kind,
    static,
    values,
    version,
    weights,
)


@dataclass(frozen=True)
class Row:
    """These operators are taken where all conditions hold; the first that does not gives the reason."""

    operators: tuple[str, ...]
    conditions: tuple[Condition, ...]
    source: str


@dataclass(frozen=True)
class Delegate:
    """common: conditions of every operator.

    unpacks: DEQUANTIZE of a constant counts as that constant, and goes where its readers go.
    keeps: of the partitions, "all" run on the delegate, or one alone: the "first", or the "largest" by operators.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    common: tuple[Condition, ...] = ()
    common_source: str = ""
    unpacks: bool = False
    keeps: str = "all"
    keeps_source: str = ""

    def row(self, operator: str) -> Row | None:
        return next((row for row in self.rows if operator in row.operators), None)


LITERT = "https://github.com/google-ai-edge/LiteRT/blob"
XNNPACK_CC = f"{LITERT}/9320c268153abedf41f49855ae136b609978f328/tflite/delegates/xnnpack/xnnpack_delegate.cc"
GPU_CC = f"{LITERT}/007226f498a6fa5204b1127a59d647857a09ceaf/tflite/tools/versioning/gpu_compatibility.cc"
GPU_BUILDER = f"{LITERT}/34ec5badbbbfd4d2147d1362f299f58843f84dfc/tflite/delegates/gpu/common/model_builder.cc"
EDGETPU = "https://coral.ai/docs/edgetpu/models-intro/#supported-operations (compiler 16.0)"
PARTITIONS = f"{LITERT}/01d971c556e3f74b696b96e0c2aa1e73b179a14e/tflite/graph_info.cc"
"""How the runtime groups what a delegate takes: PartitionGraphIntoIndependentNodeSubsets."""


def xnn(function: str) -> str:
    return f"{XNNPACK_CC} {function}"


def gpu(operator: str, parser: str = "") -> str:
    return f"{GPU_CC} case {operator}" + (f"; {GPU_BUILDER} {parser}" if parser else "")


CLAMPS = activation("RELU", "RELU_N1_TO_1", "RELU6")
ANY = FLOAT | Q8
SCALAR_8BIT = F32 | Q8
MAX_RANK = 6  # XNN_MAX_TENSOR_DIMS
UNARY = (counts(1, 1), rank(("in0",), 0, MAX_RANK))
BINARY = (counts(2, 2), rank(("in",), 0, MAX_RANK))
POSITIVE_STEPS = at_least(1, "StrideH", "StrideW", "DilationHFactor", "DilationWFactor")
ADDITION = (kind(EVERY, ANY), same_kind(EVERY), ratio(("in0",), 2**-10, 256), ratio(("in1",), 2**-10, 256), CLAMPS)
REDUCTION = (counts(2, 2), kind(("in0",), SCALAR_8BIT), integers(("in1",)), rank(("in1",), 0, 1), static(("in1",)),
             kind(("out",), SCALAR_8BIT))  # fmt: skip

XNNPACK = Delegate(
    "xnnpack",
    "XNNPACK (CPU)",
    (
        Row(
            ("ABS", "CEIL", "COS", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LOG", "NEG", "RELU", "RELU6",
             "RELU_N1_TO_1", "ROUND", "RSQRT", "SIN", "SQRT", "SQUARE"),
            (*UNARY, kind(EVERY, FLOAT)),
            xnn("VisitUnaryNode; LOG as measured"),
        ),
        Row(("ELU",), (*UNARY, kind(EVERY, FLOAT | {"int8"})), xnn("VisitUnaryNode")),
        Row(("LOGISTIC", "TANH"), (*UNARY, kind(EVERY, ANY)), xnn("VisitUnaryNode")),
        Row(
            ("LEAKY_RELU",),
            (*UNARY, kind(EVERY, ANY), ratio(("in0",), 2**-8, 128, closed=True), leaky_slope),
            xnn("VisitUnaryNode"),
        ),
        Row(("DEQUANTIZE",), (*UNARY, kind(("in0",), Q8), kind(("out",), FLOAT)), xnn("VisitUnaryNode")),
        Row(
            ("QUANTIZE",),
            (*UNARY, kind(("in0",), ANY), kind(("out",), Q8), quantize_pair, ratio(("in0",), 2**-8, 128, closed=True)),
            xnn("VisitUnaryNode"),
        ),
        Row(("ADD", "SUB"), (*BINARY, *ADDITION), xnn("VisitBinaryNode")),
        Row(
            ("MUL",),
            (*BINARY, kind(EVERY, ANY), same_kind(EVERY), ratio(("in0", "in1"), 2**-16, 256), CLAMPS),
            xnn("VisitBinaryNode"),
        ),
        Row(("DIV",), (*BINARY, kind(EVERY, FLOAT), CLAMPS), xnn("VisitBinaryNode")),
        Row(
            ("MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"),
            (*BINARY, kind(EVERY, FLOAT)),
            xnn("VisitBinaryNode"),
        ),
        Row(("PRELU",), (*BINARY, kind(EVERY, FLOAT), static(("in1",))), xnn("VisitBinaryNode")),
        Row(
            ("CONV_2D",),
            (POSITIVE_STEPS, counts(3, 3), kind(("in0",), SCALAR_8BIT), rank(("in0", "in1", "out0"), 4, 4),
             weights(channel=0), bias(required=True), kind(("out",), SCALAR_8BIT), matching(dynamic=("int8",)),
             conv_groups, CLAMPS),
            xnn("VisitConv2DNode"),
        ),
        Row(
            ("DEPTHWISE_CONV_2D",),
            (counts(3, 3), kind(("in0",), SCALAR_8BIT), rank(("in0", "in1", "out0"), 4, 4), weights(channel=3),
             bias(required=True), kind(("out",), SCALAR_8BIT), matching(dynamic=()), POSITIVE_STEPS, depth_multiplier,
             CLAMPS),
            xnn("VisitDepthwiseConv2DNode"),
        ),
        Row(
            ("FULLY_CONNECTED",),
            (not_version(8), option("WeightsFormat", 0), counts(2, 3), kind(("in0",), SCALAR_8BIT),
             rank(("in1",), 2, 2), weights(0, ("float32", "float16", "int8", "uint8")), bias(required=False),
             kind(("out",), SCALAR_8BIT), matching(dynamic=("int8",)), CLAMPS),
            xnn("VisitFullyConnectedNode"),
        ),
        Row(
            ("BATCH_MATMUL",),
            (counts(2, 2), kind(("in0", "out"), SCALAR_8BIT), rank(("in",), 2, MAX_RANK), matmul_weights,
             matching(dynamic=("int8",))),
            xnn("VisitBatchMatMulNode; the zero point of input 1 as measured"),
        ),
        Row(("AVERAGE_POOL_2D",), (counts(1, 1), kind(EVERY, F32), pool_window, CLAMPS), xnn("VisitAveragePool2DNode")),
        Row(("MAX_POOL_2D",), (counts(1, 1), kind(EVERY, SCALAR_8BIT), pool_window, CLAMPS), xnn("VisitMaxPool2DNode")),
        Row(("CONCATENATION",), (counts(2, 5), kind(EVERY, ANY)), xnn("VisitConcatenationNode")),
        Row(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"), REDUCTION, xnn("VisitReduceNode")),
        Row(
            ("PAD",),
            (counts(2, 2), kind(("in0", "out"), SCALAR_8BIT), rank(("in0", "out"), 1, MAX_RANK), integers(("in1",)),
             rank(("in1",), 2, 2), static(("in1",)), values("in1", lambda v: v >= 0, "negative ones are not taken")),
            xnn("VisitPadNode"),
        ),
        Row(
            ("RESHAPE",),
            (counts(1, 2), kind(("in0", "out"), SCALAR_8BIT), rank(("in0", "out"), 0, MAX_RANK), equal_quantization,
             integers(("in1",)), static(("in1",))),
            xnn("VisitReshapeNode"),
        ),
        Row(
            ("RESIZE_BILINEAR",),
            (counts(2, 2), kind(("in0", "out"), SCALAR_8BIT), rank(("in0", "out"), 4, 4), integers(("in1",)),
             static(("in1",)), values("in1", lambda v: v > 0, "positive ones are taken")),
            xnn("VisitResizeBilinearNode"),
        ),
        Row(
            ("SLICE",),
            (static(("in1", "in2")), integers(("in1", "in2"), ("int32", "int64")), rank(("in1", "in2"), 1, 1),
             kind(("in0", "out"), SCALAR_8BIT), values("in2", lambda v: v > 0, "sizes must be written out")),
            xnn("VisitSliceNode"),
        ),
        Row(
            ("STRIDED_SLICE",),
            (option("EllipsisMask", 0), option("NewAxisMask", 0), option("ShrinkAxisMask", 0),
             static(("in1", "in2", "in3")), integers(("in1", "in2", "in3")), rank(("in1", "in2", "in3"), 1, 1),
             values("in3", lambda v: v == 1, "strides of 1 are taken"), kind(("in0", "out"), SCALAR_8BIT),
             slice_lengths),
            xnn("VisitStridedSliceNode; ends outside are taken, as measured"),
        ),
        Row(("SOFTMAX",), (option("Beta", 1), counts(1, 1), kind(EVERY, F32)), xnn("VisitSoftmaxNode")),
        Row(
            ("SPACE_TO_DEPTH", "DEPTH_TO_SPACE"),
            (counts(1, 1), kind(EVERY, SCALAR_8BIT), at_least(2, "BlockSize")),
            xnn("VisitSpaceToDepthNode, VisitDepthToSpaceNode"),
        ),
        Row(
            ("SPLIT",),
            (counts(2, 2, None), split_outputs(2, 4), integers(("in0",)), static(("in0",)),
             kind(("in1", "out"), SCALAR_8BIT)),
            xnn("VisitSplitNode"),
        ),
        Row(
            ("TRANSPOSE",),
            (counts(2, 2), kind(("in0",), SCALAR_8BIT), rank(("in0",), 0, MAX_RANK), static(("in1",))),
            xnn("VisitTransposeNode"),
        ),
    ),
    unpacks=True,
)  # fmt: skip

EDGE_TPU = Delegate(
    "edgetpu",
    "Coral Edge TPU",
    (
        Row(
            ("ADD", "EXPAND_DIMS", "L2_NORMALIZATION", "LOGISTIC", "MAXIMUM", "MINIMUM", "MUL", "QUANTIZE", "RELU",
             "RELU6", "RELU_N1_TO_1", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "RSQRT", "SLICE",
             "SPACE_TO_DEPTH", "SQUARED_DIFFERENCE", "SUB", "TANH", "TRANSPOSE", "TRANSPOSE_CONV"),
            (),
            EDGETPU,
        ),
        Row(("AVERAGE_POOL_2D", "MAX_POOL_2D"), (activation(),), EDGETPU),
        Row(("CONCATENATION",), (activation(), edge_concatenation), EDGETPU),
        Row(("CONV_2D", "DEPTHWISE_CONV_2D"), (static(("in1",)), same_dilation), EDGETPU),
        Row(
            ("FULLY_CONNECTED",),
            (static(("in1",)), option("WeightsFormat", 0), leading_ones(("out",), 1)),
            EDGETPU,
        ),
        Row(("MEAN",), (not_batch("in1"), edge_mean), EDGETPU),
        Row(("SUM", "REDUCE_MAX", "REDUCE_MIN"), (not_batch("in1"),), EDGETPU),
        Row(("PACK",), (edge_pack,), EDGETPU),
        Row(("PAD",), (edge_pad,), EDGETPU),
        Row(("PRELU",), (edge_prelu,), EDGETPU),
        Row(("SOFTMAX",), (edge_softmax,), EDGETPU),
        Row(("SPLIT",), (not_batch("in0", "in1"),), EDGETPU),
        Row(("SQUEEZE",), (edge_squeeze,), EDGETPU),
        Row(
            ("STRIDED_SLICE",),
            (values("in3", lambda v: v == 1, "strides of 1 are taken"), option("EllipsisMask", 0),
             option("NewAxisMask", 0)),
            EDGETPU,
        ),
    ),
    common=(edge_types, leading_ones(EVERY, 3)),
    common_source="https://coral.ai/docs/edgetpu/models-intro/#model-requirements",
    keeps="first",
    keeps_source="https://coral.ai/docs/edgetpu/models-intro/#compiling",
)  # fmt: skip

FUSED = activation("RELU", "RELU_N1_TO_1", "RELU6", "TANH")
ONE = computed(1)
AXES = (ONE, counts(2, 2), static(("in1",)), integers(("in1",)))
WINDOW = at_least(1, "StrideH", "StrideW", "FilterHeight", "FilterWidth")

GPU = Delegate(
    "gpu",
    "GPU (OpenCL, Metal)",
    (
        Row(
            ("ABS", "COS", "ELU", "EXP", "FLOOR", "GELU", "LOG", "LOGISTIC", "NEG", "RSQRT", "SIGN", "SIN", "SQRT",
             "SQUARE", "TANH"),
            (version(2), counts(1, 1), no_constants),
            gpu("Abs and others", "ElementwiseOperationParser"),
        ),
        Row(
            ("DIV", "FLOOR_DIV", "FLOOR_MOD", "MAXIMUM", "MINIMUM", "POW", "SQUARED_DIFFERENCE", "SUB"),
            (version(2), counts(2, 2), FUSED),
            gpu("Div and others", "ElementwiseOperationParser"),
        ),
        Row(("ADD",), (version(2), counts(2, 2), gpu_broadcast), gpu("Add", "ElementwiseOperationParser")),
        Row(("MUL",), (version(3), counts(2, 2), gpu_broadcast, FUSED), gpu("Mul", "ElementwiseOperationParser")),
        Row(
            ("AVERAGE_POOL_2D", "MAX_POOL_2D"),
            (version(2), ONE, counts(1, 1), WINDOW, FUSED),
            gpu("AveragePool2d", "Pooling2DOperationParser"),
        ),
        Row(("BATCH_MATMUL",), (counts(2, 2), gpu_matmul), gpu("BatchMatmul", "BatchedMatMulOperationParser")),
        Row(("CONCATENATION",), (version(2),), gpu("Concatenation", "ConcatenationOperationParser")),
        Row(("CONV_2D",), (version(6), computed(2), POSITIVE_STEPS, FUSED), gpu("Conv2d", "Conv2DOperationParser")),
        Row(
            ("DEPTHWISE_CONV_2D",),
            (version(6), computed(2), POSITIVE_STEPS, FUSED, rank(("in0", "in1", "out0"), 4, 4)),
            gpu("DepthwiseConv2d", "DepthwiseConvolutionOperationParser"),
        ),
        Row(
            ("DEPTH_TO_SPACE", "SPACE_TO_DEPTH"),
            (ONE, at_least(2, "BlockSize")),
            gpu("DepthToSpace", "DepthToSpaceOperationParser"),
        ),
        Row(("DEQUANTIZE",), (version(3), counts(1, 1)), gpu("Dequantize", "DequantizeOperationParser")),
        Row(
            ("FULLY_CONNECTED",),
            (version(9), option("WeightsFormat", 0), computed(2), gpu_keep_dims),
            gpu("FullyConnected", "FullyConnectedOperationParser"),
        ),
        Row(("HARD_SWISH", "TILE", "TRANSPOSE_CONV"), (computed(2),), gpu("HardSwish, Tile, TransposeConv")),
        Row(("LEAKY_RELU", "RELU", "RELU6", "RELU_N1_TO_1"), (version(2),), gpu("Relu", "ReLUOperationParser")),
        Row(("MEAN", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "SUM"), AXES, gpu("Mean, Sum")),
        Row(("PACK", "SPLIT", "SPLIT_V"), (), gpu("Pack, Split, SplitV")),
        Row(("PAD", "PADV2"), (version(2), ONE, gpu_pad), gpu("Pad", "PadOperationParser")),
        Row(("MIRROR_PAD",), (version(2), ONE, option("Mode", 0), gpu_pad), gpu("MirrorPad", "PadOperationParser")),
        Row(("PRELU",), (version(1),), gpu("Prelu", "PReLUOperationParser")),
        Row(("QUANTIZE",), (version(2), ONE), gpu("Quantize", "QuantizeOperationParser")),
        Row(("RESHAPE",), (ONE,), gpu("Reshape", "ReshapeOperationParser")),
        Row(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), (ONE,), gpu("ResizeBilinear", "Resize2DOperationParser")),
        Row(("SLICE",), (version(2), counts(3, 3), rank(("in0",), 3, 4)), gpu("Slice", "SliceOperationParser")),
        Row(("SOFTMAX",), (version(2), option("Beta", 1)), gpu("Softmax", "SoftmaxOperationParser")),
        Row(
            ("STRIDED_SLICE",),
            (version(4), counts(4, 4), option("EllipsisMask", 0), option("NewAxisMask", 0),
             option("ShrinkAxisMask", 0), rank(("in0",), 3, 4)),
            gpu("StridedSlice", "StridedSliceOperationParser"),
        ),
        Row(("TRANSPOSE",), (version(4), ONE), gpu("Transpose", "TransposeOperationParser")),
    ),
    common=(gpu_types,),
    common_source=f"{GPU_BUILDER} IsAllAllowedTensors",
    unpacks=True,
    keeps="largest",
    keeps_source=f"{GPU_BUILDER} GetOpsToReplace: max_delegated_partitions is 1 by default",
)  # fmt: skip

DELEGATES = {delegate.name: delegate for delegate in (XNNPACK, EDGE_TPU, GPU)}
