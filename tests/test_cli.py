"""The command line: what it prints, and one clear line with a non-zero exit for each wrong thing it is given."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from edge_stra.artifact import manifest_path
from edge_stra.cli import main
from edge_stra.commands.common import emit_json
from edge_stra.doctor import PACKAGES
from edge_stra.extras import install_command
from edge_stra.models.registry import MODEL_NAMES, create_model
from edge_stra.models.weights import save_weights
from edge_stra.shipped import shipped_artifact
from edge_stra.spec import FER_LABELS, ModelSpec
from edge_stra.synthetic import face_pictures
from edge_stra.targets.tflite import embed

if TYPE_CHECKING:
    from edge_stra.export import Exported

FER = "mobilenetv2_stra.fer"
Prepare = Callable[[Path], list[str]]


def edge_stra(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def assert_one_clear_line(result: Result, *, contains: str) -> None:
    assert result.exit_code != 0
    assert isinstance(result.exception, SystemExit), result.exception  # no traceback
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1, result.output
    assert contains in errors[0]


class MakesFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def other_architecture(folder: Path) -> list[str]:
    save_weights(create_model("mobilenetv2.fer"), folder / "w.safetensors")
    return ["--weights", str(folder / "w.safetensors")]


def truncated_checkpoint(folder: Path) -> list[str]:
    torch.save(create_model(FER).state_dict(), folder / "w.pt")
    data = (folder / "w.pt").read_bytes()
    (folder / "w.pt").write_bytes(data[: len(data) // 2])
    return ["--weights", str(folder / "w.pt")]


def code_in_pickle(folder: Path) -> list[str]:
    (folder / "w.pt").write_bytes(pickle.dumps({"features": MakesFile(folder / "made")}, protocol=2))
    return ["--weights", str(folder / "w.pt")]


def pictures(folder: Path, count: int, special: np.ndarray | bytes | None = None) -> list[str]:
    for index, picture in enumerate(face_pictures(count, (64, 64), seed=4) if count else ()):
        cv2.imwrite(str(folder / f"{index:03d}.png"), picture)
    if isinstance(special, bytes):
        (folder / "zzz.png").write_bytes(special)
    elif special is not None:
        cv2.imwrite(str(folder / "zzz.png"), special)
    return ["--calibration", str(folder)]


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)


def blocked(folder: Path) -> list[str]:
    (folder / "file").write_text("")
    return ["--out", str(folder / "file" / "child")]


WRONG_EXPORTS: dict[str, tuple[Prepare, str]] = {
    "unknown model": (lambda f: ["--model", "resnet.fer"], "unknown model 'resnet.fer'"),
    "unknown target": (lambda f: ["--target", "ncnn"], "unknown target 'ncnn'"),
    "unknown precision": (lambda f: ["--quantize", "int2"], "unknown precision 'int2'"),
    "no shipped weights": (lambda f: ["--model", "mobilenetv2_140.reid"], "no weights are shipped"),
    "weights of another architecture": (other_architecture, "another architecture"),
    "truncated checkpoint": (truncated_checkpoint, "damaged"),
    "pickle with code": (code_in_pickle, "holds code"),
    "no such weights": (lambda f: ["--weights", str(f / "none.pt")], "no such file"),
    "missing calibration folder": (lambda f: ["--calibration", str(f / "none")], "no such folder"),
    "empty calibration folder": (lambda f: pictures(f, 0), "holds none"),
    "too few pictures": (lambda f: pictures(f, 20), "at least 32 pictures, but"),
    "constant picture": (lambda f: pictures(f, 32, np.full((64, 64, 3), 90, np.uint8)), "nearly constant"),
    "noise": (lambda f: pictures(f, 32, noise()), "looks like noise"),
    "no picture": (lambda f: pictures(f, 32, b"no picture"), "zzz.png must be a picture"),
    "output below a file": (blocked, "must be a folder that can be written"),
}


@pytest.mark.parametrize("case", WRONG_EXPORTS)
def test_a_wrong_export_is_one_line_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    prepare, message = WRONG_EXPORTS[case]
    given, out = tmp_path / "given", tmp_path / "out"
    given.mkdir()
    options = ["--model", FER, "--quantize", "int8", "--out", str(out), *prepare(given)]
    assert_one_clear_line(edge_stra("export", *options), contains=message)
    assert not out.exists() or list(out.iterdir()) == []
    assert not (given / "made").exists()


def test_weights_of_ones_own_need_calibration(tmp_path: Path) -> None:
    save_weights(create_model(FER), tmp_path / "w.safetensors")
    result = edge_stra("export", "--model", FER, "--weights", tmp_path / "w.safetensors", "--out", tmp_path / "out")
    assert_one_clear_line(result, contains="give --calibration")


def test_what_serves_faces_alone_is_refused_for_people(tmp_path: Path) -> None:
    people = shipped_artifact("mobilenetv2_stra.reid")
    assert people is not None
    cv2.imwrite(str(tmp_path / "crop.png"), noise())
    for options in (["--out", tmp_path / "o.png"], ["--detector", "haar"], ["--yunet", tmp_path / "y.onnx"]):
        result = edge_stra("run", people, tmp_path / "crop.png", *options)
        assert result.exit_code == 2 and "are for expression models, but" in result.stderr
    assert not (tmp_path / "o.png").exists()


def test_what_exists_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / f"{FER}.int8.tflite").write_bytes(b"kept")
    assert_one_clear_line(edge_stra("export", "--model", FER, "--out", tmp_path), contains="--overwrite")
    assert (tmp_path / f"{FER}.int8.tflite").read_bytes() == b"kept"


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize("damage", ["truncated", "absent", "another manifest", "no model"])
def test_a_damaged_artifact_is_one_line(exported: Exported, tmp_path: Path, command: str, damage: str) -> None:
    artifact = tmp_path / "a.tflite"
    data = exported.path.read_bytes()
    if damage == "truncated":
        artifact.write_bytes(data[: len(data) // 2])
    elif damage == "another manifest":
        artifact.write_bytes(data)
        (tmp_path / "a.json").write_text(json.dumps(exported.manifest | {"sha256": "0" * 64}))
    elif damage == "no model":
        artifact.write_bytes(b"\0" * 1000)
    words = [command, artifact] + ([tmp_path / "p.png"] if command == "run" else [])
    expected = {
        "truncated": "truncated",
        "absent": "no such file",
        "another manifest": "SHA-256 must be",
        "no model": "must be a .tflite file",
    }
    assert_one_clear_line(edge_stra(*words), contains=expected[damage])


def test_a_picture_that_is_none_is_one_line(exported: Exported, tmp_path: Path) -> None:
    assert_one_clear_line(edge_stra("run", exported.path, tmp_path / "none.jpg"), contains="no such file")
    (tmp_path / "text.jpg").write_text("no picture")
    result = edge_stra("run", exported.path, tmp_path / "text.jpg", "--detector", "none")
    assert_one_clear_line(result, contains="must be a picture")


def test_one_bad_picture_of_several_is_told_and_the_others_are_done(exported: Exported, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), face_pictures(1, (60, 60), seed=9)[0])
    (tmp_path / "b.png").write_text("no picture")
    result = edge_stra("run", exported.path, tmp_path / "b.png", tmp_path / "a.png", "--detector", "none", "--json")
    bad, good = json.loads(result.stdout)
    assert result.exit_code == 1 and "must be a picture" in bad["error"] and len(good["faces"]) == 1
    assert "1 of 2 pictures can't be read; the first: " in result.stderr.splitlines()[-1]


def test_a_path_of_any_bytes(exported: Exported, tmp_path: Path) -> None:
    artifact = tmp_path / os.fsdecode(b"mod\xe8le.tflite")
    artifact.write_bytes(exported.path.read_bytes())
    cv2.imwrite(str(tmp_path / "a.png"), face_pictures(1, (60, 60), seed=9)[0])
    for words in (["run", artifact, tmp_path / "a.png", "--detector", "none"], ["inspect", artifact]):
        assert edge_stra(*words).exit_code == 0


def test_layers_of_other_artifacts_are_refused_before_the_check(tmp_path: Path) -> None:
    assert_one_clear_line(edge_stra("check", tmp_path / "a.onnx", "--layers"), contains="asked of a .tflite file")


def test_check_compares_the_specification_inside_with_the_models(exported: Exported, tmp_path: Path) -> None:
    inner = exported.manifest["model"]
    turned = ModelSpec.from_json(inner | {"labels": inner["labels"][::-1]})
    flat, _, _ = exported.path.read_bytes().partition(b"PK\x03\x04")
    (tmp_path / "a.tflite").write_bytes(embed(flat, turned, exported.manifest["quantize"]))
    assert_one_clear_line(edge_stra("check", tmp_path / "a.tflite"), contains="but has others")


def test_evaluate_wants_the_seven_folders(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    assert_one_clear_line(edge_stra("evaluate", exported.path, "--data", tmp_path), contains="is missing; found cats")


def test_check_repeats_the_parity_of_the_export(exported: Exported) -> None:
    result = edge_stra("check", exported.path, "--json")
    assert result.exit_code == 0, result.output
    comparisons = json.loads(result.stdout)["comparisons"]
    assert [c["candidate"] for c in comparisons] == ["reformulated", "tflite fp32", "tflite fp32"]
    assert comparisons[2]["sqnr_db"] >= 80


def changed_copy(exported: Exported, folder: Path, **changes: object) -> Path:
    """The artifact beside a manifest that says something else."""
    copy = folder / exported.path.name
    copy.write_bytes(exported.path.read_bytes())
    manifest_path(copy).write_text(json.dumps(exported.manifest | changes))
    return copy


@pytest.mark.parametrize("changes", [{"weights": "x"}, {"weights": {}}, {"settings": [1]}], ids=str)
def test_check_tells_of_a_manifest_that_does_not_say_enough(
    exported: Exported, tmp_path: Path, changes: dict[str, object]
) -> None:
    result = edge_stra("check", changed_copy(exported, tmp_path, **changes))
    assert_one_clear_line(result, contains="must say what it was made from")


def test_check_asks_for_the_pictures_that_the_export_compared_on(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_stra.recheck.check", lambda *a, **k: ["int8: SQNR must be >= 18 dB, is 16.9"])
    pictures = {"kind": "pictures", "name": "people", "count": 32}
    copy = changed_copy(exported, tmp_path, parity=exported.manifest["parity"] | {"pictures": pictures})
    result = edge_stra("check", copy)
    assert result.exit_code == 1 and "compared on 32 pictures of 'people'" in result.stderr, result.stderr
    assert "--images" not in edge_stra("check", exported.path).stderr


def test_a_library_that_does_not_load_is_one_line(tmp_path: Path) -> None:
    done = with_broken_modules(tmp_path, ("cv2",), "run", shipped_artifact(FER), tmp_path / "a.png")
    assert done.returncode == 1
    assert (
        done.stderr.splitlines()[-1]
        == "Error: cv2 can't be loaded: libGL.so.1: cannot open shared object file; install it again"
    )


def test_doctor_tells_what_is_installed_and_does_not_load(tmp_path: Path) -> None:
    told = with_broken_modules(tmp_path, ("cv2", "ai_edge_litert"), "doctor").stdout
    assert "OpenCV is installed, but can't be loaded: libGL.so.1" in told
    assert "ai-edge-litert is installed, but can't be loaded: numpy is too old" in told
    assert f"missing; run: {install_command('pi')}" not in told


def test_what_adds_a_package_is_never_the_bare_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody holds that name on the package index: whoever registers it would be installed."""
    monkeypatch.setattr("edge_stra.extras.ROOT", tmp_path)
    assert f'"{sys.executable}" -m pip install "SOURCE[onnx]", where SOURCE is' in install_command("onnx")
    (tmp_path / "pyproject.toml").touch()
    assert install_command("onnx") == f'"{sys.executable}" -m pip install -e "{tmp_path}[onnx]"'
    root = Path(__file__).parents[1]
    folders = [
        root / name for name in ("edge_stra", "apps", "calibration", "converters", "training", "docs", "scripts")
    ]
    files = [p for f in folders for p in f.rglob("*") if p.suffix in (".py", ".md", "")] + [root / "README.md"]
    bare = re.compile(r"pip install [^\n]*[ '\"]edge-stra\b(?!_)")
    named = [p for p in files if p.is_file() and bare.search(p.read_text("utf-8", "replace"))]
    assert len(files) > 100 and not named


