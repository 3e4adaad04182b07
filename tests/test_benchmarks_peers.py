"""benchmarks/peers and benchmarks/scale.py: what they say of runs, without any peer being installed."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib draws the plots; it is in the dev extra")
pytest.importorskip("litert_torch", reason="exports need the export extra")

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
MODULES = ("protocol", "environments", "table", "worker", "figures", "exports", "run", "scale_report")
WORKER = f"""
import sys
sys.path.insert(0, {str(BENCHMARKS / "peers")!r})
from protocol import Loaded, serve
print("a library prints this")
def load(request):
    {{}}
    return Loaded(lambda x: lambda: x * 2, ("numpy",))
serve(load)
"""


@pytest.fixture(scope="module")
def peers() -> Iterator[SimpleNamespace]:
    """The scripts' modules, whose names are too plain to stay importable."""
    folders = [str(BENCHMARKS / "peers"), str(BENCHMARKS)]
    sys.path[:0] = folders
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    finally:
        for name in MODULES:
            sys.modules.pop(name, None)
        for folder in folders:
            sys.path.remove(folder)


@pytest.fixture()
def load(peers: SimpleNamespace, tmp_path: Path) -> Any:
    """A request whose parity pictures are two of 1x1x3."""
    np.save(tmp_path / "parity.npy", np.arange(6, dtype=np.float32).reshape(2, 1, 1, 3))
    parity = str(tmp_path / "parity.npy")
    return peers.protocol.Load("f", "m", "reference", "fp32", "", 1, str(tmp_path), parity, parity, False)


def result(peers: SimpleNamespace, peer: str, rounds: Any, **other: Any) -> Any:
    fields = {"model": "m_stra.x", "form": "reference", "precision": "fp32", "versions": {}, "sqnr_db": 100.0} | other
    return peers.figures.Result(peer=peer, rounds=tuple(map(tuple, rounds)), **fields)


def test_a_conversation(peers: SimpleNamespace, load: Any) -> None:
    loaded = peers.protocol.Loaded(lambda x: lambda: x * 2, ("numpy",))
    questions = [
        peers.protocol.load_question(load),
        {"do": "run", "count": 4},
        {"do": "stop"},
        {"do": "run", "count": 1},
    ]
    stream = io.StringIO()
    peers.protocol.converse(lambda request: loaded, map(json.dumps, questions), stream)
    ready, times = (json.loads(line) for line in stream.getvalue().splitlines())  # nothing after "stop"
    assert ready["ready"] == {"versions": {"numpy": np.__version__}, "outputs": [[0, 2, 4], [6, 8, 10]]}
    assert len(times["ms"]) == 4 and min(times["ms"]) >= 0


def test_runs_are_timed_after_runs_that_are_not(peers: SimpleNamespace) -> None:
    ticks = iter(range(0, 100_000_000, 1_000_000))
    calls: list[int] = []
    times = peers.protocol.timed(lambda: calls.append(1), 5, lambda: next(ticks))
    assert times == [1.0] * 5
    assert len(calls) == peers.protocol.REWARM + 5


@pytest.mark.parametrize(
    ("body", "seconds", "reason"),
    [
        ("raise ImportError('no module of that name')", 60, "ImportError: no module of that name"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 60, "ended by signal 11"),
        ("import os; os._exit(3)", 60, "ended with code 3"),
        ("import time; time.sleep(60)", 1.5, "took more than 1.5 s"),
        ("pass", 60, None),
    ],
)
def test_a_worker(
    peers: SimpleNamespace, load: Any, tmp_path: Path, body: str, seconds: float, reason: str | None
) -> None:
    script = tmp_path / "worker_fake.py"
    script.write_text(WORKER.format(body), "utf-8")
    worker = peers.worker.Worker(Path(sys.executable), str(script), tmp_path / "log", None, 1, 0)
    try:
        if reason is None:
            assert worker.ask(peers.protocol.load_question(load))["ready"]["outputs"][1] == [6, 8, 10]
            assert len(worker.ask({"do": "run", "count": 3})["ms"]) == 3
        else:
            with pytest.raises(peers.worker.WorkerFailed) as caught:
                worker.ask(peers.protocol.load_question(load), seconds)
            assert str(caught.value) == reason
    finally:
        worker.stop()
    assert worker.process.poll() is not None


