"""Weights: strict loading, one clear error for each kind of bad file, nothing in a file executed, exact round trips."""

from __future__ import annotations

import inspect
import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from edge_stra.artifact import open_artifact, sha256_of
from edge_stra.export import Request, export, synthetic_inputs
from edge_stra.loading import load_model
from edge_stra.models.attention import StRA, options_of
from edge_stra.models.registry import create_model, get_spec
from edge_stra.models.weights import load_imagenet, load_weights, read_weights, save_weights, weights_model
from edge_stra.parity import sqnr_db
from edge_stra.runtime import load_predictor
from edge_stra.shipped import shipped_artifact, shipped_weights
from edge_stra.spec import ModelError, OutputError

NAME = "mobilenetv2_stra.fer"
FLOAT16_STEP = 2**-11  # half a unit in the last place of float16, relative, for numbers above its subnormals
FLOAT16_FLOOR = 2**-25  # half the smallest subnormal


class Code:
    """Pickled, it creates a file when it is unpickled without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def small() -> nn.Module:
    return nn.ModuleDict({"features": nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))})


def truncated(path: Path, source: Path, share: float) -> Path:
    path.write_bytes(source.read_bytes()[: int(source.stat().st_size * share)])
    return path


def another_architecture(folder: Path) -> Path:
    save_weights(create_model("mobilenetv2.fer"), folder / "other.safetensors")
    return folder / "other.safetensors"


def another_width(folder: Path) -> Path:
    save_weights(create_model("mobilenetv2_140_stra.fer"), folder / "wide.safetensors")
    return folder / "wide.safetensors"


def with_one_more(folder: Path) -> Path:
    save_file({**create_model(NAME).state_dict(), "extra": torch.zeros(1)}, folder / "more.safetensors")
    return folder / "more.safetensors"


def with_value(value: float) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        state = create_model(NAME).state_dict()
        state["head.linear.weight"][0, 0] = value
        save_file(state, folder / "bad.safetensors")
        return folder / "bad.safetensors"

    return make


def codes(folder: Path) -> Path:
    state = create_model(NAME).state_dict()
    state["features.0.0.weight"] = (state["features.0.0.weight"] * 100).to(torch.int8)
    save_file(state, folder / "codes.safetensors")
    return folder / "codes.safetensors"


BAD_FOR_THE_MODEL: dict[str, tuple[Callable[[Path], Path], str]] = {
    "another architecture": (another_architecture, r"must hold the weights of .* missing .* another architecture"),
    "another width": (another_width, r"of another shape \(.*is it another architecture"),
    "one tensor more": (with_one_more, r"1 unknown \(extra\)"),
    "NaN": (with_value(float("nan")), "must hold finite numbers, but head.linear.weight"),
    "codes of a quantized network": (codes, "must hold floating-point weights, but features.0.0.weight is torch.int8"),
    "infinity": (with_value(float("inf")), "must hold finite numbers, but head.linear.weight"),
}


@pytest.mark.parametrize("case", BAD_FOR_THE_MODEL)
def test_weights_that_do_not_fit_are_refused_and_the_model_stays(tmp_path: Path, case: str) -> None:
    make, message = BAD_FOR_THE_MODEL[case]
    path, model = make(tmp_path), create_model(NAME)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ModelError, match=message) as error:
        load_weights(model, path, NAME)
    assert "\n" not in str(error.value) and path.name in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.99])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, share: float) -> None:
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".pt":
        torch.save(small().state_dict(), whole)
    else:
        save_file(small().state_dict(), whole)
    with pytest.raises(ModelError, match="is damaged or of another format"):
        read_weights(truncated(tmp_path / f"part{suffix}", whole, share))


def test_an_old_checkpoint_cut_anywhere_gives_one_kind_of_error(tmp_path: Path) -> None:
    """The format before torch 1.6, a bare pickle: the unpickler fails in many ways."""
    torch.save({"weight": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    data, path = (tmp_path / "old.pt").read_bytes(), tmp_path / "cut.pt"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ModelError):
            read_weights(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_an_old_checkpoint_with_any_byte_changed_gives_tensors_or_one_kind_of_error(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    data, path = (tmp_path / "old.pt").read_bytes(), tmp_path / "changed.pt"
    refused = 0
    for index in range(len(data)):
        path.write_bytes(data[:index] + bytes([data[index] ^ 0x15]) + data[index + 1 :])
        try:
            read_weights(path)
        except ModelError:
            refused += 1
    assert refused > len(data) / 4


@pytest.mark.parametrize("odd", [torch.ones(2, device="meta"), torch.eye(2).to_sparse()], ids=["meta", "sparse"])
def test_tensors_without_plain_numbers_are_refused(odd: Tensor, tmp_path: Path) -> None:
    torch.save({"weight": odd}, tmp_path / "odd.pt")
    with pytest.raises(ModelError, match="must hold ordinary tensors with their numbers, but weight is none"):
        read_weights(tmp_path / "odd.pt")


def test_a_checkpoint_that_expands_too_far_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"weight": torch.zeros(1 << 20)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "small.pt", "w") as packed:
        for info in plain.infolist():
            packed.writestr(info.filename, plain.read(info), zipfile.ZIP_DEFLATED)
    assert read_weights(tmp_path / "small.pt")["weight"].shape == (1 << 20,)
    monkeypatch.setattr("edge_stra.models.weights.MAX_WEIGHT_BYTES", 1 << 20)
    assert (tmp_path / "small.pt").stat().st_size < 1 << 20
    with pytest.raises(ModelError, match="must expand to at most 1 MiB"):
        read_weights(tmp_path / "small.pt")


def test_views_that_repeat_what_is_stored_are_refused(tmp_path: Path) -> None:
    """A file of a kilobyte that asks for terabytes."""
    torch.save({"weight": torch.zeros(1).expand(1 << 40)}, tmp_path / "small.pt")
    assert (tmp_path / "small.pt").stat().st_size < 4096
    with pytest.raises(ModelError, match="must hold tensors of at most"):
        read_weights(tmp_path / "small.pt")


@pytest.mark.parametrize("key", ["logit.3.weight", "mode.mask.0.weight"])
def test_a_small_file_asks_for_no_huge_block(key: str) -> None:
    state = create_model(NAME).state_dict() | {f"features.17.conv.3.{key}": torch.zeros(10**7, 1, dtype=torch.uint8)}
    assert options_of(state) == {}


def test_a_full_disk_leaves_no_half_of_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(state: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    monkeypatch.setattr("edge_stra.models.weights.save_file", full)
    with pytest.raises(OutputError, match="No space left on device; look at the disk"):
        save_weights(nn.Linear(2, 2), tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["torch.save", "pickle", "renamed to safetensors"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, form: str) -> None:
    made = tmp_path / "made"
    path = tmp_path / ("code.safetensors" if form == "renamed to safetensors" else "code.pt")
    state = {"weight": torch.ones(2), "code": Code(made)}
    if form == "torch.save":
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps(state["code"], protocol=2))
    message = "is damaged" if form == "renamed to safetensors" else "holds code instead of tensors alone"
    with pytest.raises(ModelError, match=message):
        read_weights(path)
    assert not made.exists()
    if form == "pickle":
        pickle.loads(path.read_bytes())
        assert made.exists(), "the file must be one that does harm, or the test proves nothing"


@pytest.mark.parametrize(
    "content",
    [
        {"weight": 1.0},
        {"weight": [torch.ones(1)]},
        {"a": torch.ones(1), "b": "text"},
        [torch.ones(1)],
        torch.ones(1),
        3,
    ],
    ids=["number", "list inside", "text", "list", "tensor", "integer"],
)
def test_a_file_without_a_dictionary_of_tensors_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ModelError, match="must hold a dictionary of tensors"):
        read_weights(tmp_path / "other.pt")


@pytest.mark.parametrize("name", ["absent.pt", "absent.safetensors", "."])
def test_an_absent_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="there is no such file"):
        read_weights(tmp_path / name)


def test_a_file_above_the_limit_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "large.pt")
    monkeypatch.setattr("edge_stra.models.weights.MAX_WEIGHT_BYTES", 10)
    with pytest.raises(ModelError, match="must be at most"):
        read_weights(tmp_path / "large.pt")


WRAPPINGS: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "bare": lambda s: s,
    "module. of DDP": lambda s: {f"module.{k}": v for k, v in s.items()},
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model": lambda s: {"model": s, "place": [1, 2, 0.5], "optimizer": {"state": {}}},
    "model_state_dict": lambda s: {"model_state_dict": s, "loss": 0.5},
    "torch.compile in DDP": lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
    "Lightning": lambda s: {"state_dict": {f"net.{k}": v for k, v in s.items()}, "epoch": 3},
    "AveragedModel": lambda s: {"n_averaged": torch.tensor(7)} | {f"module.{k}": v for k, v in s.items()},
    "both": lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
    "a loss beside it": lambda s: {"criterion.weight": torch.ones(7)} | {f"model.{k}": v for k, v in s.items()},
    "net": lambda s: {"net": s, "acc": 71.5},
    "float64": lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappings_are_taken_off(tmp_path: Path, wrapping: str) -> None:
    source, target = small(), small()
    torch.save(WRAPPINGS[wrapping](source.state_dict()), tmp_path / "wrapped.pt")
    load_weights(target, tmp_path / "wrapped.pt", "small")
    assert all(torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items())


def test_of_two_networks_in_a_file_neither_is_taken(tmp_path: Path) -> None:
    state = small().state_dict()
    torch.save({f"{name}.{k}": v for name in ("model", "teacher") for k, v in state.items()}, tmp_path / "two.pt")
    with pytest.raises(ModelError, match=r"must hold one network, but holds several, below 'model\.' and 'teacher\.'"):
        read_weights(tmp_path / "two.pt")


def test_numbers_too_large_for_float32_are_refused(tmp_path: Path) -> None:
    state = {k: v.double() if v.is_floating_point() else v for k, v in small().state_dict().items()}
    state["features.0.0.bias"][0] = 1e300
    torch.save(state, tmp_path / "large.pt")
    with pytest.raises(ModelError, match=r"must hold finite numbers, but features\.0\.0\.bias"):
        load_weights(small(), tmp_path / "large.pt", "small")


BLOCKS: dict[str, dict[str, Any]] = {
    "the paper's": {},
    "window and modes": {"window": 5, "modes": 4},
    "hidden channels": {"ratio": 2, "mask_hidden": 4},
    "local attention alone": {"mode_attention": False, "window": 1},
}


@pytest.mark.parametrize("case", BLOCKS)
def test_a_block_is_read_off_its_weights(tmp_path: Path, live: Callable[..., nn.Module], case: str) -> None:
    source = live(create_model(NAME, block=BLOCKS[case]), (4, 3, 88, 88))
    torch.save(source.state_dict(), tmp_path / "mine.pt")
    target, _ = load_model(NAME, str(tmp_path / "mine.pt"))
    x = torch.from_numpy(synthetic_inputs(get_spec(NAME), 1, seed=2)[0][0]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        assert torch.equal(target(x), source(x))
    options = dict(inspect.signature(StRA).parameters)
    wanted = {name: BLOCKS[case].get(name, option.default) for name, option in options.items() if name != "channels"}
    found = {"mode_attention": True} | options_of(source.state_dict())
    assert {k: v for k, v in wanted.items() if k in found} == found


def test_a_plain_network_has_no_block() -> None:
    assert options_of(create_model("mobilenetv2.fer").state_dict()) == {}


@pytest.mark.parametrize("odd", ["logit.0.weight", "logit.3.weight", "value.weight", "mode.mask.0.weight"])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (0, 0, 1, 1)])
def test_a_block_of_odd_shapes_is_refused_in_a_line(odd: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    state = create_model(NAME).state_dict() | {f"features.17.conv.3.{odd}": torch.zeros(shape)}
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(ModelError, match=re.escape(odd)):
        load_model(NAME, str(tmp_path / "odd.pt"))


def test_saved_weights_come_back_to_the_bit(tmp_path: Path, live: Callable[..., nn.Module]) -> None:
    source, target = live(create_model(NAME), (4, 3, 88, 88)), create_model(NAME)
    save_weights(source, tmp_path / "w.safetensors")
    load_weights(target, tmp_path / "w.safetensors", NAME)
    for key, value in source.state_dict().items():
        assert key.endswith("num_batches_tracked") or torch.equal(value, target.state_dict()[key]), key
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
    assert (tmp_path / "w.safetensors").stat().st_mode & 0o777 == 0o644, "others may export what was trained as root"


def test_float16_comes_back_as_float32_within_half_a_step(tmp_path: Path, live: Callable[..., nn.Module]) -> None:
    source, target = live(create_model(NAME), (4, 3, 88, 88)), create_model(NAME)
    save_weights(source, tmp_path / "full.safetensors")
    save_weights(source, tmp_path / "half.safetensors", torch.float16)
    assert {v.dtype for v in read_weights(tmp_path / "half.safetensors").values()} == {torch.float16}
    assert (tmp_path / "half.safetensors").stat().st_size < 0.55 * (tmp_path / "full.safetensors").stat().st_size
    load_weights(target, tmp_path / "half.safetensors", NAME)
    for key, value in source.state_dict().items():
        if value.is_floating_point():
            came = target.state_dict()[key]
            assert came.dtype == torch.float32
            assert ((came - value).abs() <= FLOAT16_STEP * value.abs() + FLOAT16_FLOOR).all(), key


def test_the_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


IMAGENET = "models/mobilenet_v2_1.0_imagenet_features.pt"


@pytest.mark.parametrize("name", ["mobilenetv2.fer", "mobilenetv2_stra.fer", "mobilenetv2_stra.reid"])
def test_imagenet_features_load_all_but_attention_and_head(shared_file: Callable[[str], Path], name: str) -> None:
    path, model = shared_file(IMAGENET), create_model(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    load_imagenet(model, path)
    source = read_weights(path)
    for key, value in model.state_dict().items():
        if key.startswith("features.17.conv.3.") and "_stra" in name:
            continue
        assert torch.equal(value, before[key] if key.startswith("head.") else source[key]), key


def test_features_of_imagenet_survive_the_change_of_the_block(
    shared_file: Callable[[str], Path], images: Callable[..., Tensor]
) -> None:
    """Before any training the StRA network sees what the plain one does (a random block: a likeness near 0.3)."""
    torch.manual_seed(0)
    plain, stra = create_model("mobilenetv2.fer").eval(), create_model("mobilenetv2_stra.fer").eval()
    x = images((4, 3, 88, 88))
    pooled = []
    with torch.inference_mode():
        for model in (plain, stra):
            load_imagenet(model, shared_file(IMAGENET))
            pooled.append(model.features(x).mean(dim=(2, 3)))  # (b, 1280)
    likeness = nn.functional.cosine_similarity(*pooled)
    assert float(likeness.min()) > 0.95, likeness


def torchvision_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Features as torchvision's MobileNetV2 names them: conv, BN and ReLU6 of one place under one number."""
    renamed = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[2] == "conv":
            last = 3 if parts[1] == "1" else 6  # the last conv of a block; the first block does not expand
            place = int(parts[3])
            own = [str(place // 3), str(place % 3)] if place < last else [str(last // 3 + place - last)]
            parts[3:4] = own
        renamed[".".join(parts)] = value
    return renamed


@pytest.mark.parametrize("name", ["mobilenetv2.fer", "mobilenetv2_stra.reid"])
def test_features_under_torchvisions_names_load_alike(tmp_path: Path, name: str) -> None:
    torch.manual_seed(1)
    source, first, second = create_model("mobilenetv2.fer"), create_model(name), create_model(name)
    second.load_state_dict(first.state_dict())
    state = {k: v for k, v in source.state_dict().items() if k.startswith("features.")}
    renamed = torchvision_names(state)
    wanted = ("features.0.0", "features.1.conv.0.1", "features.1.conv.1", "features.17.conv.1.0", "features.17.conv.3")
    assert all(f"{place}.weight" in renamed for place in wanted) and "features.17.conv.6.weight" not in renamed
    torch.save(state, tmp_path / "own.pt")
    torch.save(renamed | {"classifier.1.bias": torch.ones(1000)}, tmp_path / "theirs.pt")
    load_imagenet(first, tmp_path / "own.pt")
    load_imagenet(second, tmp_path / "theirs.pt")
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key
    assert torch.equal(first.features[16].conv[6].weight, source.features[16].conv[6].weight)  # type: ignore


def test_features_that_are_not_finite_are_refused_and_nothing_is_loaded(tmp_path: Path) -> None:
    state = create_model("mobilenetv2.fer").state_dict()
    state["features.17.conv.3.weight"][5] = torch.nan
    torch.save(state, tmp_path / "bad.pt")
    model = create_model(NAME)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ModelError, match=r"finite numbers, but features\.17\.conv\.3\.weight has NaN"):
        load_imagenet(model, tmp_path / "bad.pt")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("key", ["features.0.0.weight", "features.17.conv.3.weight"])
def test_features_that_are_codes_are_refused(key: str, tmp_path: Path) -> None:
    state = create_model("mobilenetv2.fer").state_dict()
    state[key] = (state[key] * 100).to(torch.int8)
    torch.save(state, tmp_path / "codes.pt")
    with pytest.raises(ModelError, match=rf"must hold floating-point weights, but {key} is torch.int8"):
        load_imagenet(create_model(NAME), tmp_path / "codes.pt")


@pytest.mark.parametrize("name", ["mobilenetv2_140.fer", "mobilenetv2_140_stra.reid"])
def test_imagenet_features_of_another_width_are_refused(shared_file: Callable[[str], Path], name: str) -> None:
    with pytest.raises(
        ModelError, match=r"must hold ImageNet features; features\.0\.0\.weight must be \(48, 3, 3, 3\)"
    ):
        load_imagenet(create_model(name), shared_file(IMAGENET))


@pytest.mark.parametrize("name", ["mobilenetv2_stra.fer", "mobilenetv2_stra.reid"])
def test_the_shipped_artifact_is_of_the_shipped_weights(name: str) -> None:
    path = shipped_artifact(name)
    assert path is not None
    manifest = open_artifact(path).manifest
    weights = load_model(name, None)[1]["sha256"]
    assert manifest is not None and manifest["weights"]["sha256"] == weights, "run scripts/ship.py again"


@pytest.mark.slow
def test_the_shipped_artifact_is_what_export_makes(tmp_path: Path) -> None:
    """Another machine's float kernels may choose another rounding here and there: equal numbers are not asked."""
    path = shipped_artifact(NAME)
    assert path is not None
    made = export(Request(NAME, "int8", tmp_path))
    shipped, new = load_predictor(path), load_predictor(made.path)
    inputs, _ = synthetic_inputs(shipped.spec, 8, seed=3)
    assert sqnr_db(*(np.concatenate([p(x) for x in inputs]) for p in (shipped, new))) > 40


@pytest.mark.parametrize(
    "name", ["mobilenetv2.fer", "mobilenetv2_stra.fer", "mobilenetv2.reid", "mobilenetv2_stra.reid"]
)
def test_the_twins_load_and_are_none_of_the_shipped(name: str) -> None:
    path = Path(__file__).parents[1] / "benchmarks" / "twins" / f"{name}.safetensors"
    assert weights_model(path) == name
    load_model(name, str(path))
    shipped = shipped_weights(name)
    assert shipped is None or shipped.read_bytes() != path.read_bytes()


def test_the_script_averages_files_of_one_model(tmp_path: Path, live: Callable[..., nn.Module]) -> None:
    files = []
    for index in range(3):
        model = live(create_model(NAME), (4, 3, 88, 88))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + index)
        save_weights(model, tmp_path / f"{index}.safetensors", name=NAME)
        files.append(tmp_path / f"{index}.safetensors")
    script, out = Path(__file__).parents[1] / "scripts" / "average_weights.py", tmp_path / "mean.safetensors"

    def average(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(script), *map(str, files), "--out", str(out), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    key, parts = "features.17.conv.3.value.weight", [read_weights(file) for file in files]
    for words, shares in (((), (1 / 3, 1 / 3, 1 / 3)), (("--shares", 0.5, 0.5, 0), (0.5, 0.5, 0.0))):
        assert average(*words).returncode == 0
        expected = sum(share * part[key] for share, part in zip(shares, parts, strict=True))
        assert torch.allclose(read_weights(out)[key], torch.as_tensor(expected), rtol=1e-6)
    out.unlink()
    refused = average("--shares", 0.5, 0.6, 0)
    assert refused.returncode == 1 and "with the sum 1" in refused.stderr and "Traceback" not in refused.stderr
    assert not out.exists()
    out = tmp_path / "mean.pt"  # `average` reads it when it is called
    refused = average()
    assert refused.returncode == 1 and "must be named .safetensors" in refused.stderr and not out.exists()
