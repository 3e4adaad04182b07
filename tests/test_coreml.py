"""The Core ML target: what is saved meets its bars on the executor, says what it is, and refuses what it can't do."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

if find_spec("coremltools") is None:
    pytest.skip("coremltools is not installed; scripts/setup coreml", allow_module_level=True)

from edge_stra.converters.coreml import MINIMUM_IOS, convert
from edge_stra.converters.coreml_activations import levels
from edge_stra.converters.coreml_network import PixelNetwork, SplitConv, centre_expansion, split_depthwise

from edge_stra.artifact import FORMAT, Artifact
from edge_stra.export import rewrite, size_of, torch_function
from edge_stra.loading import load_model
from edge_stra.mil import open_package
from edge_stra.models.mobilenetv2 import MobileNetV2
from edge_stra.models.registry import get_spec
from edge_stra.parity import Comparison, compare, outputs_of
from edge_stra.preprocess import to_input
from edge_stra.spec import ArtifactError, DataError, ModelError
from edge_stra.synthetic import synthetic_pictures
from edge_stra.targets.coreml import CoreMLPredictor, check_package, digest, read_embedded, to_pixels

FER, REID = "mobilenetv2_stra.fer", "mobilenetv2_stra.reid"
# Drawn pictures, shipped weights. Measured: docs/coreml.md.
BARS = {"fp32": 80.0, "fp16": 45.0, "w8": 30.0, "palette6": 25.0, "w8a8": 20.0}
BLUE = np.full((88, 88, 3), (9, 9, 200), np.uint8)
Packages = Callable[[str, str], Path]


def network_of(name: str) -> MobileNetV2:
    return rewrite(load_model(name, None)[0], get_spec(name), False)


def drawn(name: str, count: int, seed: int = 5) -> list[np.ndarray]:
    spec = get_spec(name)
    return [to_input(p, spec.input) for p in synthetic_pictures(spec.task, count, spec.input.size_hw, seed)]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """A function: (model, precision) -> the saved package of its shipped weights, made once."""
    made: dict[tuple[str, str], Path] = {}

    def of(name: str, quantize: str) -> Path:
        if (name, quantize) not in made:
            path = tmp_path_factory.mktemp("coreml") / f"{name}.{quantize}.mlpackage"
            inputs = drawn(name, 8, seed=0) if quantize == "w8a8" else None
            convert(network_of(name), get_spec(name), quantize, path, inputs=inputs)
            made[name, quantize] = path
        return made[name, quantize]

    return of


def open_plain(path: Path) -> Artifact:
    spec, quantize = read_embedded(path)
    return Artifact(path, spec, "coreml", quantize, digest(path), None)


def compared(name: str, path: Path, count: int) -> Comparison:
    """PyTorch's reference against the saved package on the executor."""
    inputs = drawn(name, count)
    reference = outputs_of(torch_function(load_model(name, None)[0]), inputs)
    produced = outputs_of(CoreMLPredictor(open_plain(path)), inputs)
    return compare(("reference", path.name), reference, produced, bool(get_spec(name).labels))


@pytest.mark.parametrize(
    ("name", "quantize"),
    [
        (FER, "fp32"),
        (FER, "fp16"),
        pytest.param(FER, "w8", marks=pytest.mark.slow),
        pytest.param(FER, "palette6", marks=pytest.mark.slow),
        pytest.param(FER, "w8a8", marks=pytest.mark.slow),
        pytest.param(REID, "fp32", marks=pytest.mark.slow),
        pytest.param(REID, "fp16", marks=pytest.mark.slow),
    ],
)
def test_saved_package_meets_its_bar(name: str, quantize: str, packages: Packages) -> None:
    found = compared(name, packages(name, quantize), 6)
    assert found.sqnr_db >= BARS[quantize], found