@pytest.mark.parametrize(
    ("log", "code", "expected"),
    [
        (b"Traceback\nValueError: a\n  b\n\nc\n", 1, "ValueError: a b c"),
        (b"RuntimeError: handled\nfine\nnncf.errors.ParameterError: bad\n", 1, "nncf.errors.ParameterError: bad"),
        (
            b"terminate called after throwing\n what(): x\n",
            -6,
            "ended by signal 6: terminate called after throwing what(): x",
        ),
        (b"a.capi.state.NotImplemented: [x] : 9 : b\n", 1, "a.capi.state.NotImplemented: [x] : 9 : b"),
        (b"Converted Success!\n", -9, "ended by signal 9"),
        (b"ValueError: " + b"x" * 9999, 1, "ValueError: " + "x" * 388),
    ],
)
def test_the_reason_in_a_log(peers: SimpleNamespace, log: bytes, code: int, expected: str) -> None:
    assert peers.worker.why(log, code) == expected


def test_times_against_ours_are_taken_within_rounds(peers: SimpleNamespace) -> None:
    """The machine is ten times slower in the second round, for both."""
    ours = result(peers, "edge-stra", [[1, 1, 9], [10, 10, 10], [2, 2, 2]])
    other = result(peers, "other", [[2, 2, 2], [20, 20, 20], [8, 8, 8]])
    assert peers.figures.against(other, ours) == (2.0, 2.0, 3.0)
    plain = result(peers, "other", [[1], [10], [4]], model="m.x")
    row = peers.figures.to_json(other, [ours, plain, other])
    assert (row["against_ours"]["high"], row["against_plain"]["median"], row["median_ms"]) == (3.0, 2.0, 8.0)
    assert "against_plain" not in peers.figures.to_json(plain, [ours, plain, other])


def test_a_failed_peer_is_a_row_with_its_reason(peers: SimpleNamespace) -> None:
    ours = result(peers, "edge-stra", [[1], [1]])
    failed = result(peers, "ncnn", [], sqnr_db=None, reason="RuntimeError: no such layer")
    lines = peers.figures.render([failed, ours]).splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| edge-stra") and "1.00 to 1.00" in lines[2]  # those with figures first
    assert lines[3].startswith("| ncnn") and "not measured: RuntimeError: no such layer" in lines[3]
    assert peers.figures.to_json(failed, [ours, failed])["reason"] == "RuntimeError: no such layer"


@pytest.mark.parametrize(
    ("milliseconds", "sqnr_db", "expected"),
    [
        (2.0, 100.0, "ours is the fastest; next is other, reference with 2.00 times its time"),
        (0.5, 100.0, "other, reference is faster than ours, 0.50 of its time"),
        (0.5, 20.0, "nobody else was measured and agrees with PyTorch"),  # it does not compute this network
    ],
)
def test_verdicts(peers: SimpleNamespace, milliseconds: float, sqnr_db: float, expected: str) -> None:
    ours = result(peers, "edge-stra", [[1], [1]])
    other = result(peers, "other", [[milliseconds]] * 2, sqnr_db=sqnr_db)
    assert peers.figures.verdicts([other, ours]) == [f"m_stra.x fp32: {expected}"]
    assert peers.figures.verdicts([other]) == ["m_stra.x fp32: ours was not measured"]
    assert ("does not agree" in peers.figures.render([other, ours])) == (sqnr_db < 80)


def test_the_plot_is_drawn_with_all_that_was_measured(peers: SimpleNamespace, tmp_path: Path) -> None:
    ours = result(peers, "edge-stra", [[1], [1]])
    rows = [ours, result(peers, "fast", [[0.5], [0.6]]), result(peers, "gone", [], reason="r")]
    peers.figures.plot(rows, "conditions", tmp_path / "p.svg")
    text = (tmp_path / "p.svg").read_text("utf-8")
    ElementTree.fromstring(text)
    assert "fast, reference" in text and "gone" not in text


def test_rows(peers: SimpleNamespace) -> None:
    """Ours is always there; the plain network has one form."""
    rows = peers.table.rows(("a_stra.x", "a.x"), ["OpenVINO"], ("fp32",))
    assert [(r.peer.name, r.model, r.form) for r in rows] == [
        ("edge-stra", "a_stra.x", "reformulated"),
        ("edge-stra", "a.x", "reformulated"),
        ("OpenVINO", "a_stra.x", "reference"),
        ("OpenVINO", "a_stra.x", "reformulated"),
        ("OpenVINO", "a.x", "reference"),
    ]
    assert {r.peer.name for r in peers.table.rows(("a_stra.x",))} == {p.name for p in peers.table.PEERS}
    for peer in peers.table.PEERS:
        assert (BENCHMARKS / "peers" / peer.worker).is_file() and peer.environment in peers.environments.ENVIRONMENTS


