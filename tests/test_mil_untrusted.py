"""Packages that are damaged, hostile or not known: one line of error each, and nothing is run."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from edge_stra.artifact import Artifact
from edge_stra.cli import main
from edge_stra.delegates.neural_engine import examine
from edge_stra.mil import load_executor, open_package
from edge_stra.mil.executor import OPERATORS  # which registers them
from edge_stra.mil.inputs import read_inputs
from edge_stra.mil.report import weights_of
from edge_stra.mil.weights import METADATA
from edge_stra.quiet import quiet_tools
from edge_stra.spec import ArtifactError, DataError, InputSpec, ModelSpec
from edge_stra.targets.coreml import CoreMLPredictor, digest, labels_of

with quiet_tools():
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb
    from coremltools.proto import MIL_pb2, Model_pb2


@pytest.fixture(scope="module")
def small_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conv with 16 numbers of bias and 64 of weight in the weight file, and a relu."""
    path = tmp_path_factory.mktemp("small") / "small.mlpackage"
    numbers = np.linspace(-1, 1, 64, dtype=np.float32)
    with quiet_tools():

        @mb.program(input_specs=[mb.TensorSpec(shape=(1, 4, 3, 3))], opset_version=ct.target.iOS16)
        def program(x: Any) -> Any:
            bias = mb.const(val=numbers[:16])
            return mb.relu(
                x=mb.conv(x=x, weight=numbers.reshape(16, 4, 1, 1), bias=bias, pad_type="custom", pad=[0, 0, 0, 0]),
                name="y",
            )

        options: dict[str, Any] = {"minimum_deployment_target": ct.target.iOS16, "skip_model_load": True}
        ct.convert(program, convert_to="mlprogram", compute_precision=ct.precision.FLOAT32, **options).save(str(path))
    return path


@pytest.fixture
def copy(small_package: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_package, tmp_path / "copy.mlpackage"))


MODEL, WEIGHTS = "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"


def manifest(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def run(package: Path) -> None:
        path = package / "Manifest.json"
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))

    return run


def root_path(value: Any) -> Callable[[Path], None]:
    def change(data: dict[str, Any]) -> None:
        data["itemInfoEntries"][data["rootModelIdentifier"]]["path"] = value

    return manifest(change)


def spec(change: Callable[[Any], None]) -> Callable[[Path], None]:
    def run(package: Path) -> None:
        path = package / MODEL
        model = Model_pb2.Model()
        model.ParseFromString(path.read_bytes())
        change(model)
        path.write_bytes(model.SerializeToString())

    return run


def block_of(model: Any) -> Any:
    function = model.mlProgram.functions["main"]
    return function.block_specializations[function.opset]


def weight_value(model: Any) -> Any:
    """The value in the weight file."""
    values = [o.attributes["val"] for o in block_of(model).operations if o.type == "const"]
    return next(value for value in values if value.HasField("blobFileValue"))


def operation_of(model: Any, kind: str) -> Any:
    return next(o for o in block_of(model).operations if o.type == kind)


def cut(name: str, length: int) -> Callable[[Path], None]:
    return lambda package: write(package / name, (package / name).read_bytes()[:length])


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def metadata(index: int, value: int) -> Callable[[Path], None]:
    """Changes one field of the first weight's metadata: sentinel, type, bytes or offset."""

    def run(package: Path) -> None:
        raw = bytearray((package / WEIGHTS).read_bytes())
        fields = list(METADATA.unpack_from(raw, 64))
        fields[index] = value
        METADATA.pack_into(raw, 64, *fields)
        (package / WEIGHTS).write_bytes(raw)

    return run


def link(name: str) -> Callable[[Path], None]:
    def run(package: Path) -> None:
        outside = package.parent / "outside"
        (package / name).rename(outside)
        (package / name).symlink_to(outside)

    return run


def pipe(name: str) -> Callable[[Path], None]:
    def run(package: Path) -> None:
        (package / name).unlink()
        os.mkfifo(package / name)

    return run


def folder(name: str) -> Callable[[Path], None]:
    def run(package: Path) -> None:
        (package / name).unlink()
        (package / name).mkdir()

    return run


