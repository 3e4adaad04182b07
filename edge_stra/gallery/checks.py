"""What every engine takes and what none does: names, times, embeddings, makers. numpy alone."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_stra.embeddings import unit_rows
from edge_stra.gallery.store import Entry, Maker
from edge_stra.spec import DataError, GalleryError

MAX_NAME = 256  # characters of an identity, a camera or a site
MAX_NAME_BYTES = 4 * MAX_NAME  # in UTF-8
MAX_ADD = 10_000  # entries of one `add`: 20 MB at 512 dimensions, below what a Milvus server takes in one request
MAX_DIMENSION = 4096
MAX_K = 1000
MAX_TIME_S = 253_402_000_000.0  # some days before the year 10000, which no time zone may reach
SHA256 = re.compile(r"[0-9a-f]{64}")


def check_maker(maker: Maker) -> None:
    """Raises DataError where a maker is none."""
    if not SHA256.fullmatch(maker.sha256):
        raise DataError(f"a maker's sha256 must be 64 hex digits in lower case, but is {maker.sha256[:80]!r}")
    if not 1 <= maker.dimension <= MAX_DIMENSION:
        raise DataError(f"an embedding must have 1 to {MAX_DIMENSION} numbers, but this maker's have {maker.dimension}")
    if maker.name:
        checked_name("maker's name", maker.name)


def check_same_maker(uri: str, kept: Maker, wanted: Maker) -> None:
    """Raises GalleryError, naming both, where a gallery is of another maker than the one wanted."""
    if (kept.sha256, kept.dimension) != (wanted.sha256, wanted.dimension):
        raise GalleryError(
            f"{uri} holds embeddings of {describe(kept)}, but these are of {describe(wanted)}; distances between the "
            "two mean nothing: give that artifact, or another --gallery"
        )


def describe(maker: Maker) -> str:
    return f"{maker.name or 'an unnamed model'} ({maker.sha256[:12]}, {maker.dimension}-D)"


def checked_name(what: str, name: str, empty: bool = False) -> str:
    """The name in Unicode's composed form (NFC): typed on two keyboards it stays one. Raises DataError."""
    name, what = unicodedata.normalize("NFC", name), f"{'an' if what[0] in 'aeiou' else 'a'} {what}"
    odd = next((c for c in name if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")), None)
    if odd is not None:
        raise DataError(f"{what} must be without control characters and line breaks, but holds U+{ord(odd):04X}")
    if not (name or empty) or len(name) > MAX_NAME or name != name.strip():
        raise DataError(
            f"{what} must have {0 if empty else 1} to {MAX_NAME} characters, without spaces around it, "
            f"but has {len(name)}: {name[:40]!r}"
        )
    return name


def checked_rows(embeddings: Sequence[NDArray[np.float32]], dimension: int) -> NDArray[np.float32]:
    """Embeddings as rows of length 1, float32 [n, K]. Raises DataError for another shape, zero, NaN, infinity."""
    for embedding in embeddings:
        if np.shape(embedding) != (dimension,):
            raise DataError(f"an embedding must have {dimension} numbers here, but has {list(np.shape(embedding))}")
    return unit_rows(np.array(embeddings, np.float64).reshape(-1, dimension))


def checked_entries(entries: Sequence[Entry], dimension: int) -> list[Entry]:
    """The entries as they are kept: names composed, embeddings of length 1. Raises DataError for the first bad one."""
    if len(entries) > MAX_ADD:
        raise DataError(f"one add takes at most {MAX_ADD} embeddings, but got {len(entries)}; add them in batches")
    kept = []
    for entry, row in zip(entries, checked_rows([e.embedding for e in entries], dimension), strict=True):
        check_time(entry.time_s)
        identity = checked_name("identity", entry.identity)
        camera, site = checked_name("camera", entry.camera, True), checked_name("site", entry.site, True)
        kept.append(Entry(identity, row, camera, float(entry.time_s), site))
    return kept


def check_time(time_s: float) -> None:
    if not (math.isfinite(time_s) and 0 <= time_s <= MAX_TIME_S):
        raise DataError(f"a time must be seconds since 1970, 0 to {MAX_TIME_S:.0f}, but is {time_s}")


def check_k(k: int) -> None:
    if not 1 <= k <= MAX_K:
        raise DataError(f"a search must ask for 1 to {MAX_K} matches, but asks for {k}")


def kept_threshold(uri: str, kept: object) -> float:
    """The threshold that a gallery holds. Raises GalleryError where it is none: somebody changed it."""
    try:
        distance = float(kept)  # type: ignore[arg-type]
        check_threshold(distance)
    except (TypeError, ValueError, DataError) as error:
        raise GalleryError(f"{uri} holds the threshold {str(kept)[:40]!r}, not 0 to 2; calibrate it again") from error
    return distance


def check_threshold(distance: float) -> None:
    if not 0 <= distance <= 2:
        raise DataError(f"a threshold must be a distance from 0 to 2, but is {distance}")
