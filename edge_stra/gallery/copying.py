"""Everything that a gallery holds: into another gallery, whatever its engine, or into a file."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from edge_stra.artifact import check_output
from edge_stra.gallery.naming import name_prefix
from edge_stra.gallery.store import Entry, Gallery
from edge_stra.spec import GalleryError, OutputError

BATCH = 500
Progress = Callable[[list[Any]], Iterable[Any]]  # as edge_stra.commands.common.bar


def copy_gallery(source: Gallery, target: Gallery, merge: bool, progress: Progress) -> int:
    """Adds all entries of one gallery to another of the same maker, and the threshold where it has none.

    Of the cameras in these entries it also takes along which numbers were given to new people.

    Returns how many. The target must be empty unless `merge` is true: copied twice, all would be there twice. Raises
    GalleryError, also where the target holds fewer than it should afterwards; what was copied until then stays.
    """
    before = target.count()
    if before and not merge:
        raise GalleryError(
            f"{target.uri} must be empty, but holds {before} embeddings; give --merge to add to them "
            "(not after a copy that failed: what it copied would be there twice), or another target"
        )
    copied, ticks = 0, iter(progress(steps(source.count())))
    prefixes: set[str] = set()
    try:
        for batch in batches(source.entries()):
            prefixes |= {name_prefix(entry.camera, entry.site) for entry in batch}
            copied += target.add(batch)
            next(ticks, None)  # there may be more than were counted, where a camera adds meanwhile
    except GalleryError as error:
        rest = f"; {copied} embeddings are in {target.uri} already: empty it before you copy again" if copied else ""
        raise GalleryError(f"{error}{rest}") from error
    for _ in ticks:
        pass
    if (kept := source.threshold()) is not None and target.threshold() is None:
        target.set_threshold(kept)
    for prefix in sorted(prefixes):  # a number that was given once must not name somebody else in the copy
        if given := source.given(prefix):
            target.set_given(prefix, given)
    if (after := target.count()) < before + copied:
        raise GalleryError(
            f"{target.uri} must hold {before + copied} embeddings after copying, but holds {after}; "
            "somebody removed some meanwhile, or it failed: empty it and copy again"
        )
    return copied


def batches(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    while batch := list(islice(entries, BATCH)):
        yield batch


def steps(count: int) -> list[int]:
    """One for each batch, for a progress bar."""
    return list(range(-(-count // BATCH)))


def check_export(path: Path, overwrite: bool) -> None:
    """Refuses, before any work, a file that `export_gallery` would not write. Raises OutputError."""
    if path.suffix.lower() not in WRITERS:
        raise OutputError(f"--out must name a .npz or .jsonl file, but got {path}")
    check_output(path, overwrite)


def export_gallery(gallery: Gallery, path: Path, overwrite: bool) -> int:
    """Writes all entries into a .npz or .jsonl that its owner alone can read; returns how many. Raises OutputError.

    .npz: identities, cameras, sites (strings [n]), times_s float64 [n], embeddings float32 [n, K], model (SHA-256),
    model_name; it loads with allow_pickle=False. .jsonl: one object for each entry.
    """
    check_export(path, overwrite)
    handle, name = tempfile.mkstemp(prefix=".", suffix=path.suffix, dir=path.parent)  # 0600, as it stays
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            count = WRITERS[path.suffix.lower()](gallery, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        return count
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_npz(gallery: Gallery, file: Any) -> int:
    entries = list(gallery.entries())
    np.savez(
        file,
        identities=np.array([e.identity for e in entries], np.str_),
        cameras=np.array([e.camera for e in entries], np.str_),
        sites=np.array([e.site for e in entries], np.str_),
        times_s=np.array([e.time_s for e in entries], np.float64),
        embeddings=np.array([e.embedding for e in entries], np.float32).reshape(-1, gallery.maker.dimension),
        model=np.array(gallery.maker.sha256),
        model_name=np.array(gallery.maker.name),
    )
    return len(entries)


def write_jsonl(gallery: Gallery, file: Any) -> int:
    count = 0
    for entry in gallery.entries():
        row = {
            "identity": entry.identity, "camera": entry.camera, "site": entry.site, "time_s": entry.time_s,
            "model": gallery.maker.sha256,
            "embedding": [float(f"{v:.9g}") for v in entry.embedding],  # nine digits give a float32 back exactly
        }  # fmt: skip
        file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        count += 1
    return count


WRITERS = {".npz": write_npz, ".jsonl": write_jsonl}
