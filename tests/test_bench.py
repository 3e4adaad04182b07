"""`edge-stra bench`: figures worked out by hand, warnings at their limits, the page and the command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edge_stra.bench import machine as bench_machine
from edge_stra.bench import operator_times
from edge_stra.bench import rounds as bench_module
from edge_stra.bench.machine import Snapshot
from edge_stra.bench.page import page
from edge_stra.bench.probe import ask, peak_bytes
from edge_stra.bench.rounds import (
    LEAST_RUNS,
    RUNS,
    WARM_UP,
    Timing,
    bench,
    choose,
    find_warnings,
    interleave,
    labels,
    noise_warnings,
    paired_ratio,
    timing,
)
from edge_stra.bench.text import render
from edge_stra.cli import main
from edge_stra.commands.bench import bench as command
from edge_stra.export import Request, export
from edge_stra.shipped import shipped_artifacts
from edge_stra.spec import DataError
from edge_stra.svg import dots, ticks

if TYPE_CHECKING:
    from edge_stra.export import Exported

QUIET = Snapshot(load=0.1, mhz=1500.0, celsius=50.0, throttled=0, preempted=0)
EVIL = '<b>&"evil".tflite'


def edge_stra(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def row(name: str, ratio: dict[str, float] | None = None, **other: Any) -> dict[str, Any]:
    """An artifact's row as `bench` reports it, quiet and complete."""
    kinds = [{"name": "GEMM <F32>", "outside": False, "count": 3, "ms": 0.8, "share": 0.8},
             {"name": "CONV_2D", "outside": True, "count": 1, "ms": 0.2, "share": 0.2}]  # fmt: skip
    runs = [1.0, 1.1, 1.0, 0.9, 1.0, 9.0, 1.0, 1.1, 1.0, 0.9]
    return {
        "name": name, "model": "m", "quantize": "fp32", "sha256": "0", "input_hw": [88, 88], "file_bytes": 9_600_000,
        "timing": vars(timing(np.array(runs))), "ratio": ratio, "runs_ms": runs,
        "delegate": {"checked": True, "parts": 1, "nodes": 4}, "runtime": "r 1",
        "load": {"measured": True, "load_ms": 12.0, "memory_bytes": 22_000_000, "process_bytes": 90_000_000},
        "operators": {"measured": True, "runs": 8, "inference_ms": 1.0, "sum_ms": 1.0, "share_of_inference": 1.0,
                      "inside": 3, "outside": 1, "outside_ms": 0.2, "kinds": kinds, "each": []},
    } | other  # fmt: skip


def report(rows: list[dict[str, Any]], warnings: list[str], baseline: str | None = None) -> dict[str, Any]:
    cpu = {"machine": "aarch64", "name": "Pi & friends", "cores": 4, "features": []}
    return {
        "edge_stra": "0", "time": "2026-01-01T00:00:00+00:00",
        "settings": {"threads": 1, "runs": 10, "warm_up": 2, "baseline": baseline},
        "conditions": {"python": "3", "platform": "Linux", "cpu": cpu}
        | bench_machine.describe(QUIET, QUIET, QUIET),
        "warnings": warnings, "artifacts": rows,
    }  # fmt: skip


def test_functions_take_turns_and_each_gets_its_own_time() -> None:
    """A clock that the functions move: A takes 2 ms, B 3 ms, and what lies between runs is not timed."""
    now, order = [0], []

    def work(name: str, nanoseconds: int) -> Callable[[], None]:
        def run() -> None:
            order.append(name)
            now[0] += nanoseconds

        return run

    def progress(blocks: list[range]) -> list[range]:
        now[0] += 10**9
        return blocks

    times = interleave([work("A", 2_000_000), work("B", 3_000_000)], 3, lambda: now[0], progress)
    assert order == ["A", "B"] * 3
    assert times.tolist() == [[2.0, 3.0]] * 3


def test_figures_by_hand() -> None:
    """Of 1 to 10 and a run of 100: median 6, p90 10, deviations 0 to 5 and 94 with median 3; halves 1..6 and 7..100."""
    figures = timing(np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 100]))
    assert figures == Timing(6, 10, 1, 3, 3 / 6, pytest.approx(10 / 6), pytest.approx(9 / 3.5 - 1))


