"""How to add a package of an extra: what every message about a missing one says."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]  # of a clone, or site-packages


def install_command(extra: str) -> str:
    """The line that adds an extra ("onnx") to the environment that this runs in.

    From the clone or the wheel that it came from, never by the project's bare name, which the package index does not
    know and anybody could register.
    """
    pip = f'"{sys.executable}" -m pip install'
    if (ROOT / "pyproject.toml").is_file():
        return f'{pip} -e "{ROOT}[{extra}]"'
    return f'{pip} "SOURCE[{extra}]", where SOURCE is the wheel or the clone that edge-stra was installed from'
