"""The same artifact on a Raspberry Pi's CPU: an aarch64 Python under qemu-user (numerics and packaging, not speed).

`EDGE_STRA_PI` names its interpreter; benchmarks/instructions.md says what it takes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import edge_stra
from edge_stra.export import Request, export, synthetic_inputs
from edge_stra.parity import sqnr_db
from edge_stra.preprocess import read_rgb
from edge_stra.runtime import load_predictor

PI_PYTHON = os.environ.get("EDGE_STRA_PI", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.pi,
    pytest.mark.skipif(not PI_PYTHON, reason="EDGE_STRA_PI names no aarch64 Python; see benchmarks/instructions.md"),
]

MIN_SQNR_DB = {"fp32": 90.0, "fp16": 90.0, "int8": 50.0}
"""x86 against aarch64: float kernels round in another order; in int8 a value between two steps may fall either way."""
PICTURES = 8
SCRIPT = """
import sys, numpy as np
from pathlib import Path
from edge_stra.runtime import load_predictor
predictor = load_predictor(Path(sys.argv[1]))
inputs = np.load(sys.argv[2])
np.save(sys.argv[3], np.concatenate([predictor.raw(x[None]) for x in inputs]))
print(predictor.runtime_name)
"""


@pytest.mark.parametrize("quantize", ["fp32", "fp16", "int8", "int8-full"])
def test_an_artifact_gives_on_arm_what_it_gives_here(quantize: str, tmp_path: Path) -> None:
    made = export(Request("mobilenetv2_stra.fer", quantize, tmp_path))
    predictor = load_predictor(made.path)
    inputs, _ = synthetic_inputs(predictor.spec, PICTURES, seed=5)
    here = np.concatenate([predictor.raw(x) for x in inputs])
    np.save(tmp_path / "inputs.npy", np.concatenate(inputs))
    there = run_on_arm(made.path, tmp_path)
    assert there.dtype == here.dtype
    if quantize == "int8-full":
        assert np.array_equal(there, here)
    else:
        assert sqnr_db(here, there) >= MIN_SQNR_DB[quantize]


def test_the_expression_app_says_on_arm_what_it_says_here(shared_file: Callable[[str], Path], tmp_path: Path) -> None:
    """Frames of three photographs through detector, tracker, model and smoothing: labels and boxes are the same."""
    faces = tmp_path / "faces"
    faces.mkdir()
    for index, name in enumerate(("astronaut.png", "face.jpg", "grace_hopper.bmp")):
        for repeat in range(2):
            picture = read_rgb(shared_file(f"media/{name}"))
            cv2.imwrite(str(faces / f"{index}{repeat}.png"), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    yunet = shared_file("models/yunet_n_320_320.onnx")
    options = ["demo", "fer", str(faces), "--yunet", str(yunet), "--jsonl", "-"]
    here = subprocess.run(
        [sys.executable, "-m", "edge_stra", *options], capture_output=True, text=True, check=True, timeout=300
    )
    environment = {**os.environ, "PYTHONPATH": importable(Path(edge_stra.__file__).parent.parent, tmp_path)}
    there = subprocess.run(
        [PI_PYTHON, "-m", "edge_stra", *options],
        env=environment, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert there.returncode == 0, there.stderr[-2000:]
    on_x86, on_arm = ([json.loads(line)["rows"] for line in done.stdout.splitlines()] for done in (here, there))
    assert len(on_x86) == len(on_arm) == 6 and sum(map(len, on_x86)) >= 6
    for x86_rows, arm_rows in zip(on_x86, on_arm, strict=True):
        for x86, arm in zip(x86_rows, arm_rows, strict=True):
            assert (arm["label"], arm["track"]) == (x86["label"], x86["track"])
            assert np.abs(np.subtract(arm["box_xywh"], x86["box_xywh"])).max() <= 1
            assert arm["probability"] == pytest.approx(x86["probability"], abs=0.05)


def run_on_arm(artifact: Path, folder: Path) -> np.ndarray:
    package_root = Path(edge_stra.__file__).parent.parent
    (folder / "script.py").write_text(SCRIPT)
    command = [PI_PYTHON, str(folder / "script.py"), str(artifact), str(folder / "inputs.npy"), str(folder / "out.npy")]
    environment = {**os.environ, "PYTHONPATH": importable(package_root, folder)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result: np.ndarray = np.load(folder / "out.npy")
    return result


def importable(package_root: Path, folder: Path) -> str:
    """A folder that holds nothing but the package, whether it is installed from a wheel or editable."""
    place = folder / "site"
    place.mkdir()
    if "site-packages" in str(package_root):
        (place / "edge_stra").symlink_to(package_root / "edge_stra")
        return str(place)
    (place / "edge_stra").mkdir()
    for entry in (package_root / "edge_stra").iterdir():
        (place / "edge_stra" / entry.name).symlink_to(entry)
    for name in ("apps", "calibration", "converters"):
        (place / "edge_stra" / name).symlink_to(package_root / name)
    return str(place)
