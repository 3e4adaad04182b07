"""Every target through the same export, check and evaluation; requests that can't be met leave nothing behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from edge_stra.artifact import manifest_path, open_artifact
from edge_stra.cli import main
from edge_stra.export import Exported, Request, export
from edge_stra.models.registry import get_spec
from edge_stra.preprocess import to_input
from edge_stra.runtime import load_predictor
from edge_stra.spec import FER_LABELS, ArtifactError
from edge_stra.synthetic import face_pictures
from edge_stra.targets import TARGETS, target_of

FER = "mobilenetv2_stra.fer"
SPEC = get_spec(FER)
MADE = [("coreml", "fp16"), ("onnx", "int8")]
Make = Callable[[str, str], Exported]


def edge_stra(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A function: (target, precision) -> the export of the shipped weights, made once, all in one folder."""
    folder, made = tmp_path_factory.mktemp("targets"), dict[tuple[str, str], Exported]()

    def of(target: str, quantize: str) -> Exported:
        if (target, quantize) not in made:
            made[target, quantize] = export(Request(FER, quantize, folder, target))
        return made[target, quantize]

    return of


@pytest.mark.slow
@pytest.mark.parametrize(("target", "quantize"), MADE)
def test_an_export_is_read_back_checked_and_evaluated(make: Make, tmp_path: Path, target: str, quantize: str) -> None:
    done = make(target, quantize)
    assert done.path.name == f"{FER}.{quantize}{TARGETS[target].suffix}"
    assert manifest_path(done.path).name == f"{done.path.name}.json"
    artifact = open_artifact(done.path)
    assert (artifact.spec, artifact.target, artifact.quantize) == (SPEC, target, quantize)
    assert artifact.manifest == done.manifest
    assert set(TARGETS[target].tools) <= set(done.manifest["tools"])
    face = face_pictures(1, (48, 48), seed=6)[0]
    chosen = FER_LABELS[int(load_predictor(done.path)(to_input(face, SPEC.input)).argmax())]
    for label in FER_LABELS:
        (tmp_path / label).mkdir()
        cv2.imwrite(str(tmp_path / label / "face.png"), face)
    result = edge_stra("evaluate", done.path, "--data", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["recall"][chosen] == 100.0


@pytest.mark.slow
@pytest.mark.parametrize(("target", "quantize"), MADE)
def test_check_passes_and_fails_with_one_weight_broken(make: Make, tmp_path: Path, target: str, quantize: str) -> None:
    """The manifest is left out, so that arithmetic has to find what the hash would."""
    path = make(target, quantize).path
    copy = tmp_path / path.name
    if path.is_dir():
        for file in path.rglob("*"):
            if file.is_file():
                (copy / file.relative_to(path)).parent.mkdir(parents=True, exist_ok=True)
                (copy / file.relative_to(path)).write_bytes(file.read_bytes())
    else:
        copy.write_bytes(path.read_bytes())
    assert edge_stra("check", copy).exit_code == 0
    weights = copy / "Data/com.apple.CoreML/weights/weight.bin" if copy.is_dir() else copy
    data = bytearray(weights.read_bytes())
    weights.write_bytes(break_one(data, target))
    result = edge_stra("check", copy)
    assert result.exit_code == 1, result.output
    assert "must be" in result.output


def break_one(data: bytearray, target: str) -> bytes:
    """A weight (coreml: the first in the file) or the scale of a tensor (onnx) becomes a large number."""
    if target == "onnx":
        model = onnx.load_from_string(bytes(data))
        scale = next(t for t in model.graph.initializer if t.name == "features.2.conv.2_scale")
        scale.CopyFrom(onnx.numpy_helper.from_array(np.array(4e4, np.float32), scale.name))
        return bytes(model.SerializeToString())
    place = next(i for i in range(64 + 65, len(data) - 1, 2) if data[i] & 0x7C and data[i] != 0x7B)
    data[place] = (data[place] & 0x80) | 0x7B  # about 5e4 in float16
    return bytes(data)


@pytest.mark.slow
def test_targets_share_a_folder_and_overwrite_is_asked_for(make: Make) -> None:
    done = make("coreml", "fp16")
    again = ["export", "--model", FER, "--target", "coreml", "--quantize", "fp16", "--out", done.path.parent]
    result = edge_stra(*again)
    assert result.exit_code == 1 and "exists already" in result.output
    result = edge_stra(*again, "--overwrite")
    assert result.exit_code == 0, result.output
    assert open_artifact(done.path).sha256 == done.manifest["sha256"]  # equal input, equal bytes
    assert not list(done.path.parent.glob(".edge-stra-*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "coreml", "--quantize", "int8"], "unknown precision 'int8' for coreml"),
        (["--target", "coreml", "--quantize", "w8a8", "--ios", 16], "w8a8 needs iOS 17 or later, but iOS 16"),
        (["--target", "coreml", "--quantize", "fp16", "--ios", 15], "needs iOS 16 or later"),
        (["--target", "coreml", "--quantize", "w8a8"], "give --calibration FOLDER"),
        (["--target", "coreml", "--quantize", "fp16", "--ranges", "mse"], "--ranges has no meaning for coreml"),
        (["--target", "onnx", "--quantize", "w8"], "unknown precision 'w8' for onnx"),
        (["--target", "onnx", "--quantize", "fp32", "--ios", 17], "--ios has no meaning for onnx"),
        (["--target", "tflite", "--ios", 17], "--ios has no meaning for tflite"),
        (["--target", "tensorrt"], "unknown target 'tensorrt'; the targets are tflite, coreml, onnx"),
    ],
)
def test_what_can_not_be_made_is_one_line_and_nothing_written(tmp_path: Path, words: list[str], message: str) -> None:
    result = edge_stra("export", "--model", FER, "--out", tmp_path / "out", *words)
    assert result.exit_code == 1
    assert message in result.output and "Traceback" not in result.output
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_artifacts_are_told_by_their_names(tmp_path: Path) -> None:
    assert {target_of(Path(f"a{t.suffix}")).name for t in TARGETS.values()} == set(TARGETS)
    (tmp_path / "a.pdf").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"must be an artifact \(.tflite, .mlpackage, .onnx\), but its name ends"):
        target_of(tmp_path / "a.pdf")


@pytest.mark.slow
def test_labels_that_disagree_with_the_specification_are_refused(make: Make, tmp_path: Path) -> None:
    """Only inside, and without a manifest: the labels of the runtime and those of the specification must be one."""
    source = make("onnx", "int8").path
    model = onnx.load(str(source))
    (entry,) = (entry for entry in model.metadata_props if entry.key == "labels")
    entry.value = entry.value.replace("disgust", "disdain")
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    package = make("coreml", "fp16").path
    copy = tmp_path / "a.mlpackage"
    for file in (file for file in package.rglob("*") if file.is_file()):
        (copy / file.relative_to(package)).parent.mkdir(parents=True, exist_ok=True)
        data = file.read_bytes()
        if file.suffix == ".mlmodel":  # where the program's classifier has them, after the specification's own
            place = data.rindex(b"disgust")
            data = data[:place] + b"disdain" + data[place + 7 :]
        (copy / file.relative_to(package)).write_bytes(data)
    for path in (tmp_path / "a.onnx", copy):
        with pytest.raises(ArtifactError, match="must have the labels"):
            open_artifact(path)


def test_the_default_precision_is_the_target_s_own(tmp_path: Path) -> None:
    result = edge_stra("export", "--model", FER, "--target", "coreml", "--ios", 15, "--out", tmp_path)
    assert result.exit_code == 1 and "fp16 needs iOS 16" in result.output