@pytest.mark.parametrize(
    ("quantize", "share"),
    [
        ("fp16", 0.55),
        pytest.param("w8", 0.30, marks=pytest.mark.slow),
        pytest.param("palette6", 0.25, marks=pytest.mark.slow),
        pytest.param("palette4", 0.18, marks=pytest.mark.slow),
    ],
)
def test_each_precision_is_a_smaller_package(quantize: str, share: float, packages: Packages) -> None:
    assert size_of(packages(FER, quantize)) < share * size_of(packages(FER, "fp32"))


def test_one_flipped_weight_byte_fails_the_bar(packages: Packages, tmp_path: Path) -> None:
    path = tmp_path / "flipped.mlpackage"
    shutil.copytree(packages(FER, "fp32"), path)
    file = path / "Data/com.apple.CoreML/weights/weight.bin"
    data = bytearray(file.read_bytes())
    head = network_of(FER).head.linear.weight.detach().numpy()
    # Sign and exponent of the largest weight: one whose feature no picture shows could be anything.
    place = bytes(data).index(head.tobytes()) + 4 * int(np.abs(head).argmax()) + 3
    data[place] ^= 0x40
    file.write_bytes(data)
    assert digest(path) != digest(packages(FER, "fp32"))
    assert not compared(FER, path, 1).sqnr_db >= BARS["fp32"]


def test_what_file_managers_leave_in_a_package_changes_nothing(packages: Packages, tmp_path: Path) -> None:
    path = tmp_path / "seen.mlpackage"
    shutil.copytree(packages(FER, "fp16"), path)
    before = digest(path)
    (path / ".DS_Store").write_bytes(b"seen")
    (path / "Data" / "._com.apple.CoreML").write_bytes(b"copied")
    assert digest(path) == before
    (path / "Data" / "another").write_bytes(b"new")
    assert digest(path) != before


def test_package_says_what_it_is(packages: Packages) -> None:
    spec, package = get_spec(FER), open_package(packages(FER, "fp16"))
    assert read_embedded(package.path) == (spec, "fp16")
    assert package.description["author"] == "edge-stra" and "research use only" in package.description["license"]
    assert "iOS 16" in package.description["shortDescription"] and package.minimum_os.startswith("iOS 16")
    assert package.metadata["labels"] == ",".join(spec.labels) and FORMAT in package.metadata["edge_stra.json"]
    assert "88x88" in package.metadata["preprocessing"] and "0.485" in package.metadata["preprocessing"]
    (image,) = package.inputs
    assert (image.name, image.kind, image.colour, image.shape) == ("image", "image", "grey", (88, 88))
    assert [o.name for o in package.outputs] == ["classLabel", "classLabel_probs"]
    made = CoreMLPredictor(open_plain(package.path)).executor.run({"image": np.zeros((88, 88), np.uint8)}, ["logits"])
    probabilities = made["classLabel_probs"]
    assert tuple(probabilities) == spec.labels and sum(probabilities.values()) == pytest.approx(1, abs=2e-3)
    assert made["classLabel"] == spec.labels[int(made["logits"].argmax())]


@pytest.mark.slow
def test_embedder_gives_unit_length(packages: Packages) -> None:
    path = packages(REID, "fp32")
    (image,) = open_package(path).inputs
    assert (image.colour, image.shape) == ("rgb", (256, 128))
    embedding = CoreMLPredictor(open_plain(path))(drawn(REID, 1)[0])
    assert embedding.shape == (1, 512) and np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("quantize", "ios", "message"),
    [
        ("w8a8", 16, "w8a8 needs iOS 17"),
        ("fp16", 15, "fp16 needs iOS 16"),
        ("fp32", 99, "--ios must be one of"),
        ("int4", None, "unknown precision 'int4'"),
    ],
)
def test_requests_that_cannot_be_met(quantize: str, ios: int | None, message: str, tmp_path: Path) -> None:
    out = tmp_path / "x.mlpackage"
    with pytest.raises(ModelError, match=message) as caught:
        convert(network_of(FER), get_spec(FER), quantize, out, ios)
    assert "\n" not in str(caught.value) and not out.exists()


