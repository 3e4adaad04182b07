"""A .mlpackage as an artifact: what it says of itself, its SHA-256, and a callable that runs it.

It runs on the executor of `edge_stra.mil` on every system, macOS too, so that parity means the same everywhere and
reads the logits inside a classifier, which Core ML does not give out.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_stra.artifact import MAX_ARTIFACT_BYTES, MAX_JSON_BYTES, Artifact, parse_inner
from edge_stra.mil import Package, open_package
from edge_stra.mil.program import Constant
from edge_stra.spec import ArtifactError, ModelSpec

INNER_SPEC = "edge_stra.json"
"""The key of the user-defined metadata that holds what `edge_stra.artifact.inner_spec` gives."""
INPUT = "image"
MAX_FILES = 64
"""Files and folders of a package; ours have seven."""
PIXEL_ERROR = 1e-3
"""How far from a whole number a pixel may be that is computed back from a normalised input; float32 gives 3e-5."""


def read_embedded(path: Path) -> tuple[ModelSpec, str]:
    """Specification and precision from inside a .mlpackage. Raises ArtifactError, MissingError without protobuf."""
    check_package(path)
    package = open_package(path)
    text = package.metadata.get(INNER_SPEC)
    if text is None or len(text) > MAX_JSON_BYTES:
        raise ArtifactError(f"{path} must be from edge-stra export, but carries no specification; export it")
    try:
        inner = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} carries a specification that is no JSON: {error}; export it again") from error
    spec, quantize = parse_inner(path, inner)
    labels = labels_of(package)
    if labels != spec.labels:
        raise ArtifactError(f"{path} must have the labels {spec.labels} of its specification, but has {labels}")
    return spec, quantize


def labels_of(package: Package) -> tuple[str, ...]:
    """The classes of a classifier's program, in order; none for an embedder."""
    known = {o.outputs[0].name: o.inputs["val"][0] for o in package.function.operations if o.kind == "const"}
    for operation in package.function.operations:
        if operation.kind == "classify":
            given = operation.inputs.get("classes", ("",))[0]
            classes = known.get(given) if isinstance(given, str) else given
            values = classes.value if isinstance(classes, Constant) else ()
            return tuple(str(label) for label in (values.flat if isinstance(values, np.ndarray) else values))
    return ()


def check_package(path: Path) -> list[Path]:
    """The files of a package, sorted by their relative names.

    Raises ArtifactError where it is no folder, holds links or other special files, too many files, or too much.
    """
    if not path.is_dir() or path.is_symlink():
        raise ArtifactError(f"{path} must be a .mlpackage folder, but there is no such folder")
    files: list[Path] = []
    size = 0
    for count, found in enumerate(path.rglob("*"), 1):  # does not follow links to folders
        if count > MAX_FILES:
            raise ArtifactError(f"{path} must hold at most {MAX_FILES} files, but holds more; refused")
        if found.is_symlink() or not (found.is_dir() or found.is_file()):
            raise ArtifactError(f"{path} must hold plain files alone, but {found.name} is a link or no file; refused")
        if found.is_file():
            files.append(found)
            size += found.stat().st_size
    if size > MAX_ARTIFACT_BYTES:
        raise ArtifactError(f"{path} must have at most {MAX_ARTIFACT_BYTES >> 20} MiB, but has {size >> 20}")
    return sorted(files, key=lambda file: file.relative_to(path).as_posix())


def digest(path: Path) -> str:
    """SHA-256 over name, size and content of each file of a package, in the order of their names.

    Without what file managers leave (.DS_Store, ._*): looking into a package changes nothing of it. Raises
    ArtifactError as `check_package` does.
    """
    total = hashlib.sha256()
    for file in check_package(path):
        if file.name == ".DS_Store" or file.name.startswith("._"):
            continue
        head = f"{file.relative_to(path).as_posix()}\0{file.stat().st_size}\0"
        total.update(head.encode("utf-8", "surrogateescape"))  # a name may be any bytes
        with file.open("rb") as opened:
            while block := opened.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def to_pixels(x: NDArray[np.float32], spec: ModelSpec, path: Path) -> NDArray[np.uint8]:
    """The inverse of `edge_stra.preprocess.to_input`: normalised [1, H, W, 3] -> bytes [H, W, 3], or [H, W] if grey.

    Raises DataError where `x` is of another shape or type, ArtifactError where that gives no bytes, or for a grey
    model no grey.
    """
    spec.input.check(x)
    mean, std = np.array(spec.input.mean_rgb), np.array(spec.input.std_rgb)
    exact = (x[0].astype(np.float64) * std + mean) * 255  # (h, w, 3)
    pixels = np.rint(exact)
    if not (np.abs(exact - pixels).max() <= PIXEL_ERROR and pixels.min() >= 0 and pixels.max() <= 255):
        raise ArtifactError(f"{path} takes bytes 0 to 255, but the input is not made of such; use edge_stra.preprocess")
    result: NDArray[np.uint8] = pixels.astype(np.uint8)
    if spec.input.color == "grey":
        if (result != result[:, :, :1]).any():
            raise ArtifactError(f"{path} takes grey pictures, but the input has colours; use edge_stra.preprocess")
        return np.ascontiguousarray(result[:, :, 0])
    return result


class CoreMLPredictor:
    """A loaded .mlpackage: `predictor(x)` with x float32 [1, H, W, 3], normalised, gives float32 [1, K].

    The program takes bytes, so the normalisation is undone here, exactly. K: logits or the embedding.
    """

    runtime_name = "MIL executor"

    def __init__(self, artifact: Artifact, threads: int = 1) -> None:
        from edge_stra.mil import load_executor

        self.artifact, self.spec = artifact, artifact.spec
        self.executor = load_executor(artifact.path)

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        pixels = to_pixels(x, self.spec, self.artifact.path)
        found = self.executor.run({INPUT: pixels}, wanted=[self.spec.output])[self.spec.output]
        came = getattr(found, "shape", type(found).__name__)
        width = len(self.spec.labels)  # 0: an embedding's own
        if not isinstance(found, np.ndarray) or len(came) != 2 or came[0] != 1 or (width and came[1] != width):
            wanted = f"(1, {width or 'K'})"
            raise ArtifactError(
                f"{self.artifact.path} must give {self.spec.output} of {wanted}, but gives {came}; export it again"
            )
        return np.asarray(found, np.float32)
