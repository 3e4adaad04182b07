"""What a gallery is: the values it keeps and the interface that every engine has. Imports numpy alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Maker:
    """The model that makes a gallery's embeddings; a gallery takes those of one maker only.

    sha256: of the artifact's file, 64 hex digits. dimension: K of an embedding.
    """

    sha256: str
    dimension: int
    name: str = ""  # for people


@dataclass(frozen=True)
class Entry:
    """One embedding with where it comes from.

    embedding: float32 [K] of length 1. time_s: seconds since 1970-01-01 UTC, when the person was seen. site: a
    partition of the gallery (a building, a shop); camera: within the site.
    """

    identity: str
    embedding: NDArray[np.float32]
    camera: str = ""
    time_s: float = 0.0
    site: str = ""


@dataclass(frozen=True)
class Match:
    """A kept embedding near the one asked for. distance: Euclidean between unit vectors, 0 (same) to 2 (opposite)."""

    identity: str
    distance: float
    camera: str
    time_s: float
    site: str


class Gallery(Protocol):
    """An open gallery. One object serves one thread; several processes may have the same gallery open.

    What a method that writes has returned is kept, also through a crash of the process. All raise GalleryError where
    the engine fails, DataError where what is given can't be kept.
    """

    uri: str  # without a password
    maker: Maker

    def add(self, entries: Sequence[Entry]) -> int:
        """Keeps all entries or none; returns how many. Embeddings are normalised to length 1 on the way in."""
        ...

    def search(self, embedding: NDArray[np.float32], k: int = 5, site: str | None = None) -> list[Match]:
        """The `k` nearest entries to an embedding [K] of any length, nearest first; all sites where `site` is None."""
        ...

    def forget(self, identity: str) -> int:
        """Removes an identity with every embedding of it, unreadably; returns how many embeddings there were."""
        ...

    def rename(self, identity: str, name: str) -> int:
        """Gives all embeddings of an identity to another name, which may be taken; returns how many there were."""
        ...

    def purge(self, before_s: float) -> int:
        """Removes the embeddings seen before a time (seconds since 1970); returns how many."""
        ...

    def count(self) -> int:
        """How many embeddings there are."""
        ...

    def identities(self) -> dict[str, int]:
        """Every identity with its number of embeddings, by name."""
        ...

    def take_number(self, prefix: str) -> int:
        """The next number for a new name `prefix` + number, never given before: not even to who was renamed since."""
        ...

    def given(self, prefix: str) -> int:
        """The largest number that `take_number` ever gave for a prefix; 0 where it gave none."""
        ...

    def set_given(self, prefix: str, number: int) -> None:
        """Makes `take_number` go on after this number, or after a larger one that was given; for copies."""
        ...

    def unfinished(self) -> bool:
        """Whether what was removed earlier may still be read, so that `forget` has to be repeated."""
        ...

    def entries(self) -> Iterator[Entry]:
        """All entries, in no promised order: what `copy` and `export` read."""
        ...

    def threshold(self) -> float | None:
        """The largest distance that names a person, as `gallery calibrate` set it for this gallery; None before."""
        ...

    def set_threshold(self, distance: float) -> None: ...

    def close(self) -> None: ...
