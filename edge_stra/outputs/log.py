"""Logs of scenes, a line each as soon as it is known: JSONL for programs, CSV for spreadsheets."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from edge_stra.artifact import check_output
from edge_stra.live.scene import Scene
from edge_stra.quiet import discard_standard_output, encodable
from edge_stra.spec import OutputError

Mode = Literal["new", "overwrite", "append"]
STANDARD_OUTPUT = Path("-")
TAIL_BYTES = 4096
MAX_LINE_BYTES = 1 << 20


def check_log(path: Path, mode: Mode) -> None:
    """Refuses, before anything is made or emptied, a place where no log can be. Raises OutputError."""
    if path == STANDARD_OUTPUT:
        return
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} can't be written: it is no ordinary file; name another")
    if mode == "new" and path.exists():
        raise OutputError(
            f"{path} exists already; give --append to go on with it, --overwrite to replace it, or another name"
        )
    if mode != "append" or not path.exists():
        check_output(path, overwrite=True)


class LineFile:
    """An open file that only ever holds whole lines; `Path("-")` is standard output.

    mode: "new" refuses a file that exists, "append" goes on with it: a half line that a cut of power left at its end
    is cut off. Lines reach the operating system at once. A new file is readable by its owner alone: it says who was
    where. Raises OutputError where it can't be written, or another process writes it.
    """

    def __init__(self, path: Path, mode: Mode = "new") -> None:
        self.path, self.lines = path, 0
        self._handle: int | None = None
        check_log(path, mode)
        if path == STANDARD_OUTPUT:
            return
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | (os.O_EXCL if mode == "new" else 0)
            self._handle = os.open(path, flags, 0o600)
            lock(self._handle)
            if mode == "overwrite":
                os.ftruncate(self._handle, 0)
        except BlockingIOError as error:
            self.close()
            raise OutputError(f"{path} is written by another process; name a file for each camera") from error
        except OSError as error:
            self.close()
            raise OutputError(f"{path} can't be written: {error.strerror or error}") from error

    def _cut_half_line(self, handle: int) -> None:
        """Only once the first line proved to be ours: a file of another kind is left as it is."""
        size = end = os.lseek(handle, 0, os.SEEK_END)
        while end > 0 and size - end < MAX_LINE_BYTES:
            start = max(0, end - TAIL_BYTES)
            os.lseek(handle, start, os.SEEK_SET)
            newline = os.read(handle, end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if size - end >= MAX_LINE_BYTES:
            raise OSError("its last line is no line of a log")
        os.ftruncate(handle, end)

    def first_line(self) -> str:
        """The first line, with its end where it has one; empty for standard output or an empty file."""
        if self._handle is None:
            return ""
        os.lseek(self._handle, 0, os.SEEK_SET)
        line, newline, _ = os.read(self._handle, MAX_LINE_BYTES).partition(b"\n")
        return (line + newline).decode("utf-8", "replace")

    def is_empty(self) -> bool:
        """Whether nothing is in the file: also where somebody else has cut it down since."""
        try:
            return self._handle is not None and os.fstat(self._handle).st_size == 0
        except OSError:  # the next writing tells what it is
            return False

    def write(self, text: str) -> None:
        """Adds whole lines, all or none. Raises OutputError where the disk is full or the reader has gone."""
        text = encodable(text)
        if self._handle is None:
            self._print(text)
        else:
            self._append(self._handle, text.encode())
        self.lines += text.count("\n")

    def _append(self, handle: int, data: bytes) -> None:
        left = memoryview(data)
        start = None
        try:
            if self.lines == 0:
                self._cut_half_line(handle)
            start = os.lseek(handle, 0, os.SEEK_END)
            while left:
                left = left[os.write(handle, left) :]
        except OSError as error:
            if start is not None:
                with contextlib.suppress(OSError):  # a stick that was pulled: there is nothing to put right
                    os.ftruncate(handle, start)
            raise OutputError(
                f"{self.path} can't be written any more: {error.strerror or error}; "
                f"its {self.lines} lines of this run are whole"
            ) from error

    def _print(self, text: str) -> None:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError as error:
            discard_standard_output()
            raise OutputError("standard output was closed by the program that reads it") from error
        except OSError as error:
            discard_standard_output()
            raise OutputError(f"standard output can't be written: {error.strerror or error}") from error

    def close(self) -> None:
        handle, self._handle = self._handle, None
        try:
            if handle is not None:
                os.close(handle)
        except OSError as error:  # what a network share had taken and could not keep
            raise OutputError(f"{self.path} can't be closed: {error.strerror or error}; its end may be lost") from error


def lock(handle: int) -> None:
    """Keeps other processes of ours from a file: two that write it would cut and overwrite each other's lines.

    Raises BlockingIOError where one has it. File systems and systems that can't lock are left as they are.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise BlockingIOError(error.errno, error.strerror) from error
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
            raise


class JsonlOutput:
    """One line of JSON for each scene, as `Scene.to_json` gives it. Raises what `LineFile` raises."""

    def __init__(self, path: Path, mode: Mode = "new") -> None:
        self._file = LineFile(path, mode)
        if (first := self._file.first_line()) and not first.startswith("{"):
            self._file.close()
            raise OutputError(f"{path} must be a JSONL log to be added to, but begins otherwise; name another file")

    def write(self, scene: Scene) -> None:
        self._file.write(json.dumps(scene.to_json(), ensure_ascii=False, separators=(",", ":")) + "\n")

    def close(self) -> None:
        self._file.close()


class CsvOutput:
    """One line for each face or person, under a line that names the columns; a scene without any adds none.

    The first row decides the columns: source, frame, time_s, of a live source `at`, then its fields, those of a
    mapping as `probabilities.fear` and those of a box as `box_x`, `box_y`, `box_w`, `box_h`. What later rows lack is
    left empty, what they have besides is left out. Raises what `LineFile` raises, and OutputError for a file to be
    added to that has other columns.
    """

    def __init__(self, path: Path, mode: Mode = "new") -> None:
        self._file = LineFile(path, mode)
        self._kept = self._file.first_line()  # of a file that is added to
        self._columns: list[str] = []

    def write(self, scene: Scene) -> None:
        text = csv_line(self._columns) if self._columns and scene.rows and self._file.is_empty() else ""
        for row in scene.rows:
            flat: dict[str, Any] = {**scene.place(), **flattened(row)}
            if not self._columns:
                text = self._begin(list(flat))
            text += csv_line([flat.get(name, "") for name in self._columns])
        if text:
            self._file.write(text)

    def _begin(self, columns: list[str]) -> str:
        """The line of the columns; nothing where a file that is added to has it already."""
        header, kept = csv_line(columns), "" if self._file.is_empty() else self._kept
        if kept and kept != header:
            raise OutputError(
                f"{self._file.path} must have the columns {header.strip()} to be added to; name another file"
            )
        self._columns = columns
        return "" if kept else header

    def close(self) -> None:
        self._file.close()


def flattened(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A row's fields without mappings and lists in them, named by their place."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{name}.")
        elif isinstance(value, list | tuple):
            if name.endswith("_xywh"):
                names = [f"{name.removesuffix('_xywh')}_{side}" for side in "xywh"]
            else:
                names = [f"{name}.{number}" for number in range(len(value))]
            flat |= dict(zip(names, value, strict=True))
        else:
            flat[name] = value
    return flat


def csv_line(values: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()
