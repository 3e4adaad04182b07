"""The files that come with the package: weights, their calibration statistics, their model cards."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "weights"


def shipped_weights(name: str) -> Path | None:
    """The shipped float16 weights of a model, or None."""
    path = FOLDER / f"{name}.safetensors"
    return path if path.is_file() else None


def shipped_statistics(name: str) -> Path | None:
    """The calibration statistics that travel with the shipped weights, or None."""
    path = FOLDER / f"{name}.calibration.safetensors"
    return path if path.is_file() else None


def shipped_artifact(name: str) -> Path | None:
    """The shipped int8 .tflite of a model, which the apps run where no other is given, or None."""
    path = FOLDER / f"{name}.int8.tflite"
    return path if path.is_file() else None


def shipped_artifacts() -> list[Path]:
    """All shipped artifacts."""
    return sorted(FOLDER.glob("*.tflite"))
