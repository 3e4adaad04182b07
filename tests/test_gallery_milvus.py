"""The contract of a gallery, held by every engine: SQLite, SQLCipher and a real Milvus server; and what Milvus adds.

The server is started where EDGE_STRA_MILVUS_PYTHON names a Python that has milvus==2.3.5 (Linux, x86_64).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_stra.extras import install_command
from edge_stra.gallery import milvus
from edge_stra.gallery.checks import MAX_ADD
from edge_stra.gallery.copying import copy_gallery
from edge_stra.gallery.open import open_gallery
from edge_stra.gallery.sqlite_file import KEY_VARIABLE
from edge_stra.gallery.store import Entry, Gallery, Maker
from edge_stra.spec import DataError, GalleryError, MissingError

PYTHON_VARIABLE = "EDGE_STRA_MILVUS_PYTHON"
NO_NAMESPACE = 3  # as in milvus_server.py
SCRIPT = Path(__file__).with_name("milvus_server.py")
K = 32
MAKER = Maker("a" * 64, K, "model.fp32")
TOLERANCE = 1e-3  # of a distance: float32 products of vectors that are almost the same
ODD_NAMES = (
    "Zoë", "Ω漢字 😀", 'say "hi"', "it's", "back\\slash\\", '" or number > 0 or identity == "', "%_*?", "{x}", "$1",
    "a" * 256,
    "漢" * 256, "' OR 1=1 --", "null", "-1", "\\u0041", "two  spaces", "\u202eright to left",
)  # fmt: skip


class Server:
    """A running server. uri: of its default database."""

    def __init__(self, python: str, folder: Path) -> None:
        self.process = subprocess.Popen(
            [python, str(SCRIPT), str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.uri = f"milvus://127.0.0.1:{self.said()}"

    def said(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line and self.process.wait(timeout=20) == NO_NAMESPACE:
            pytest.skip("the server needs a network namespace of its own, and this machine allows none")
        assert line, "the server ended before it answered; see its standard error above"
        return line

    def kill_and_start_again(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("kill\n")
        self.process.stdin.flush()
        assert self.said() == "again"

    def client(self) -> Any:
        from pymilvus import MilvusClient

        return MilvusClient(uri=self.uri.replace("milvus", "http"), timeout=10, dedicated=True)

    def close(self) -> None:
        try:
            self.process.communicate(timeout=20)  # closes its standard input, which ends it
        finally:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("pymilvus", reason="pymilvus is not installed; scripts/setup milvus")
    python = os.environ.get(PYTHON_VARIABLE)
    if not python:
        pytest.skip(f"{PYTHON_VARIABLE} must name a Python that has milvus==2.3.5, to start a server")
    folder = tmp_path_factory.mktemp("milvus")
    running = Server(python, folder)
    limits = pytest.MonkeyPatch()  # a camera can't wait long; a test on a busy machine can
    limits.setattr(milvus, "SEARCH_S", 60.0)
    limits.setattr(milvus, "CONNECT_S", 60.0)
    try:
        yield running
    finally:
        limits.undo()
        running.close()
        shutil.rmtree(folder, ignore_errors=True)  # 500 MB, which pytest would keep


class Place:
    """Where a gallery is, and every gallery that was opened there."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.opened: list[Gallery] = []

    def open(self, maker: Maker | None = MAKER, create: bool = True) -> Gallery:
        self.opened.append(open_gallery(self.uri, maker, create))
        return self.opened[-1]


