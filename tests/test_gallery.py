"""What a gallery's SQLite file does beyond the contract of test_gallery_milvus.py, and `edge-stra gallery`."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from edge_stra.commands.gallery import gallery as group
from edge_stra.extras import install_command
from edge_stra.gallery.copying import copy_gallery, export_gallery
from edge_stra.gallery.naming import DEFAULT_THRESHOLD, effective_threshold, nearest_known
from edge_stra.gallery.open import open_gallery, same_place
from edge_stra.gallery.sqlite import SqliteGallery
from edge_stra.gallery.sqlite_file import KEY_VARIABLE, file_system
from edge_stra.gallery.store import Entry, Maker, Match
from edge_stra.gallery.times import parse_age, parse_time
from edge_stra.spec import DataError, GalleryError, InputSpec, MissingError, ModelSpec, OutputError

K = 64
MAKER = Maker("a" * 64, K, "model.fp32")
WRITER = """
import sys
import numpy as np
from edge_stra.gallery.open import open_gallery
from edge_stra.gallery.store import Entry, Maker
gallery = open_gallery(sys.argv[1], Maker("a" * 64, 64, "model.fp32"))
for number in range(int(sys.argv[3])):
    rows = [Entry(f"{sys.argv[2]}-{number}", np.full(64, 1 + part, np.float32), time_s=part) for part in range(3)]
    gallery.add(rows)
    print(number, flush=True)
