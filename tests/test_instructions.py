"""benchmarks/instructions: counts from marks, what is refused, what is missing; under QEMU, a loop of known length."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_stra.spec import EdgeStraError, MissingError, ParityError

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
NAMES = ("m_stra.x.int8", "m.x.int8")
LOOP = (0xF1000400, 0x54FFFFE1, 0xD65F03C0)  # subs x0, x0, #1; b.ne back by one; ret
SCRIPT = f"""
import ctypes, mmap, os, struct
code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(struct.pack("<3I", *{LOOP}))
loop = ctypes.CFUNCTYPE(None, ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
for rounds in (1, 1, 1000, 1_001_000):
    os.getppid()
    loop(rounds)
    os.getppid()
"""


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    """The script as a module, whose name is too plain to stay importable."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("instructions")
    finally:
        sys.modules.pop("instructions", None)
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture()
def userland(tmp_path: Path) -> dict[str, str]:
    """An environment that lacks nothing: files of the right names, the emulator one that knows -plugin."""
    for path, text in {
        "root/usr/bin/python3.11": "",
        "site/numpy.py": "",
        "bin/qemu-aarch64": "#!/bin/sh\necho '-plugin  QEMU_PLUGIN'\n",
        "bin/static": "#!/bin/sh\necho '-cpu'\n",
        "bin/cc": "#!/bin/sh\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
        (tmp_path / path).chmod(0o755)
    return {"EDGE_STRA_PI": str(tmp_path / "pi-python"), "PATH": str(tmp_path / "bin")}


def messages(marks: list[int], vcpus: int = 1) -> str:
    return "INFO: a delegate\n" + "".join(f"instructions {mark} {vcpus}\n" for mark in marks)


def test_an_inference_is_the_difference_of_its_two_marks_and_the_first_warms_up(bench: ModuleType) -> None:
    steps = [900, 50, 7, 40, 7, 42, 300, 30, 7, 20, 7, 21]  # start-up or set_tensor, then an inference, and so on
    marks = bench.parse_marks(messages(list(np.cumsum(steps))))
    assert bench.differences(marks, artifacts=2).tolist() == [[40, 42], [20, 21]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (messages([1, 2, 3]), "6 marks were expected, but 3 came"),
        (messages([]), "6 marks were expected, but 0 came"),
        (messages([1, 2, 3, 4, 5, 6], vcpus=2), "must have one thread, but has had 2"),
    ],
)
def test_marks_that_give_no_exact_count_are_refused(bench: ModuleType, text: str, said: str) -> None:
    with pytest.raises(bench.CountError, match=said):
        bench.differences(bench.parse_marks(text), artifacts=1)


def test_a_count_is_the_median_with_its_spread(bench: ModuleType) -> None:
    assert bench.settle("m", np.array([100_000, 100_050, 100_020])) == bench.Count(100_020, 50 / 100_020)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([100_000, 100_000, 100_200, 100_000], "m: counts must agree to 0.1%, but differ by 0.2%"),
        ([0, 0, 0, 0], "m: counts must be positive, but one is 0"),
        ([100_000, -5, 100_000, 100_000], "but one is -5"),
    ],
)
def test_a_count_that_is_not_stable_is_refused(bench: ModuleType, counts: list[int], said: str) -> None:
    with pytest.raises(bench.CountError, match=said):
        bench.settle("m", np.array(counts))


def test_a_row_holds_the_ratio_of_stra_to_plain_and_is_called_a_proxy(bench: ModuleType) -> None:
    counts = {NAMES[0]: bench.Count(150_000_000, 2e-5), NAMES[1]: bench.Count(100_000_000, 1e-5)}
    row = bench.tabulate("m_stra.x", "int8", counts, {NAMES[0]: float("inf"), NAMES[1]: 61.4})
    assert row["ratio"] == 1.5 and row["stra"]["sqnr_db"] == 999.0 and row["plain"]["instructions"] == 100_000_000
    text = bench.render({"conditions": {"cpu": "cortex-a72"}, "rows": [row]})
    assert "| m_stra.x | int8 | 150.00 | 100.00 | 1.500 | 2e-05 | every bit, 61 dB |" in text
    assert "proxy" in text and "not a speed" in text and "- cpu: cortex-a72" in text


@pytest.mark.parametrize(
    ("quantize", "noise", "agrees"),
    [
        ("fp32", 1e-6, True),
        ("fp32", 1e-3, False),
        ("int8", 1e-3, True),
        ("int8", 1e-2, False),
        ("int8-full", 0, True),
        ("int8-full", 1e-9, False),
        ("int8", float("nan"), False),
    ],
)
def test_outputs_must_agree_with_this_machine_s(bench: ModuleType, quantize: str, noise: float, agrees: bool) -> None:
    here = np.ones((2, 3))
    if agrees:
        assert bench.agreement("m", quantize, here, here + noise) >= bench.MIN_SQNR_DB.get(quantize, np.inf)
    else:
        with pytest.raises(ParityError, match="m must"):
            bench.agreement("m", quantize, here, here + noise)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"EDGE_STRA_PI": ""}, "EDGE_STRA_PI must name .* but is not set; see benchmarks/instructions.md"),
        ({"EDGE_STRA_PI": "/nowhere/pi-python"}, "but /nowhere lacks them; see benchmarks/instructions.md"),
        ({"PATH": ""}, "but there is none; install qemu-user"),
        ({"EDGE_STRA_QEMU": "bin/static"}, "bin/static takes none; install qemu-user"),
        ({"EDGE_STRA_QEMU": "bin/absent"}, "bin/absent can't be started: No such file"),
        ({"EDGE_STRA_QEMU": "bin/qemu-aarch64", "PATH": ""}, "no C compiler"),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    bench: ModuleType, userland: dict[str, str], tmp_path: Path, change: dict[str, str], said: str
) -> None:
    if "EDGE_STRA_QEMU" in change:
        change = change | {"EDGE_STRA_QEMU": str(tmp_path / change["EDGE_STRA_QEMU"])}
    with pytest.raises(MissingError, match=said) as caught:
        bench.find_userland(userland | change)
    assert "\n" not in str(caught.value)


def test_a_whole_userland_is_found_with_the_cpu_that_is_asked_for(
    bench: ModuleType, userland: dict[str, str], tmp_path: Path
) -> None:
    found = bench.find_userland(userland)
    assert (found.qemu, found.site, found.cpu) == (tmp_path / "bin/qemu-aarch64", tmp_path / "site", "cortex-a72")
    assert bench.find_userland(userland | {"PI_CPU": "cortex-a53"}).cpu == "cortex-a53"


def real_userland(bench: ModuleType) -> Any:
    try:
        return bench.find_userland(os.environ)
    except EdgeStraError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.pi
def test_the_counter_counts_a_loop_of_known_length(bench: ModuleType, tmp_path: Path) -> None:
    """Two instructions a round: a million rounds more are two million instructions more, to Python's own few."""
    (tmp_path / "loop.py").write_text(SCRIPT)
    marks = bench.count_marks(real_userland(bench), bench.build_plugin(tmp_path), tmp_path / "loop.py", [])
    _, _, short, long = np.diff(marks)[::2]
    assert abs((long - short) - 2_000_000) < 200


@pytest.mark.slow
@pytest.mark.pi
def test_a_guest_that_fails_is_told_with_its_last_line(bench: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text("raise ValueError('no such thing')")
    with pytest.raises(bench.CountError, match="ends with 1: ValueError: no such thing"):
        bench.count_marks(real_userland(bench), bench.build_plugin(tmp_path), tmp_path / "fails.py", [])