@pytest.fixture(params=["sqlite", "sqlcipher", pytest.param("milvus", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    if request.param == "milvus":
        running = request.getfixturevalue("server")
        found = Place(running.uri)
        empty(running)
    else:
        if request.param == "sqlcipher":
            pytest.importorskip("sqlcipher3", reason="sqlcipher3 is not installed; scripts/setup encrypt")
            monkeypatch.setenv(KEY_VARIABLE, 'it\'s "secret"')
        found = Place(f"sqlite:///{tmp_path}/gallery.db")
    yield found
    for gallery in found.opened:
        gallery.close()


def empty(running: Server) -> None:
    """Without dropping the collection, which takes seconds to make."""
    client = running.client()
    if client.has_collection("edge_stra_gallery"):
        client.delete("edge_stra_gallery", filter="number >= 0")
        client.query("edge_stra_gallery", output_fields=["count(*)"], consistency_level="Strong")
    client.close()


def vector(*numbers: float) -> NDArray[np.float32]:
    return np.array([*numbers, *[0.0] * (K - len(numbers))], np.float32)


def person(name: str, *numbers: float, camera: str = "1", time_s: float = 100.0, site: str = "") -> Entry:
    return Entry(name, vector(*(numbers or (1.0,))), camera, time_s, site)


def eventually(check: Callable[[], bool]) -> bool:
    """What another client wrote is seen at once or, by Milvus, within seconds."""
    until = time.monotonic() + 15
    while not (done := check()) and time.monotonic() < until:
        time.sleep(0.1)
    return done


def test_nearest_first_with_all_that_was_given(place: Place) -> None:
    gallery = place.open()
    right, near, far = (
        person("right", 0, 1),
        person("near", 1, 1, camera="7", time_s=5.25, site="shop"),
        person("far", -1),
    )
    assert gallery.add([right, near, far]) == 3
    found = gallery.search(vector(1, 0), 3)
    assert [m.identity for m in found] == ["near", "right", "far"]
    assert [m.distance for m in found] == pytest.approx([(2 - 2**0.5) ** 0.5, 2**0.5, 2.0], abs=TOLERANCE)
    assert (found[0].camera, found[0].time_s, found[0].site) == ("7", 5.25, "shop")
    assert [m.identity for m in gallery.search(vector(1, 0), 1)] == ["near"]


def test_length_of_an_embedding_does_not_count(place: Place) -> None:
    gallery = place.open()
    gallery.add([person("long", 3e30, 4e30), person("short", -3e-30, 4e-30)])
    found = gallery.search(vector(0.003, 0.004), 2)
    assert [m.identity for m in found] == ["long", "short"]
    assert found[0].distance == pytest.approx(0, abs=TOLERANCE)
    assert {round(float(np.linalg.norm(e.embedding)), 5) for e in gallery.entries()} == {1.0}


def test_finds_what_a_plain_scan_finds(place: Place) -> None:
    gallery, rng = place.open(), np.random.default_rng(0)
    rows = rng.standard_normal((400, K)).astype(np.float32)
    gallery.add([Entry(f"p{i}", row) for i, row in enumerate(rows)])
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for query in rng.standard_normal((5, K)).astype(np.float32):
        distances = np.linalg.norm(units - query / np.linalg.norm(query), axis=1)
        found = gallery.search(query, 10)
        assert [m.identity for m in found] == [f"p{i}" for i in distances.argsort()[:10]]
        assert [m.distance for m in found] == pytest.approx(np.sort(distances)[:10].tolist(), abs=TOLERANCE)


BAD_EMBEDDINGS = {
    "zero": vector(0), "nan": vector(np.nan), "infinity": vector(1, -np.inf), "too short": np.ones(K - 1, np.float32),
    "too long": np.ones(K + 1, np.float32), "a row": np.ones((1, K), np.float32), "a number": np.float32(1),
    "empty": np.ones(0, np.float32),
}  # fmt: skip


def test_refuses_what_is_no_embedding_and_keeps_none_of_the_batch(place: Place) -> None:
    gallery = place.open()
    for what, bad in BAD_EMBEDDINGS.items():
        with pytest.raises(DataError, match=r"an embedding must have|embeddings must be") as told:
            gallery.add([person("good"), Entry("bad", bad), person("good")])
        assert "\n" not in str(told.value), what
        with pytest.raises(DataError, match=r"an embedding must have|embeddings must be"):
            gallery.search(bad)
    assert gallery.count() == 0


BAD_NAMES = ("", " ", "a" * 257, "two\nlines", "nul\0", " before", "after ", "\ud800", "bell\a", "line\u2028")


def test_refuses_names_and_times_that_are_none(place: Place) -> None:
    gallery = place.open()
    for name in BAD_NAMES:
        for bad in (Entry(name, vector(1)), *([Entry("x", vector(1), camera=name)] if name else [])):
            with pytest.raises(DataError, match=r"(identity|camera) must"):
                gallery.add([person("good"), bad])
        with pytest.raises(DataError, match="identity must"):
            gallery.forget(name)
    for bad_s in (float("nan"), float("inf"), -1.0, 1e300):
        with pytest.raises(DataError, match="a time must"):
            gallery.add([person("good"), person("bad", time_s=bad_s)])
        with pytest.raises(DataError, match="a time must"):
            gallery.purge(bad_s)
    assert gallery.count() == 0


def test_any_name_comes_back_and_is_forgotten_alone(place: Place) -> None:
    gallery = place.open()
    gallery.add([person(name, camera=name, site=name) for name in ODD_NAMES] + [person("Anna")])
    assert gallery.identities() == dict.fromkeys(sorted([*ODD_NAMES, "Anna"]), 1)
    assert {(e.identity, e.camera, e.site) for e in gallery.entries()} == {(n, n, n) for n in ODD_NAMES} | {
        ("Anna", "1", "")
    }
    quoted = ODD_NAMES[5]
    assert [m.identity for m in gallery.search(vector(1), 50, quoted)] == [quoted]
    gone = {quoted, "back\\slash\\", "\\u0041", "Zoë"}
    typed = {"Zoë": "Zoe\u0308"}  # as a Mac types it
    for name in sorted(gone):
        assert gallery.forget(typed.get(name, name)) == 1
    assert sorted(gallery.identities()) == sorted({*ODD_NAMES, "Anna"} - gone)


def test_forgets_one_identity_and_no_other(place: Place) -> None:
    gallery, other = place.open(), place.open()
    gallery.add([person("anna", 1, 0), person("ann", 1, 0.1), person("anna", 1, 0.2)])
    assert eventually(lambda: len(other.search(vector(1), 5)) == 3)
    assert gallery.forget("anna") == 2
    assert [m.identity for m in other.search(vector(1), 5)] == ["ann"]
    assert [m.identity for m in gallery.search(vector(1), 5)] == ["ann"]
    assert gallery.forget("anna") == gallery.forget("nobody") == 0
    assert gallery.add([person("anna", 0, 1)]) == 1
    assert [m.identity for m in gallery.search(vector(0, 1), 5)] == ["anna", "ann"]


def test_renames_and_joins(place: Place) -> None:
    gallery, other = place.open(), place.open()
    quoted = ODD_NAMES[5]
    gallery.add([person("door-1", 1, 0, site="shop", camera="door", time_s=7.5), person("door-1", 1, 0.1)])
    gallery.add([person("yard-4", 1, 0.3), person("bob", 0, 1)])
    before = {m.distance: m for m in gallery.search(vector(1), 9)}
    assert eventually(lambda: len(other.search(vector(1), 9)) == 4)
    assert gallery.rename("door-1", quoted) == 2
    assert gallery.identities() == {quoted: 2, "yard-4": 1, "bob": 1}
    assert [m.identity for m in gallery.search(vector(1), 9)] == [quoted, quoted, "yard-4", "bob"]
    assert eventually(lambda: [m.identity for m in other.search(vector(1), 2)] == [quoted, quoted])
    assert gallery.rename("yard-4", quoted) == 1
    assert gallery.identities() == {quoted: 3, "bob": 1} and gallery.count() == 4
    after = {m.distance: m for m in gallery.search(vector(1), 9)}
    assert [(m.site, m.camera, m.time_s) for m in after.values()] == [
        (m.site, m.camera, m.time_s) for m in before.values()
    ]
    assert gallery.rename("nobody", "bob") == 0 and gallery.rename("bob", "bob") == 1
    assert gallery.identities() == {quoted: 3, "bob": 1}
    with pytest.raises(DataError, match="an identity must"):
        gallery.rename("bob", " bob")
    assert gallery.forget(quoted) == 3


@pytest.mark.slow
def test_a_milvus_rename_that_failed_half_way_is_ended_without_doubles(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty(server)
    gallery = open_gallery(server.uri, MAKER)
    gallery.add([person("door-1", 1, 0.1 * n, camera="door", time_s=n) for n in range(3)])

    def down(condition: str) -> int:
        raise GalleryError("the server is down")

    with monkeypatch.context() as failing:
        failing.setattr(gallery, "_remove", down)
        with pytest.raises(GalleryError, match="is down"):
            gallery.rename("door-1", "anna")
    assert gallery.identities() == {"anna": 3, "door-1": 3}
    assert gallery.rename("door-1", "anna") == 3
    assert gallery.identities() == {"anna": 3}
    gallery.close()


def test_a_number_is_given_once(place: Place) -> None:
    """Whoever had it was renamed or forgotten since, in another run too: a log that names them stays true."""
    gallery = place.open()
    gallery.add([person("person-door-0007", 1), person("person-doorway-0009", 0, 1), person("person-door-x", 0, 1)])
    assert [gallery.take_number("person-door-") for _ in range(2)] == [8, 9]
    gallery.add([person("person-door-0009", 1, 0.1)])
    gallery.rename("person-door-0009", "anna")
    gallery.forget("person-door-0007")
    gallery.close()
    again = place.open()
    assert again.take_number("person-door-") == 10 and again.take_number("person-Türe-") == 1
    assert not again.unfinished()
    for number, next_one in ((3, 11), (40, 41)):  # as a copy sets it: what a camera took meanwhile stays taken
        again.set_given("person-door-", number)
        assert again.take_number("person-door-") == next_one
    assert again.given("person-door-") == 41 and again.given("person-window-") == 0


def test_purges_what_was_seen_before(place: Place) -> None:
    gallery = place.open()
    gallery.add([person("old", time_s=99.999), person("edge", time_s=100.0), person("new", time_s=1_800_000_000.5)])
    assert gallery.purge(100.0) == 1
    assert list(gallery.identities()) == ["edge", "new"]
    assert gallery.purge(100.0) == 0
    assert gallery.purge(2e9) == 2
    assert (gallery.count(), gallery.search(vector(1))) == (0, [])


def test_an_empty_gallery_knows_nobody(place: Place) -> None:
    gallery = place.open()
    assert (gallery.count(), gallery.identities(), list(gallery.entries())) == (0, {}, [])
    assert gallery.search(vector(1)) == gallery.search(vector(1), site="shop") == []
    assert gallery.add([]) == 0


def test_k_beyond_the_count_gives_all_and_nonsense_is_refused(place: Place) -> None:
    gallery = place.open()
    gallery.add([person("a"), person("b", 0, 1)])
    assert len(gallery.search(vector(1), 1000)) == 2
    for k in (0, -1, 1001):
        with pytest.raises(DataError, match="1 to 1000 matches"):
            gallery.search(vector(1), k)
    with pytest.raises(DataError, match=f"at most {MAX_ADD}"):
        gallery.add([person("a")] * (MAX_ADD + 1))


def test_a_site_is_searched_alone(place: Place) -> None:
    gallery = place.open()
    gallery.add([person("a", 1, 0, site="shop"), person("b", 1, 0.1, site="house"), person("c", 1, 0.2)])
    assert [m.identity for m in gallery.search(vector(1), 5)] == ["a", "b", "c"]
    assert [m.identity for m in gallery.search(vector(1), 5, "house")] == ["b"]
    assert [m.identity for m in gallery.search(vector(1), 5, "")] == ["c"]
    assert gallery.search(vector(1), 5, "nowhere") == []


def test_two_openers_see_what_the_other_writes(place: Place) -> None:
    first = place.open()
    second = place.open(None)
    assert second.maker == MAKER
    assert second.search(vector(1)) == []
    first.add([person("a")])
    assert eventually(lambda: [m.identity for m in second.search(vector(1))] == ["a"])
    second.add([person("b", 0, 1, site="new")])
    assert [m.identity for m in second.search(vector(0, 1), 1)] == ["b"]  # its own at once
    assert eventually(lambda: [m.identity for m in first.search(vector(0, 1), 1, "new")] == ["b"])
    assert first.identities() == second.identities() == {"a": 1, "b": 1}
    second.forget("a")
    assert [m.identity for m in first.search(vector(1))] == ["b"]


@pytest.mark.parametrize("other", [Maker("b" * 64, K, "other.int8"), Maker("a" * 64, 2 * K, "wide")])
def test_refuses_another_maker(place: Place, other: Maker) -> None:
    place.open().add([person("a")])
    with pytest.raises(GalleryError) as told:
        place.open(other)
    assert all(word in str(told.value) for word in ("model.fp32", "aaaaaaaaaaaa", other.name, other.sha256[:12]))
    assert place.open(Maker(MAKER.sha256, K, "renamed")).maker == MAKER


@pytest.mark.parametrize("bad", [Maker("A" * 64, K), Maker("", K), Maker("a" * 64, 0), Maker("a" * 64, 5000)])
def test_refuses_what_is_no_maker(place: Place, bad: Maker) -> None:
    with pytest.raises(DataError):
        place.open(bad)


def test_keeps_a_threshold(place: Place, request: pytest.FixtureRequest) -> None:
    if place.uri.startswith("milvus"):
        drop(request.getfixturevalue("server"))
    gallery = place.open()
    assert gallery.threshold() is None
    gallery.set_threshold(0.1 + 0.2)
    gallery.set_threshold(0.75)
    assert place.open(None).threshold() == 0.75
    for bad in (-0.1, 2.1, float("nan")):
        with pytest.raises(DataError, match="from 0 to 2"):
            gallery.set_threshold(bad)
    assert gallery.threshold() == 0.75


def test_opens_nothing_where_nothing_is(place: Place, request: pytest.FixtureRequest) -> None:
    if place.uri.startswith("milvus"):
        drop(request.getfixturevalue("server"))
    for maker, create in ((None, True), (MAKER, False)):
        with pytest.raises(GalleryError, match="add someone first"):
            place.open(maker, create)
    assert place.open().count() == 0


def drop(running: Server) -> None:
    client = running.client()
    client.drop_collection("edge_stra_gallery")
    client.close()


@pytest.mark.slow
def test_copies_between_the_engines(server: Server, tmp_path: Path) -> None:
    empty(server)
    rng = np.random.default_rng(0)
    with_file, with_server = open_gallery(f"{tmp_path}/a.db", MAKER), open_gallery(server.uri, MAKER)
    back = open_gallery(f"{tmp_path}/b.db", MAKER)
    rows = rng.standard_normal((1203, K)).astype(np.float32)
    with_file.add([Entry(f"p{i % 7}", row, str(i % 3), float(i), f"s{i % 2}") for i, row in enumerate(rows)])
    assert copy_gallery(with_file, with_server, False, list) == 1203
    with pytest.raises(GalleryError, match="must be empty, but holds 1203"):
        copy_gallery(with_file, with_server, False, list)
    assert copy_gallery(with_server, back, False, list) == 1203
    by_time = [{e.time_s: e for e in g.entries()} for g in (with_file, back)]
    assert by_time[0].keys() == by_time[1].keys()
    for time_s, entry in by_time[0].items():
        copied = by_time[1][time_s]
        assert (entry.identity, entry.camera, entry.site) == (copied.identity, copied.camera, copied.site)
        np.testing.assert_allclose(entry.embedding, copied.embedding, atol=1e-6)
    for gallery in (with_file, with_server, back):
        gallery.close()


@pytest.mark.slow
def test_a_killed_server_has_what_it_acknowledged(server: Server) -> None:
    empty(server)
    gallery = open_gallery(server.uri, MAKER)
    added = sum(gallery.add([person(f"p{i}"), person(f"p{i}", 0, 1)]) for i in range(50))
    server.kill_and_start_again()
    gallery.close()
    assert eventually(lambda: answers(server.uri))
    again = open_gallery(server.uri, None)
    assert again.count() == added == 100
    again.close()


def answers(uri: str) -> bool:
    try:
        open_gallery(uri, None).close()
    except GalleryError:
        return False
    return True


@pytest.mark.slow
def test_one_line_for_what_the_server_can_not_do(server: Server) -> None:
    port = server.uri.rpartition(":")[2]
    cases = {
        f"{server.uri}/nowhere": "nowhere",
        f"milvuss://127.0.0.1:{port}": "127.0.0.1",  # it speaks no TLS
        "milvus://127.0.0.1:9": "Fail connecting",
    }
    for uri, word in cases.items():
        with pytest.raises(GalleryError, match=word) as told:
            open_gallery(uri, MAKER)
        assert "\n" not in str(told.value)


@pytest.mark.slow
def test_refuses_a_collection_of_others(server: Server) -> None:
    drop(server)
    client = server.client()
    client.create_collection("edge_stra_gallery", dimension=K)
    try:
        with pytest.raises(GalleryError, match="is no gallery"):
            open_gallery(server.uri, MAKER)
    finally:
        client.drop_collection("edge_stra_gallery")
        client.close()


def test_no_server_is_one_line() -> None:
    pytest.importorskip("pymilvus", reason="pymilvus is not installed; scripts/setup milvus")
    with pytest.raises(
        GalleryError, match=r"milvus://127\.0\.0\.1:9 can't be used as a gallery: .*is it a Milvus server"
    ) as told:
        open_gallery("milvus://127.0.0.1:9", MAKER)
    assert "\n" not in str(told.value)


def test_credentials_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    class Refused(Exception):
        message = "refused"

    class Module:
        MilvusException = Refused

        @staticmethod
        def MilvusClient(**kwargs: Any) -> None:
            asked.append(kwargs)
            raise Refused

    monkeypatch.setattr("edge_stra.gallery.milvus.import_pymilvus", lambda: Module)
    for name in ("TOKEN", "USER", "PASSWORD"):
        monkeypatch.delenv(f"EDGE_STRA_MILVUS_{name}", raising=False)
    steps: list[dict[str, str]] = [{}, {"USER": "root", "PASSWORD": "pass word"}, {"TOKEN": "to:ken"}]
    for step in steps:
        for name, value in step.items():
            monkeypatch.setenv(f"EDGE_STRA_MILVUS_{name}", value)
        with pytest.raises(GalleryError) as told:
            open_gallery("milvuss://Some.Host/people", MAKER)
        assert not any(value in str(told.value) for value in step.values())
    kept = [{k: v for k, v in a.items() if k in ("user", "password", "token")} for a in asked]
    assert kept == [{}, {"user": "root", "password": "pass word"}, {"token": "to:ken"}]
    assert {(a["uri"], a["db_name"]) for a in asked} == {("https://some.host:19530", "people")}


def test_names_the_extra_where_pymilvus_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(MissingError, match=re.escape(install_command("milvus"))):
        open_gallery("milvus://127.0.0.1:9", MAKER)


@pytest.mark.parametrize(
    "uri", ["milvus://u:secret@h", "milvus://:secret@h:1", "other://u:secret@h", "milvuss://u:secret@h/d"]
)
def test_a_password_in_a_uri_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(GalleryError, match=r"must hold no user and no password|has the scheme 'other'") as told:
        open_gallery(uri, MAKER)
    assert "secret" not in str(told.value)