"""


def vectors(count: int, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, K)).astype(np.float32)
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def people(count: int, seed: int = 0) -> list[Entry]:
    """Names in no order, so that pages of the index split; each name and vector is found in no other place."""
    draw = random.Random(seed)
    return [
        Entry(f"name-{draw.getrandbits(64):016x}", row, time_s=float(i)) for i, row in enumerate(vectors(count, seed))
    ]


def traces(folder: Path, entries: list[Entry]) -> list[str]:
    """The names, and the names of those whose vectors, can be read in a gallery's files; also a vector's parts."""
    raw = b"".join(path.read_bytes() for path in sorted(folder.glob("gallery.db*")))
    kept = [e.embedding.astype("<f4").tobytes() for e in entries]
    found = [e.identity for e in entries if e.identity.encode() in raw]
    parts = [(e, v[at : at + 32]) for e, v in zip(entries, kept, strict=True) for at in (0, len(v) // 2, len(v) - 32)]
    return found + [f"vector of {e.identity}" for e, part in parts if part in raw]


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    return f"sqlite:///{tmp_path}/gallery.db"


# The file


def test_only_the_owner_can_read_the_files(uri: str, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        gallery = open_gallery(uri, MAKER)
        gallery.add(people(3))
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        gallery.close()
    finally:
        os.umask(before)
    assert modes == {"gallery.db": 0o600, "gallery.db-wal": 0o600, "gallery.db-shm": 0o600}


@pytest.mark.parametrize("key", [None, "key"])
def test_what_power_loss_and_a_failed_rewrite_would_need(
    uri: str, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    if key:
        pytest.importorskip("sqlcipher3", reason="sqlcipher3 is not installed; scripts/setup encrypt")
        monkeypatch.setenv(KEY_VARIABLE, key)
    for _ in range(2):  # made, and opened again
        gallery: Any = open_gallery(uri, MAKER)
        asked = {
            p: str(gallery._all(f"PRAGMA {p}")[0][0])
            for p in ("journal_mode", "synchronous", "secure_delete", "page_size")
        }
        assert asked == {"journal_mode": "wal", "synchronous": "2", "secure_delete": "1", "page_size": "8192"}
        gallery.close()


def test_forgotten_and_purged_people_leave_no_readable_trace(uri: str, tmp_path: Path) -> None:
    gallery = open_gallery(uri, MAKER)
    everybody = people(2000)
    for start in range(0, 2000, 50):
        gallery.add(everybody[start : start + 50])
    assert len(traces(tmp_path, everybody[:20])) >= 60  # what is there can be found
    assert gallery.forget(everybody[1500].identity) == 1
    assert traces(tmp_path, [everybody[1500]]) == []
    assert gallery.purge(1200.0) == 1200
    assert traces(tmp_path, everybody[:1200]) == []  # the files, while open
    gallery.close()
    assert traces(tmp_path, everybody[:100]) == []
    assert len(traces(tmp_path, everybody[1200:1220])) >= 60


def test_a_reader_that_holds_the_log_is_told_and_forgetting_again_ends_it(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_stra.gallery.sqlite_file.BUSY_S", 0.1)
    gallery, (anna, bob) = open_gallery(uri, MAKER), people(2)
    gallery.add([anna, bob])
    reader = sqlite3.connect(tmp_path / "gallery.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM entries").fetchone()
    with pytest.raises(
        GalleryError, match=r"1 embeddings are removed, but may still be read in .*forget it again"
    ) as told:
        gallery.forget(anna.identity)
    assert "\n" not in str(told.value)
    assert gallery.identities() == {bob.identity: 1}
    assert traces(tmp_path, [anna]) != []
    reader.close()
    assert gallery.unfinished()
    done = CliRunner().invoke(group, ["forget", anna.identity, "--gallery", uri])
    assert done.exit_code == 0 and done.stdout == "what was removed earlier can't be read any more\n"
    assert not gallery.unfinished() and traces(tmp_path, [anna]) == []
    gallery.close()


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_a_file_that_was_replaced_or_removed_is_told_of(uri: str, tmp_path: Path, how: str) -> None:
    """What would be written is lost, and who is forgotten in the new file would still be named by this process."""
    gallery, (anna, bob) = open_gallery(uri, MAKER), people(2)
    gallery.add([anna])
    gallery.search(anna.embedding)
    if how == "replaced":
        other = open_gallery(f"sqlite:///{tmp_path / 'other.db'}", MAKER)
        other.close()
        (tmp_path / "other.db").replace(tmp_path / "gallery.db")
    else:
        (tmp_path / "gallery.db").unlink()
    calls: list[Callable[[], Any]] = [lambda: gallery.add([bob]), lambda: gallery.search(anna.embedding), gallery.count]
    for call in calls:
        with pytest.raises(GalleryError, match=rf"was {how} .*while it was in use; start again"):
            call()
    gallery.close()


def test_an_empty_key_makes_no_plain_gallery(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "")
    with pytest.raises(GalleryError, match="would not be encrypted: EDGE_STRA_GALLERY_KEY is set, but empty"):
        open_gallery(uri, MAKER)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "gallery.db").touch()  # as a crash leaves it, or `install -m 600 /dev/null`
    with pytest.raises(GalleryError, match="would not be encrypted"):
        open_gallery(uri, MAKER)
    assert (tmp_path / "gallery.db").stat().st_size == 0


def test_encrypted_files_tell_nothing(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sqlcipher3", reason="sqlcipher3 is not installed; scripts/setup encrypt")
    monkeypatch.setenv(KEY_VARIABLE, "right 'key'")
    gallery = open_gallery(uri, MAKER)
    everybody = people(50)
    gallery.add(everybody)
    assert traces(tmp_path, everybody) == []
    assert b"SQLite" not in b"".join(path.read_bytes()[:4096] for path in tmp_path.glob("gallery.db"))
    gallery.close()
    assert open_and_count(uri) == 50
    for key, word in (("wrong", "not its key"), ("", f"give its key in {KEY_VARIABLE}")):
        monkeypatch.setenv(KEY_VARIABLE, key)
        with pytest.raises(GalleryError, match=word) as told:
            open_gallery(uri, MAKER)
        assert "\n" not in str(told.value)


def open_and_count(uri: str) -> int:
    gallery = open_gallery(uri, None)
    try:
        return gallery.count()
    finally:
        gallery.close()


def test_a_plain_file_is_not_taken_for_an_encrypted_one_but_can_be_copied(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sqlcipher3", reason="sqlcipher3 is not installed; scripts/setup encrypt")
    gallery = open_gallery(uri, MAKER)
    gallery.add(people(5))
    gallery.close()
    monkeypatch.setenv(KEY_VARIABLE, "key")
    with pytest.raises(GalleryError, match="is not encrypted"):
        open_gallery(uri, MAKER)
    plain, secret = open_gallery(uri, None), open_gallery(f"{tmp_path}/secret.db", MAKER)
    assert copy_gallery(plain, secret, False, list) == 5
    for each in (plain, secret):
        each.close()
    assert (tmp_path / "secret.db").read_bytes()[:6] != b"SQLite"


def test_names_the_extra_where_sqlcipher_is_missing(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "key")
    monkeypatch.setitem(sys.modules, "sqlcipher3.dbapi2", None)
    with pytest.raises(MissingError, match=re.escape(install_command("encrypt"))):
        open_gallery(uri, MAKER)


def damage(statement: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with sqlite3.connect(path) as connection:
            connection.execute(statement)
        connection.close()

    return change


BAD_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "text": (lambda p: p.write_bytes(b"no database " * 500), "no SQLite file, or an encrypted gallery"),
    "header alone": (lambda p: p.write_bytes(b"SQLite format 3\0" + bytes(5000)), "can't be used as a gallery"),
    "cut": (lambda p: p.write_bytes(p.read_bytes()[:9000]), "disk image is malformed"),
    "another database": (lambda p: (p.unlink(), damage("CREATE TABLE t (x)")(p)), "is another SQLite file"),
    "newer": (damage("PRAGMA user_version = 2"), "version 2, but this edge-stra knows up to 1; take a newer one"),
    "a trigger": (
        damage("CREATE TRIGGER t AFTER INSERT ON entries BEGIN DELETE FROM entries; END"),
        "holds others; it was changed",
    ),
    "no maker": (damage("DELETE FROM meta WHERE key = 'sha256'"), "must name its model"),
    "odd maker": (damage("UPDATE meta SET value = '-5' WHERE key = 'dimension'"), "must name its model"),
    "bytes for a maker": (damage("UPDATE meta SET value = x'00' WHERE key = 'sha256'"), "must name its model"),
    "a name that clears the screen": (
        damage("UPDATE entries SET identity = char(27) || '[2J' WHERE number = 7"),
        "holds what was not added to it",
    ),
    "a time that is none": (damage("UPDATE entries SET time_s = 'x' WHERE number = 7"), "holds what was not added"),
    "a folder": (lambda p: (p.unlink(), p.mkdir()), "must be a file, but is none"),
    "empty": (lambda p: p.write_bytes(b""), "is an empty file"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_one_line_for_a_file_that_is_no_gallery(uri: str, tmp_path: Path, case: str) -> None:
    gallery = open_gallery(uri, MAKER)
    gallery.add(people(100))
    gallery.close()
    change, word = BAD_FILES[case]
    change(tmp_path / "gallery.db")
    with pytest.raises(GalleryError, match=word) as told:
        list(open_gallery(uri, None).entries())
    assert "\n" not in str(told.value)


def test_a_changed_embedding_is_refused(uri: str, tmp_path: Path) -> None:
    gallery = open_gallery(uri, MAKER)
    gallery.add(people(3))
    damage("UPDATE entries SET embedding = x'00' WHERE number = 2")(tmp_path / "gallery.db")
    for read in (lambda: gallery.search(np.ones(K, np.float32)), lambda: list(gallery.entries())):
        with pytest.raises(GalleryError, match=r"embeddings of 256 bytes, but holds another"):
            read()
    gallery.close()


@pytest.mark.parametrize("vector", [np.full(K, np.nan), np.zeros(K), np.eye(K)[0] * 0.7, np.eye(K)[0] * 1.01])
def test_an_embedding_that_is_not_of_length_1_is_refused(uri: str, tmp_path: Path, vector: NDArray[np.float64]) -> None:
    gallery = open_gallery(uri, MAKER)
    gallery.add(people(3))
    blob = vector.astype("<f4").tobytes().hex()
    damage(f"UPDATE entries SET embedding = x'{blob}' WHERE number = 2")(tmp_path / "gallery.db")
    for read in (lambda: gallery.search(np.ones(K, np.float32)), lambda: list(gallery.entries())):
        with pytest.raises(GalleryError, match="must hold embeddings of length 1, but holds another; it was changed"):
            read()
    gallery.close()


@pytest.mark.parametrize("kept", ["nan", "7", "-0.1", "inf", "near"])
def test_a_threshold_that_is_none_is_refused(uri: str, tmp_path: Path, kept: str) -> None:
    gallery = open_gallery(uri, MAKER)
    gallery.set_threshold(0.5)
    damage(f"UPDATE meta SET value = '{kept}' WHERE key = 'threshold'")(tmp_path / "gallery.db")
    with pytest.raises(GalleryError, match=f"holds the threshold '{kept}', not 0 to 2; calibrate it again"):
        gallery.threshold()
    gallery.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE meta SET value = 'x' WHERE key = 'removals'",
        "DELETE FROM meta WHERE key = 'removals'",
        "UPDATE entries SET time_s = 1e308",
    ],
)
def test_a_search_in_a_changed_file_is_one_line(uri: str, tmp_path: Path, change: str) -> None:
    gallery = open_gallery(uri, MAKER)
    gallery.add(people(3))
    damage(change)(tmp_path / "gallery.db")
    with pytest.raises(GalleryError, match=r"damaged|it was changed"):
        gallery.search(np.ones(K, np.float32))
    gallery.close()


def test_a_changed_name_is_not_listed(uri: str, tmp_path: Path) -> None:
    gallery = open_gallery(uri, MAKER)
    gallery.add(people(3))
    damage("UPDATE entries SET identity = 'two' || char(10) || 'lines' WHERE number = 2")(tmp_path / "gallery.db")
    with pytest.raises(GalleryError, match="holds what was not added to it"):
        gallery.identities()
    gallery.close()


@pytest.mark.parametrize(
    "bad", ["", "gallery", "sqlite://gallery.db", "sqlite:///", "mysql://h/x", "milvus://", "milvus://h:x", "milvus://h/a/b",
            "milvus://h?x=1", "milvus://[::1", "file.txt", "root:geheim@h:19530", "sqlite:////no/such/folder/g.db"],
)  # fmt: skip
def test_one_line_for_a_uri_that_is_none(bad: str) -> None:
    said = "No such file or directory" if "/no/such/" in bad else "a gallery's URI must be"
    with pytest.raises(GalleryError, match=said) as told:
        open_gallery(bad, MAKER)
    assert "\n" not in str(told.value) and "geheim" not in str(told.value)


def test_uris_of_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("sqlite:///g.db", "g.db", f"sqlite:///{tmp_path}/g.db", "./g.db"):
        gallery = open_gallery(name, MAKER)
        gallery.add(people(1))
        gallery.close()
        assert same_place("g.db", name)
    assert open_and_count("g.db") == 4
    assert same_place("milvus://h", "milvus://H:19530/default")
    assert not same_place("postgres://h?password=x", "postgres://h?password=x"), "opening it says what it is not"
    assert not same_place("g.db", "h.db") and not same_place("milvus://h", "milvus://h/other")


# Several processes, and those that die


def writer(uri: str, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WRITER, uri, name, str(count)], stdout=subprocess.PIPE, text=True)


def test_two_writers_and_a_reader_at_once_lose_nothing(uri: str) -> None:
    gallery = open_gallery(uri, MAKER)
    running = [writer(uri, name, 40) for name in "ab"]
    seen = []
    while any(process.poll() is None for process in running):
        seen.append(len(gallery.search(np.ones(K, np.float32), 1000)))
    assert [process.communicate()[0].split()[-1] for process in running] == ["39", "39"]
    assert seen == sorted(seen) and all(number % 3 == 0 for number in seen)  # never a part of an add
    assert len(gallery.search(np.ones(K, np.float32), 1000)) == gallery.count() == 240
    assert set(gallery.identities()) == {f"{name}-{number}" for name in "ab" for number in range(40)}
    gallery.close()


def test_a_killed_writer_has_lost_nothing_acknowledged(uri: str, tmp_path: Path) -> None:
    draw = random.Random(0)
    acknowledged: set[str] = set()
    for turn in range(6):
        process = writer(uri, f"turn{turn}", 100_000)
        assert process.stdout is not None
        for _ in range(draw.randint(1, 25)):
            acknowledged.add(f"turn{turn}-{process.stdout.readline().strip()}")
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        acknowledged |= {f"turn{turn}-{line}" for line in rest.split("\n")[:-1]}
        gallery = open_gallery(uri, MAKER)
        there = gallery.identities()
        assert acknowledged <= there.keys()
        assert set(there.values()) == {3}  # an add is there whole or not at all
        gallery.close()
    with sqlite3.connect(tmp_path / "gallery.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_a_full_disk_is_one_line_and_keeps_what_was_there(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery: Any = open_gallery(uri, MAKER)
    gallery.add(people(10))
    gallery._connection.execute("PRAGMA max_page_count = 1")  # what SQLite makes of it: the pages there are
    with pytest.raises(GalleryError, match="the disk is full"):
        gallery.add(people(500, 1))
    gallery._connection.execute("PRAGMA max_page_count = 1000000")
    assert gallery.count() == 10
    assert gallery.add(people(500, 1)) == 500
    gallery.close()


def test_a_file_open_here_is_not_opened_beside_sqlite(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing it would drop SQLite's locks, which belong to the process."""
    first = open_gallery(uri, MAKER)
    opened: list[Path] = []
    monkeypatch.setattr("edge_stra.gallery.sqlite_file.file_system", lambda device: "ext4")
    monkeypatch.setattr(Path, "open", lambda self, *args: opened.append(self))
    second = open_gallery(uri, MAKER)
    assert opened == []
    first.close()
    second.close()
    with pytest.raises((TypeError, AttributeError)):  # the replacement above gives no file
        open_gallery(uri, MAKER)
    assert len(opened) == 1


