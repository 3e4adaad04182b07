"""The state of the machine around a measurement: load, clock, temperature, throttling, and what of it spoils figures.

Every figure is None where the system does not give it: nothing is guessed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CPUFREQ = Path("/sys/devices/system/cpu/cpufreq")  # a folder policyN for each group of cores that share a clock
THERMAL = Path("/sys/class/thermal")
# Bits of `vcgencmd get_throttled`; those from 16 on say the same of the time since boot.
# https://www.raspberrypi.com/documentation/computers/os.html#get_throttled
THROTTLE_BITS = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}
SINCE_BOOT = 16
MOST_LOAD = 0.5  # processes that were busy before the run began, over the last minute
HOT_CELSIUS = 80.0  # a Raspberry Pi begins to throttle here (same documentation, frequency management)
MOST_CLOCK_LOSS = 0.1  # of the clock after warm-up
MOST_PREEMPTED = 0.1  # times that the system took the CPU away, for each timed run


@dataclass(frozen=True)
class Snapshot:
    """load: processes over the last minute; mhz: of the fastest core; throttled: bits; preempted: times."""

    load: float | None
    mhz: float | None
    celsius: float | None
    throttled: int | None
    preempted: int | None


def snapshot() -> Snapshot:
    return Snapshot(read_load(), read_mhz("scaling_cur_freq"), read_celsius(), read_throttled(), read_preempted())


def read_load() -> float | None:
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def read_mhz(name: str, folder: Path = CPUFREQ) -> float | None:
    """The highest of all cores: idle ones, and the small ones of a big.LITTLE, run slower. Files hold kHz."""
    return max((int(text) / 1000 for text in read_policies(name, folder) if text.isdigit()), default=None)


def read_policies(name: str, folder: Path = CPUFREQ) -> list[str]:
    return [text for path in sorted(folder.glob(f"policy*/{name}")) if (text := read_text(path))]


def read_text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None


def read_celsius(folder: Path = THERMAL) -> float | None:
    """The hottest thermal zone. Files hold thousandths of a degree."""
    texts = [read_text(path) for path in sorted(folder.glob("thermal_zone*/temp"))]
    values = [int(text) / 1000 for text in texts if text and text.lstrip("-").isdigit()]
    return max(values, default=None)


def read_throttled() -> int | None:
    """The bits that a Raspberry Pi's firmware gives, None on other machines."""
    program = shutil.which("vcgencmd")
    if program is None:
        return None
    try:
        done = subprocess.run([program, "get_throttled"], capture_output=True, text=True, timeout=5, check=True)
        return parse_throttled(done.stdout)
    except (OSError, subprocess.SubprocessError):
        return None


def parse_throttled(text: str) -> int | None:
    """`throttled=0x50005` -> 0x50005."""
    try:
        return int(text.strip().partition("=")[2], 16)
    except ValueError:
        return None


def read_preempted() -> int | None:
    """How often the system took the CPU from this process for another: involuntary context switches."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def describe(before: Snapshot, warm: Snapshot, after: Snapshot) -> dict[str, Any]:
    """Three moments (at the start, after warm-up, at the end) and what does not change, ready for JSON."""
    return {
        "before": asdict(before),
        "warm": asdict(warm),
        "after": asdict(after),
        "max_mhz": read_mhz("cpuinfo_max_freq"),
        "governor": " and ".join(sorted(set(read_policies("scaling_governor")))) or None,
    }


def find_warnings(before: Snapshot, warm: Snapshot, after: Snapshot, runs: int) -> list[str]:
    """What makes the figures doubtful; `runs` counts the timed runs of all artifacts together."""
    found = []
    if before.load is not None and before.load > MOST_LOAD:
        found.append(
            f"the machine was busy: load {before.load:.1f} before the start (limit {MOST_LOAD}); stop other work"
        )
    if warm.mhz and after.mhz and after.mhz < (1 - MOST_CLOCK_LOSS) * warm.mhz:
        found.append(f"the clock fell from {warm.mhz:.0f} to {after.mhz:.0f} MHz during the run: cool it, then repeat")
    if after.celsius is not None and after.celsius >= HOT_CELSIUS:
        found.append(f"the machine is hot: {after.celsius:.0f} C at the end (limit {HOT_CELSIUS:.0f}): cool it")
    found += throttle_warnings([moment.throttled for moment in (before, warm, after)])
    if warm.preempted is not None and after.preempted is not None:
        share = (after.preempted - warm.preempted) / max(1, runs)
        if share > MOST_PREEMPTED:
            found.append(
                f"the CPU was taken away {share:.2f} times a run (limit {MOST_PREEMPTED}): other processes compete"
            )
    return found


def throttle_warnings(moments: Sequence[int | None]) -> list[str]:
    """From the firmware's bits at the start, after warm-up and at the end.

    What was active at one of these moments; what happened between them and is over; and what had happened before the
    run: the firmware does not tell whether it happens again, until the board is started anew.
    """
    bits = [bits for bits in moments if bits is not None]
    if not bits:
        return []
    active = {name for bit, name in THROTTLE_BITS.items() if any(moment >> bit & 1 for moment in bits)}
    since_boot = [{name for bit, name in THROTTLE_BITS.items() if m >> (bit + SINCE_BOOT) & 1} for m in bits]
    told = (
        ("throttled: {} during the run", active),
        ("throttled for a while: {} during the run", since_boot[-1] - since_boot[0] - active),
        ("throttled before the run: {}; whether again can't be told until a restart", since_boot[0] - active),
    )
    return [line.format(" and ".join(n for n in THROTTLE_BITS.values() if n in names)) for line, names in told if names]


def render(conditions: dict[str, Any]) -> Sequence[tuple[str, str]]:
    """(what, value) pairs for people, without those that the system does not give."""
    before, warm, after = (conditions[key] for key in ("before", "warm", "after"))
    limits = [f"at most {conditions['max_mhz']:.0f}"] if conditions["max_mhz"] else []
    limits += [f"governor {conditions['governor']}"] if conditions["governor"] else []
    rows = [
        ("load before, after", pair(before["load"], after["load"], ".2f")),
        ("clock after warm-up, at the end", pair(warm["mhz"], after["mhz"], ".0f", "MHz")),
        ("clock", ", ".join(limits)),
        ("temperature before, after", pair(before["celsius"], after["celsius"], ".0f", "C")),
        ("throttling bits before, after", pair(before["throttled"], after["throttled"], "#x")),
        ("CPU taken away, times", pair_difference(warm["preempted"], after["preempted"])),
    ]
    return [(what, value) for what, value in rows if value]


def pair(first: float | None, second: float | None, form: str, unit: str = "") -> str:
    if first is None or second is None:
        return ""
    return f"{first:{form}}, {second:{form}} {unit}".rstrip()


def pair_difference(first: int | None, second: int | None) -> str:
    return "" if first is None or second is None else str(second - first)
