"""An artifact and its manifest: written without halves, read back with suspicion.

An artifact carries its essentials inside (`edge_stra.targets`: tflite, onnx, coreml). The JSON manifest beside it says
the rest and holds the SHA-256 of the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_stra.spec import ArtifactError, ModelSpec, OutputError
from edge_stra.targets import target_of

FORMAT = "edge-stra.artifact/1"
MAX_ARTIFACT_BYTES = 512 << 20
MAX_JSON_BYTES = 8 << 20


@dataclass(frozen=True)
class Artifact:
    """A verified artifact: its bytes are those that the manifest names, or there is no manifest beside it."""

    path: Path
    spec: ModelSpec
    target: str
    quantize: str
    sha256: str
    manifest: dict[str, Any] | None


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def inner_spec(spec: ModelSpec, target: str, quantize: str) -> dict[str, Any]:
    """What an artifact of any target says of itself inside the file."""
    return {"format": FORMAT, "target": target, "quantize": quantize, "model": spec.to_json()}


def parse_inner(path: Path, inner: Any) -> tuple[ModelSpec, str]:
    """The inverse of `inner_spec`: specification and precision. Raises ArtifactError where it is of another form."""
    if not isinstance(inner, dict) or inner.get("format") != FORMAT:
        raise ArtifactError(f"{path} must be of format {FORMAT}, but says {str(inner)[:60]}; export it again")
    if missing := [key for key in ("model", "quantize") if key not in inner]:
        raise ArtifactError(f"{path} must name its {' and '.join(missing)} inside, but does not; export it again")
    return ModelSpec.from_json(inner["model"]), str(inner["quantize"])


def manifest_path(path: Path) -> Path:
    """NAME.json beside NAME.tflite; NAME.onnx.json beside NAME.onnx and so on, since targets share a folder."""
    return path.with_name(path.name.removesuffix(".tflite") + ".json")


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest beside an artifact, or None where there is none. Raises ArtifactError where it is damaged."""
    beside = manifest_path(path)
    if not beside.is_file():
        return None
    if beside.stat().st_size > MAX_JSON_BYTES:
        raise ArtifactError(f"{beside} must have at most {MAX_JSON_BYTES >> 20} MiB; refused")
    try:
        manifest = json.loads(beside.read_text("utf-8"))
        if manifest["format"] != FORMAT or not isinstance(manifest["sha256"], str):
            raise ValueError(f"format {manifest['format']!r}")
        if missing := [key for key in ("model", "quantize") if key not in manifest]:
            raise ValueError(f"no {' and '.join(missing)}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{beside} must be a manifest of format {FORMAT}, but: {error!r}; export again") from error
    return dict(manifest)


def open_artifact(path: Path) -> Artifact:
    """Reads and verifies. Raises ArtifactError where the SHA-256 or the specification does not match the manifest."""
    target = target_of(path)
    reader = target.load_reader()
    spec, quantize = reader.read_embedded(path)
    manifest, digest = read_manifest(path), reader.digest(path)
    if manifest is not None:
        if manifest["sha256"] != digest:
            raise ArtifactError(
                f"{path} does not match {manifest_path(path).name}: SHA-256 must be {manifest['sha256'][:12]}..., "
                f"but is {digest[:12]}...; one of the two was changed, export again"
            )
        if ModelSpec.from_json(manifest["model"]) != spec or manifest["quantize"] != quantize:
            raise ArtifactError(
                f"{path} does not match {manifest_path(path).name}: another specification; export again"
            )
    return Artifact(path, spec, target.name, quantize, digest, manifest)


def check_output(path: Path, overwrite: bool) -> None:
    """Refuses, before any work, a place that can't be written or that holds something. Raises OutputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OutputError(
            f"{path.parent} must be a folder that can be written, but: {error.strerror or error}"
        ) from error
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists already; give --overwrite to replace it, or another name")


def write_atomically(path: Path, data: bytes) -> None:
    """Writes beside and renames, so that no half-written file is ever seen. Raises OutputError."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    write_with(path, write)


def write_with(path: Path, write: Callable[[Path], None]) -> None:
    """Like `write_atomically`, for writers that want a path; the temporary file keeps the suffix."""
    try:
        handle, name = tempfile.mkstemp(prefix=".", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror or error}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
