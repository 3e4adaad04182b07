"""The onnx target: equal to PyTorch in every precision, in one piece, silent about the machine, read with suspicion."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_stra.artifact import MAX_JSON_BYTES, Artifact
from edge_stra.extras import install_command
from edge_stra.loading import load_model
from edge_stra.models.registry import get_spec
from edge_stra.parity import compare, outputs_of
from edge_stra.spec import ArtifactError, DataError, InputSpec, MissingError, ModelSpec, Statistics
from edge_stra.targets.onnx import MESSAGES, embed, fields, has_external_data, read_embedded, read_onnx, write_varint
from edge_stra.targets.onnx_runtime import OnnxPredictor

onnx = pytest.importorskip("onnx", reason="onnx is not installed; scripts/setup onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; scripts/setup onnx")
pytest.importorskip("onnxsim", reason="onnxsim is not installed; scripts/setup onnx")

if TYPE_CHECKING:
    from edge_stra.export import Exported

FER, REID = "mobilenetv2_stra.fer", "mobilenetv2_stra.reid"
SPEC = get_spec(FER)
TINY = ModelSpec("tiny", "fer", InputSpec((8, 10), "rgb"), ("a", "b"), "logits")
PRECISIONS = ("fp32", "fp16", "int8")
# Least SQNR in dB against PyTorch on drawn pictures; measured 114, 64, 31 for expressions, 115, 59, 19 for people:
# their int8 ranges are of photographs, on which it is 30.
BARS = {FER: {"fp32": 80, "fp16": 50, "int8": 25}, REID: {"fp32": 80, "fp16": 50, "int8": 18}}


def make_files(name: str) -> dict[str, bytes]:
    from edge_stra.calibration.bias import apply_corrections
    from edge_stra.calibration.statistics import load_statistics
    from edge_stra.converters.onnx import convert, to_float16
    from edge_stra.converters.onnx_quantize import by_module, quantize

    from edge_stra.export import rewrite
    from edge_stra.shipped import shipped_statistics

    spec, path = get_spec(name), shipped_statistics(name)
    assert path is not None
    network, statistics = rewrite(load_model(name, None)[0], spec, False), by_module(load_statistics(path, "int8"))
    graph = convert(network, spec)
    corrected = convert(apply_corrections(network, statistics.corrections), spec)
    return {"fp32": graph, "fp16": to_float16(graph), "int8": quantize(corrected, statistics)}


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """The shipped expression model in each precision, without a specification."""
    return make_files(FER)


def tiny(**changes: Any) -> Any:
    """A model of a mean and a product: [1, 3, 8, 10] -> [1, 2]."""
    make, float32 = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        make.make_node("GlobalAveragePool", ["input"], ["pool"]),
        make.make_node("Flatten", ["pool"], ["flat"]),
        make.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    graph = make.make_graph(
        nodes,
        "tiny",
        changes.get("inputs", [make.make_tensor_value_info("input", float32, changes.get("shape", (1, 3, 8, 10)))]),
        [make.make_tensor_value_info("logits", float32, (1, 2))],
        [onnx.numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2), "weight")],
    )
    return make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=8)


def save(folder: Path, data: bytes) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(data)
    return path


def load(path: Path, spec: ModelSpec = TINY) -> OnnxPredictor:
    return OnnxPredictor(Artifact(path, spec, "onnx", "fp32", "", None))


def assert_equal_enough(name: str, precision: str, model: bytes, folder: Path) -> None:
    from edge_stra.export import synthetic_inputs, torch_function

    spec = get_spec(name)
    path = save(folder, embed(model, spec, precision))
    inputs, _ = synthetic_inputs(spec, 8, seed=1)
    reference = outputs_of(torch_function(load_model(name, None)[0]), inputs)
    result = compare(("PyTorch", precision), reference, outputs_of(load(path, read_embedded(path)[0]), inputs), True)
    assert result.sqnr_db >= BARS[name][precision], result
    assert result.cosine >= 0.95, result


@pytest.mark.parametrize("precision", PRECISIONS)
def test_expressions_are_those_of_pytorch(files: dict[str, bytes], tmp_path: Path, precision: str) -> None:
    assert_equal_enough(FER, precision, files[precision], tmp_path)


@pytest.mark.slow
def test_embeddings_are_those_of_pytorch(tmp_path: Path) -> None:
    for precision, model in make_files(REID).items():
        assert_equal_enough(REID, precision, model, tmp_path)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_files_are_small_single_and_of_one_opset(files: dict[str, bytes], precision: str) -> None:
    model = onnx.load_from_string(files[precision])
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert model.ir_version == 8
    signature = [
        (value.name, value.type.tensor_type.elem_type, [d.dim_value for d in value.type.tensor_type.shape.dim])
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert signature == [("input", 1, [1, 3, 88, 88]), ("logits", 1, [1, 7])]
    assert len(files[precision]) < {"fp32": 9.6e6, "fp16": 4.9e6, "int8": 2.9e6}[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_files_tell_nothing_of_the_machine(files: dict[str, bytes], precision: str) -> None:
    words = [str(Path(__file__).resolve().parents[1]), sys.prefix, "site-packages", "torch", ".py", "/home/", "/tmp/"]
    assert [word for word in words if word.encode() in files[precision]] == []
    model = onnx.load_from_string(files[precision])
    assert (model.producer_name, model.producer_version, model.graph.doc_string) == ("edge-stra", "", "")
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)


def test_equal_networks_give_equal_bytes(files: dict[str, bytes]) -> None:
    from edge_stra.converters.onnx import convert, to_float16

    from edge_stra.export import rewrite

    again = convert(rewrite(load_model(FER, None)[0], SPEC, False), SPEC)
    assert again == files["fp32"]
    assert to_float16(again) == files["fp16"]


def test_int8_covers_what_the_recipe_does(files: dict[str, bytes]) -> None:
    model = onnx.load_from_string(files["int8"])
    maker = {output: node for node in model.graph.node for output in node.output}
    numbers = {tensor.name: tensor for tensor in model.graph.initializer}
    integer, floating, scales = [], [], {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            source = maker.get(node.input[1])
            (integer if source is not None and source.op_type == "DequantizeLinear" else floating).append(node.name)
            if source is not None:
                assert numbers[source.input[0]].data_type == onnx.TensorProto.INT8
                scales[node.name] = (list(numbers[source.input[1]].dims), numbers[source.input[0]].dims[0])
    early = ["features.0.0", "features.1.conv.0", "features.1.conv.3", "features.2.conv.0"]
    assert floating == [*early, "features.17.conv.3.neighbours"]
    assert len(integer) == 51 and all(count == [channels] for count, channels in scales.values())
    sums = [node for node in model.graph.node if node.op_type == "Add" and re.fullmatch(r"features\.\d+", node.name)]
    assert len(sums) == 10
    assert all(maker[name].op_type == "DequantizeLinear" for node in sums for name in node.input)
    within = [n for n in model.graph.node if n.op_type in ("MatMul", "Softmax") or ".mode" in n.name]
    made = Counter(maker[i].op_type for n in within for i in n.input if i in maker)
    assert made["DequantizeLinear"] == 0 and len(within) > 40


@pytest.mark.slow
def test_ranges_of_a_tflite_are_found_by_module(files: dict[str, bytes], exported: Exported) -> None:
    from edge_stra.calibration.ranges import find_extremes
    from edge_stra.converters.onnx_quantize import by_module, find_parts, read_tensors

    from edge_stra import runtime
    from edge_stra.export import synthetic_inputs

    inputs, _ = synthetic_inputs(SPEC, 2, seed=3)
    extremes = find_extremes(runtime.read_tensors(exported.path.read_bytes(), inputs))
    found = by_module(Statistics(extremes, {}, {})).low_high
    parts = find_parts(onnx.load_from_string(files["fp32"]))
    values: dict[str, list[NDArray[np.float32]]] = {name: [] for name in parts.tensors}
    for name, value in read_tensors(files["fp32"], inputs, parts.tensors):
        values[name].append(value)
    assert len(parts.tensors) == 63
    for name, value in values.items():
        np.testing.assert_allclose(found[name], (np.min(value), np.max(value)), rtol=1e-3, atol=1e-4, err_msg=name)


def test_statistics_of_another_graph_are_refused(files: dict[str, bytes]) -> None:
    from edge_stra.converters.onnx_quantize import by_module, find_parts, quantize

    names = find_parts(onnx.load_from_string(files["fp32"])).tensors
    for gone in (names[0], names[-1]):
        ranges = {name: (-1.0, 1.0) for name in names if name != gone}
        with pytest.raises(DataError, match=rf"1 are missing \(such as {re.escape(gone)}\).*--calibration"):
            quantize(files["fp32"], Statistics(ranges, {}, {}))
    with pytest.raises(DataError, match="63 are missing"):
        quantize(files["fp32"], by_module(Statistics({}, {}, {})))


@pytest.mark.slow
def test_statistics_are_measured_as_the_recipe_says(tmp_path: Path) -> None:
    from edge_stra.calibration.recipes import adjust
    from edge_stra.converters.onnx_quantize import int8_layers, measure_statistics, quantize

    from edge_stra.export import rewrite, synthetic_inputs

    network, inputs = rewrite(load_model(FER, None)[0], SPEC, False), synthetic_inputs(SPEC, 16, seed=0)[0]
    graph, clipped = measure_statistics(adjust("int8"), SPEC, network, inputs, {"kind": "drawn"})
    _, whole = measure_statistics(adjust("int8", "minmax", False), SPEC, network, inputs, {})
    assert set(clipped.corrections) == set(int8_layers(network)) and not whole.corrections
    assert clipped.source == {"kind": "drawn"} and clipped.settings == adjust("int8").settings
    wide, narrow = (np.array([s.low_high[name] for name in whole.low_high]) for s in (whole, clipped))
    assert ((narrow[:, 1] - narrow[:, 0]) < 0.99 * (wide[:, 1] - wide[:, 0])).sum() > 20
    assert clipped.low_high["features.17.conv.3.logit"][1] >= 0.98 * whole.low_high["features.17.conv.3.logit"][1]
    assert_equal_enough(FER, "int8", quantize(graph, clipped), tmp_path)


@pytest.mark.parametrize("spec", [SPEC, get_spec(REID)], ids=["labels", "no labels"])
def test_what_is_embedded_comes_back(tmp_path: Path, spec: ModelSpec) -> None:
    model = tiny().SerializeToString()
    path = save(tmp_path, embed(model, spec, "int8"))
    assert read_embedded(path) == (spec, "int8")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    entries = session.get_modelmeta().custom_metadata_map
    assert json.loads(entries["edge_stra.json"])["target"] == "onnx"
    assert entries.get("labels", "").split() == list(spec.labels)
    assert onnx.load_from_string(path.read_bytes()).graph == onnx.load_from_string(model).graph


def test_the_predictor_takes_channels_last(tmp_path: Path) -> None:
    predictor = load(save(tmp_path, tiny().SerializeToString()))
    x = np.random.default_rng(0).normal(size=(1, 8, 10, 3)).astype(np.float32)
    wanted = x.mean((1, 2)) @ np.arange(6, dtype=np.float32).reshape(3, 2)
    np.testing.assert_allclose(predictor(x), wanted, atol=1e-6)
    assert predictor.runtime_name == f"onnxruntime {onnxruntime.__version__}" and predictor.spec == TINY


def with_external_data(place: str) -> Any:
    """A tiny model one of whose tensors is in another file, or an address of memory."""
    model = tiny()
    inner = onnx.helper.make_node("Constant", [], ["c"], value=onnx.numpy_helper.from_array(np.ones(2, np.float32)))
    branch = onnx.helper.make_graph([inner], "then", [], [onnx.ValueInfoProto(name="c")])
    chosen = {"initializer": model.graph.initializer[0], "attribute": inner.attribute[0].t}
    if place in ("attribute", "branch"):
        model.graph.node.append(inner)
    if place == "branch":
        node = onnx.helper.make_node("If", ["yes"], ["d"], then_branch=branch, else_branch=branch)
        model.graph.node[-1].CopyFrom(node)
        chosen["branch"] = model.graph.node[-1].attribute[0].g.node[0].attribute[0].t
    elif place == "attribute":
        chosen["attribute"] = model.graph.node[-1].attribute[0].t
    elif place == "function":
        function = onnx.helper.make_function("local", "F", [], ["c"], [inner], [onnx.helper.make_opsetid("", 18)])
        model.functions.append(function)
        chosen["function"] = model.functions[0].node[0].attribute[0].t
    tensor = chosen[place]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    return model


@pytest.mark.parametrize("place", ["initializer", "attribute", "branch", "function"])
def test_tensors_outside_the_file_are_refused(tmp_path: Path, place: str) -> None:
    path = save(tmp_path, embed(with_external_data(place).SerializeToString(), TINY, "fp32"))
    for reader in (read_embedded, load):
        with pytest.raises(ArtifactError, match="must hold all its tensors itself, but points to data outside"):
            reader(path)


@pytest.mark.parametrize("tag", [b"\xea\x80\x80\x80\x10", b"\x00"])  # 13 + 2^29, which is 13 in 32 bits; 0
def test_field_numbers_that_no_message_has_are_refused(tag: bytes) -> None:
    """protobuf's own reader takes the first for field 13 of a tensor, `external_data`."""
    tensor = tiny().graph.initializer[0].SerializeToString()
    assert not has_external_data(memoryview(tensor), "TensorProto")
    with pytest.raises(ValueError, match="a field of number"):
        has_external_data(memoryview(tensor + tag + b"\0"), "TensorProto")


