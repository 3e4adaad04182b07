"""A gallery's SQLite file: made, opened, verified, and with sqlcipher3 encrypted. What its rows mean: `sqlite`."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_stra.extras import install_command
from edge_stra.gallery.checks import check_maker
from edge_stra.gallery.store import Maker
from edge_stra.spec import DataError, GalleryError, MissingError

KEY_VARIABLE = "EDGE_STRA_GALLERY_KEY"
APPLICATION_ID = 0x45535447  # ESTG: what `file` and this project know a gallery by
SCHEMA_VERSION = 1
HEADER = b"SQLite format 3\0"
MOUNTS = Path("/proc/self/mountinfo")
# SQLite finds shared memory there too and answers that its log can be used; but each machine has its own.
NETWORK = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "fuse.ceph", "fuse.glusterfs", "fuse.sshfs")
)
BUSY_S = 30.0  # a forget rewrites the file, which writers wait for
PAGE_BYTES = 8192  # three embeddings of 512 numbers; at 4096 each would take a page of its own
TABLES = {
    "meta": "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    # AUTOINCREMENT: a number is never given twice, so that what is new is what has a larger number.
    "entries": (
        "CREATE TABLE entries (number INTEGER PRIMARY KEY AUTOINCREMENT, identity TEXT NOT NULL, camera TEXT NOT NULL, "
        "site TEXT NOT NULL, time_s REAL NOT NULL, embedding BLOB NOT NULL)"
    ),
}
INDEXES = {"entries_identity": "CREATE INDEX entries_identity ON entries (identity)"}


# What this process has open, by device and inode: SQLite's locks are lost where the same process closes the file by
# another descriptor, so a file's first bytes are read only where it is not open here.
_open_here: dict[tuple[int, int], list[Any]] = {}


@dataclass(frozen=True)
class OpenFile:
    """connection: of `module`, which is sqlite3 or its like from sqlcipher3. maker: that the file holds."""

    connection: Any
    module: Any
    maker: Maker
    inode: tuple[int, int]

    def close(self) -> None:
        self.connection.close()
        if modules := _open_here.get(self.inode):
            modules.pop()
            if not modules:
                del _open_here[self.inode]


def open_file(path: Path, maker: Maker | None, create: bool) -> OpenFile:
    """Opens a gallery's file; one that is absent or empty is made, for `maker`, where `create` allows it.

    It is readable by its owner alone. Raises GalleryError, MissingError.
    """
    key = os.environ.get(KEY_VARIABLE)
    create = create and maker is not None
    fresh = key is not None and create and is_fresh(path)
    if key == "" and fresh:
        raise GalleryError(
            f"{path} would not be encrypted: {KEY_VARIABLE} is set, but empty; give it a key, or unset it"
        )
    if key and fresh:
        cipher_module()  # before the file is made: an empty one left behind would be filled without the key
    if (kind := file_system(device_of(path))) in NETWORK:  # asked before anything is made there
        raise GalleryError(
            f"{path} must be on a local disk, but is on {kind}: machines that share an SQLite file damage it; take "
            "--gallery milvus://HOST:19530 for several machines"
        )
    inode = find_place(path, create)
    module = _open_here[inode][-1] if _open_here.get(inode) else choose_module(path, create, key, maker is not None)
    with told(module, path, key):
        connection = module.connect(str(path), timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        with told(module, path, key):
            prepare(connection, key if module is not sqlite3 else None)
            if maker is not None and create:
                make_tables(connection, maker)
            verify(connection, path)
            if (mode := connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]) != "wal":
                raise GalleryError(f"{path} needs a file system with shared memory for SQLite's WAL, but got {mode}")
            opened = OpenFile(connection, module, read_maker(connection, path), inode)
    except BaseException:
        connection.close()
        raise
    _open_here.setdefault(inode, []).append(module)
    return opened


def is_fresh(path: Path) -> bool:
    """Whether there is no file, or an empty one."""
    try:
        return not path.stat().st_size
    except OSError:  # `find_place` tells what else it may be
        return True


def device_of(path: Path) -> int | None:
    """The number of the device that a file, or its folder where there is no file yet, is on."""
    for place in (path, path.parent):
        with contextlib.suppress(OSError):
            return place.stat().st_dev
    return None


def file_system(device: int | None, mounts: Path = MOUNTS) -> str | None:
    """The kind of file system that a device number is of, as Linux names it; None where the system does not tell.

    A line of mountinfo: 36 35 98:0 /root /mnt options [fields] - ext4 source options (proc(5)).
    """
    if device is None:
        return None
    try:
        lines = mounts.read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    wanted = f"{os.major(device)}:{os.minor(device)}"  # after it: Windows has neither
    found = [line.partition(" - ")[2].split(" ")[0] for line in lines if line.split(" ")[2:3] == [wanted]]
    return found[-1] if found else None


def find_place(path: Path, create: bool) -> tuple[int, int]:
    """The file's device and inode; makes an empty private file where there is none and one may be made."""
    try:
        if create:
            with contextlib.suppress(FileExistsError):  # another process may be faster
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
                sync_folder(path.parent)
        found = path.stat()
    except OSError as error:
        absent = isinstance(error, FileNotFoundError) and path.parent.is_dir()
        hint = "add someone first, or correct --gallery" if absent else "correct --gallery"
        raise GalleryError(f"{path} must be a gallery's file, but: {error.strerror or error}; {hint}") from error
    if not stat.S_ISREG(found.st_mode):
        raise GalleryError(f"{path} must be a file, but is none; correct --gallery")
    return found.st_dev, found.st_ino


