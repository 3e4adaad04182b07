"""From pictures of people to what a gallery keeps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_stra.artifact import Artifact
from edge_stra.data import list_pictures
from edge_stra.gallery.store import Maker
from edge_stra.identities import CAMERA, DISTRACTOR, MARKET_NAME, refuse_market_root
from edge_stra.spec import DataError


@dataclass(frozen=True)
class Labelled:
    """A picture of one whole person with who it shows and, where its name tells it, the camera that took it."""

    path: Path
    identity: str
    camera: str


def labelled_pictures(folder: Path, source: str) -> tuple[list[Labelled], int]:
    """The pictures of a folder, labelled by their `names` (as Market-1501 has them) or by the `folders` they are in.

    Also how many were left out, since Market's names call them junk (-1) or distractors (0000). Raises DataError.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} must be a folder of pictures for --identities-from, but is none")
    paths = list_pictures(folder)
    if source == "folders":
        labelled = [by_folder(path, folder) for path in paths]
        refuse_market_root(folder, paths)
        return labelled, 0
    found = [by_name(path) for path in paths]
    people = [labelled for labelled in found if int(labelled.identity) > DISTRACTOR]
    return people, len(found) - len(people)


def by_folder(path: Path, folder: Path) -> Labelled:
    parts = path.relative_to(folder).parts
    if len(parts) != 2:
        raise DataError(f"{folder} must hold one folder of pictures for each identity, but holds {'/'.join(parts)}")
    camera = CAMERA.search(path.stem)
    return Labelled(path, parts[0], camera[1] if camera else "")


def by_name(path: Path) -> Labelled:
    match = MARKET_NAME.match(path.name)
    if match is None:
        raise DataError(f"a picture must be named like 0002_c1s1_000451_03.jpg (identity, camera), but is {path.name}")
    return Labelled(path, match[1], match[2])


def maker_of(artifact: Artifact, dimension: int) -> Maker:
    """The maker of an artifact's embeddings, of `dimension` numbers each."""
    return Maker(artifact.sha256, dimension, f"{artifact.spec.name}.{artifact.quantize}")
