"""Scripts and benchmarks: what shell scripts refuse before they set anything up; that what others import is there."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
ROOT = SCRIPTS.parent
PYTHON_FILES = sorted(path for folder in ("scripts", "benchmarks") for path in (ROOT / folder).rglob("*.py"))

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


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_script_imports_of_the_package_is_there(path: Path) -> None:
    """No test runs most of them, and a name that moved would be noticed by who measures next."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "edge_stra":
            module = importlib.import_module(str(node.module))
            below = {found.name for found in pkgutil.iter_modules(getattr(module, "__path__", []))}
            assert not [name.name for name in node.names if not hasattr(module, name.name) and name.name not in below]