def test_a_ratio_is_paired() -> None:
    """Both slow down tenfold in some rounds; within each round the ratio is 2, so nothing else may come out."""
    base = np.array([1.0, 10, 1, 10, 1, 1, 10, 1, 1, 10])
    assert paired_ratio(2 * base, base) == paired_ratio(2 * base, base, seed=5)
    assert vars(paired_ratio(2 * base, base)) == {"median": 2, "low": 2, "high": 2}


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Ratios around 1.2 with independent noise: of 60 intervals at 95 %, at least 50 hold 1.2 and none is a point."""
    random, held = np.random.default_rng(0), 0
    for seed in range(60):
        noise = np.exp(random.normal(0, 0.05, 100))
        found = paired_ratio(1.2 * noise, np.ones(100), seed)
        assert found.low < found.median < found.high < found.low + 0.1
        held += found.low <= 1.2 <= found.high
    assert held >= 50


def test_runs_that_hang_together_widen_the_interval() -> None:
    """Each run takes 0.8 of the last one's noise: the same numbers in another order look surer than they are."""
    random, widths = np.random.default_rng(0), []
    for seed in range(20):
        noise = random.normal(0, 0.05, 200)
        for index in range(1, 200):
            noise[index] += 0.8 * noise[index - 1]
        found = [paired_ratio(np.exp(order), np.ones(200), seed) for order in (noise, random.permutation(noise))]
        widths.append([ratio.high - ratio.low for ratio in found])
    together, shuffled = np.mean(widths, axis=0)
    assert together > 1.3 * shuffled, (together, shuffled)


def test_quiet_runs_give_no_warning() -> None:
    assert noise_warnings("a", timing(np.tile([1.0, 1.02, 0.98], 20))) == []


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([1.0, 1.1, 0.9, 1.0, 1.1, 0.9] * 5, "a is noisy: runs lie 10.0 % off their median (limit 5.0 %)"),
        ([1.0, 1.0, 1.0, 1.0, 1.5] * 8, "a is noisy: p90 is 1.50 times the median (limit 1.25)"),
        ([1.0] * 20 + [1.06] * 20, "a drifts: the second half of its runs is 6.0 % slower than the first"),
        ([1.06] * 20 + [1.0] * 20, "a drifts: the second half of its runs is 5.7 % faster than the first"),
    ],
)
def test_noise_and_drift_are_named(runs: list[float], words: str) -> None:
    (line,) = noise_warnings("a", timing(np.array(runs)))
    assert line.startswith(words)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (QUIET, QUIET, None),
        (Snapshot(2.0, 1500, 50, 0, 0), QUIET, "load 2.0 before the start"),
        (QUIET, Snapshot(0.1, 1300, 50, 0, 0), "the clock fell from 1500 to 1300 MHz"),
        (QUIET, Snapshot(0.1, 1500, 81, 0, 0), "the machine is hot: 81 C"),
        (QUIET, Snapshot(0.1, 1500, 50, 0x50005, 0), "throttled: under-voltage and throttled during the run"),
        (QUIET, Snapshot(0.1, 1500, 50, 0x20000, 0), "throttled for a while: clock capped"),
        (Snapshot(0.1, 1500, 50, 0x20000, 0),) * 2 + ("throttled before the run: clock capped; whether again",),
        (QUIET, Snapshot(0.1, 1500, 50, 0, 30), "the CPU was taken away 0.30 times a run"),
        (Snapshot(*[None] * 5), Snapshot(*[None] * 5), None),  # a system that tells nothing
    ],
)
def test_the_state_of_the_machine_is_named(before: Snapshot, after: Snapshot, words: str | None) -> None:
    found = bench_machine.find_warnings(before, before, after, runs=100)
    assert len(found) == (words is not None)
    assert words is None or words in found[0]


def test_throttling_and_frequencies_are_read(tmp_path: Path) -> None:
    assert bench_machine.parse_throttled("throttled=0x50005\n") == 0x50005
    assert bench_machine.parse_throttled("error") is None
    for policy, text in (("policy0", "800000\n"), ("policy4", "1500000\n"), ("policy7", "none\n")):
        (tmp_path / policy).mkdir()
        (tmp_path / policy / "scaling_cur_freq").write_text(text)
    assert bench_machine.read_mhz("scaling_cur_freq", tmp_path) == 1500
    assert bench_machine.read_mhz("absent", tmp_path) is None
    for zone, text in (("thermal_zone0", "48000\n"), ("thermal_zone1", "51500\n")):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "temp").write_text(text)
    assert bench_machine.read_celsius(tmp_path) == 51.5
    (tmp_path / "status").write_text("VmPeak:\t 9 kB\nVmHWM:\t  2048 kB\n")
    assert peak_bytes(tmp_path / "status") == 2 << 20


