"""The same artifact on a Raspberry Pi's CPU: an aarch64 Python under qemu-user (numerics and packaging, not speed).

`EDGE_STRA_PI` names its interpreter; `../shared/tools/pi_env.sh DIR` builds one (.ci/run does).
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edge_stra.export import Request, export, synthetic_inputs
from edge_stra.parity import sqnr_db
from edge_stra.runtime import load_predictor

PI_PYTHON = os.environ.get("EDGE_STRA_PI", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.pi,
    pytest.mark.skipif(not PI_PYTHON, reason="EDGE_STRA_PI names no aarch64 Python; build one with pi_env.sh"),
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


def run_on_arm(artifact: Path, folder: Path) -> np.ndarray:
    import edge_stra

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
