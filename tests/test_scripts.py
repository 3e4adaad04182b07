"""The shell scripts of the README: what they refuse before they set anything up."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"

REFUSED = {
    "no such picture": (("--image", "none.jpg"), 1, "/none.jpg must be a picture, but there is no such file\n"),
    "no picture named": (("--image",), 2, "--image needs a picture\n"),
    "no folder named": (("--out",), 2, "--out needs a folder\n"),
    "a slip": (("--picture", "a.jpg"), 2, "usage: scripts/quickstart [--image PHOTO] [--out DIR]\n"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_quickstart_refuses_before_it_sets_up(case: str, tmp_path: Path) -> None:
    """Within the limit: setting up takes minutes. Paths are from where the user stands."""
    words, code, said = REFUSED[case]
    command = ["bash", str(SCRIPTS / "quickstart"), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == code
    assert done.stderr.removeprefix(str(tmp_path)) == said
