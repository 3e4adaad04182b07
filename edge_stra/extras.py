"""How to add a package of an extra: what every message about a missing one says."""

from __future__ import annotations

from pathlib import Path

from edge_stra import __version__

SETUP = Path(__file__).parents[1] / "scripts" / "setup"  # of a clone; not in the wheel


def install_command(extra: str) -> str:
    """The line that adds an extra ("onnx") to where this runs from: a clone, or a wheel.

    Never by the project's bare name, which the package index does not know and anybody could register.
    """
    if SETUP.is_file():
        return f"scripts/setup {extra}"
    return f"pip install './edge_stra-{__version__}-py3-none-any.whl[{extra}]'"