def test_doctor_tells_of_an_opencv_that_is_not_all_there(tmp_path: Path) -> None:
    """A package that was removed can leave its folder, and `import cv2` works."""
    (tmp_path / "cv2.py").touch()
    path = os.pathsep.join([str(tmp_path), *sys.path])
    command = [sys.executable, "-m", "edge_stra", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 0 and "Traceback" not in done.stderr
    said = "OpenCV is installed, but can't be loaded: its files are not all there; run: pip install --force-reinstall"
    assert done.stdout.count(said) == 2  # of the cascade, and of the face detector


def with_broken_modules(folder: Path, names: tuple[str, ...], *words: object) -> subprocess.CompletedProcess[str]:
    """A command where some modules are installed and do not load."""
    reasons = {"cv2": "libGL.so.1: cannot open shared object file", "ai_edge_litert": "numpy is too old"}
    for name in names:
        (folder / f"{name}.py").write_text(f"raise ImportError({reasons[name]!r}, name={name!r})")
    command = [sys.executable, "-m", "edge_stra", *map(str, words)]
    path = os.pathsep.join([str(folder), *sys.path])
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": path})


def test_doctor_tells_the_rest_where_a_file_cannot_be_loaded(tmp_path: Path) -> None:
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"\x1c\0\0\0TFL3" + bytes(64))
    told = edge_stra("doctor", broken, "--json")
    assert told.exit_code == 1 and "broken.tflite can't be loaded" in told.stderr
    report = json.loads(told.stdout)
    assert report["packages"]["numpy"]["version"] and "can't be loaded" in report["delegate"]["note"]