# Who it is


def test_an_addition_does_not_move_all_that_is_in_memory(tmp_path: Path) -> None:
    gallery = open_gallery(str(tmp_path / "gallery.db"), MAKER)
    assert isinstance(gallery, SqliteGallery)
    units = np.eye(K, dtype=np.float32)
    gallery.add([Entry("anna", unit, "", 0.0, "") for unit in units[:9]])
    gallery.search(units[0])
    assert gallery._matrix is not None
    rows = gallery._matrix._rows
    gallery.add([Entry("bob", units[20], "", 0.0, "")])
    assert gallery.search(units[20])[0].identity == "bob"
    assert gallery._matrix._rows is rows


def test_the_nearest_within_the_threshold_or_nobody(uri: str) -> None:
    match = Match("anna", 0.5, "", 0.0, "")
    assert nearest_known([match], 0.5) is match
    assert nearest_known([match], 0.49) is nearest_known([], 2.0) is None
    gallery = open_gallery(uri, MAKER)
    assert effective_threshold(gallery, None) == (DEFAULT_THRESHOLD, "default")
    gallery.set_threshold(0.9)
    assert effective_threshold(gallery, None) == (0.9, "gallery")
    assert effective_threshold(gallery, 0.1) == (0.1, "given")
    gallery.close()