def test_the_walk_to_tensors_knows_every_way() -> None:
    """MESSAGES against onnx's own description: whatever leads to a TensorProto is in it."""

    def ways(message: Any) -> dict[int, str]:
        return {f.number: f.message_type.name for f in message.fields if f.message_type is not None}

    known = {m.name: ways(m) for m in onnx.ModelProto.DESCRIPTOR.file.message_types_by_name.values()}
    leading = {"TensorProto"}
    while more := {name for name, parts in known.items() if leading & set(parts.values())} - leading:
        leading |= more
    reached, waiting = set(), ["ModelProto"]
    while waiting:
        if (name := waiting.pop()) not in reached:
            reached.add(name)
            waiting += [child for child in known[name].values() if child in leading]
    assert {name: {n: c for n, c in known[name].items() if c in leading} for name in reached} == MESSAGES


def spec_entry(text: bytes) -> bytes:
    model = tiny()
    onnx.helper.set_model_props(model, {"edge_stra.json": text.decode()})
    return bytes(model.SerializeToString())


GOOD = embed(tiny().SerializeToString(), TINY, "fp32")
DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is damaged"),
    "text": (b"not a model at all, but long enough", "is damaged"),
    "cut in the specification": (GOOD[:-40], "is damaged"),
    "cut in the graph": (GOOD[:60], "is damaged"),
    "endless number": (b"\xff" * 40, "is damaged"),
    "cut in a number": (b"\xff\xff", "is damaged"),
    "group": (b"\x3b" + GOOD, "is damaged"),
    "a number for a graph": (GOOD + b"\x38\x01", "is damaged"),
    "no graph": (embed(b"\x08\x08", TINY, "fp32"), "is damaged, or no .onnx file: no graph"),
    "no specification": (tiny().SerializeToString(), "not from edge-stra export"),
    "no JSON": (spec_entry(b"{"), "must carry a specification in JSON"),
    "JSON too deep": (spec_entry(b"[" * 100_000), "must carry a specification in JSON"),
    "another format": (spec_entry(b'{"format": "x/1"}'), "must be of format"),
    "too large": (spec_entry(b" " * (MAX_JSON_BYTES + 1)), "more than 8 MiB"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, case: str) -> None:
    data, message = DAMAGED[case]
    with pytest.raises(ArtifactError, match=message) as caught:
        read_embedded(save(tmp_path, data))
    assert "\n" not in str(caught.value)


