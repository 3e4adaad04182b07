"""Statistics on disk: they travel with the shipped weights, so that those quantize without any data set."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from edge_stra.spec import DataError, Settings, Statistics


def save_statistics(path: Path, by_recipe: dict[str, Statistics]) -> None:
    """One safetensors file for all recipes: ranges [tensors, 2], corrections [channels]; names in its metadata."""
    arrays, notes = {}, {}
    for recipe, statistics in by_recipe.items():
        arrays[f"{recipe}/ranges"] = np.array(list(statistics.low_high.values()), np.float32)
        arrays |= {f"{recipe}/bias/{name}": value for name, value in statistics.corrections.items()}
        settings = statistics.settings and asdict(statistics.settings)
        notes[recipe] = {"tensors": list(statistics.low_high), "source": statistics.source, "settings": settings}
    save_file(arrays, path, metadata={"edge_stra": json.dumps(notes)})
    path.chmod(0o644)  # safetensors keeps files to their owner


def load_statistics(path: Path, recipe: str) -> Statistics:
    """The statistics of one recipe. Raises DataError where the file is damaged or has none for it."""
    try:
        with safe_open(path, "numpy") as file:
            notes = json.loads(file.metadata()["edge_stra"])[recipe]
            ranges = file.get_tensor(f"{recipe}/ranges").astype(float).tolist()
            prefix = f"{recipe}/bias/"
            corrections = {k.removeprefix(prefix): file.get_tensor(k) for k in file.keys() if k.startswith(prefix)}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise DataError(
            f"{path.name} must hold calibration statistics for {recipe}, but: {error!r}; give --calibration"
        ) from error
    pairs = {name: (low, high) for name, (low, high) in zip(notes["tensors"], ranges, strict=True)}
    # Files from before there were switches say nothing of them.
    settings = Settings(
        **(notes.get("settings") or {"ranges": "minmax", "equalise": False} | {"bias_correction": bool(corrections)})
    )
    return Statistics(pairs, corrections, notes["source"], settings)