def test_ages_and_times() -> None:
    assert [parse_age(text) for text in ("90m", "12h", "30d", "8w", "0d")] == [5400, 43_200, 2_592_000, 4_838_400, 0]
    assert parse_time("2024-11-21T10:00+00:00") == 1_732_183_200
    for bad in ("", "30", "d", "-1d", "1.5d", "30 days", "1y"):
        with pytest.raises(DataError, match="an age must be"):
            parse_age(bad)
    for bad in ("", "yesterday", "1960-01-01", "99999-01-01"):
        with pytest.raises(DataError, match="a time must be"):
            parse_time(bad)
    with pytest.raises(DataError, match="not be more than a day ahead, but '2262-11-21' is"):
        parse_time("2262-11-21")


# Files out of a gallery


def test_exports_what_numpy_and_json_read_again(uri: str, tmp_path: Path) -> None:
    gallery = open_gallery(uri, MAKER)
    entries = [Entry(f"Zoë {i}", row, str(i % 2), 1.5 * i, "shop") for i, row in enumerate(vectors(2100))]
    gallery.add(entries)
    assert export_gallery(gallery, tmp_path / "all.npz", False) == 2100
    with np.load(tmp_path / "all.npz", allow_pickle=False) as kept:
        assert kept["identities"].tolist() == [e.identity for e in entries]
        assert kept["cameras"][:3].tolist() == ["0", "1", "0"] and set(kept["sites"].tolist()) == {"shop"}
        assert kept["times_s"].tolist() == [e.time_s for e in entries]
        np.testing.assert_allclose(kept["embeddings"], vectors(2100), atol=1e-6)
        assert (str(kept["model"]), str(kept["model_name"])) == (MAKER.sha256, MAKER.name)
    export_gallery(gallery, tmp_path / "all.jsonl", False)
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text("utf-8").splitlines()]
    assert [row["identity"] for row in rows] == [e.identity for e in entries]
    assert (rows[2] | {"embedding": 0}) == {
        "identity": "Zoë 2", "camera": "0", "site": "shop", "time_s": 3.0, "model": MAKER.sha256, "embedding": 0,
    }  # fmt: skip
    kept_rows = np.array([row["embedding"] for row in rows], np.float32)
    assert (kept_rows == np.array([e.embedding for e in gallery.entries()])).all()
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("all.npz", "all.jsonl")} == {0o600}
    gallery.close()


