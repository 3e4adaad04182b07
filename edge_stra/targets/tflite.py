"""A .tflite file with its specification inside.

The essentials travel as files of a ZIP archive that follows the flatbuffer, the way TFLite Metadata packs label files
(any unzip reads them).
"""

from __future__ import annotations

import io
import json
import lzma
import zipfile
import zlib
from pathlib import Path

from edge_stra.artifact import MAX_ARTIFACT_BYTES, MAX_JSON_BYTES, inner_spec, parse_inner, sha256_of
from edge_stra.spec import ArtifactError, ModelSpec

INNER_SPEC, INNER_LABELS = "edge_stra.json", "labels.txt"
# All that zipfile and json raise on damaged or hostile bytes: RuntimeError for a password, an unknown compression
# (NotImplementedError) and nesting too deep (RecursionError).
UNREADABLE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, KeyError, ValueError, OSError, RuntimeError)


def embed(model: bytes, spec: ModelSpec, quantize: str) -> bytes:
    """A .tflite file with specification and labels inside. Times are fixed: equal input gives equal bytes."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo(INNER_SPEC), json.dumps(inner_spec(spec, "tflite", quantize)))
        if spec.labels:
            file.writestr(zipfile.ZipInfo(INNER_LABELS), "\n".join(spec.labels) + "\n")
    return model + archive.getvalue()


def read_embedded(path: Path) -> tuple[ModelSpec, str]:
    """Specification and quantization from inside a .tflite file. Raises ArtifactError."""
    if not path.is_file():
        raise ArtifactError(f"{path} must be a .tflite file, but there is no such file")
    size = path.stat().st_size
    with path.open("rb") as file:
        magic = file.read(8)[4:]
    if magic != b"TFL3" or size > MAX_ARTIFACT_BYTES:
        raise ArtifactError(f"{path} must be a .tflite file of at most {MAX_ARTIFACT_BYTES >> 20} MiB, but it is not")
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(INNER_SPEC).file_size > MAX_JSON_BYTES:
                raise ArtifactError(f"{path} carries a specification of more than {MAX_JSON_BYTES >> 20} MiB; refused")
            inner = json.loads(archive.read(INNER_SPEC))
    except UNREADABLE as error:
        raise ArtifactError(
            f"{path} is truncated, or not from edge-stra export: no specification inside; export it again"
        ) from error
    return parse_inner(path, inner)


def digest(path: Path) -> str:
    return sha256_of(path)
