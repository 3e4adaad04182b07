"""The embedded engine: one SQLite file, and all embeddings in memory for an exact scan.

Several processes may have the file open. Each keeps its matrix current: SQLite's data_version tells that another
one wrote; what is new has larger numbers, and a counter in the file tells that something was removed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stra.gallery.checks import (
    check_k,
    check_same_maker,
    check_threshold,
    check_time,
    checked_entries,
    checked_name,
    checked_rows,
    kept_threshold,
)
from edge_stra.gallery.matrix import Matrix
from edge_stra.gallery.naming import largest_number
from edge_stra.gallery.sqlite_file import ended, open_file, told
from edge_stra.gallery.store import Entry, Maker, Match
from edge_stra.spec import DataError, GalleryError

BATCH = 2000  # rows read at a time
MORE_ROOM = 16_384  # rows for what is added later: moving 100,000 embeddings for the next one would take them twice
"""Memory that nothing was written to is none yet: it costs addresses alone."""
NUMBER = "number "  # and a prefix of names: the key of the largest number that was given
UNIT = 1e-3  # what float32 may make of a squared length of 1, with plenty to spare
COLUMNS = "number, identity, camera, site, time_s, embedding"


class SqliteGallery:
    """`Gallery` in one file. Raises GalleryError, DataError, MissingError."""

    def __init__(self, path: Path, maker: Maker | None, create: bool = True) -> None:
        self.path, self.uri = path, f"sqlite:///{path}"
        self._file = open_file(path, maker, create)
        self._connection, self._module, self.maker = self._file.connection, self._file.module, self._file.maker
        if maker is not None:
            try:
                check_same_maker(self.uri, self.maker, maker)
            except GalleryError:
                self._file.close()
                raise
        self._matrix: Matrix | None = None  # filled by the first search: writers alone need no memory
        self._site_codes: dict[str, int] = {}
        self._seen: tuple[int, int] = (-1, -1)  # data_version, removals
        self._stale = True

    def add(self, entries: Sequence[Entry]) -> int:
        kept = checked_entries(entries, self.maker.dimension)
        rows = [(e.identity, e.camera, e.site, e.time_s, little(e.embedding).tobytes()) for e in kept]
        with self._writing():
            insert = "INSERT INTO entries (identity, camera, site, time_s, embedding) VALUES (?, ?, ?, ?, ?)"
            self._connection.executemany(insert, rows)
        return len(rows)

    def search(self, embedding: NDArray[np.float32], k: int = 5, site: str | None = None) -> list[Match]:
        check_k(k)
        (unit,) = checked_rows([embedding], self.maker.dimension)
        with told(self._module, self.path), self._reading():
            matrix = self._current()
            code = None if site is None else self._site_codes.get(checked_name("site", site, True), -1)
            found = dict(matrix.nearest(unit, k, code))
            marks = ", ".join("?" * len(found))
            rows = self._connection.execute(
                f"SELECT number, identity, camera, time_s, site FROM entries WHERE number IN ({marks})", list(found)
            ).fetchall()
        self._check(row[1:5] for row in rows)
        by_number = {row[0]: row for row in rows}
        return [Match(row[1], found[n], row[2], row[3], row[4]) for n in found if (row := by_number.get(n))]

    def forget(self, identity: str) -> int:
        return self._remove("identity = ?", checked_name("identity", identity), "forget it again")

    def rename(self, identity: str, name: str) -> int:
        old, new = checked_name("identity", identity), checked_name("identity", name)
        with self._writing():  # what searches keep in memory are numbers of rows, which stay
            return int(
                self._connection.execute("UPDATE entries SET identity = ? WHERE identity = ?", (new, old)).rowcount
            )

    def purge(self, before_s: float) -> int:
        check_time(before_s)
        return self._remove("time_s < ?", before_s, "purge again")

    def count(self) -> int:
        return int(self._all("SELECT count(*) FROM entries")[0][0])

    def identities(self) -> dict[str, int]:
        rows = self._all("SELECT identity, count(*) FROM entries GROUP BY identity ORDER BY identity")
        self._check((row[0], "", 0, "") for row in rows)
        return dict(rows)

    def take_number(self, prefix: str) -> int:
        with self._writing():
            ask = self._connection.execute
            names = ask("SELECT DISTINCT identity FROM entries WHERE identity >= ?", (prefix,))
            number = max(largest_number((row[0] for row in names.fetchall()), prefix), self.given(prefix)) + 1
            ask("REPLACE INTO meta VALUES (?, ?)", (NUMBER + prefix, str(number)))
        return number

    def given(self, prefix: str) -> int:
        rows = self._all("SELECT value FROM meta WHERE key = ?", NUMBER + prefix)
        try:
            return int(rows[0][0]) if rows else 0
        except ValueError as error:
            raise GalleryError(f"{self.path} must count the names it gave, but does not; it is damaged") from error

    def set_given(self, prefix: str, number: int) -> None:
        with self._writing():
            most = max(number, self.given(prefix))  # a camera may have taken more meanwhile
            self._connection.execute("REPLACE INTO meta VALUES (?, ?)", (NUMBER + prefix, str(most)))

    def unfinished(self) -> bool:
        return bool(self._all("SELECT 1 FROM meta WHERE key = 'unwiped'"))

    def entries(self) -> Iterator[Entry]:
        last = 0
        while rows := self._all(f"SELECT {COLUMNS} FROM entries WHERE number > ? ORDER BY number LIMIT ?", last, BATCH):
            vectors = self._vectors([row[5] for row in rows])
            self._check((row[1], row[2], row[4], row[3]) for row in rows)
            for row, vector in zip(rows, vectors, strict=True):
                yield Entry(row[1], vector, row[2], row[4], row[3])
            last = rows[-1][0]

    def threshold(self) -> float | None:
        rows = self._all("SELECT value FROM meta WHERE key = 'threshold'")
        return kept_threshold(self.uri, rows[0][0]) if rows else None

    def set_threshold(self, distance: float) -> None:
        check_threshold(distance)
        with self._writing():
            self._connection.execute("REPLACE INTO meta VALUES ('threshold', ?)", (repr(float(distance)),))

    def close(self) -> None:
        self._file.close()
        self._matrix = None

    def _check_place(self) -> None:
        """Raises GalleryError where another file, or none, has the place of the open one: what is written is lost."""
        try:
            found = self.path.stat()
        except OSError as error:
            raise GalleryError(f"{self.path} was removed while it was in use; start again") from error
        if (found.st_dev, found.st_ino) != self._file.inode:
            raise GalleryError(f"{self.path} was replaced by another file while it was in use; start again")

    def _all(self, statement: str, *values: Any) -> list[Any]:
        self._check_place()
        with told(self._module, self.path):
            return list(self._connection.execute(statement, values).fetchall())

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction, on the disk when it ends."""
        self._check_place()
        with told(self._module, self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            with ended(self._connection):
                yield
        self._stale = True

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """One view of the file for several statements."""
        self._check_place()
        self._connection.execute("BEGIN")
        with ended(self._connection):
            yield

    def _remove(self, condition: str, value: str | float, again: str) -> int:
        """Removes rows, then rewrites the file.

        `secure_delete` zeroes a deleted row, but not the copies that earlier splits and merges of pages left in the
        unused parts of other pages (seen: 2 of 1,500 names): only VACUUM makes every page anew. The log of earlier
        pages goes last, which readers of an older view can hold up. `unwiped` in the file remembers what is undone.
        """
        ask = self._connection.execute
        with self._writing():
            gone = int(ask(f"DELETE FROM entries WHERE {condition}", (value,)).rowcount)
            if gone:
                ask("UPDATE meta SET value = value + 1 WHERE key = 'removals'")
                ask("REPLACE INTO meta VALUES ('unwiped', '1')")
        if not self.unfinished():
            return 0
        try:
            with told(self._module, self.path):
                ask("VACUUM")
                blocked = ask("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
                if not blocked:
                    ask("DELETE FROM meta WHERE key = 'unwiped'")
        except GalleryError as error:
            raise GalleryError(f"{gone} embeddings are removed, but may still be read in the file: {error}") from error
        if blocked:
            raise GalleryError(
                f"{gone} embeddings are removed, but may still be read in {self.path}-wal, which another process "
                f"is reading; end that one, and {again}"
            )
        return gone

    def _current(self) -> Matrix:
        """The matrix, with what this and other processes wrote since the last search; within a transaction."""
        version = int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        if self._matrix is not None and not self._stale and version == self._seen[0]:
            return self._matrix
        ask = self._connection.execute
        try:
            removals = int(ask("SELECT value FROM meta WHERE key = 'removals'").fetchone()[0])
        except (ValueError, TypeError) as error:
            raise GalleryError(f"{self.path} must count its removals, but does not; it is damaged") from error
        if self._matrix is None:
            held = int(ask("SELECT count(*) FROM entries").fetchone()[0])
            self._matrix = Matrix(self.maker.dimension, held + MORE_ROOM)
        elif removals != self._seen[1]:
            left = ask("SELECT number FROM entries ORDER BY number").fetchall()
            self._matrix.keep(np.array(left, np.int64).reshape(-1))
        last = int(self._matrix.numbers[-1]) if self._matrix.count else 0
        new = ask("SELECT number, site, embedding FROM entries WHERE number > ? ORDER BY number", (last,))
        while rows := new.fetchmany(BATCH):
            codes = [self._site_codes.setdefault(row[1], len(self._site_codes)) for row in rows]
            self._matrix.append([row[0] for row in rows], codes, self._vectors([row[2] for row in rows]))
        self._seen, self._stale = (version, removals), False
        return self._matrix

    def _check(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Raises GalleryError where identity, camera, time and site are not what `add` would have kept."""
        try:
            for identity, camera, time_s, site in rows:
                checked_name("identity", identity)
                checked_name("camera", camera, True)
                checked_name("site", site, True)
                check_time(time_s)
        except (DataError, TypeError) as error:
            raise GalleryError(f"{self.path} holds what was not added to it: {error}; it was changed") from error

    def _vectors(self, blobs: list[bytes]) -> NDArray[np.float32]:
        size = 4 * self.maker.dimension
        if any(not isinstance(blob, bytes) or len(blob) != size for blob in blobs):
            raise GalleryError(f"{self.path} must hold embeddings of {size} bytes, but holds another; it is damaged")
        rows: NDArray[np.float32] = np.frombuffer(b"".join(blobs), "<f4").astype(np.float32)
        rows = rows.reshape(-1, self.maker.dimension)
        # Shorter ones would be near everybody, and NaN near nobody, in the place of those who are.
        if not (np.abs(np.einsum("nk,nk->n", rows, rows) - 1) < UNIT).all():
            raise GalleryError(f"{self.path} must hold embeddings of length 1, but holds another; it was changed")
        return rows


def little(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Little-endian on any machine."""
    return vector.astype("<f4")