def set_dimension(size: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for holder in (weight_value(model).type, operation_of(model, "const").outputs[0].type):
            if holder.tensorType.dimensions:
                holder.tensorType.dimensions[0].constant.size = size

    return change


def rename_kind(model: Any) -> None:
    operation_of(model, "relu").type = "crop_resize"
    operation_of(model, "conv").type = "lstm"


def enlarge(model: Any) -> None:
    """A tile that asks for more than memory holds, its declared shape hidden."""
    relu = operation_of(model, "relu")
    relu.type = "tile"
    value = relu.inputs["reps"].arguments.add().value
    value.type.tensorType.dataType, value.type.tensorType.rank = 23, 1
    value.type.tensorType.dimensions.add().constant.size = 4
    value.immediateValue.tensor.ints.values.extend([1 << 20, 1 << 10, 1, 1])


def absurd_padding(model: Any) -> None:
    name = operation_of(model, "conv").inputs["pad"].arguments[0].name
    pad = next(o for o in block_of(model).operations if o.outputs[0].name == name)
    pad.attributes["val"].immediateValue.tensor.ints.values[0] = 1 << 30


def nest(model: Any) -> None:
    value = weight_value(model)
    for _ in range(500):
        inner = MIL_pb2.Value()
        inner.type.listType.length.constant.size = 1
        inner.immediateValue.list.values.add().CopyFrom(value)
        value = inner
    weight_value(model).CopyFrom(value)


def named_value(model: Any) -> None:
    constant = operation_of(model, "const")
    constant.attributes.pop("val")
    constant.inputs["val"].arguments.add(name="x")


def list_of_pairs(model: Any) -> None:
    value = MIL_pb2.Value()
    value.type.listType.length.constant.size = 1
    part = value.immediateValue.list.values.add()
    part.type.tensorType.dataType, part.type.tensorType.rank = 23, 1
    part.type.tensorType.dimensions.add().constant.size = 2
    part.immediateValue.tensor.ints.values.extend([1, 2])
    weight_value(model).CopyFrom(value)


def text_in_bytes(model: Any) -> None:
    value = MIL_pb2.Value()
    value.type.tensorType.dataType = 2
    value.immediateValue.tensor.bytes.values = b"text"
    weight_value(model).CopyFrom(value)


def empty_of_absurd_rank(model: Any) -> None:
    set_dimension(0)(model)
    weight_value(model).type.tensorType.rank += 1
    weight_value(model).type.tensorType.dimensions.add().constant.size = (1 << 64) - 1


def input_shape(model: Any, *shape: int) -> None:
    array = model.description.input[0].type.multiArrayType
    del array.shape[:]
    array.shape.extend(shape)


HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no manifest": (lambda p: (p / "Manifest.json").unlink(), "its manifest can't be read"),
    "manifest is no JSON": (cut("Manifest.json", 40), "must name the root model"),
    "manifest too large": (lambda p: write(p / "Manifest.json", b" " * (2 << 20)), "bytes or less"),
    "manifest nested": (lambda p: write(p / "Manifest.json", b"[" * 200_000), "must name the root model"),
    "manifest of another form": (lambda p: write(p / "Manifest.json", b"[]"), "must name the root model"),
    "root missing": (manifest(lambda d: d.pop("rootModelIdentifier")), "must name the root model"),
    "root a number": (root_path(7), "must name the root model"),
    "root escapes": (root_path("../../../../etc/passwd"), "must stay inside the package"),
    "root absolute": (root_path("/etc/passwd"), "must stay inside the package"),
    "root with backslashes": (root_path("..\\..\\x"), "must stay inside the package"),
    "root of a drive": (root_path("C:x"), "must stay inside the package"),
    "root empty": (root_path(""), "must stay inside the package"),
    "root not there": (root_path("com.apple.CoreML/other"), "can't be read"),
    "model a link": (link(MODEL), "must stay inside the package"),
    "weights a link": (link(WEIGHTS), "must stay inside the package"),
    "manifest a link": (link("Manifest.json"), "must stay inside the package"),
    "manifest a pipe": (pipe("Manifest.json"), "must be a plain file"),
    "model a pipe": (pipe(MODEL), "must be a plain file"),
    "weights a folder": (folder(WEIGHTS), "must be a plain file"),
    "model cut": (cut(MODEL, 300), "is damaged"),
    "model empty": (cut(MODEL, 0), "is empty"),
    "no program": (spec(lambda m: m.ClearField("mlProgram")), "must hold an ML Program"),
    "another kind": (spec(lambda m: m.neuralNetwork.layers.add()), "must hold an ML Program"),
    "no main": (spec(lambda m: m.mlProgram.functions.pop("main")), "must have the function 'main'"),
    "no block": (spec(lambda m: setattr(m.mlProgram.functions["main"], "opset", "X")), "must have a block for 'X'"),
    "a state": (spec(lambda m: m.description.state.add(name="cache")), "must keep no state"),
    "nested too deep": (spec(nest), "is damaged"),
    "weights missing": (lambda p: (p / WEIGHTS).unlink(), "needs the weight file"),
    "weights empty": (cut(WEIGHTS, 0), "must lie in weight.bin of 0 bytes"),
    "weights cut": (cut(WEIGHTS, 300), "a cut file"),
    "weights cut in the header": (cut(WEIGHTS, 80), "must lie in weight.bin of 80 bytes"),
    "weight file escapes": (
        spec(lambda m: setattr(weight_value(m).blobFileValue, "fileName", "@model_path/../../../../x")),
        "must stay inside the package",
    ),
    "weight file absolute": (
        spec(lambda m: setattr(weight_value(m).blobFileValue, "fileName", "/etc/passwd")),
        "must stay inside the package",
    ),
    "weight beyond": (spec(lambda m: setattr(weight_value(m).blobFileValue, "offset", 1 << 40)), "must lie in"),
    "weight unaligned": (spec(lambda m: setattr(weight_value(m).blobFileValue, "offset", 65)), "must lie in"),
    "weight without sentinel": (metadata(0, 1), "holds float32"),
    "weight of another type": (metadata(1, 1), "must hold float32 weights, but holds float16"),
    "weight of an unknown type": (metadata(1, 99), "something else"),
    "weight shorter": (metadata(2, 12), "must hold 64 bytes"),
    "weight of absurd bytes": (metadata(2, 1 << 60), "must hold 64 bytes"),
    "weight data beyond": (metadata(3, 1 << 50), "a cut file"),
    "absurd dimension": (spec(set_dimension(1 << 62)), "elements or less"),
    "wrong dimension": (spec(set_dimension(17)), "must hold 68 bytes"),
    "rank disagrees": (spec(lambda m: setattr(weight_value(m).type.tensorType, "rank", 3)), "dimensions by its rank"),
    "unknown number of a type": (spec(lambda m: setattr(weight_value(m).type.tensorType, "dataType", 13)), "number 13"),
    "unknown operators": (spec(rename_kind), "needs crop_resize, lstm, which this executor does not know"),
    "unknown input": (spec(lambda m: operation_of(m, "conv").inputs["speed"].arguments.add(name="x")), "'speed'"),
    "missing input": (spec(lambda m: operation_of(m, "conv").inputs.pop("weight")), "lacks 'weight'"),
    "empty input": (spec(lambda m: operation_of(m, "conv").inputs["weight"].ClearField("arguments")), "lacks 'weight'"),
    "value never made": (
        spec(lambda m: setattr(operation_of(m, "relu").inputs["x"].arguments[0], "name", "ghost")), "uses 'ghost'"),
    "output never made": (spec(lambda m: block_of(m).outputs.append("ghost")), "must make its output 'ghost'"),
    "described output unknown": (spec(lambda m: setattr(m.description.output[0], "name", "z")), "must have 'z'"),
    "described input unknown": (spec(lambda m: setattr(m.description.input[0], "name", "z")), "must have 'z'"),
    "constant without value": (spec(lambda m: operation_of(m, "const").attributes.pop("val")), "must have one value"),
    "constant without output": (
        spec(lambda m: operation_of(m, "const").ClearField("outputs")), "must have one value and one output"),
    "constant that names its value": (spec(named_value), "must have one value and one output"),
    "operator without output": (spec(lambda m: operation_of(m, "relu").ClearField("outputs")), "must have an output"),
    "list of pairs": (spec(list_of_pairs), "one can't be decoded"),
    "text in bytes": (spec(text_in_bytes), "one can't be decoded"),
    "dimension of nothing": (spec(empty_of_absurd_rank), "elements or less"),
    "input of absurd shape": (spec(lambda m: input_shape(m, 1 << 40, 4)), "the input 'x' must be of rank 8 or less"),
    "input of negative shape": (spec(lambda m: input_shape(m, -4, 3)), "the input 'x' must be of rank 8 or less"),
    "input of text in the program": (
        spec(lambda m: setattr(m.mlProgram.functions["main"].inputs[0].type.tensorType, "dataType", 2)),
        "must be an array of numbers"),
    "root of a long name": (root_path("a" * 5000), "must be one that can be opened"),
    "root no UTF-8": (root_path("a\udc80"), "must be one that can be opened"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_package_is_refused_in_one_line(name: str, copy: Path) -> None:
    spoil, words = HOSTILE[name]
    spoil(copy)
    with pytest.raises(ArtifactError) as caught:
        load_executor(copy)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def of_shape(*shape: int) -> torch.Tensor:
    """A tensor that takes the memory of one number, whatever its shape."""
    return torch.zeros(()).expand(shape)


HALF = 1 << 29  # elements: twice as many are allowed
ENLARGING: dict[str, tuple[str, dict[str, Any]]] = {
    "concat": ("concat", {"values": (of_shape(HALF),) * 3, "axis": 0}),
    "stack": ("stack", {"values": (of_shape(HALF),) * 3, "axis": 0}),
    "gather_nd": ("gather_nd", {"x": of_shape(4, HALF), "indices": of_shape(3, 1)}),
    "gather_nd in batches": ("gather_nd", {"x": of_shape(3, 4, HALF), "indices": of_shape(3, 1, 1), "batch_dims": 1}),
    "sliding_windows": ("sliding_windows", {"x": of_shape(1 << 20), "axis": 0, "size": 1 << 19}),
    "linear": ("linear", {"x": of_shape(1 << 20, 1), "weight": of_shape(1 << 20, 1)}),
    "einsum": ("einsum", {"values": (of_shape(1 << 20), of_shape(1 << 20)), "equation": "a,b -> ab"}),
    "attention": (
        "scaled_dot_product_attention",
        {"query": of_shape(1, 1 << 20, 1), "key": of_shape(1, 1 << 20, 1), "value": of_shape(1, 1 << 20, 1)}),
    "conv": ("conv", {"x": of_shape(1, 1, 1 << 20), "weight": of_shape(1 << 20, 1, 1)}),
    "conv_transpose": (
        "conv_transpose", {"x": of_shape(1, 1, 1 << 20), "weight": of_shape(1, 1, 1), "strides": (1 << 20,)}),
    "matmul": ("matmul", {"x": of_shape(1 << 20, 1), "y": of_shape(1, 1 << 20)}),
}  # fmt: skip


@pytest.mark.parametrize("name", list(ENLARGING))
def test_an_operator_enlarges_nothing_beyond_the_limit(name: str) -> None:
    kind, arguments = ENLARGING[name]
    with pytest.raises(ValueError, match="elements or less was expected"):
        OPERATORS[kind].run(**arguments)


WRONG_WHEN_RUN: dict[str, tuple[Callable[[Any], None], str]] = {
    "another shape than declared": (
        lambda m: setattr(operation_of(m, "relu").outputs[0].type.tensorType.dimensions[1].constant, "size", 5),
        "(1, 5, 3, 3) by the program, but comes out as (1, 16, 3, 3)",
    ),
    "absurd result": (enlarge, "is asked for"),
    "absurd padding": (absurd_padding, "is asked for"),
    "the weight as input of relu": (
        lambda m: operation_of(m, "relu").inputs["x"].arguments[0].CopyFrom(
            operation_of(m, "conv").inputs["weight"].arguments[0]), "by the program, but comes out as"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(WRONG_WHEN_RUN))
def test_program_that_contradicts_itself_is_refused(name: str, copy: Path) -> None:
    change, words = WRONG_WHEN_RUN[name]
    spec(change)(copy)
    with pytest.raises(ArtifactError) as caught:
        load_executor(copy).run({"x": np.zeros((1, 4, 3, 3), np.float32)})
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_described_picture_that_is_none_is_refused(copy: Path) -> None:
    def change(model: Any) -> None:
        image = model.description.output[0].type.imageType
        image.width, image.height, image.colorSpace = 3, 3, 20

    spec(change)(copy)
    with pytest.raises(ArtifactError, match=r"must be a picture \[1, 3, H, W\]"):
        load_executor(copy).run({"x": np.zeros((1, 4, 3, 3), np.float32)})


def command(*words: str) -> str:
    """The one line of an error."""
    found = CliRunner().invoke(main, ["mil", *words])
    assert found.exit_code == 1 and isinstance(found.exception, SystemExit), found.exception
    (line,) = [line for line in found.stderr.splitlines() if line.startswith("Error:")]
    assert found.stderr.splitlines()[-1] == line
    return line


def test_an_input_too_large_to_be_drawn_is_refused(copy: Path) -> None:
    spec(lambda m: input_shape(m, 1 << 13, 1 << 13))(copy)
    assert "elements or less to be drawn" in command(str(copy))


def test_an_input_of_text_can_not_be_drawn(copy: Path) -> None:
    spec(lambda m: m.description.input[0].type.stringType.SetInParent())(copy)
    assert "must be an array or an image to be run, but is a string" in command(str(copy))


def npy(header: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


BAD_ARRAYS = {
    "absurd shape": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1152921504606846,)}\n"),
    "shape beyond 64 bits": npy(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({1 << 70},)}}\n"),
    "header of several lines": npy(" " * 20_000),
    "header no literal": npy("{'descr': (\n"),
    "header with a list as key": npy("{[]: 1}\n"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_inputs_that_claim_too_much_are_refused(case: str, copy: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.npz", "w") as archive:
        archive.writestr("x.npy", BAD_ARRAYS[case])
    with pytest.raises(DataError, match=r"must be an \.npz of plain arrays") as caught:
        read_inputs(tmp_path / "in.npz")
    assert "\n" not in str(caught.value)
    assert str(caught.value) in command(str(copy), "--inputs", str(tmp_path / "in.npz"))


def test_a_file_name_that_is_no_utf8_has_a_digest(copy: Path) -> None:
    before = digest(copy)
    try:
        (copy / os.fsdecode(b"\xff")).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    assert digest(copy) != before


def test_weights_of_an_unknown_output_type_are_listed(copy: Path) -> None:
    def change(model: Any) -> None:
        for operation in block_of(model).operations:
            if operation.type == "const":
                operation.outputs[0].type.Clear()

    spec(change)(copy)
    assert next(weights.dense_bytes for weights in weights_of(open_package(copy))) == 0


def as_softmax(model: Any, axis: str) -> None:
    relu = operation_of(model, "relu")
    relu.type = "softmax"
    if axis:
        relu.inputs["axis"].arguments.add(name=axis)


@pytest.mark.parametrize(("axis", "complaints"), [("x", 0), ("", 1)], ids=["computed", "left out"])
def test_a_softmax_without_a_constant_axis_is_read(axis: str, complaints: int, copy: Path) -> None:
    spec(lambda m: as_softmax(m, axis))(copy)
    found = examine(copy).complaints
    assert len([c for c in found if c.principle == "softmax"]) == complaints


def test_an_axis_that_is_a_picture_is_one_line(copy: Path) -> None:
    spec(lambda m: as_softmax(m, "x"))(copy)
    result = CliRunner().invoke(main, ["mil", str(copy)])
    assert result.exit_code == 1 and "can't be computed" in result.stderr.splitlines()[-1], result.output


def test_operators_of_one_name_are_told_apart(copy: Path) -> None:
    def change(model: Any) -> None:
        for operation in block_of(model).operations:
            if operation.type == "const":
                operation.attributes["name"].CopyFrom(operation_of(model, "const").attributes["name"])

    spec(change)(copy)
    assert [operation.kind for operation in examine(copy).operators] == ["conv", "relu"]


@pytest.mark.parametrize("given", ["absent", "computed", "one number"])
def test_classes_that_are_no_list_are_no_labels(given: str, copy: Path) -> None:
    def change(model: Any) -> None:
        relu = operation_of(model, "relu")
        relu.type = "classify"
        if given == "computed":
            relu.inputs["classes"].arguments.add(name="x")
        if given == "one number":
            value = relu.inputs["classes"].arguments.add().value
            value.type.tensorType.dataType = 23
            value.immediateValue.tensor.ints.values.append(7)

    spec(change)(copy)
    assert labels_of(open_package(copy)) == (("7",) if given == "one number" else ())


@pytest.mark.parametrize("found", [{"a": 0.5}, "a", np.zeros(2, np.float32), np.zeros((2, 2), np.float32)])
def test_an_output_that_is_no_row_is_refused(found: Any, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelSpec("tiny", "fer", InputSpec((2, 2), "rgb"), ("a", "b"), "logits")
    predictor = CoreMLPredictor(Artifact(copy, model, "coreml", "fp16", "", None))
    monkeypatch.setattr(predictor, "executor", SimpleNamespace(run=lambda *_, **__: {"logits": found}))
    x = (np.zeros((1, 2, 2, 3)) - model.input.mean_rgb) / model.input.std_rgb
    with pytest.raises(ArtifactError, match="must give logits of"):
        predictor(x.astype(np.float32))


def test_command_describes_what_it_can_not_run(copy: Path) -> None:
    spec(rename_kind)(copy)
    found = CliRunner().invoke(main, ["mil", str(copy)])
    assert found.exit_code == 1 and "crop_resize 1" in found.output and "nothing was run" in found.output