def test_throttling_in_the_middle_of_a_run_is_named_on_a_board_that_was_throttled_before() -> None:
    before, warm = replace(QUIET, throttled=0x50000), replace(QUIET, throttled=0x50005)
    found = bench_machine.find_warnings(before, warm, before, runs=100)
    assert found == ["throttled: under-voltage and throttled during the run"]


def test_unlike_work_and_another_front_end_are_flagged() -> None:
    ratio = {"median": 3.0, "low": 2.9, "high": 3.1}
    rows = [row("base"), row("big", ratio, input_hw=[256, 128]), row("alike", ratio)]
    rows[2]["operators"]["against_interpreter"] = 1.5
    found = [line for line in find_warnings(rows, 1) if "noisy" not in line]
    assert found == [
        "big takes 256x128 and the baseline 88x88: the ratio is of different work",
        "the operators of alike come from a run that takes 1.50 times the interpreter's: read their shares with care",
    ]
    assert any("10000 threads share" in line for line in find_warnings([row("a")], 10_000))


def test_the_baseline_comes_first_and_once(tmp_path: Path) -> None:
    a, b = tmp_path / "a.tflite", tmp_path / "b.tflite"
    assert choose([b, a], a) == [a, b]
    assert choose([b], None) == [b]
    with pytest.raises(DataError, match="named once"):
        choose([a, tmp_path / "." / "a.tflite"], None)
    with pytest.raises(DataError, match="another file"):
        choose([a], a)