def test_doctor_knows_every_package_that_an_extra_brings() -> None:
    asked = [r for r in metadata.requires("edge-stra") or [] if "'dev'" not in r and '"dev"' not in r]
    names = {re.split(r"[^\w.-]", r)[0] for r in asked if "sys_platform" not in r}
    known = {name for _, distributions, _ in PACKAGES for name in distributions}
    assert "aiohttp" in names and names <= known


def test_figures_are_told_where_their_picture_cannot_be_written(exported: Exported, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for label, picture in zip(FER_LABELS, face_pictures(len(FER_LABELS), (48, 48), seed=1), strict=True):
        (data / label).mkdir(parents=True)
        cv2.imwrite(str(data / label / "0.png"), picture)
    (tmp_path / "taken.png").mkdir()
    result = edge_stra("evaluate", exported.path, "--data", data, "--picture", tmp_path / "taken.png", "--json")
    assert result.exit_code == 1
    assert "can't be written" in result.stderr
    assert "accuracy" in json.loads(result.stdout)


def test_check_refuses_other_weights(exported: Exported) -> None:
    assert_one_clear_line(edge_stra("check", exported.path, "--weights", "random"), contains="was made from weights")


def test_run_annotates_a_crop(exported: Exported, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "face.png"), face_pictures(1, (200, 200), seed=9)[0])
    words = ["run", exported.path, tmp_path / "face.png", "--detector", "none", "--out", tmp_path / "out.png", "--json"]
    result = edge_stra(*words)
    assert result.exit_code == 0, result.output
    (face,) = json.loads(result.stdout)[0]["faces"]
    assert sum(face["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert face["label"] == max(face["probabilities"], key=face["probabilities"].get)
    assert cv2.imread(str(tmp_path / "out.png")) is not None


def test_evaluate_counts(exported: Exported, tmp_path: Path) -> None:
    """On pictures sorted by the model's own first choice the accuracy is 100 %, and a gate at 50 % of chance fails."""
    from edge_stra.preprocess import to_input
    from edge_stra.runtime import load_predictor
    from edge_stra.spec import FER_LABELS

    predictor = load_predictor(exported.path)
    faces = face_pictures(14, (48, 48), seed=6)
    for label in FER_LABELS:
        (tmp_path / label).mkdir()
        cv2.imwrite(str(tmp_path / label / "face.png"), faces[0])
    chosen = FER_LABELS[int(predictor(to_input(faces[0], predictor.spec.input)).argmax())]
    result = edge_stra("evaluate", exported.path, "--data", tmp_path, "--json", "--min-accuracy", "50")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["accuracy"] == pytest.approx(100 / 7)
    assert report["recall"] == {label: 100.0 if label == chosen else 0.0 for label in FER_LABELS}


def test_models_lists_all_with_figures() -> None:
    rows = json.loads(edge_stra("models", "--json").stdout)
    assert [row["name"] for row in rows] == list(MODEL_NAMES)
    by_name = {row["name"]: row for row in rows}
    assert by_name["mobilenetv2_stra.reid"]["macs"] == pytest.approx(369.5e6, rel=0.005)
    assert by_name[FER]["shipped"]


def test_doctor_and_completion_answer() -> None:
    assert json.loads(edge_stra("doctor", "--json").stdout)
    assert "_EDGE_STRA_COMPLETE" in edge_stra("completion", "bash").stdout


def test_help_imports_nothing_heavy() -> None:
    code = "import edge_stra.cli, sys; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "cv2", "ai_edge_litert", "safetensors", "jax"} & set(done.stdout.split())


@pytest.mark.slow
def test_calibration_takes_a_list_of_pictures(tmp_path: Path) -> None:
    pictures(tmp_path, 32)
    names = sorted(p.name for p in tmp_path.glob("*.png"))
    (tmp_path / "list.txt").write_text("\n".join(names))
    options = ["--model", FER, "--out", tmp_path / "out", "--calibration", tmp_path / "list.txt", "--json"]
    result = edge_stra("export", *options)
    assert result.exit_code == 0, result.output
    manifest = json.loads(result.stdout)
    assert manifest["calibration"]["count"] == manifest["parity"]["pictures"]["count"] == 32


def test_what_json_does_not_know_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    emit_json({"sqnr_db": float("-inf"), "rows": [{"low": float("nan"), "high": 1.5, "name": "a"}], "pair": (1, None)})
    rows = [{"low": None, "high": 1.5, "name": "a"}]
    assert json.loads(capsys.readouterr().out) == {"sqnr_db": None, "rows": rows, "pair": [1, None]}
