"""A saved .mlpackage, read back with suspicion: what goes in and out, its metadata, its program."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edge_stra.artifact import MAX_ARTIFACT_BYTES
from edge_stra.mil.program import Function, read_function
from edge_stra.mil.schema import DecodeError, new_model
from edge_stra.mil.weights import Blob, count_elements, open_blob
from edge_stra.spec import ArtifactError

MAX_MANIFEST_BYTES = 1 << 20
MODEL_PATH = "@model_path/"
ARRAY_TYPES = {65568: "float32", 65600: "float64", 131104: "int32", 131080: "int8", 65552: "float16"}
COLOUR_SPACES = {10: "grey", 20: "rgb", 30: "bgr", 40: "grey_float16"}
MINIMUM_OS = {6: "iOS 15, macOS 12", 7: "iOS 16, macOS 13", 8: "iOS 17, macOS 14", 9: "iOS 18, macOS 15",
              10: "iOS 26, macOS 26"}  # fmt: skip
# What values that contradict their types raise while they are decoded.
UNFIT = (ValueError, TypeError, IndexError, KeyError, OverflowError)
Sizes = tuple[tuple[int, int | None], ...]  # the least and the largest size of each dimension, None without a bound


@dataclass(frozen=True)
class Feature:
    """An input or output as an app sees it.

    kind: "array", "image", "dictionary", "string" or "int64". dtype: of an array's elements, "uint8" of an image
    ("float16" of a float grey one). shape: an array's, [height, width] of an image. colour: an image's "rgb", "bgr",
    "grey" or "grey_float16", "" otherwise. shapes: all allowed ones where they are listed. sizes: the bounds of each
    dimension where they are a range. default: the value of an optional input that is left out.
    """

    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    colour: str = ""
    shapes: tuple[tuple[int, ...], ...] = ()
    sizes: Sizes = ()
    optional: bool = False
    default: float = 0.0

    def allows(self, shape: tuple[int, ...]) -> bool:
        """Whether an app may give this shape: [height, width] for an image."""
        if self.shapes:
            return shape in self.shapes
        if self.sizes:
            pairs = zip(shape, self.sizes, strict=False)
            fits = (low <= size and (high is None or size <= high) for size, (low, high) in pairs)
            return len(shape) == len(self.sizes) and all(fits)
        return not self.shape or shape == self.shape


@dataclass(frozen=True)
class Package:
    """What a package says.

    operators: how many of each kind, constants apart. label, probabilities: a classifier's outputs, "" otherwise.
    """

    path: Path
    specification_version: int
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    metadata: Mapping[str, str]
    description: Mapping[str, str]
    function: Function
    operators: Counter[str]
    label: str
    probabilities: str

    @property
    def minimum_os(self) -> str:
        known = MINIMUM_OS.get(self.specification_version)
        return known or f"unknown (specification version {self.specification_version})"


def open_package(path: Path) -> Package:
    """Reads a saved .mlpackage whole: its manifest, specification, program and weights (mapped, not copied).

    Raises ArtifactError in one line where something is missing, cut, points outside of the package, or is no ML
    Program, or keeps a state.
    """
    root = _root_model(path)
    model = _specification(root)
    description = model.description
    if not model.HasField("mlProgram"):
        raise ArtifactError(f"{path} must hold an ML Program, but holds another kind of model; convert it to mlprogram")
    name, described = "main", description
    if description.functions:
        name = description.defaultFunctionName
        described = next((f for f in description.functions if f.name == name), None)
        if described is None:
            raise ArtifactError(f"{path} must describe its default function {name!r}, but does not; save it again")
    if described.state:
        raise ArtifactError(f"{path} must keep no state between runs, but has {described.state[0].name!r}")

    @functools.cache
    def blob(file_name: str) -> Blob:
        return open_blob(_inside(root.parent, file_name.removeprefix(MODEL_PATH), path))

    try:
        function = read_function(model.mlProgram, name, blob)
    except UNFIT as error:
        raise ArtifactError(
            f"{path} must hold a program of whole values, but one can't be decoded: {error}; save it again"
        ) from error
    info = description.metadata
    return Package(
        path=path,
        specification_version=model.specificationVersion,
        inputs=tuple(_input(item) for item in described.input),
        outputs=tuple(_feature(item) for item in described.output),
        metadata={entry.key: entry.value for entry in info.userDefined},
        description={key: getattr(info, key) for key in ("shortDescription", "versionString", "author", "license")},
        function=function,
        operators=Counter(operation.kind for operation in function.operations if operation.kind != "const"),
        label=described.predictedFeatureName,
        probabilities=described.predictedProbabilitiesName,
    )


def _root_model(path: Path) -> Path:
    """The specification file that the package's manifest names."""
    try:
        with _inside(path, "Manifest.json", path).open("rb") as file:
            raw = file.read(MAX_MANIFEST_BYTES + 1)
        if len(raw) > MAX_MANIFEST_BYTES:
            raise ArtifactError(f"{path}: Manifest.json must have {MAX_MANIFEST_BYTES} bytes or less, but has more")
        manifest = json.loads(raw)
        item = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
        if not isinstance(item, str):
            raise ValueError("the root model's path is no text")
    except OSError as error:
        raise ArtifactError(
            f"{path} must be a saved .mlpackage folder, but its manifest can't be read: {error}"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{path}: Manifest.json must name the root model, but: {error!r}; save it again") from error
    return _inside(path / "Data", item, path)


def _inside(folder: Path, relative: str, package: Path) -> Path:
    """A file below `folder` by the path that a package gives. Raises ArtifactError where it leads elsewhere."""
    parts = PurePosixPath(relative).parts
    bad = not parts or relative.startswith(("/", "@")) or ".." in parts or any(c in relative for c in "\\:\0")
    found = folder.joinpath(*parts)
    try:
        relative.encode()  # a lone surrogate is no file name
        # A link may lead anywhere, and no tool writes one.
        if bad or any((folder.joinpath(*parts[:end])).is_symlink() for end in range(len(parts) + 1)):
            raise ArtifactError(f"{package}: a file's path must stay inside the package, but it is {relative!r}")
        if found.exists() and not found.is_file():  # reading a pipe would wait for ever
            raise ArtifactError(f"{package}: {relative!r} must be a plain file, but is something else")
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{package}: a file's path must be one that can be opened, but it is {relative[:80]!r}; save it again"
        ) from error
    return found


