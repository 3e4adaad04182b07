"""Arrays in and out of interpreters: integer tensors, and inputs that are none."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_stra.export import Exported, Request, export
from edge_stra.preprocess import to_input
from edge_stra.runtime import dequantize_array, find_runtime, load_predictor, quantize_array
from edge_stra.spec import FER_LABELS, BrokenError, DataError


@pytest.mark.parametrize(("dtype", "low", "high"), [(np.int8, -128, 127), (np.uint8, 0, 255)])
def test_integers_are_rounded_to_the_nearest_and_kept_in_range(dtype: Any, low: int, high: int) -> None:
    detail = {"dtype": dtype, "quantization": (0.5, 3)}
    x = np.array([0.0, 0.2, 0.3, 0.75, 1.25, 0.7, 1e6, -1e6], np.float32)
    found = quantize_array(x, detail)
    assert found.dtype == dtype
    assert found.tolist() == [3, 3, 4, 5, 5, 4, high, low]  # 1.5 and 2.5 steps go to the even 2
    assert dequantize_array(found[:4], detail).tolist() == [0.0, 0.0, 0.5, 1.0]


@pytest.mark.parametrize("rest", [types.ModuleType("tensorflow"), types.SimpleNamespace(lite=None)])
def test_what_is_left_of_a_runtime_that_is_gone_is_told(rest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_stra.runtime.RUNTIMES", [("tensorflow", "tensorflow", "lite.Interpreter")])
    monkeypatch.setitem(sys.modules, "tensorflow", rest)
    with pytest.raises(BrokenError, match=r"tensorflow is installed, but not whole: .*; install it again"):
        find_runtime()


@pytest.mark.parametrize(
    ("x", "came"),
    [
        (np.zeros((1, 88, 88, 3)), "float64 (1, 88, 88, 3)"),
        (np.zeros((1, 3, 88, 88), np.float32), "float32 (1, 3, 88, 88)"),
        (np.zeros((2, 88, 88, 3), np.float32), "float32 (2, 88, 88, 3)"),
        ([[1.0]], "list"),
    ],
)
def test_an_input_that_is_none_is_told_with_what_is_wanted(exported: Exported, x: Any, came: str) -> None:
    with pytest.raises(DataError) as caught:
        load_predictor(Path(exported.path))(x)
    assert "float32 (1, 88, 88, 3)" in str(caught.value) and f"but is {came};" in str(caught.value)


@pytest.mark.parametrize("quantize", ["int8", "int8-full"])
def test_the_guide_for_other_languages_gives_what_the_predictor_gives(quantize: str, tmp_path: Path) -> None:
    made = export(Request("mobilenetv2_stra.fer", quantize, tmp_path))
    guide = (Path(__file__).parents[1] / "docs" / "tflite.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    file, picture = '"out/mobilenetv2_stra.fer.int8.tflite"', "np.full((120, 90, 3), 128, np.uint8)"
    drawn = "np.random.default_rng(1).integers(0, 256, (120, 90, 3), np.uint8)"  # smooth ones say nothing of colours
    assert file in code and picture in code
    code = code.replace(file, repr(str(made.path))).replace(picture, drawn)
    code = code.replace("print(", "print(y.tolist(), ")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout[: done.stdout.index("]") + 1])
    predictor = load_predictor(made.path)
    expected = predictor(
        to_input(np.random.default_rng(1).integers(0, 256, (120, 90, 3), np.uint8), predictor.spec.input)
    )
    assert found == pytest.approx(expected[0].tolist(), abs=1e-5)
    assert predictor.spec.labels[expected.argmax()] in done.stdout


def test_the_guide_for_python_runs_as_it_stands(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[1] / "docs" / "python.md").read_text("utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", guide, re.DOTALL))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *_, artifact, answer, error = done.stdout.splitlines()
    assert artifact.startswith("out/mobilenetv2_stra.fer.int8.tflite") and float(artifact.split()[1]) > 18
    assert answer.split()[0] in FER_LABELS and 0 < float(error) < 1e-4
