"""Weights with labels and an input of their own: from the JSON file to artifacts of every target."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from edge_stra.artifact import open_artifact
from edge_stra.cli import main
from edge_stra.loading import load_model
from edge_stra.models.attention import StRA
from edge_stra.models.registry import create_model, get_spec
from edge_stra.preprocess import load_input, to_input
from edge_stra.runtime import load_predictor
from edge_stra.spec import ModelError, ModelSpec, NetworkSpec
from edge_stra.spec_file import read_spec
from edge_stra.synthetic import face_pictures

NAME = "mobilenetv2_stra.fer"
LABELS = ["calm", "very happy", "Traurig"]
INPUT = {"size_hw": [96, 64], "color": "rgb", "mean_rgb": [0.5, 0.5, 0.5], "std_rgb": [0.25, 0.25, 0.25]}


def written(folder: Path, data: Any) -> Path:
    path = folder / "mine.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_what_the_file_does_not_say_stays(tmp_path: Path) -> None:
    usual = get_spec(NAME)
    assert read_spec(written(tmp_path, {}), usual) == usual
    assert (
        read_spec(written(tmp_path, usual.to_json()["input"] and {"input": usual.to_json()["input"]}), usual) == usual
    )
    found = read_spec(written(tmp_path, {"labels": LABELS, "input": {"size_hw": [96, 64]}}), usual)
    assert found.labels == tuple(LABELS) and found.input.size_hw == (96, 64)
    assert (found.input.color, found.input.mean_rgb) == (usual.input.color, usual.input.mean_rgb)


WRONG: dict[str, tuple[Any, str]] = {
    "no JSON": ("{labels", "can't be parsed"),
    "a list": ([1], "there must be a JSON object, but there is list"),
    "a slip": ({"label": ["a", "b"]}, "unknown entry 'label'; the entries are labels, input, network"),
    "a slip inside": ({"input": {"size": [9, 9]}}, "input: unknown entry 'size'"),
    "one label": ({"labels": ["a"]}, "labels must be 2 to 1000"),
    "a label twice": ({"labels": ["a", "a"]}, "each once"),
    "a label in two cases": ({"labels": ["Happy", "happy"]}, "each once in any case"),
    "half a character": ({"labels": ["\ud800", "c"]}, r"but is '\\ud800'"),
    "a bell at the end": ({"labels": ["a\x07", "c"]}, r"but is 'a\\x07'"),
    "the word of the apps": ({"labels": ["unsure", "c"]}, "not be 'unsure'"),
    "a number": ({"labels": ["a", 1]}, "must be a list of words"),
    "a word for a list": ({"labels": "happy"}, "labels must be a list"),
    "a comma": ({"labels": ["a,b", "c"]}, "no comma or line break, .*, but is 'a,b'"),
    "a line break": ({"labels": ["a\nb", "c"]}, "no comma or line break"),
    "a blank": ({"labels": [" ", "c"]}, "1 to 64 characters"),
    "too small": ({"input": {"size_hw": [16, 64]}}, "size_hw must be 32 to 448 pixels"),
    "too large": ({"input": {"size_hw": [64, 512]}}, "size_hw must be 32 to 448 pixels"),
    "half a pixel": ({"input": {"size_hw": [96.5, 64]}}, "size_hw must be two whole numbers"),
    "sizes as words": ({"input": {"size_hw": ["96", "64"]}}, "size_hw must be two whole numbers"),
    "another colour": ({"input": {"color": "bgr"}}, "unknown color 'bgr'"),
    "no deviation": ({"input": {"std_rgb": [0, 1, 1]}}, "std above 0"),
    "a mean of bytes": ({"input": {"mean_rgb": [123.7, 116.3, 103.5]}}, "must be 0 to 1 .*; divide by 255"),
    "a deviation of bytes": ({"input": {"std_rgb": [58.4, 57.1, 57.4]}}, "std_rgb at most 1.*; divide by 255"),
    "a slip in the network": ({"network": {"stride": 1}}, "network: unknown entry 'stride'; the entries are stem_str"),
    "a list for a network": ({"network": [1]}, "network: there must be a JSON object"),
    "a stride of three": ({"network": {"stem_stride": 3}}, "stem_stride and last_stage_stride must be 1 or 2"),
    "half a stride": ({"network": {"last_stage_stride": 1.0}}, "last_stage_stride must be 1 or 2"),
    "a number for a truth": ({"network": {"mode_interaction": 0}}, "mode_interaction must be true or false"),
    "nothing added": ({"network": {"batch_norm_eps": 0}}, "batch_norm_eps must be above 0"),
    "a mean below black": ({"input": {"mean_rgb": [-0.5, 0.5, 0.5]}}, "mean_rgb must be 0 to 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_named(case: str, tmp_path: Path) -> None:
    data, message = WRONG[case]
    with pytest.raises(ModelError, match=message) as caught:
        read_spec(written(tmp_path, data), get_spec(NAME))
    assert "\n" not in str(caught.value) and "mine.json" in str(caught.value)


def test_embeddings_have_no_labels(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="gives an embedding, but has labels"):
        read_spec(written(tmp_path, {"labels": LABELS}), get_spec("mobilenetv2_stra.reid"))


def edge_stra(*words: object) -> Any:
    return CliRunner().invoke(main, [str(word) for word in words])


def three_classes() -> dict[str, Any]:
    """The shipped weights with the first three classes alone: a network that is alive."""
    state = dict(load_model(NAME, None)[0].state_dict())
    return state | {key: state[key][:3].clone() for key in ("head.linear.weight", "head.linear.bias")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "quantize"),
    [("tflite", "int8-full"), ("onnx", "int8"), ("onnx", "fp16"), ("coreml", "fp16"), ("coreml", "w8a8")],
)
def test_labels_and_input_reach_the_artifact(target: str, quantize: str, tmp_path: Path) -> None:
    torch.save(three_classes(), tmp_path / "mine.pt")
    for index, picture in enumerate(face_pictures(33, (120, 80), seed=3)):
        folder = tmp_path / "faces" / LABELS[index % 3].upper()
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{index}.png"), picture)
    spec = written(tmp_path, {"labels": LABELS, "input": INPUT})
    own = ["--weights", tmp_path / "mine.pt", "--spec", spec, "--out", tmp_path / "out"]
    own += ["--target", target, "--quantize", quantize, "--calibration", tmp_path / "faces"]
    refused = edge_stra("export", "--model", NAME, "--spec", spec, "--out", tmp_path / "none")
    assert refused.exit_code == 1 and "weights of your own" in refused.stderr
    done = edge_stra("export", "--model", NAME, *own)
    assert done.exit_code == 0, done.output
    assert "96 x 64 rgb" in done.stderr and "calm, very happy, Traurig" in done.stderr
    (path,) = (p for p in (tmp_path / "out").iterdir() if p.suffix != ".json")
    artifact = open_artifact(path)
    assert artifact.spec == read_spec(spec, get_spec(NAME))
    assert load_predictor(path)(load_input(tmp_path / "faces" / "CALM" / "0.png", artifact.spec.input)).shape == (1, 3)
    checked = edge_stra("check", path)
    assert checked.exit_code == 1 and "give its --weights" in checked.stderr
    pictures = ["--images", tmp_path / "faces"]
    assert edge_stra("check", path, "--weights", tmp_path / "mine.pt", *pictures).exit_code == 0
    judged = edge_stra("evaluate", path, "--data", tmp_path / "faces", "--json")
    assert judged.exit_code == 0 and list(json.loads(judged.stdout)["recall"]) == LABELS, judged.output


NETWORK = {"stem_stride": 1, "last_stage_stride": 2, "mode_interaction": False, "batch_norm_eps": 0.001}


def other_network(live: Callable[..., nn.Module]) -> nn.Module:
    """A live network for 44x44 with everything that `NETWORK` says, built without it."""
    model = create_model(NAME)
    stem, last_stage = model.get_submodule("features.0.0"), model.get_submodule("features.14.conv.3")
    stra = model.slot_block.conv[3]
    assert isinstance(stem, nn.Conv2d) and isinstance(last_stage, nn.Conv2d)
    assert isinstance(stra, StRA) and stra.mode is not None
    assert stem.stride == (2, 2) and last_stage.stride == (1, 1)
    stem.stride, last_stage.stride = (1, 1), (2, 2)
    stra.mode_interaction = stra.mode.interaction = False
    for norm in norms_of(model):
        norm.eps = 0.001
    network = live(model, (16, 3, 44, 44))
    with torch.no_grad():
        for norm in norms_of(network):  # small variances, for which the eps counts
            norm.weight /= 4
            norm.running_var /= 16
    return network


def norms_of(network: nn.Module) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]


@pytest.mark.slow
@pytest.mark.parametrize(("target", "suffix"), [("tflite", "tflite"), ("onnx", "onnx")])
def test_what_weights_do_not_tell_of_a_network_is_taken_from_the_file(
    target: str, suffix: str, tmp_path: Path, live: Callable[..., nn.Module]
) -> None:
    network = other_network(live)
    torch.save(network.state_dict(), tmp_path / "mine.pt")
    spec = written(tmp_path, {"input": {"size_hw": [44, 44]}, "network": NETWORK})
    words = ["--model", NAME, "--weights", tmp_path / "mine.pt", "--target", target, "--quantize", "fp32"]
    done = edge_stra("export", *words, "--spec", spec, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "stem at stride 1, the last stage at 2" in done.stderr and "modes that do not interact" in done.stderr
    (path,) = (tmp_path / "out").glob(f"*.{suffix}")
    assert open_artifact(path).spec.network == read_spec(spec, get_spec(NAME)).network
    assert edge_stra("check", path, "--weights", tmp_path / "mine.pt").exit_code == 0
    picture = to_input(face_pictures(1, (44, 44), seed=2)[0], open_artifact(path).spec.input)
    with torch.no_grad():
        x = torch.from_numpy(picture).permute(0, 3, 1, 2)
        expected, usual = (model(x).numpy() for model in (network, load_model(NAME, str(tmp_path / "mine.pt"))[0]))
    assert np.abs(load_predictor(path)(picture) - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.abs(usual - expected).max() > 0.1 * np.abs(expected).max()


@pytest.mark.parametrize("entry", NETWORK)
def test_each_entry_of_the_network_counts(entry: str, live: Callable[..., nn.Module]) -> None:
    network = other_network(live)
    without = {key: value for key, value in NETWORK.items() if key != entry}
    x = torch.randn(2, 3, 44, 44, generator=torch.Generator().manual_seed(0))
    outputs = []
    for facts in (NETWORK, without):
        model = create_model(NAME, network=NetworkSpec.from_json(facts)).eval()
        model.load_state_dict(network.state_dict())
        outputs.append(model(x).detach())
    expected = network(x).detach()
    assert torch.equal(outputs[0], expected)
    assert (outputs[1] - expected).abs().max() > 1e-3 * expected.abs().max()


def test_a_plain_network_has_no_modes_that_interact() -> None:
    with pytest.raises(ModelError, match="has no modes that could interact"):
        create_model("mobilenetv2.fer", network=NetworkSpec(mode_interaction=False))


def test_files_of_the_usual_network_say_nothing_of_it() -> None:
    usual = get_spec(NAME)
    assert "network" not in usual.to_json() and ModelSpec.from_json(usual.to_json()) == usual
    other = replace(usual, network=NetworkSpec(stem_stride=1))
    assert ModelSpec.from_json(other.to_json()) == other != usual


@pytest.mark.slow
def test_a_block_of_another_kind_is_exported_as_its_weights_are(tmp_path: Path, live: Callable[..., nn.Module]) -> None:
    for name, block in (("a", {"window": 5, "modes": 4}), ("b", {"mode_attention": False})):
        torch.save(live(create_model(NAME, block=block), (16, 3, 88, 88)).state_dict(), tmp_path / f"{name}.pt")
        words = ["--model", NAME, "--weights", tmp_path / f"{name}.pt", "--quantize", "fp32", "--out", tmp_path / name]
        done = edge_stra("export", *words)
        assert done.exit_code == 0, done.output
        (path,) = (tmp_path / name).glob("*.tflite")
        assert edge_stra("check", path, "--weights", tmp_path / f"{name}.pt").exit_code == 0
        assert ("StRA of 4 modes, window 5" in done.stderr) is (name == "a")
        assert ("without mode attention" in done.stderr) is (name == "b")


def test_a_handful_of_pictures_proves_nothing(tmp_path: Path) -> None:
    for index, picture in enumerate(face_pictures(7, (48, 48), seed=3)):
        cv2.imwrite(str(tmp_path / f"{index}.png"), picture)
    done = edge_stra("export", "--model", NAME, "--quantize", "fp32", "--images", tmp_path, "--out", tmp_path / "out")
    assert (
        done.exit_code == 1 and "at least 8 pictures to compare on (and 32 to calibrate on), but has 7" in done.stderr
    ), done.output
