"""Packages that are damaged, hostile or not known: one line of error each, and nothing is run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edge_stra.cli import main
from edge_stra.mil import load_executor
from edge_stra.mil.weights import METADATA
from edge_stra.quiet import quiet_tools
from edge_stra.spec import ArtifactError

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
}  # fmt: skip


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_package_is_refused_in_one_line(name: str, copy: Path) -> None:
    spoil, words = HOSTILE[name]
    spoil(copy)
    with pytest.raises(ArtifactError) as caught:
        load_executor(copy)
    assert words in str(caught.value) and "\n" not in str(caught.value)


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


def test_command_describes_what_it_can_not_run(copy: Path) -> None:
    spec(rename_kind)(copy)
    found = CliRunner().invoke(main, ["mil", str(copy)])
    assert found.exit_code == 1 and "crop_resize 1" in found.output and "nothing was run" in found.output