def choose_module(path: Path, create: bool, key: str | None, encrypted_only: bool) -> Any:
    """sqlite3 or sqlcipher3, by the file's first bytes and the key."""
    try:
        with path.open("rb") as file:
            head = file.read(len(HEADER))
    except OSError as error:
        raise GalleryError(f"{path} must be a gallery's file, but: {error.strerror or error}") from error
    if not head and not create:
        raise GalleryError(f"{path} must be a gallery, but is an empty file; add someone first")
    if head and head != HEADER and not key:
        raise GalleryError(f"{path} is no SQLite file, or an encrypted gallery: give its key in {KEY_VARIABLE}")
    if head == HEADER and key and encrypted_only:
        raise GalleryError(
            f"{path} is not encrypted, but {KEY_VARIABLE} is set: `edge-stra gallery copy` it into a new file, "
            "which will be, or unset the variable"
        )
    return cipher_module() if key and head != HEADER else sqlite3


def cipher_module() -> Any:
    try:
        return importlib.import_module("sqlcipher3.dbapi2")
    except ImportError as error:
        raise MissingError(
            f"{KEY_VARIABLE} asks for encryption, which needs sqlcipher3; run: {install_command('encrypt')}"
        ) from error


@contextlib.contextmanager
def told(module: Any, path: Path, key: str | None = None) -> Iterator[None]:
    """Turns the engine's errors into GalleryError, each with what to do."""
    try:
        yield
    except (module.Error, OverflowError) as error:
        text = str(error)
        if "not a database" in text and key:
            text = f"the key in {KEY_VARIABLE} is not its key, or it is no gallery"
        elif "locked" in text or "busy" in text:
            text = f"another process has held it for {BUSY_S:.0f} s; try again"
        elif "full" in text or ("disk I/O" in text and shutil.disk_usage(path.parent).free < PAGE_BYTES * 64):
            text = "the disk is full; free some space and try again"
        elif "readonly" in text:
            text = "it can't be written; correct its permissions"
        raise GalleryError(f"{path} can't be used as a gallery: {text}") from error


def prepare(connection: Any, key: str | None) -> None:
    if key is not None:
        connection.execute("PRAGMA cipher_log_level = NONE")  # it logs a wrong key to standard error
        quoted = key.replace("'", "''")
        connection.execute(f"PRAGMA key = '{quoted}'")
        connection.execute(f"PRAGMA cipher_page_size = {PAGE_BYTES}")
    # NORMAL would lose what was acknowledged when power fails. Deleted rows are overwritten with zeros.
    for pragma in (f"page_size = {PAGE_BYTES}", "synchronous = FULL", "secure_delete = ON", "trusted_schema = OFF"):
        connection.execute(f"PRAGMA {pragma}").fetchall()


def make_tables(connection: Any, maker: Maker) -> None:
    """Makes the tables in a file that has none, in one transaction; of two processes the second finds them made."""
    connection.execute("BEGIN IMMEDIATE")
    with ended(connection):
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            return
        for statement in (*TABLES.values(), *INDEXES.values()):
            connection.execute(statement)
        rows = {"sha256": maker.sha256, "dimension": str(maker.dimension), "name": maker.name, "removals": "0"}
        connection.executemany("INSERT INTO meta VALUES (?, ?)", rows.items())
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


@contextlib.contextmanager
def ended(connection: Any) -> Iterator[None]:
    """Commits what was begun, or rolls it back where it failed."""
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def verify(connection: Any, path: Path) -> None:
    """Raises GalleryError where the file is no gallery, of a newer version, or holds tables or triggers of others."""
    application, version = (connection.execute(f"PRAGMA {p}").fetchone()[0] for p in ("application_id", "user_version"))
    if application != APPLICATION_ID:
        raise GalleryError(f"{path} must be a gallery of edge-stra, but is another SQLite file; correct --gallery")
    if version > SCHEMA_VERSION:
        raise GalleryError(
            f"{path} is of version {version}, but this edge-stra knows up to {SCHEMA_VERSION}; take a newer one"
        )
    found = connection.execute("SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite@_%' ESCAPE '@'")
    if dict(found.fetchall()) != {**TABLES, **INDEXES}:
        raise GalleryError(f"{path} must hold a gallery's tables alone, but holds others; it was changed, make it anew")


def read_maker(connection: Any, path: Path) -> Maker:
    kept = dict(connection.execute("SELECT key, value FROM meta WHERE key IN ('sha256', 'dimension', 'name')"))
    try:
        maker = Maker(kept["sha256"], int(kept["dimension"]), kept["name"])
        check_maker(maker)
    except (KeyError, ValueError, TypeError, DataError) as error:
        raise GalleryError(f"{path} must name its model, but does not: {error!r}; it is damaged") from error
    return maker


def sync_folder(folder: Path) -> None:
    """Makes a new file's name survive power loss; a folder can't be synced on Windows."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
