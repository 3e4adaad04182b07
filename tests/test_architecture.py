"""The folders and which of them may import which: what README's table promises."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
APART = ("training", "calibration", "converters", "apps")  # lie beside edge_stra, and install as edge_stra.NAME
# A folder imports those before it, never those behind. `targets` names modules in strings, for what is not installed.
ORDER = (
    "models", "mil", "targets", "calibration", "converters", "builds", "delegates", "bench", "evaluation", "training",
    "gallery", "live", "capture", "apps", "views", "outputs", "web", "commands",
)  # fmt: skip


def folder_of(name: str) -> Path:
    return ROOT / name if name in APART else ROOT / "edge_stra" / name


def imported_by(path: Path) -> set[str]:
    """The folders of this project that a module imports, also within functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("edge_stra.")}
    return found & set(ORDER)


def test_imports_go_one_way() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {other}"
        for place, name in enumerate(ORDER)
        for path in folder_of(name).rglob("*.py")
        for other in imported_by(path)
        if ORDER.index(other) > place
    ]
    assert wrong == []


def test_every_folder_is_in_the_order_and_in_the_readme() -> None:
    there = {path.parent.name for path in (ROOT / "edge_stra").glob("*/__init__.py")} | set(APART)
    assert there == set(ORDER)
    text = (ROOT / "README.md").read_text("utf-8")
    table = re.search(r"\| folder \| what it holds \|\n.*?\n\n", text, re.DOTALL)
    assert table is not None
    for name in ORDER:
        assert re.search(rf"`(edge_stra/)?{name}`", table[0]), name
