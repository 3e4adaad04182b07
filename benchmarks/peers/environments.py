"""One virtual environment for each peer, so that no peer's packages decide another's.

    python benchmarks/peers/environments.py [--environments build/peers] [NAME ...]

torch is pinned to its CPU build: where pip can't find one (set PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL to a place that
has it), the peer is refused with pip's reason, and gigabytes of CUDA are never fetched.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

TORCH = "torch==2.13.0+cpu"
INSTALL_SECONDS = 1800


@dataclass(frozen=True)
class Environment:
    """packages: with what they depend on. alone: without, because that would be a torch that is not used here."""

    packages: tuple[str, ...]
    alone: tuple[str, ...] = ()


ENVIRONMENTS = {
    "litert": Environment(("ai-edge-litert==2.3.0", "numpy==2.4.6")),
    "onnxruntime": Environment(("onnxruntime==1.31.1", "onnx==1.23.2", "numpy==2.4.6")),
    "openvino": Environment(("openvino==2026.4.1", "nncf==3.4.0")),
    "ncnn": Environment(("ncnn==1.0.20261020", "numpy==2.4.6"), alone=("pnnx==20261020",)),
    "mnn": Environment(("MNN==3.6.1", "numpy==2.4.6")),
    "executorch": Environment(("executorch==1.5.1", TORCH, "safetensors==0.8.0")),
    "torch": Environment((TORCH, "numpy==2.4.6", "safetensors==0.8.0")),
}


class EnvironmentFailed(Exception):
    """Why an environment is not there, in one line."""


def python_of(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def prepare(name: str, root: Path) -> Path:
    """The Python of an environment, which is made, or made anew where the table has changed.

    Raises EnvironmentFailed where pip refuses.
    """
    wanted, folder = ENVIRONMENTS[name], root / name
    stamp = folder / "packages.txt"  # written last: a broken installation is not taken for a whole one
    text = "\n".join((*wanted.packages, "", *wanted.alone)) + "\n"
    python = python_of(folder)
    if stamp.is_file() and stamp.read_text("utf-8") == text and python.is_file():
        return python
    venv.create(folder, clear=True, with_pip=True)
    install(python, list(wanted.packages))
    if wanted.alone:
        install(python, ["--no-deps", *wanted.alone])
    stamp.write_text(text, "utf-8")
    return python


def install(python: Path, words: list[str]) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-input", *words]
    try:
        subprocess.run(command, capture_output=True, timeout=INSTALL_SECONDS, check=True)
    except subprocess.TimeoutExpired as error:
        raise EnvironmentFailed(f"pip took more than {INSTALL_SECONDS} s") from error
    except subprocess.CalledProcessError as error:
        raise EnvironmentFailed(f"pip can't install {' '.join(words)}: {last_error(error.stderr)}") from error


def last_error(stderr: bytes) -> str:
    lines = [line for line in stderr.decode("utf-8", "replace").splitlines() if line.startswith("ERROR:")]
    return lines[-1].removeprefix("ERROR:").strip()[:200] if lines else "no message"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(ENVIRONMENTS)}; all by default")
    parser.add_argument("--environments", type=Path, default=Path("build/peers"))
    args = parser.parse_args()
    for name in args.names:
        if name not in ENVIRONMENTS:
            parser.error(f"unknown environment {name!r}; they are {', '.join(ENVIRONMENTS)}")
    for name in args.names or ENVIRONMENTS:
        try:
            print(f"{name}: {prepare(name, args.environments)}", flush=True)
        except EnvironmentFailed as error:
            print(f"{name}: {error}", flush=True)


if __name__ == "__main__":
    main()