def test_graphs_inside_graphs_without_end_are_refused(tmp_path: Path) -> None:
    data = b""  # from the inside out
    for number in (6, 5, 1) * 200:  # attribute's graph in node's attribute in graph's node
        data = write_varint(number << 3 | 2) + write_varint(len(data)) + data
    with pytest.raises(ArtifactError, match="more than 64 messages inside each other"):
        read_onnx(save(tmp_path, b"\x3a" + write_varint(len(data)) + data))


def test_absent_and_changed_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no such file"):
        read_embedded(tmp_path / "absent.onnx")
    model = tiny()
    model.graph.node[2].op_type = "NoSuchOperator"
    with pytest.raises(ArtifactError, match="can't be loaded by onnxruntime") as caught:
        load(save(tmp_path, model.SerializeToString()))
    assert "\n" not in str(caught.value)


def test_a_graph_that_fails_while_it_runs_is_one_line(tmp_path: Path) -> None:
    model, make = tiny(), onnx.helper.make_node
    del model.graph.node[:]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 2, 3]), "axes"))
    model.graph.node.extend(
        [
            make("ReduceMax", ["input", "axes"], ["most"], keepdims=0),
            make("ReduceMax", ["most"], ["one"]),
            make("Cast", ["one"], ["index"], to=onnx.TensorProto.INT64),
            make("Gather", ["weight", "index"], ["logits"]),
        ]
    )
    predictor = load(save(tmp_path, model.SerializeToString()))
    assert predictor(np.ones((1, 8, 10, 3), np.float32)).tolist() == [[2, 3]]
    with pytest.raises(ArtifactError, match=r"can't be run: .*; export it again") as caught:
        predictor(np.full((1, 8, 10, 3), 9, np.float32))
    assert "\n" not in str(caught.value)