def test_an_export_overwrites_nothing_and_leaves_no_half(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = open_gallery(uri, MAKER)
    gallery.add(people(3))
    (tmp_path / "old.npz").write_text("precious")
    with pytest.raises(OutputError, match="--overwrite"):
        export_gallery(gallery, tmp_path / "old.npz", False)
    with pytest.raises(OutputError, match=r"\.npz or \.jsonl"):
        export_gallery(gallery, tmp_path / "old.csv", True)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OutputError, match="No space left"):
        export_gallery(gallery, tmp_path / "old.npz", True)
    assert (tmp_path / "old.npz").read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir() if "gallery.db" not in p.name] == ["old.npz"]
    gallery.close()


def test_copies_all_once_with_the_threshold(uri: str, tmp_path: Path) -> None:
    source, target = open_gallery(uri, MAKER), open_gallery(f"{tmp_path}/b.db", MAKER)
    source.add(people(1100))
    source.set_threshold(0.8)
    ticks: list[int] = []
    assert copy_gallery(source, target, False, lambda steps: (ticks.append(step) or step for step in steps)) == 1100
    assert len(ticks) == 3 and target.threshold() == 0.8
    assert target.identities() == source.identities()
    with pytest.raises(GalleryError, match="must be empty, but holds 1100"):
        copy_gallery(source, target, False, list)
    assert copy_gallery(source, target, True, list) == 1100
    assert target.count() == 2200
    source.close()
    target.close()


def test_a_copy_gives_no_name_that_was_given_before(uri: str, tmp_path: Path) -> None:
    source, target = open_gallery(uri, MAKER), open_gallery(f"{tmp_path}/b.db", MAKER)
    (one, two), prefix = people(2), "person-shop-door-"
    for entry in (one, two):
        name = f"{prefix}{source.take_number(prefix):04d}"
        source.add([Entry(name, entry.embedding, "door", 1.0, "shop")])
    source.rename(f"{prefix}0002", "anna")
    copy_gallery(source, target, False, list)
    assert target.take_number(prefix) == 3, "0002 is anna in the logs of before"
    for _ in range(5):
        target.take_number(prefix)
    copy_gallery(source, target, True, list)
    assert target.take_number(prefix) == 9, "the copy's own numbers are further on"
    target.set_given(prefix, 2)
    assert target.take_number(prefix) == 10, "which a camera may have taken in this very moment"
    source.close()
    target.close()