def test_core_ml_is_not_timed(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """What computes it here is made to be right, and its figures would stand beside LiteRT's."""
    opened = bench_module.open_artifact
    monkeypatch.setattr(bench_module, "open_artifact", lambda path: replace(opened(path), target="coreml"))
    with pytest.raises(DataError, match=r"can't be timed here: .*; give .tflite or .onnx files"):
        bench([exported.path], runs=LEAST_RUNS)


def test_operators_are_summed_over_the_undisturbed_runs() -> None:
    """Four runs of two operators; the fastest quarter is the second run: 0.6 + 0.3 of 1 ms."""
    runs = [(5.0, 4600, 300), (1.0, 600, 300), (2.0, 1500, 400), (3.0, 2500, 400)]
    events = [e for _, a, b in runs for e in (("Delegate/GEMM", 8, a), ("CONV_2D", 2, b))]
    found = operator_times.summarise([ms for ms, _, _ in runs], events)
    assert (found["inside"], found["outside"], found["outside_ms"]) == (1, 1, pytest.approx(0.3))
    assert (found["sum_ms"], found["inference_ms"]) == (pytest.approx(0.9), 1.0)
    assert [(k["name"], k["outside"], k["share"]) for k in found["kinds"]] == [
        ("GEMM", False, pytest.approx(2 / 3)), ("CONV_2D", True, pytest.approx(1 / 3))]  # fmt: skip


@pytest.mark.parametrize(
    ("events", "note"),
    [
        ([("GEMM", 8, 100)] * 2, "add up to 10 %"),
        ([("GEMM", 8, 1200)] * 2, "add up to 120 %"),
        ([("GEMM", 8, 900), ("CONV", 8, 900)], "not the same in each run"),
        ([("GEMM", 8, 900)], "not the same in each run"),
        ([], "not the same in each run"),
    ],
)
def test_operators_that_make_no_sense_are_no_figures(events: list[tuple[str, int, int]], note: str) -> None:
    found = operator_times.summarise([1.0, 1.0], events)
    assert not found["measured"]
    assert note in found["note"]


def test_the_page_is_well_formed_and_escaped() -> None:
    rows = [row(EVIL), row("b\x07\udc80", {"median": 1.5, "low": 1.4, "high": 1.6})]
    rows[1]["operators"] = {"measured": False, "note": "<none>"}
    text = page(report(rows, ["<script>alert(1)</script>"], EVIL))
    root = ElementTree.fromstring(text.encode())
    assert "<b>" not in text and "<script" not in text
    shown = "".join(root.itertext())
    assert EVIL in shown and "<script>alert(1)</script>" in shown and "operators not measured: <none>" in shown
    assert "1.500 (1.400 to 1.600)" in shown
    assert not {"script", "link", "img"} & {element.tag for element in root.iter()}
    assert "url(" not in text and "@import" not in text and "src=" not in text and "href=" not in text
    assert len(root.findall(".//{http://www.w3.org/2000/svg}svg")) == 5  # medians, ratios, two strips, operators


def test_a_quiet_machine_is_said_too() -> None:
    assert "The machine was quiet" in page(report([row("a")], []))
    assert "warning:" not in render(report([row("a")], []))
    assert render(report([row("a")], ["it is hot"])).splitlines()[-1] == "warning: it is hot"


def test_drawings() -> None:
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(0.93, 1.12, 4) == pytest.approx([0.95, 1.0, 1.05, 1.1])
    drawing, above = dots([1.0, 1.1, 1.0, 7.0], 1.0, "t")
    assert above == 1
    assert drawing.count("h0.01") == 3
    ElementTree.fromstring(dots([1.0] * 10, 1.0, "runs without any spread")[0])


def test_the_report_of_an_artifact(exported: Exported) -> None:
    asked = []

    def probe(what: str, path: Path, threads: int) -> dict[str, Any]:
        asked.append((what, path, threads))
        return {"measured": False, "note": "not here"}

    found = bench([exported.path], runs=10, warm_up=1, probe=probe)
    assert asked == [("load", exported.path, 1), ("operators", exported.path, 1)]
    (only,) = json.loads(json.dumps(found))["artifacts"]
    assert (only["input_hw"], only["quantize"], only["ratio"]) == ([88, 88], "fp32", None)
    assert only["file_bytes"] == exported.path.stat().st_size
    assert len(only["runs_ms"]) == 10
    assert only["timing"]["median_ms"] == pytest.approx(np.median(only["runs_ms"]), rel=1e-4)
    assert only["delegate"]["parts"] == 1
    assert found["conditions"]["before"].keys() == vars(QUIET).keys()
    assert "operators not measured: not here" in render(found)


def test_the_command_writes_a_page_and_json(exported: Exported, tmp_path: Path) -> None:
    copy = tmp_path / "copy & <paste>.tflite"
    copy.write_bytes(exported.path.read_bytes())
    result = edge_stra(
        "bench", copy, "--baseline", exported.path, "--runs", "10", "--warm-up", "1", "--json",
        "--html", tmp_path / "page.html",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    base, other = found["artifacts"]
    assert (found["settings"]["baseline"], base["ratio"]) == (base["name"], None)
    ratios = np.array(other["runs_ms"]) / np.array(base["runs_ms"])
    assert other["ratio"]["median"] == pytest.approx(np.median(ratios), rel=1e-4)
    assert other["load"]["load_ms"] > 0
    assert 1 << 20 < other["load"]["memory_bytes"] < other["load"]["process_bytes"]  # 9.6 MB of weights are read
    note = other["operators"].get("note", "")
    share = re.search(r"add up to (\d+) % of an inference", note)  # on a busy machine
    assert other["operators"]["measured"] or (share and 30 < int(share[1]) < 300), found
    assert found["artifacts"][0]["runtime"].startswith("ai-edge-litert 2.")
    ElementTree.fromstring((tmp_path / "page.html").read_bytes())


def test_onnx_artifacts_take_turns_with_tflite(exported: Exported, tmp_path: Path) -> None:
    made = export(Request("mobilenetv2_stra.fer", "fp32", tmp_path, target="onnx", weights="random")).path
    found = bench([made], exported.path, runs=10, warm_up=1)
    base, other = found["artifacts"]
    assert [r["runtime"].split()[0] for r in (base, other)] == ["ai-edge-litert", "onnxruntime"]
    assert other["load"]["measured"] and other["operators"]["note"] == "only of .tflite files"
    assert "ai-edge-litert" in render(found) and "onnxruntime" in page(found)


def test_probes_do_not_look_for_modules_in_the_working_folder(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('a file of the user was run')")
    monkeypatch.chdir(tmp_path)
    found = ask("load", Path(os.path.relpath(exported.path)), 1)
    assert found["measured"], found


def test_what_a_process_of_its_own_could_not_measure_is_told() -> None:
    rows = [row("a", load={"measured": False, "note": "ended with code 1: no memory"})]
    assert "load time and memory of a: ended with code 1: no memory" in find_warnings(rows, 1)


def test_artifacts_of_one_name_go_by_their_paths() -> None:
    assert labels([Path("x/a.tflite"), Path("y/b.tflite")]) == ["a.tflite", "b.tflite"]
    assert labels([Path("x/a.tflite"), Path("y/a.tflite")]) == [str(Path("x/a.tflite")), str(Path("y/a.tflite"))]


@pytest.mark.parametrize(("error", "same"), [(0.0, True), (0.009, True), (0.011, False), (float("nan"), False)])
def test_outputs_are_the_same_up_to_40_db(error: float, same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    profiled = SimpleNamespace(
        write=lambda x: None,
        run=lambda: 1.0,
        read=lambda like: like * np.float32(1 + error),
        profile=lambda runs: ([1.0], []),
    )
    monkeypatch.setattr(operator_times, "Profiled", lambda library, path, threads: profiled)
    monkeypatch.setattr(operator_times, "find_library", lambda: Path("library"))
    monkeypatch.setattr(operator_times, "summarise", lambda times, events: {"measured": True})
    (file,) = (path for path in shipped_artifacts() if ".fer." in path.name)
    found = operator_times.measure_operators(file, threads=1)
    assert found["measured"] is same and ("another output" in found.get("note", "")) is not same


def test_the_commands_numbers_are_the_modules() -> None:
    defaults = {option.name: (option.default, option.type) for option in command.params}
    assert defaults["runs"][0] == RUNS and defaults["warm_up"][0] == WARM_UP
    assert defaults["runs"][1].min == LEAST_RUNS


def test_the_profiler_sees_every_operator(exported: Exported) -> None:
    """The output of LiteRT's compiled model is the interpreter's, and its events name convolutions in each run."""
    code = (
        "import sys; from pathlib import Path; from edge_stra.bench import operator_times as o\n"
        "p = o.Profiled(o.find_library(), Path(sys.argv[1]), 1)\n"
        "times, events = p.profile(3); n = len(events) // 3\n"
        "assert [e[:2] for e in events] == [e[:2] for e in events[:n]] * 3\n"
        "print(n, sum('Convolution' in e[0] for e in events[:n]), {e[1] for e in events})"
    )
    done = subprocess.run([sys.executable, "-c", code, exported.path], capture_output=True, text=True, check=True)
    count, convolutions, kinds = done.stdout.splitlines()[-1].split(maxsplit=2)
    assert int(count) > 60
    assert int(convolutions) > 15
    assert kinds == "{8}"  # all in the delegate


@pytest.mark.parametrize(
    ("words", "contains"),
    [
        (["absent.tflite"], "no such file"),
        (["ARTIFACT", "--html", "page.txt"], "--html must name an .html file"),
        (["ARTIFACT", "ARTIFACT"], "named once"),
        (["ARTIFACT", "--baseline", "ARTIFACT"], "--baseline must be another file"),
        (["ARTIFACT", "--runs", "9"], "'--runs': 9 is not in the range"),
        (["ARTIFACT", "--threads", "0"], "'--threads': 0 is not in the range"),
        ([], "Missing argument"),
    ],
)
def test_wrong_words_give_one_clear_line(words: list[str], contains: str, exported: Exported) -> None:
    result = edge_stra("bench", *[exported.path if word == "ARTIFACT" else word for word in words])
    assert result.exit_code != 0
    assert isinstance(result.exception, SystemExit), result.exception
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1, result.output
    assert contains in errors[0]


def test_a_failing_process_is_no_figure(tmp_path: Path) -> None:
    found = ask("load", tmp_path / "absent.tflite", 1)
    assert not found["measured"]
    assert "no such file" in found["note"]


def test_bench_needs_no_torch() -> None:
    code = (
        "import edge_stra.bench.rounds, edge_stra.bench.page, edge_stra.bench.operator_times, sys\n"
        "print(*{m.split('.')[0] for m in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "matplotlib", "litert_torch", "jax"} & set(done.stdout.split())
