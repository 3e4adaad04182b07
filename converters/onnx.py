"""Reformulated PyTorch network -> ONNX, in float32 or float16, through torch's dynamo exporter and onnxsim.

Nodes and tensors are named after the modules that they come from (`features.4.conv.6`), so that ranges and
corrections that are known by module apply, and a viewer shows the network as it was written.
"""

from __future__ import annotations

import ast
import re
from typing import Any

import numpy as np
import torch
from torch import nn

from edge_stra.extras import install_command
from edge_stra.quiet import quiet_tools
from edge_stra.spec import MissingError, ModelSpec

OPSET = 18
"""The lowest that torch's dynamo exporter writes, so that the oldest runtimes take it: onnxruntime from 1.14 on (early
2023; 1.15.1 and 1.31.1 were tried). No operator here gains from a higher one; scales per channel came with 13."""
IR_VERSION = 8
"""The file format's version that came with opset 18 (onnx 1.13): runtimes refuse one that is newer than they are."""
INPUT = "input"
POOLED = "pooled"
SCOPES = "pkg.torch.onnx.name_scopes"
KEPT = re.compile(r"features\.[0-3](\.|$)|.*\.interact(/|$)|head(/|\.linear$|$)")
"""What stays float32 in float16: the first blocks, below 1 % of the weights (63 dB become 65 for expressions, 51 become
58 for people), norms, whose squares are clamped far below the smallest float16, and what gives the output."""


def load_tools() -> tuple[Any, Any]:
    """The packages onnx and onnxsim. Raises MissingError with the command that adds them."""
    try:
        import onnx
        import onnxscript  # noqa: F401  torch's exporter needs it, and says so in many lines
        import onnxsim
    except ImportError as error:
        raise MissingError(f"the onnx target needs {error.name}; run: {install_command('onnx')}") from error
    return onnx, onnxsim


def convert(network: nn.Module, spec: ModelSpec) -> bytes:
    """A reformulated network [1, 3, H, W] -> a float32 .onnx in one piece, checked; equal input gives equal bytes.

    Input `input`: normalised RGB, float32 [1, 3, H, W]; output `logits` or `embedding`, float32 [1, K]. Raises
    MissingError where a package is not installed.
    """
    with quiet_tools():
        _, onnxsim = load_tools()
        picture = torch.zeros(1, 3, *spec.input.size_hw)
        program = torch.onnx.export(
            network.eval(),
            (picture,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[spec.output],
            external_data=False,
            verbose=False,
        )
        assert program is not None
        model = program.model_proto
        name_by_modules(model)
        simple, _ = onnxsim.simplify(model)  # whether it is still the same function, the export's parity says
        return finish(simple, spec.name)


def name_by_modules(model: Any) -> None:
    """Renames nodes and what they give, in place, after the modules of the network.

    The last node of a module itself, its children left out, gives the module's output and takes its name; others
    take that of the exporter behind it. Inputs and outputs of the graph keep theirs.
    """
    nodes, last = model.graph.node, {}
    for index, node in enumerate(nodes):
        last[scope_of(node)] = index
    kept = {value.name for value in model.graph.output}
    names: dict[str, str] = {}
    for index, node in enumerate(nodes):
        scope, ends = scope_of(node), last[scope_of(node)] == index
        for output in node.output:
            names[output] = (scope or POOLED) if ends else f"{scope}/{output}"
        node.name = names[node.output[0]]
    names |= {name: name for name in kept}
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names[name] for name in node.output]


def scope_of(node: Any) -> str:
    """The module that a node of torch's exporter belongs to; empty for the network itself."""
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            return str(ast.literal_eval(entry.value)[-2])
    return ""


def finish(model: Any, name: str) -> bytes:
    """The file of a model, checked, without what tools write of themselves and the machine: paths, traces, versions."""
    onnx, _ = load_tools()
    graph = model.graph
    model.ir_version, model.producer_name, model.producer_version = IR_VERSION, "edge-stra", ""
    model.domain, model.model_version, model.doc_string = "", 0, ""
    graph.name, graph.doc_string = name, ""
    for entries in (model.metadata_props, graph.metadata_props, graph.value_info, graph.quantization_annotation):
        del entries[:]
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        part.doc_string = ""
        del part.metadata_props[:]
    used = {node.domain for node in graph.node} | {""}
    opsets = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    onnx.checker.check_model(model, full_check=True)
    result: bytes = model.SerializeToString(deterministic=True)
    return result


def to_float16(model: bytes) -> bytes:
    """A float32 .onnx with weights and arithmetic in float16, but for what KEPT names; input and output stay float32.

    onnxruntime.transformers.float16 (1.31) is of no use here: it rounds the input, which the stem takes in float32, and
    gives two nodes of one name where a kept and a converted node share a constant.
    """
    onnx, _ = load_tools()
    parsed = onnx.load_from_string(model)
    graph, float32, float16 = parsed.graph, onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer if t.data_type == float32}
    types = dict.fromkeys([INPUT, *constants], float32)  # of all tensors but shapes and axes
    for node in graph.node:
        # Softmax too: onnxruntime 1.15 knows that of opset 18 in float32 alone.
        kept = KEPT.match(node.name) or node.op_type == "Softmax"
        types |= dict.fromkeys(node.output, float32 if kept else float16)
    other: dict[str, str] = {}  # tensor -> its name in the other of the two types, where a node takes it so
    for node in graph.node:
        kind = types[node.output[0]]
        node.input[:] = [n if types.get(n, kind) == kind else other.setdefault(n, f"{n}/cast") for n in node.input]
    nodes = []
    for node in (None, *graph.node):
        nodes += [] if node is None else [node]
        for name in (n for n in ([INPUT] if node is None else node.output) if n in other):
            to = float16 if types[name] == float32 else float32
            nodes.append(onnx.helper.make_node("Cast", [name], [other[name]], other[name], to=to))
    halves = {other[name]: value.astype(np.float16) for name, value in constants.items() if name in other}
    graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in halves.items())
    used = {name for node in nodes for name in node.input}
    initializers = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(initializers)
    return finish(parsed, graph.name)