def test_a_copy_that_fails_says_what_is_there_already(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = open_gallery(uri, MAKER), open_gallery(f"{tmp_path}/b.db", MAKER)
    source.add(people(1100))
    add = target.add

    def full(entries: Sequence[Entry]) -> int:
        if target.count() == 1000:
            raise GalleryError("the disk is full")
        return add(entries)

    monkeypatch.setattr(target, "add", full)
    with pytest.raises(GalleryError, match=r"is full; 1000 embeddings are in .*b\.db already: empty it before"):
        copy_gallery(source, target, False, list)
    with pytest.raises(GalleryError, match="not after a copy that failed: what it copied would be there twice"):
        copy_gallery(source, target, False, list)
    source.close()
    target.close()


def test_a_copy_that_lost_some_says_so(uri: str, tmp_path: Path) -> None:
    source, target = open_gallery(uri, MAKER), open_gallery(f"{tmp_path}/b.db", MAKER)
    source.add(people(10))

    class Leaky:
        uri, threshold, set_threshold, given = target.uri, target.threshold, target.set_threshold, target.given
        count = staticmethod(target.count)

        @staticmethod
        def add(entries: list[Entry]) -> int:
            target.add(entries[1:])
            return len(entries)

    leaky: Any = Leaky
    with pytest.raises(GalleryError, match="must hold 10 embeddings after copying, but holds 9"):
        copy_gallery(source, leaky, False, list)
    source.close()
    target.close()


# The commands

SPEC = ModelSpec("tiny.reid", "reid", InputSpec((32, 16), "rgb"), (), "embedding")


class Colours:
    """A model whose embedding is the picture's colours in 16 cells, [48]."""

    runtime_name = "none"

    def __init__(self, sha256: str = "c" * 64, spec: ModelSpec = SPEC) -> None:
        self.spec, self.artifact = spec, SimpleNamespace(sha256=sha256, spec=spec, quantize="fp32")

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return x[0].reshape(4, 8, 4, 4, 3).mean(axis=(1, 3)).reshape(1, -1) + 0.01


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs `edge-stra gallery ...` in a folder of its own, with a model of colours."""
    from edge_stra import cli

    models: dict[str, Colours] = {"model": Colours(), "other": Colours("d" * 64)}
    monkeypatch.setattr("edge_stra.runtime.load_predictor", lambda path, threads=1: models[path.name])
    monkeypatch.chdir(tmp_path)
    for name in ("EDGE_STRA_GALLERY", KEY_VARIABLE):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, code: int = 0, answer: str | None = None) -> Result:
        root = cli.Commands("edge-stra", commands={"gallery": group})
        result = CliRunner().invoke(root, ["gallery", *arguments], input=answer)
        assert result.exit_code == code, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        if code == 1 and answer is None:  # one line, besides the label of a progress bar
            *before, last = result.stderr.strip().splitlines()
            assert last.startswith("Error: ") and set(before) <= {"pictures", "embeddings"}, result.stderr
        return result

    return run


def draw(path: Path, colours: str, seed: int = 0) -> str:
    """A person with clothes of two colours, like "rg", and a little noise."""
    shades = {"r": (220, 30, 30), "g": (30, 200, 40), "b": (20, 40, 230), "w": (240, 240, 240), "k": (15, 15, 15)}
    picture = np.random.default_rng(seed).integers(0, 12, (64, 32, 3)).astype(np.uint8)
    picture[:32] += np.array(shades[colours[0]], np.uint8)
    picture[32:] += np.array(shades[colours[1]], np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture[:, :, ::-1])
    return str(path)


def test_adds_finds_lists_and_forgets(commands: Callable[..., Result], tmp_path: Path) -> None:
    anna = [draw(tmp_path / f"anna{i}.png", "rg", i) for i in range(3)]
    bob, other = draw(tmp_path / "bob.png", "bk"), draw(tmp_path / "other.png", "wb")
    said = commands(
        "add", "--model=model", *anna[:2], "--identity", "anna", "--camera", "3", "--time", "2024-11-21T10:00"
    )
    assert said.stdout == "added 2; sqlite:///gallery.db holds 2 embeddings\n"
    assert (
        json.loads(commands("add", "--model=model", bob, "--identity", "bob", "--site", "shop", "--json").stdout)[
            "count"
        ]
        == 3
    )
    found = commands("search", "--model=model", anna[2], other, "-k", "2")
    assert "default" in found.stderr
    lines = found.stdout.splitlines()
    assert lines[0] == f"{anna[2]}: anna" and "anna  (camera 3, 2024-11-21 10:00)" in lines[1]
    assert f"{other}: unknown" in lines
    rows = json.loads(commands("search", "--model=model", anna[2], other, "--threshold", "0.4", "--json").stdout)
    assert [(r["known"], r["identity"], r["threshold"], r["threshold_from"]) for r in rows] == [
        (True, "anna", 0.4, "given"), (False, None, 0.4, "given"),
    ]  # fmt: skip
    assert [m["identity"] for m in rows[0]["matches"]][:2] == ["anna", "anna"] and rows[1]["matches"]
    assert (
        json.loads(commands("search", "--model=model", bob, "--site", "elsewhere", "--json").stdout)[0]["matches"] == []
    )
    listed = json.loads(commands("list", "--json").stdout)
    assert listed["identities"] == {"anna": 2, "bob": 1} and listed["model"]["name"] == "tiny.reid.fp32"
    assert "2 people, 3 embeddings of tiny.reid.fp32 (cccccccccccc, 48-D)" in commands("list").stdout
    assert "forget anna, 2 embeddings?" in commands("forget", "anna", code=1, answer="n\n").stderr
    assert json.loads(commands("forget", "anna", "--yes", "--json").stdout)["removed"] == 2
    assert "holds nobody called 'anna'" in commands("forget", "anna", "--yes", code=1).stderr
    assert "forgot bob: 1" in commands("forget", "bob", answer="y\n").stdout


def test_renames_and_joins_people(commands: Callable[..., Result], tmp_path: Path) -> None:
    for seed, name in enumerate(("person-door-0001", "person-yard-0004", "anna")):
        commands("add", "--model=model", draw(tmp_path / f"{name}.png", "rg", seed), "--identity", name)
    report = json.loads(commands("rename", "person-door-0001", "bob", "--json").stdout)
    assert report == {"gallery": "sqlite:///gallery.db", "from": "person-door-0001", "identity": "bob", "renamed": 1}
    assert "holds nobody called 'person-door-0001'" in commands("rename", "person-door-0001", "x", code=1).stderr
    assert "holds 'anna' already, with 1 embeddings" in commands("rename", "person-yard-0004", "anna", code=1).stderr
    assert "must be another one" in commands("rename", "anna", "anna", code=1).stderr
    assert "an identity must" in commands("rename", "anna", " ", code=1).stderr
    assert json.loads(commands("list", "--json").stdout)["identities"] == {"anna": 1, "bob": 1, "person-yard-0004": 1}
    assert (
        "person-yard-0004 is anna now: 1 embeddings" in commands("rename", "person-yard-0004", "anna", "--merge").stdout
    )
    assert json.loads(commands("list", "--json").stdout)["identities"] == {"anna": 2, "bob": 1}


def test_a_picture_that_is_no_crop_is_told_of(commands: Callable[..., Result], tmp_path: Path) -> None:
    whole = draw(tmp_path / "anna.png", "rg")
    cv2.imwrite(str(tmp_path / "room.png"), np.rot90(cv2.imread(whole)))
    said = commands("add", "--model=model", "anna.png", "room.png", "--identity", "anna")
    assert "room.png is 64x32, wider than one standing person" in said.stderr and "anna.png" not in said.stderr
    assert "added 2" in said.stdout


def test_adds_a_folder_by_names_and_by_folders(commands: Callable[..., Result], tmp_path: Path) -> None:
    for name in ("0002_c1s1_000451_03", "0002_c3s1_000551_01", "0007_c2s3_071052_01", "0000_c1s1_0_0", "-1_c2s1_0_0"):
        draw(tmp_path / f"market/{name}.png", "rg")
    said = commands("add", "--model=model", "market", "--identities-from", "names", "--gallery", "market.db")
    assert "left out 2" in said.stderr and "added 3" in said.stdout
    market = open_gallery("market.db", None)
    assert sorted((e.identity, e.camera) for e in market.entries()) == [("0002", "1"), ("0002", "3"), ("0007", "2")]
    market.close()
    draw(tmp_path / "people/.thumbnails/1.png", "rg")  # what file managers leave names nobody
    (tmp_path / "people/anna").mkdir()
    (tmp_path / "people/anna/._1.png").write_bytes(b"Mac OS X")
    for name in ("anna/1", "anna/2_c4", "böb/x"):
        draw(tmp_path / f"people/{name}.png", "rg")
    commands("add", "--model=model", "people", "--identities-from", "folders", "--site", "shop")
    kept = open_gallery("gallery.db", None)
    assert sorted((e.identity, e.camera, e.site) for e in kept.entries()) == [
        ("anna", "", "shop"), ("anna", "4", "shop"), ("böb", "", "shop"),
    ]  # fmt: skip
    kept.close()


def test_a_gallery_on_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, mounts = tmp_path / "gallery.db", tmp_path / "mountinfo"
    device = tmp_path.stat().st_dev
    line = "36 35 {}:{} / /mnt rw,noatime shared:7 - {} server:/share rw\n"
    other = line.format(os.major(device) + 1, os.minor(device), "nfs4")
    monkeypatch.setattr("edge_stra.gallery.sqlite_file.file_system", partial(file_system, mounts=mounts))
    mounts.write_text(other + line.format(os.major(device), os.minor(device), "ext4"))
    open_gallery(str(path), MAKER).close()
    mounts.write_text(other + line.format(os.major(device), os.minor(device), "nfs4"))
    with pytest.raises(GalleryError, match=r"must be on a local disk, but is on nfs4: .*milvus://"):
        open_gallery(str(path), MAKER)
    with pytest.raises(GalleryError, match="must be on a local disk"):
        open_gallery(str(tmp_path / "new.db"), MAKER)
    assert not (tmp_path / "new.db").exists()
    mounts.unlink()
    open_gallery(str(path), MAKER).close()  # a system that does not tell


def test_purges_exports_and_copies(commands: Callable[..., Result], tmp_path: Path) -> None:
    picture = draw(tmp_path / "a.png", "rg")
    commands("add", "--model=model", picture, "--identity", "old", "--time", "2020-01-01")
    commands("add", "--model=model", picture, "--identity", "new")
    assert json.loads(commands("export", "--out", "all.npz", "--json").stdout)["count"] == 2
    assert "--overwrite" in commands("export", "--out", "all.npz", code=1).stderr
    commands("export", "--out", "all.npz", "--overwrite")
    said = json.loads(commands("copy", "gallery.db", "sqlite:///b.db", "--json").stdout)
    assert (said["copied"], said["count"]) == (2, 2)
    assert "must be empty" in commands("copy", "gallery.db", "b.db", code=1).stderr
    assert json.loads(commands("copy", "gallery.db", "b.db", "--merge", "--json").stdout)["count"] == 4
    assert "two galleries" in commands("copy", "gallery.db", f"sqlite:///{tmp_path}/gallery.db", code=1).stderr
    commands("add", "--model=other", picture, "--identity", "x", "--gallery", "other.db")
    assert "tiny.reid.fp32 (dddddddddddd" in commands("copy", "gallery.db", "other.db", "--merge", code=1).stderr
    asked = commands("purge", "--older-than", "30d", code=1, answer="n\n")
    assert "remove from sqlite:///gallery.db all that was seen before 20" in asked.stderr
    assert json.loads(commands("purge", "--older-than", "30d", "--yes", "--json").stdout) == {
        "gallery": "sqlite:///gallery.db", "removed": 1, "count": 1,
    }  # fmt: skip
    assert "an age must be" in commands("purge", "--older-than", "soon", code=1).stderr


def test_commands_refuse_in_one_line(commands: Callable[..., Result], tmp_path: Path) -> None:
    picture = draw(tmp_path / "a.png", "rg")
    (tmp_path / "text.png").write_text("none")
    for folder in ("query", "bounding_box_test"):
        draw(tmp_path / f"root/{folder}/0002_c1s1_000451_03.png", "rg")
    cases = {
        ("add", "--model=model", "root", "--identities-from", "folders"): "holds Market-1501's folders",
        ("search", "--model=model", picture): "add someone first",
        ("list",): "add someone first",
        ("add", "--model=model", "absent.png", "--identity", "x"): "no such file",
        ("add", "--model=model", picture, "--identity", " "): "an identity must",
        ("add", "--model=model", picture, "--identity", "x", "--site", " shop"): "a site must",
        ("add", "--model=model", picture, "--identity", "x", "--camera", "a\nb"): "a camera must",
        ("add", "--model=model", picture, "text.png", "--identity", "x"): "text.png",
        ("add", "--model=model", picture, "--identity", "x", "--time", "noon"): "a time must",
        ("add", "--model=model", picture, "--identities-from", "names"): "must be a folder",
        (
            "add",
            "--model",
            "model",
            str(tmp_path),
            "--identities-from",
            "folders",
        ): "one folder of pictures for each identity",
        (
            "add",
            "--model",
            "model",
            picture,
            "--identity",
            "x",
            "--gallery",
            "redis://u:secret@h",
        ): "a gallery's URI must be",
    }
    for arguments, word in cases.items():
        assert word in commands(*arguments, code=1).stderr
        assert not (tmp_path / "gallery.db").exists()
    commands("add", "--model=model", picture, "--identity", "anna")
    assert "text.png" in commands("add", "--model=model", picture, "text.png", "--identity", "x", code=1).stderr
    assert open_and_count("gallery.db") == 1
    assert "holds embeddings of tiny.reid.fp32" in commands("search", "--model=other", picture, code=1).stderr
    assert "--identity NAME" in commands("add", "--model=model", picture, code=2).stderr
    assert (
        "one folder, but got 2"
        in commands("add", "--model=model", "a", "b", "--identities-from", "names", code=2).stderr
    )


def test_the_gallery_comes_from_the_environment(
    commands: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_STRA_GALLERY", f"sqlite:///{tmp_path}/env.db")
    commands("add", "--model=model", draw(tmp_path / "a.png", "rg"), "--identity", "anna")
    assert (tmp_path / "env.db").exists() and not (tmp_path / "gallery.db").exists()


@pytest.mark.parametrize("name", ["add", "search", "list", "rename", "forget", "purge", "export", "copy"])
def test_every_command_shows_examples(commands: Callable[..., Result], name: str) -> None:
    shown = commands(name, "--help").stdout
    assert "Example" in shown and f"edge-stra gallery {name}" in shown


@pytest.mark.slow
def test_a_real_model_finds_people_by_other_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_stra import cli
    from edge_stra.export import Request, export

    monkeypatch.chdir(tmp_path)
    artifact = str(export(Request("mobilenetv2_stra.reid", "fp32", tmp_path / "out")).path)
    root = cli.Commands("edge-stra", commands={"gallery": group})
    for name, colours in (("anna", "rk"), ("bob", "bw")):
        pictures = [draw(tmp_path / f"{name}{i}.png", colours, i) for i in range(3)]
        added = CliRunner().invoke(root, ["gallery", "add", "--model", artifact, *pictures[:2], "--identity", name])
        assert added.exit_code == 0, added.output
        found = CliRunner().invoke(root, ["gallery", "search", "--model", artifact, pictures[2], "--json"])
        assert json.loads(found.stdout)[0]["identity"] == name
    listed = json.loads(CliRunner().invoke(root, ["gallery", "list", "--json"]).stdout)
    assert listed["model"]["dimension"] == 512 and listed["identities"] == {"anna": 2, "bob": 2}


def test_a_server_that_falls_silent_is_a_galleryerror() -> None:
    """What pymilvus lets through where no answer comes in time; the live app goes on after a GalleryError."""
    pytest.importorskip("pymilvus", reason="pymilvus is not installed; scripts/setup milvus")
    import grpc

    from edge_stra.gallery.milvus import MilvusGallery, faults_of, import_pymilvus

    class Silent(grpc.RpcError):
        def code(self) -> Any:
            return grpc.StatusCode.DEADLINE_EXCEEDED

        def details(self) -> str:
            return "Deadline\nExceeded"

    gallery = MilvusGallery.__new__(MilvusGallery)
    gallery.uri, gallery._faults = "milvus://h:19530", faults_of(import_pymilvus())
    for fault in (Silent(), import_pymilvus().MilvusException(message="gone")):
        with pytest.raises(GalleryError, match=r"can't be used .*(Deadline Exceeded|gone)"), gallery._told():
            raise fault