UNFIT: dict[str, tuple[Callable[[], Any], ModelSpec, str]] = {
    "labels": (tiny, ModelSpec("t", "fer", TINY.input, ("a", "b", "c"), "logits"), "3 labels .* but 2 outputs"),
    "size": (tiny, ModelSpec("t", "fer", InputSpec((10, 8), "rgb"), ("a", "b"), "logits"), "input of .1, 10, 8, 3."),
    "free batch": (lambda: tiny(shape=("n", 3, 8, 10)), TINY, "must take one float32"),
    "two inputs": (
        lambda: tiny(
            inputs=[onnx.helper.make_tensor_value_info(n, 1, (1, 3, 8, 10)) for n in ("input", "second")],
        ),
        TINY,
        "must take one float32",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_graphs_that_are_not_their_specification_are_refused(tmp_path: Path, case: str) -> None:
    make, spec, message = UNFIT[case]
    with pytest.raises(ArtifactError, match=message):
        load(save(tmp_path, make().SerializeToString()), spec)


@pytest.fixture(params=["onnx", "onnxsim", "onnxruntime"])
def absent(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setitem(sys.modules, request.param, None)
    yield request.param


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, absent: str) -> None:
    from edge_stra.converters.onnx import load_tools

    with pytest.raises(MissingError, match=f"{absent}.*{re.escape(install_command('onnx'))}"):
        load(save(tmp_path, GOOD)) if absent == "onnxruntime" else load_tools()


def test_fields_are_those_of_protobuf() -> None:
    entries = list(fields(memoryview(GOOD)))
    assert [number for number, _ in entries if number in (1, 7, 8)] == [1, 7, 8]
    assert list(fields(memoryview(b"\x09" + bytes(8) + b"\x15" + bytes(4)))) == [(1, bytes(8)), (2, bytes(4))]