def _specification(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_ARTIFACT_BYTES + 1)
    except OSError as error:
        raise ArtifactError(f"the package must hold {path.name}, but it can't be read: {error}") from error
    if len(raw) > MAX_ARTIFACT_BYTES:
        raise ArtifactError(f"{path} must have {MAX_ARTIFACT_BYTES} bytes or less, but has more")
    if not raw:
        raise ArtifactError(f"{path} must be a Core ML specification, but is empty: a cut file; save it again")
    try:
        return new_model(raw)
    except DecodeError as error:
        raise ArtifactError(
            f"{path} must be a Core ML specification, but is damaged: {error}; save it again"
        ) from error


def _input(item: Any) -> Feature:
    """Raises ArtifactError where no memory holds an input as it is described."""
    feature = _feature(item)
    count_elements(feature.shape, f"the input {feature.name!r}")
    return feature


def _feature(item: Any) -> Feature:
    made, optional = item.type, item.type.isOptional
    if made.HasField("imageType"):
        return _image(item.name, made.imageType, optional)
    if made.HasField("multiArrayType"):
        return _array(item.name, made.multiArrayType, optional)
    for field, kind in (("dictionaryType", "dictionary"), ("stringType", "string"), ("int64Type", "int64")):
        if made.HasField(field):
            return Feature(item.name, kind, "", (), optional=optional)
    raise ArtifactError(f"{item.name!r} must be an array, an image or a class, but is of another type")


def _image(name: str, image: Any, optional: bool) -> Feature:
    if image.colorSpace not in COLOUR_SPACES:
        raise ArtifactError(f"the image {name!r} must have a known colour space, but has number {image.colorSpace}")
    colour = COLOUR_SPACES[image.colorSpace]
    shapes = tuple((size.height, size.width) for size in image.enumeratedSizes.sizes)
    sizes: Sizes = ()
    if image.HasField("imageSizeRange"):
        sizes = (_bounds(image.imageSizeRange.heightRange), _bounds(image.imageSizeRange.widthRange))
    dtype = "float16" if colour == "grey_float16" else "uint8"
    return Feature(name, "image", dtype, (image.height, image.width), colour, shapes, sizes, optional)


def _array(name: str, array: Any, optional: bool) -> Feature:
    if array.dataType not in ARRAY_TYPES:
        raise ArtifactError(f"the array {name!r} must be of a known type, but is of number {array.dataType}")
    return Feature(
        name,
        "array",
        ARRAY_TYPES[array.dataType],
        tuple(array.shape),
        shapes=tuple(tuple(shape.shape) for shape in array.enumeratedShapes.shapes),
        sizes=tuple(_bounds(bound) for bound in array.shapeRange.sizeRanges),
        optional=optional,
        default=float(array.intDefaultValue or array.floatDefaultValue or array.doubleDefaultValue),
    )


def _bounds(bound: Any) -> tuple[int, int | None]:
    return bound.lowerBound, None if bound.upperBound < 0 else bound.upperBound
