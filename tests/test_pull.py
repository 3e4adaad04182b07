"""edge_stra.pull: downloads that break off, lie, or go elsewhere; and `edge-stra models pull`."""

from __future__ import annotations

import hashlib
import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from edge_stra.cli import main
from edge_stra.commands.models import detector_lines
from edge_stra.pull import MODELS, PulledModel, cache_folder, find_pulled, https_opener, pull, read_pulled
from edge_stra.spec import ArtifactError, DataError, EdgeStraError, MissingError, OutputError

DATA = bytes(range(256)) * 1000
BROKEN_AT = 100_000


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> PulledModel:
    """A model of its own in the table, and a cache that is empty."""
    digest = hashlib.sha256(DATA).hexdigest()
    model = PulledModel("toy.onnx", "someone/toy", "c0ffee", "a/toy.onnx", digest, len(DATA), "MIT", "EDGE_STRA_TOY")
    monkeypatch.setitem(MODELS, "toy", model)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EDGE_STRA_TOY", raising=False)
    return model


@pytest.fixture
def server() -> Iterator[SimpleNamespace]:
    """A server on loopback that behaves as `mode` says and remembers what it was asked for."""
    state = SimpleNamespace(mode="range", requests=[])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.requests.append((self.path, asked))
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
            body = DATA[start:]
            if state.mode == "absent":
                return self.send_error(404)
            if state.mode == "redirect":
                self.send_response(302)
                self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            if state.mode == "whole":
                start, body = 0, DATA
            if state.mode == "wrong":
                body = bytes(len(body))
            if state.mode == "long":
                body += b"more"
            partial = asked is not None and state.mode != "whole"
            self.send_response(206 if partial else 200)
            if partial:
                told = start + 1 if state.mode == "other part" else start
                self.send_header("Content-Range", f"bytes {told}-{len(DATA) - 1}/{len(DATA)}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:BROKEN_AT] if state.mode == "breaks" else body)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        state.base = f"http://127.0.0.1:{running.server_port}"
        yield state
        running.shutdown()
        thread.join()


@pytest.fixture
def fetch(server: SimpleNamespace) -> Callable[..., dict[str, str]]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return lambda **more: pull("toy", opener=opener, base=server.base, **more)


def folder_names() -> list[str]:
    return sorted(path.name for path in cache_folder().iterdir()) if cache_folder().is_dir() else []


def test_downloads_into_the_cache_once(
    toy: PulledModel, server: SimpleNamespace, fetch: Callable[..., dict[str, str]]
) -> None:
    counts: list[int] = []
    report = fetch(progress=counts.append)
    assert report["done"] == "downloaded" and report["licence"] == "MIT" and "c0ffee" in report["from"]
    assert hashlib.sha256(Path(report["path"]).read_bytes()).hexdigest() == toy.sha256
    assert folder_names() == ["toy.onnx"] and sum(counts) == len(DATA)
    assert server.requests == [("/someone/toy/c0ffee/a/toy.onnx", None)]
    assert fetch()["done"] == "already there" and len(server.requests) == 1
    assert find_pulled("toy") == cache_folder() / "toy.onnx"
    assert hashlib.sha256(read_pulled("toy", cache_folder() / "toy.onnx")).hexdigest() == toy.sha256


def test_replaces_a_damaged_file(toy: PulledModel, fetch: Callable[..., dict[str, str]]) -> None:
    path = Path(fetch()["path"])
    path.write_bytes(DATA[:-1] + b"x")
    assert fetch()["done"] == "downloaded"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == toy.sha256


@pytest.mark.parametrize("mode", ["range", "whole"])
def test_goes_on_where_it_broke_off(
    toy: PulledModel, server: SimpleNamespace, fetch: Callable[..., dict[str, str]], mode: str
) -> None:
    server.mode = "breaks"
    with pytest.raises(MissingError, match=f"broke off after {BROKEN_AT} of {len(DATA)} bytes; run it again"):
        fetch()
    assert folder_names() == ["toy.onnx.part"]
    server.mode = mode
    counts: list[int] = []
    assert fetch(progress=counts.append)["done"] == "downloaded"
    assert server.requests[-1][1] == f"bytes={BROKEN_AT}-"
    assert folder_names() == ["toy.onnx"] and sum(counts) == len(DATA)
    assert hashlib.sha256((cache_folder() / "toy.onnx").read_bytes()).hexdigest() == toy.sha256


@pytest.mark.parametrize(
    ("mode", "part", "error", "message", "left"),
    [
        ("wrong", b"", ArtifactError, "SHA-256", []),
        ("range", bytes(50), ArtifactError, "SHA-256", []),  # what lay there was another file's
        ("range", bytes(len(DATA)), ArtifactError, "SHA-256", []),
        ("range", bytes(len(DATA) + 5), ArtifactError, "another size", []),
        ("long", b"", ArtifactError, "sends more; refused", []),
        ("other part", DATA[:50], MissingError, "another part", []),
        ("absent", DATA[:50], MissingError, "Not Found.*--from FILE", ["toy.onnx.part"]),
    ],
    ids=["wrong", "wrong begin", "wrong whole", "long part", "long", "other part", "absent"],
)
def test_refuses_what_is_not_the_file(
    toy: PulledModel,
    server: SimpleNamespace,
    fetch: Callable[..., dict[str, str]],
    mode: str,
    part: bytes,
    error: type[EdgeStraError],
    message: str,
    left: list[str],
) -> None:
    server.mode = mode
    if part:
        cache_folder().mkdir(parents=True)
        (cache_folder() / "toy.onnx.part").write_bytes(part)
    with pytest.raises(error, match=message) as caught:
        fetch()
    assert "\n" not in str(caught.value)
    assert folder_names() == left


def test_follows_redirects_to_https_alone(toy: PulledModel, server: SimpleNamespace) -> None:
    server.mode = "redirect"
    with pytest.raises(MissingError, match="which is not https"):
        pull("toy", opener=https_opener(), base=server.base)
    assert [path for path, _ in server.requests] == ["/someone/toy/c0ffee/a/toy.onnx"]


def test_from_a_file_with_the_same_check(toy: PulledModel, tmp_path: Path) -> None:
    good, bad, long = tmp_path / "good", tmp_path / "bad", tmp_path / "long"
    good.write_bytes(DATA)
    bad.write_bytes(bytes(len(DATA)))
    long.write_bytes(DATA + b"x")
    for path in (bad, long, tmp_path / "absent", tmp_path):
        with pytest.raises(ArtifactError, match=r"toy\.onnx"):
            pull("toy", source=path, folder=tmp_path / "out")
    assert not (tmp_path / "out" / "toy.onnx").exists()
    assert pull("toy", source=good, folder=tmp_path / "out")["done"] == "copied"
    assert hashlib.sha256((tmp_path / "out" / "toy.onnx").read_bytes()).hexdigest() == toy.sha256
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        pull("toy", source=good, folder=tmp_path / "file" / "below")


def test_looks_for_files_in_order(toy: PulledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_pulled("toy") is None
    (tmp_path / "cache" / "edge-stra").mkdir(parents=True)
    (tmp_path / "cache" / "edge-stra" / "toy.onnx").write_bytes(DATA)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert find_pulled("toy") == tmp_path / "cache" / "edge-stra" / "toy.onnx"
    given, named = tmp_path / "given", tmp_path / "named"
    for path in (given, named):
        path.write_bytes(DATA)
    monkeypatch.setenv("EDGE_STRA_TOY", str(named))
    assert find_pulled("toy") == named
    assert find_pulled("toy", given) == given
    named.unlink()
    with pytest.raises(MissingError, match="EDGE_STRA_TOY"):
        find_pulled("toy")
    with pytest.raises(DataError, match="yunet or fastestdet or toy"):
        find_pulled("nothing")


def test_the_table_is_whole() -> None:
    for model in MODELS.values():
        assert len(model.sha256) == 64 and len(model.commit) == 40 and model.licence and model.size_bytes < 2 << 20


def test_the_table_fits_the_files(shared_file: Callable[[str], Path]) -> None:
    for name, path in (("yunet", "models/yunet_n_320_320.onnx"), ("fastestdet", "models/fastestdet.onnx")):
        assert len(read_pulled(name, shared_file(path))) == MODELS[name].size_bytes


def test_command(shared_file: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for model in MODELS.values():
        monkeypatch.delenv(model.variable, raising=False)
    source = str(shared_file("models/fastestdet.onnx"))
    run = CliRunner().invoke
    done = run(main, ["models", "pull", "fastestdet", "--from", source, "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["path"] == str(tmp_path / "edge-stra" / "FastestDet.onnx")
    assert "licence: BSD-3-Clause" in done.stderr
    assert run(main, ["models", "pull", "fastestdet"]).stdout.startswith("already there: ")
    wrong = run(main, ["models", "pull", "yunet", "--from", source])
    assert wrong.exit_code == 1 and wrong.stderr.strip().splitlines()[-1].startswith("Error: ")
    listed = "\n".join(detector_lines())
    assert str(tmp_path / "edge-stra" / "FastestDet.onnx") in listed and "edge-stra models pull yunet" in listed
    assert run(main, ["models", "--json", "pull", "yunet"]).exit_code == 2