def test_every_precision_states_its_ios_and_why() -> None:
    assert set(MINIMUM_IOS) == {"fp32", "fp16", "w8", "w8a8", "palette4", "palette6"}
    assert all(least >= 16 and "came with iOS" in reason for least, reason in MINIMUM_IOS.values())


def test_labels_that_do_not_match_the_head(tmp_path: Path) -> None:
    spec = replace(get_spec(FER), labels=("smile", "frown"))
    with pytest.raises(ModelError, match="2 for 7"):
        convert(network_of(FER), spec, "fp32", tmp_path / "x.mlpackage")


def test_w8a8_needs_pictures(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--calibration"):
        convert(network_of(FER), get_spec(FER), "w8a8", tmp_path / "x.mlpackage")


@pytest.mark.slow
def test_equal_input_gives_equal_bytes(packages: Packages, tmp_path: Path) -> None:
    again = tmp_path / "again.mlpackage"
    convert(network_of(FER), get_spec(FER), "fp16", again)
    assert digest(again) == digest(packages(FER, "fp16"))


@pytest.mark.slow
@pytest.mark.slow
def test_packages_of_other_calibrations_are_told_apart_by_weights_and_specification(
    packages: Packages, tmp_path: Path
) -> None:
    """All that an app on a phone can hash once the package is compiled; a gallery is bound to it."""
    other = tmp_path / "other.mlpackage"
    convert(network_of(FER), get_spec(FER), "w8a8", other, inputs=drawn(FER, 2, seed=99))
    first = packages(FER, "w8a8")
    weights = [next(path.rglob("weight.bin")).read_bytes() for path in (first, other)]
    inner = [json.loads(open_package(path).metadata["edge_stra.json"]) for path in (first, other)]
    assert weights[0] == weights[1], "else the weights alone would do"
    assert inner[0].pop("program_sha256") != inner[1].pop("program_sha256")
    assert inner[0] == inner[1]


def test_int8_where_it_should_be(packages: Packages) -> None:
    function = open_package(packages(FER, "w8a8")).function
    kinds = Counter(op.kind for op in function.operations)
    compressed = [op.outputs[0].name for op in function.operations if op.kind.startswith("constexpr")]
    assert kinds["dequantize"] >= kinds["quantize"] > 40 and len(compressed) > 30
    for part in ("features_0_", "features_1_", "features_2_conv_0_", "neighbours", "place"):
        assert not any(part in name for name in compressed), part
    # Between the first pair and the stem stand stem, first block and the expansion after it; attention has none inside.
    order = [op.kind for op in function.operations if op.kind != "const"]
    assert order[: order.index("quantize")].count("conv") == 5
    attention = order[order.index("softmax") : len(order) - order[::-1].index("sigmoid")]
    assert "quantize" not in attention


@pytest.mark.parametrize("name", [FER, REID])
@pytest.mark.parametrize("half", [False, True])
def test_pixels_inside_equal_preprocessing(name: str, half: bool) -> None:
    """Before any rounding; with half, the zero padding stands for a mean that is up to 1/16 grey level off."""
    spec, network = get_spec(name), network_of(name)
    x = drawn(name, 1)[0]
    pixels = to_pixels(x, spec, Path("model")).astype(np.float32)
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    inside = PixelNetwork(network, spec.input, False, half).eval()
    with torch.no_grad():
        produced = inside(torch.from_numpy(planes)[None]).numpy()
    found = compare(("reference", name), torch_function(network)(x), produced, False)
    assert found.sqnr_db >= (85 if half else 100), found


def test_constants_fit_half_floats() -> None:
    """The forms for half floats equal the network, and their constants are small, or half floats to begin with."""
    network, x = network_of(FER), torch.from_numpy(drawn(FER, 1)[0]).permute(0, 3, 1, 2)
    changed = split_depthwise(centre_expansion(network))
    with torch.no_grad():
        found = compare(("network", "changed"), network(x).numpy(), changed(x).numpy(), False)
    assert found.sqnr_db >= 90, found
    before, after = (n.get_submodule("features.2.conv.0").bias.detach().abs().max() for n in (network, changed))
    assert before > 100 and after < 1
    split = changed.features[1].conv[0]
    assert isinstance(split, SplitConv)
    for part in (split.high.weight, split.high.bias, changed.features[1].conv[3].bias):
        assert (part.half().float() == part).all()


@pytest.mark.parametrize("name", [FER, REID])
def test_normalisation_is_undone_exactly(name: str) -> None:
    spec = get_spec(name)
    rgb = np.arange(np.prod(spec.input.size_hw) * 3, dtype=np.int64).reshape(*spec.input.size_hw, 3) % 256
    if spec.input.color == "grey":
        rgb = np.repeat(rgb[:, :, :1], 3, axis=2)
    found = to_pixels(to_input(rgb.astype(np.uint8), spec.input), spec, Path("model"))
    assert found.dtype == np.uint8 and (found == (rgb[:, :, 0] if spec.input.color == "grey" else rgb)).all()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x + 0.01, "bytes 0 to 255"),
        (lambda x: x * 0 + 9, "bytes 0 to 255"),
        (lambda x: x * np.nan, "bytes 0 to 255"),
        (lambda x: to_input(BLUE, replace(get_spec(FER).input, color="rgb")), "grey"),
    ],
)
def test_inputs_that_are_no_pixels(spoil: Callable[[np.ndarray], np.ndarray], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        to_pixels(spoil(drawn(FER, 1)[0]).astype(np.float32), get_spec(FER), Path("model"))


@pytest.mark.parametrize(
    ("found", "dtype", "step"),
    [((0.0, 6.0), "uint8", 6 / 255), ((-1.0, 2.0), "int8", 2 / 127), ((-3.0, 2.0), "int8", 3 / 127)],
)
def test_levels_keep_zero(found: tuple[float, float], dtype: str, step: float) -> None:
    assert levels(found) == (dtype, np.float16(step))


def make_folder(path: Path) -> Path:
    (path / "Data").mkdir(parents=True)
    (path / "Manifest.json").write_text("{}")
    (path / "Data" / "a").write_text("b")
    return path


def test_digest_sees_names_and_contents(tmp_path: Path) -> None:
    first, second = (make_folder(tmp_path / name) for name in ("a.mlpackage", "b.mlpackage"))
    assert digest(first) == digest(second)
    (second / "Data" / "a").rename(second / "Data" / "c")
    assert digest(first) != digest(second)
    (second / "Data" / "c").rename(second / "Data" / "a")
    (second / "Data" / "a").write_text("c")
    assert digest(first) != digest(second)


@pytest.mark.parametrize("width", [3, 100])
def test_logits_of_another_width_than_the_labels_are_refused(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        def run(self, inputs: object, wanted: list[str]) -> dict[str, np.ndarray]:
            return {name: np.zeros((1, width), np.float32) for name in wanted}

    monkeypatch.setattr("edge_stra.mil.load_executor", lambda path: Other())
    spec = get_spec(FER)
    predictor = CoreMLPredictor(Artifact(Path("x.mlpackage"), spec, "coreml", "fp32", "0" * 64, None))
    with pytest.raises(
        ArtifactError, match=rf"must give logits of \(1, 7\), but gives \(1, {width}\); export it again"
    ):
        predictor(to_input(np.zeros((*spec.input.size_hw, 3), np.uint8), spec.input))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: (path / "Data" / "link").symlink_to("/etc/hostname"), "link"),
        (lambda path: (path / "Data" / "folder").symlink_to(path.parent), "link"),
        (lambda path: [(path / str(i)).write_text("") for i in range(70)], "at most 64 files"),
        (lambda path: shutil.rmtree(path), "no such folder"),
    ],
)
def test_packages_that_are_refused(spoil: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    path = make_folder(tmp_path / "x.mlpackage")
    spoil(path)
    for read in (check_package, digest, read_embedded):
        with pytest.raises(ArtifactError, match=message):
            read(path)