@pytest.mark.parametrize("case", ["environment", "file", "outputs"])
def test_whatever_fails_while_loading_becomes_the_reason(
    peers: SimpleNamespace, load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    script = tmp_path / "worker_fake.py"
    script.write_text(WORKER.format("pass"), "utf-8")
    row = peers.table.Row(replace(peers.table.PEERS[3], worker=str(script)), "m", "reference", "fp32")
    entry = peers.run.Entry(row, result(peers, "OpenVINO", []))

    def refuse(name: str, root: Path) -> Path:
        raise peers.environments.EnvironmentFailed("pip can't install it")

    monkeypatch.setattr(peers.run, "prepare", refuse if case == "environment" else lambda n, r: Path(sys.executable))
    monkeypatch.setattr(peers.run, "make_file", lambda k, f: "its export failed" if case == "file" else Path("f"))
    np.save(tmp_path / "calibration.npy", np.zeros(1))
    args = argparse.Namespace(environments=tmp_path, core=None, threads=1, nice=0, reuse=False, load_seconds=60)
    expected = np.zeros((2, 3 if case != "outputs" else 4), np.float32)
    peers.run.start(entry, args, peers.run.Files(tmp_path, False), tmp_path, expected)
    reasons = {"environment": "pip can't install it", "file": "its export failed", "outputs": "gives (2, 3), or"}
    assert entry.worker is None and entry.result.reason.startswith(reasons[case])


def test_an_environment_is_made_anew_where_the_table_has_changed(
    peers: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environments, made = peers.environments, []

    def create(folder: Path, **other: Any) -> None:
        environments.python_of(folder).parent.mkdir(parents=True, exist_ok=True)
        environments.python_of(folder).touch()

    monkeypatch.setattr(environments.venv, "create", create)
    monkeypatch.setattr(environments, "install", lambda python, words: made.append(words))
    assert environments.prepare("ncnn", tmp_path) == environments.prepare("ncnn", tmp_path)
    wanted = environments.ENVIRONMENTS["ncnn"]
    assert made == [list(wanted.packages), ["--no-deps", *wanted.alone]]  # once
    monkeypatch.setitem(environments.ENVIRONMENTS, "ncnn", environments.Environment(("other==1",)))
    environments.prepare("ncnn", tmp_path)
    assert made[2:] == [["other==1"]]


@pytest.mark.parametrize(("exponent", "factor"), [(1.5, 3.0), (0.0, 2.0), (-1.0, 0.1)])
def test_exponents(peers: SimpleNamespace, exponent: float, factor: float) -> None:
    x = np.array([1.0, 3.0, 7.0, 20.0])
    exact = peers.scale_report.fit(x, factor * x**exponent)
    assert exact.exponent == pytest.approx(exponent, abs=1e-12)
    assert exact.r2 == pytest.approx(1.0) or exponent == 0  # a constant has no variance to explain
    bent = peers.scale_report.fit([1, 2, 4], [1, 2, 16])  # log2: slopes 1 and 3
    assert (bent.exponent, bent.r2) == (pytest.approx(2.0), pytest.approx(1 - (2 / 3) / (26 / 3)))


def test_the_report_of_scale(peers: SimpleNamespace, tmp_path: Path) -> None:
    """Made-up figures with exponents that are known: naive goes with the square of pixels, ours with pixels."""
    report = peers.scale_report
    points = dict.fromkeys(p for group, _ in report.sweeps().values() for p in group)
    powers = {"naive": 2.0, "ours": 1.0, "plain": 0.5}
    measured = {
        p: {"ms": (p.side / 224) ** (2 * powers[p.form]), "min_ms": 1.0, "memory_bytes": p.side**2} for p in points
    }
    found = {(f["sweep"], f["form"], f["of"]): f["exponent"] for f in report.fits(measured)}
    for form, power in powers.items():
        assert found["network, pixels", form, "ms"] == pytest.approx(power)
    assert found["block, pixels", "ours", "memory_bytes"] == pytest.approx(1.0)
    assert found["block, K", "naive", "ms"] == pytest.approx(0.0)
    throughput = {f"torch, plain, {b}": {"pictures_per_s": 10.0 + b} for b in report.BATCHES}
    text = report.render(measured, throughput)
    assert f"| network, pixels | {448**2} | 4.00 | 1.00 | 2.00 |" in text
    assert "| network, pixels | naive | 2.00 (1.00) | 1.00 (1.00) |" in text
    assert f"| torch, plain | 1.00 | {12 / 11:.2f} |" in text
    report.plot(measured, throughput, "conditions", tmp_path / "s.svg")
    ElementTree.fromstring((tmp_path / "s.svg").read_text("utf-8"))
