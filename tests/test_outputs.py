"""Outputs: a recording that plays at real speed and survives a kill, whole lines only, MQTT events, a window."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_stra.extras import install_command
from edge_stra.live.scene import Scene
from edge_stra.outputs import mp4
from edge_stra.outputs.log import CsvOutput, JsonlOutput
from edge_stra.outputs.mp4 import Mp4Output
from edge_stra.outputs.mqtt import PASSWORD_VARIABLE, MqttOutput
from edge_stra.outputs.window import WindowOutput
from edge_stra.quiet import printable
from edge_stra.spec import DataError, MissingError, OutputError

PATIENCE_S = 20.0
FACE = {"track": 1, "label": "fear", "box_xywh": [1, 2, 30, 40], "probabilities": {"fear": 0.75, "anger": 0.25}}


def scene(
    index: int = 0,
    time_s: float = 0.0,
    rows: Sequence[Mapping[str, Any]] = (),
    size_wh: tuple[int, int] = (64, 48),
    shade: int = 0,
) -> Scene:
    picture = np.full((size_wh[1], size_wh[0], 3), shade, np.uint8)
    return Scene("camera 0", index, time_s, picture, rows, {"detect": 1.234}, 12.34)


def noise(index: int, time_s: float, size_wh: tuple[int, int] = (160, 120)) -> Scene:
    """What no codec makes small."""
    picture = np.random.default_rng(index).integers(0, 256, (size_wh[1], size_wh[0], 3), np.uint8)
    return Scene("camera 0", index, time_s, picture, (), {}, 0.0)


def decoded(path: Path) -> list[np.ndarray[Any, Any]]:
    capture, frames = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), []
    while (read := capture.read())[0]:
        frames.append(read[1])
    capture.release()
    return frames


def shades(path: Path) -> list[int]:
    return [round(float(frame.mean()) / 10) for frame in decoded(path)]


def wait_until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, "what the test waits for never came"
        time.sleep(0.01)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small tmpfs can't be mounted here: that needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


# --- recording


# At 10 frames a second; a shade for each scene, and the shades that the recording must then show
@pytest.mark.parametrize(
    ("times_s", "expected"),
    [
        ([0.0, 0.1, 0.2, 0.3], [0, 1, 2, 3]),
        ([5.0, 5.1, 5.2], [0, 1, 2]),  # starts anywhere
        ([0.0, 0.3, 0.5], [0, 0, 0, 1, 1, 2]),  # slower than the recording
        ([0.0, 0.03, 0.1, 0.12, 0.2], [1, 3, 4]),  # faster: the newest of each tenth
        ([0.0, 0.26, 0.31], [0, 0, 0, 2]),
        ([0.0, 0.2, 0.2], [0, 0, 2]),  # time that stands still
        ([0.0, 100.0, 100.1], [0] * 50 + [1, 2]),  # a long pause is cut to five seconds
    ],
)
def test_a_recording_plays_at_real_speed(times_s: list[float], expected: list[int], tmp_path: Path) -> None:
    output = Mp4Output(tmp_path / "a.mp4", fps=10)
    for number, time_s in enumerate(times_s):
        output.write(scene(number, time_s, shade=10 * number))
    output.close()
    assert shades(tmp_path / "a.mp4") == expected
    assert stat.S_IMODE((tmp_path / "a.mp4").stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("fps", [0.5, 7.3, 25.0, 29.97002997, 59.94, 119.88])
def test_a_recording_has_the_rate_that_was_asked(fps: float, tmp_path: Path) -> None:
    output = Mp4Output(tmp_path / "a.mp4", fps)
    for number in range(4):
        output.write(scene(number, number / fps))
    output.close()
    capture = cv2.VideoCapture(str(tmp_path / "a.mp4"), cv2.CAP_FFMPEG)
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(fps, abs=0.01)
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 4
    capture.release()


@pytest.mark.parametrize(
    ("first_wh", "then_wh", "size_wh", "black"),
    [
        ((64, 48), (64, 48), (64, 48), None),
        ((63, 47), (63, 47), (64, 48), None),
        ((1, 1), (1, 1), (2, 2), None),
        ((64, 48), (128, 96), (64, 48), None),
        ((64, 48), (48, 48), (64, 48), (slice(None), slice(0, 6))),  # bars left and right
        ((64, 48), (64, 16), (64, 48), (slice(0, 14), slice(None))),  # bars above and below
    ],
)
def test_every_size_is_fitted_into_the_first(
    first_wh: tuple[int, int], then_wh: tuple[int, int], size_wh: tuple[int, int], black: Any, tmp_path: Path
) -> None:
    output = Mp4Output(tmp_path / "a.mp4", fps=10)
    output.write(scene(0, 0.0, size_wh=first_wh, shade=200))
    output.write(scene(1, 0.1, size_wh=then_wh, shade=200))
    output.close()
    first, second = decoded(tmp_path / "a.mp4")
    assert first.shape[1::-1] == second.shape[1::-1] == size_wh
    assert first.min() > 180
    if black is None:
        assert second.min() > 180
    else:
        assert second[black].max() < 40
        assert second[20:28, 20:44].min() > 180


def test_a_recording_keeps_its_colours(tmp_path: Path) -> None:
    output = Mp4Output(tmp_path / "a.mp4", fps=10)
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 220
    output.write(Scene("camera 0", 0, 0.0, red, (), {}, 0.0))
    output.close()
    blue, green, red_seen = decoded(tmp_path / "a.mp4")[0].reshape(-1, 3).mean(0)
    assert red_seen > 180 and max(blue, green) < 50


def test_a_recording_is_refused_where_one_exists(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"an older one")
    with pytest.raises(OutputError, match="exists already"):
        Mp4Output(path, 10)
    output = Mp4Output(path, 10, overwrite=True)
    assert path.read_bytes() == b"an older one"  # until there is something to put in its place
    output.write(scene())
    output.close()
    output.close()
    assert shades(path) == [0]


def test_a_recording_without_scenes_leaves_no_file(tmp_path: Path) -> None:
    Mp4Output(tmp_path / "a.mp4", 10).close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "fps", "error", "message"),
    [("a.mp4", 0, DataError, "fps"), ("a.mp4", float("nan"), DataError, "fps"), ("a.mp4", 1000, DataError, "fps"),
     ("a.avi", 10, OutputError, "named .mp4"), ("file/a.mp4", 10, OutputError, "must be a folder")],
)  # fmt: skip
def test_what_cannot_be_recorded(name: str, fps: float, error: type[Exception], message: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(error, match=message):
        Mp4Output(tmp_path / name, fps)


def test_a_killed_recording_is_playable(tmp_path: Path) -> None:
    code = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from test_outputs import noise
from pathlib import Path
from edge_stra.outputs.mp4 import Mp4Output
output = Mp4Output(Path(sys.argv[1]), 20)
for number in range(100):
    output.write(noise(number, number / 20))
os.kill(os.getpid(), signal.SIGKILL)
"""
    path = tmp_path / "a.mp4"
    killed = subprocess.run([sys.executable, "-c", code, str(path), str(Path(__file__).parent)], capture_output=True)
    assert killed.returncode == -9, killed.stderr.decode()
    assert len(decoded(path)) >= 30  # 256 KiB, 60 of these frames, are still in the encoder's buffer
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_a_full_disk_ends_a_recording_that_stays_playable(small_disk: Path) -> None:
    path = small_disk / "a.mp4"
    output = Mp4Output(path, 20, reserve_bytes=256 << 10)
    written = 0
    with pytest.raises(OutputError, match=r"needs 0\.25 MiB of free space, but .* can be played"):
        for written in range(1000):
            output.write(noise(written, written / 20))
    output.close()
    assert written > 10
    assert len(decoded(path)) == written


def test_a_disk_that_another_program_fills_leaves_a_playable_recording(small_disk: Path) -> None:
    """Here the check of free space comes too late: the reserve is 0, and the disk is full in the middle of a frame."""
    output = Mp4Output(small_disk / "a.mp4", 20, reserve_bytes=0)
    for number in range(200):
        output.write(noise(number, number / 20))
    output.close()
    assert shutil.disk_usage(small_disk).free < 64 << 10  # less than the writer hands over at once
    assert len(decoded(small_disk / "a.mp4")) > 10


def test_a_full_disk_takes_no_recording(small_disk: Path) -> None:
    output = Mp4Output(small_disk / "a.mp4", 20)
    with pytest.raises(OutputError, match="needs 16 MiB"):
        output.write(scene())
    output.close()
    assert list(small_disk.iterdir()) == []


def test_a_recording_that_does_not_grow_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mp4, "STALLED_FRAMES", 20)  # fewer than the encoder holds back of such small pictures
    output = Mp4Output(tmp_path / "a.mp4", 20)
    with pytest.raises(OutputError, match="does not grow"):
        for number in range(60):
            output.write(scene(number, number / 20))
    output.close()


# --- logs

OUTPUTS = {"a.jsonl": JsonlOutput, "a.csv": CsvOutput}


def test_jsonl_has_a_line_for_each_scene_at_once(tmp_path: Path) -> None:
    output = JsonlOutput(tmp_path / "a.jsonl")
    scenes = [scene(0), scene(1, 0.0421, [FACE, {"track": 2, "label": "Zoë\n"}])]
    for number, one in enumerate(scenes, start=1):
        output.write(one)
        lines = (tmp_path / "a.jsonl").read_text("utf-8").splitlines()  # not only after `close`
        assert [json.loads(line) for line in lines] == [s.to_json() for s in scenes[:number]]
    output.close()


def test_a_name_that_is_no_utf8_comes_with_backslashes(tmp_path: Path) -> None:
    output = JsonlOutput(tmp_path / "a.jsonl")
    output.write(dataclasses.replace(scene(), source=os.fsdecode(b"caf\xe9.jpg")))
    output.close()
    assert json.loads((tmp_path / "a.jsonl").read_text("utf-8"))["source"] == "caf\udce9.jpg"


@pytest.mark.parametrize("name", OUTPUTS)
def test_names_of_other_scripts_are_kept_as_they_are(name: str, tmp_path: Path) -> None:
    """A joiner and spaces that are no ASCII: an identity in a log must be the gallery's."""
    identity = "\u0645\u06cc\u200c\u062e \u00a0\u3000X"
    output = OUTPUTS[name](tmp_path / name)
    output.write(scene(rows=[FACE | {"identity": identity}]))
    output.close()
    assert identity in (tmp_path / name).read_text("utf-8")
    assert printable(f"{identity}\t1\n\x1b[2J\x9b") == f"{identity}\t1\n\ufffd[2J\ufffd"


def test_csv_has_a_line_for_each_row(tmp_path: Path) -> None:
    output = CsvOutput(tmp_path / "a.csv")
    others = [
        {"track": 2, "label": 'a "b", c', "box_xywh": (5, 6, 7, 8), "probabilities": {"fear": 0.5, "joy": 0.5}},
        {"label": "?"},
    ]
    output.write(scene(0))
    output.write(scene(1, 0.04, [FACE, others[0]]))
    output.write(scene(2, 0.08, [others[1]]))
    output.close()
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["source", "frame", "time_s", "track", "label", "box_x", "box_y", "box_w", "box_h", "probabilities.fear",
         "probabilities.anger"],
        ["camera 0", "1", "0.04", "1", "fear", "1", "2", "30", "40", "0.75", "0.25"],
        ["camera 0", "1", "0.04", "2", 'a "b", c', "5", "6", "7", "8", "0.5", ""],
        ["camera 0", "2", "0.08", "", "?", "", "", "", "", "", ""],
    ]  # fmt: skip


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("mode", ["new", "overwrite", "append"])
@pytest.mark.parametrize("half", ["", "half a li"])
def test_a_log_that_exists(name: str, mode: Any, half: str, tmp_path: Path) -> None:
    path, kind = tmp_path / name, OUTPUTS[name]
    first = kind(path)
    first.write(scene(0, rows=[FACE]))
    first.close()
    before = path.read_text()
    path.write_text(before + half)
    if mode == "new":
        with pytest.raises(OutputError, match="exists already; give --append to go on with it"):
            kind(path)
        assert path.read_text() == before + half
        return
    second = kind(path, mode)
    second.write(scene(1, rows=[FACE]))
    second.close()
    rows = path.read_text().splitlines()
    expected = {"overwrite": {"a.jsonl": 1, "a.csv": 2}, "append": {"a.jsonl": 2, "a.csv": 3}}[mode][name]
    assert len(rows) == expected
    assert path.read_text().startswith(before) == (mode == "append")
    assert "half" not in path.read_text()


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("mode", ["append", "overwrite"])
def test_a_log_has_one_writer_and_its_owner_alone_reads_it(name: str, mode: Any, tmp_path: Path) -> None:
    path, kind = tmp_path / name, OUTPUTS[name]
    first = kind(path)
    first.write(scene(0, rows=[FACE]))
    before = path.read_text()
    with pytest.raises(OutputError, match="is written by another process; name a file for each camera"):
        kind(path, mode)
    assert path.read_text() == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first.close()
    kind(path, mode).close()


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("content", ["a letter,\nto nobody", "a letter without an end"])
def test_a_file_that_is_no_log_is_left_as_it_is(name: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(OutputError, match="to be added to"):
        OUTPUTS[name](path, "append").write(scene(rows=[FACE]))
    assert path.read_text() == content


@pytest.mark.parametrize(
    ("name", "message"),
    [("folder", "no ordinary file"), ("no/way", "must be a folder")],
)
def test_a_log_that_cannot_be_written(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "no").touch()
    with pytest.raises(OutputError, match=message):
        JsonlOutput(tmp_path / name)


def test_a_table_that_is_cut_down_begins_again_with_its_columns(tmp_path: Path) -> None:
    """As logrotate does it with copytruncate."""
    output = CsvOutput(path := tmp_path / "a.csv")
    output.write(scene(0, rows=[FACE]))
    before = path.read_text()
    os.truncate(path, 0)
    output.write(scene(1, rows=[]))
    assert path.read_text() == "", "nobody is seen: nothing to say"
    output.write(scene(0, rows=[FACE]))
    output.write(scene(2, rows=[FACE]))
    output.close()
    assert path.read_text().startswith(before) and path.read_text().count("track") == 1
    again = CsvOutput(path, "append")
    again.write(scene(3, rows=[FACE]))
    again.close()
    assert len(path.read_text().splitlines()) == 4


def test_a_table_that_is_cut_down_before_anybody_came_begins_again_too(tmp_path: Path) -> None:
    first = CsvOutput(path := tmp_path / "a.csv")
    first.write(scene(0, rows=[FACE]))
    first.close()
    before = path.read_text()
    second = CsvOutput(path, "append")
    os.truncate(path, 0)
    second.write(scene(0, rows=[FACE]))
    second.close()
    assert path.read_text() == before


def test_a_link_to_nothing_is_no_place_for_a_recording(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").symlink_to(tmp_path / "gone.mp4")
    with pytest.raises(OutputError, match="is a link to what is not there"):
        Mp4Output(tmp_path / "a.mp4", 10)


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_medium_that_is_gone_ends_that_log_alone(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stick that was pulled: nothing can be written, cut back or closed."""

    def gone(*arguments: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    output = OUTPUTS[name](tmp_path / name)
    output.write(scene(0, rows=[FACE]))
    with monkeypatch.context() as medium:
        medium.setattr("edge_stra.outputs.log.os.write", gone)
        medium.setattr("edge_stra.outputs.log.os.ftruncate", gone)
        medium.setattr("edge_stra.outputs.log.os.fstat", gone)
        with pytest.raises(OutputError, match="can't be written any more: Input/output error"):
            output.write(scene(1, rows=[FACE]))
    close = os.close
    with monkeypatch.context() as medium:
        medium.setattr("edge_stra.outputs.log.os.close", lambda handle: (close(handle), gone())[1])
        with pytest.raises(OutputError, match="can't be closed: Input/output error; its end may be lost"):
            output.close()
    output.close()  # once is enough


def test_of_two_recordings_that_begin_at_once_the_second_takes_another_name(tmp_path: Path) -> None:
    first, second = (Mp4Output(tmp_path / "a.mp4", 10) for _ in range(2))
    first.write(scene(0))
    kept = (tmp_path / "a.mp4").stat().st_ino
    with pytest.raises(OutputError, match=r"a\.mp4 was made by another process meanwhile; name another file"):
        second.write(scene(0))
    first.write(scene(1, 0.1))
    first.close()
    second.close()
    assert (tmp_path / "a.mp4").stat().st_ino == kept and [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_recording_also_where_files_have_one_name_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAT knows no links."""

    def no_links(*arguments: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("edge_stra.outputs.mp4.os.link", no_links)
    first, second = (Mp4Output(tmp_path / "a.mp4", 10) for _ in range(2))
    first.write(scene(0))
    with pytest.raises(OutputError, match="exists already"):
        second.write(scene(0))
    first.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_full_disk_leaves_whole_lines(name: str, small_disk: Path) -> None:
    path = small_disk / name
    output = OUTPUTS[name](path)
    rows = [{**FACE, "note": "x" * 3001}]
    written = 0
    with pytest.raises(OutputError, match=r"No space left on device; its \d+ lines of this run are whole"):
        for written in range(1000):
            output.write(scene(written, rows=rows))
    output.close()
    lines = path.read_text().splitlines(keepends=True)
    assert written > 100
    assert len(lines) == written + (name == "a.csv")
    assert lines[-1].endswith("\n")
    assert len(lines[-1]) >= len(lines[1])


def test_a_log_goes_to_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    output = JsonlOutput(Path("-"))
    output.write(scene(7))
    out = capfd.readouterr().out
    output.close()
    assert json.loads(out)["frame"] == 7


def test_a_reader_that_leaves_is_one_clear_line() -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from test_outputs import scene, JsonlOutput, OutputError, Path
output = JsonlOutput(Path("-"))
try:
    for number in range(100000):
        output.write(scene(number))
except OutputError as error:
    print(error, file=sys.stderr)
"""
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stderr is not None
        assert writer.stdout.readline().startswith(b"{")
        writer.stdout.close()
        said = writer.stderr.read().decode()
    assert said == "standard output was closed by the program that reads it\n"
    assert writer.returncode == 0


# --- MQTT


class Broker:
    """A mosquitto on a free loopback port that lets in `anna` with the password `geheim` alone, and one who listens."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        passwords = folder / "passwords"
        subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "anna", "geheim"], check=True)
        passwords.chmod(0o644)
        config = folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous false\npassword_file {passwords}\nuser root\n"
        )
        self.process = subprocess.Popen([find_mosquitto(), "-c", str(config)], stderr=subprocess.DEVNULL)
        self.url = f"mqtt://anna@127.0.0.1:{self.port}"
        self.heard: list[tuple[str, bytes]] = []
        wait_until(self.answers)
        self.listener = self.listen()

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def listen(self) -> Any:
        import paho.mqtt.client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        listener, ready = paho.Client(CallbackAPIVersion.VERSION2), threading.Event()
        listener.username_pw_set("anna", "geheim")
        listener.on_message = lambda _c, _d, message: self.heard.append((message.topic, message.payload))
        listener.on_subscribe = lambda *_: ready.set()
        listener.connect("127.0.0.1", self.port)
        listener.subscribe("home/#", 1)
        listener.loop_start()
        assert ready.wait(PATIENCE_S)
        return listener

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(payload) for topic, payload in self.heard if topic == "home/door"]

    def status(self) -> list[str]:
        return [payload.decode() for topic, payload in self.heard if topic == "home/door/status"]

    def close(self) -> None:
        self.listener.disconnect()
        self.listener.loop_stop()
        self.process.terminate()
        self.process.wait(PATIENCE_S)


def find_mosquitto() -> str:
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if not found or not shutil.which("mosquitto_passwd"):
        pytest.skip("mosquitto is not installed; run: sudo apt install mosquitto")
    return found


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    pytest.importorskip("paho.mqtt.enums", reason="paho-mqtt 2 is not installed; scripts/setup mqtt")
    find_mosquitto()
    monkeypatch.setenv(PASSWORD_VARIABLE, "geheim")
    running = Broker(tmp_path)
    yield running
    running.close()


def test_mqtt_tells_what_changes(broker: Broker) -> None:
    output = MqttOutput(broker.url, "home/door", every_s=3600)
    other = {**FACE, "label": "anger"}
    for index, rows in enumerate([[], [FACE], [FACE], [FACE, {"track": 2, "label": "fear"}], [other], [other], [], []]):
        output.write(scene(index, rows=rows))
    output.close()
    wait_until(lambda: len(broker.status()) == 2)
    assert [event["frame"] for event in broker.events()] == [1, 3, 4, 6]
    assert broker.events()[0] == scene(1, rows=[FACE]).to_json()
    assert broker.status() == ["online", "offline"]
    assert output.dropped == 0


def test_mqtt_repeats_what_stays(broker: Broker) -> None:
    output = MqttOutput(broker.url, "home/door", every_s=0.001)
    for index, rows in enumerate([[], [FACE], [FACE], []]):
        time.sleep(0.01)
        output.write(scene(index, rows=rows))
    output.close()
    wait_until(lambda: len(broker.status()) == 2)
    assert [event["frame"] for event in broker.events()] == [1, 2, 3]


def test_mqtt_comes_back_and_its_end_is_told(broker: Broker) -> None:
    told: list[str] = []
    output = MqttOutput(broker.url, "home/door", every_s=3600, tell=told.append)
    wait_until(lambda: broker.status() == ["online"])
    output._client.socket().shutdown(socket.SHUT_RDWR)  # as a network that breaks
    wait_until(lambda: not output._client.is_connected())
    output.write(scene(1, rows=[FACE]))
    for index in range(2, 300):  # more than the queue holds; none of them waits
        output.write(scene(index, rows=[{"track": index}]))
    wait_until(lambda: broker.status()[:3] == ["online", "offline", "online"])
    wait_until(lambda: any(event["frame"] == 1 for event in broker.events()))
    output.write(scene(300, rows=[]))
    output.close()
    wait_until(lambda: broker.status()[-1] == "offline")
    wait_until(lambda: output.dropped + len(broker.events()) >= 300)  # the word, of QoS 0, may overtake events
    frames = [event["frame"] for event in broker.events()]
    assert frames == sorted(set(frames))
    assert 0 < output.dropped < 299
    wait_until(lambda: len(told) >= 2)
    assert [line.split(f"{broker.port} ")[1].split(" ")[:2] for line in told] == [["is", "away"], ["is", "back;"]], told
    assert (
        0 <= int(told[1].split("; ")[1].split()[0]) <= output.dropped
    )  # 0 where it was back before the queue was full
    assert output.dropped + len(frames) == 300  # the last one too, where the queue was still full


@pytest.mark.parametrize(
    ("user", "password", "message"),
    [("anna@", "falsch", "must accept this client"), ("anna@", None, "must accept this client"),
     ("", None, "must accept this client"), ("", "geheim", "names no user")],
)  # fmt: skip
def test_mqtt_with_a_wrong_password(
    broker: Broker, user: str, password: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if password is None:
        monkeypatch.delenv(PASSWORD_VARIABLE)
    else:
        monkeypatch.setenv(PASSWORD_VARIABLE, password)
    with pytest.raises(OutputError, match=message) as caught:
        MqttOutput(f"mqtt://{user}127.0.0.1:{broker.port}", "home/door")
    assert "geheim" not in str(caught.value) and "falsch" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "topic", "message"),
    [
        ("mqtt://127.0.0.1:PORT", "a", r"127\.0\.0\.1:\d+ must be reachable, but: .*refused"),
        ("mqtts://127.0.0.1:PORT", "a", r"127\.0\.0\.1:\d+ must be reachable, but: .*refused"),
        ("mqtt://no-such-host.invalid", "a", r"no-such-host\.invalid:1883 must be reachable"),
        ("mqtt://anna:geheim@host", "a", f"must not hold the password.*{PASSWORD_VARIABLE}"),
        ("mqtt://host:abc", "a", "port is no number"),
        ("http://host", "a", "must be mqtt://"),
        ("anna:geheim@host", "a", r"must be mqtt://.* but is '\.\.\.@host'"),
        ("mqtt://host", "caf\udce9", "without [+] and #"),
        ("mqtt://caf\udce9@host", "a", "the user in the URL must be UTF-8"),
        ("mqtt://", "a", "must be mqtt://"),
        ("mqtt://host/topic", "a", "must be mqtt://"),
        ("mqtt://host", "", "without [+] and #"),
        ("mqtt://host", "home/#", "without [+] and #"),
        ("mqtt://host", "$SYS/x", "without [+] and #"),
    ],
)
def test_mqtt_that_cannot_be_opened(url: str, topic: str, message: str) -> None:
    pytest.importorskip("paho.mqtt.enums", reason="paho-mqtt 2 is not installed; scripts/setup mqtt")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(OutputError, match=message) as caught:
            MqttOutput(url.replace("PORT", str(free.getsockname()[1])), topic)
    assert "geheim" not in str(caught.value) and "\n" not in str(caught.value)


def test_mqtt_without_paho_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    with pytest.raises(MissingError, match=re.escape(install_command("mqtt"))):
        MqttOutput("mqtt://127.0.0.1", "a")


# --- window


@pytest.fixture(scope="module")
def in_window() -> Iterator[Callable[[str], None]]:
    """A function that runs lines of a test under a display, in a process of their own.

    Tk keeps its connection to a display for good, and ends its process where the display goes away.
    """
    pytest.importorskip("tkinter", reason="tkinter is not installed; run: sudo apt install python3-tk")
    if not shutil.which("Xvfb"):
        pytest.skip("Xvfb is not installed; run: sudo apt install xvfb")
    reading, writing = os.pipe()
    command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "640x480x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.DEVNULL)
    os.close(writing)
    with os.fdopen(reading) as numbers:
        display = f":{numbers.readline().strip()}"

    def run(lines: str) -> None:
        code = f"import sys; sys.path.insert(0, sys.argv[1]); from test_outputs import *\n{textwrap.dedent(lines)}"
        command = [sys.executable, "-c", code, str(Path(__file__).parent)]
        environment = {**os.environ, "DISPLAY": display}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3 * PATIENCE_S)
        assert (done.returncode, done.stderr) == (0, "")

    yield run
    server.terminate()
    server.wait(PATIENCE_S)


def test_a_window_shows_each_scene(in_window: Callable[[str], None]) -> None:
    in_window("""
        output = WindowOutput(threading.Event())
        output.write(scene(0, shade=40))
        output.write(scene(1, shade=200, size_wh=(80, 60)))
        assert (output._photo.width(), output._photo.height()) == (80, 60)
        assert output._photo.get(40, 30) == (200, 200, 200)
        output.write(scene(2, size_wh=(6400, 4800)))
        assert output._photo.width() <= 640 and output._photo.height() <= 480
        output.close()
        output.close()
    """)


def test_keys_and_closing_a_window_stop_the_app(in_window: Callable[[str], None]) -> None:
    in_window("""
        for key, stops in [("<q>", True), ("<Escape>", True), ("<x>", False), (None, True)]:
            stop = threading.Event()
            output = WindowOutput(stop)
            output.write(scene())
            root = output._root
            if key is None:
                root.tk.call(*root.tk.splitlist(root.protocol("WM_DELETE_WINDOW")))  # what the close button calls
            else:
                root.event_generate(key)
            output.write(scene())
            assert stop.is_set() == stops, key
            output.close()
    """)


def test_a_window_that_is_gone_stops_the_app(in_window: Callable[[str], None]) -> None:
    in_window("""
        stop = threading.Event()
        output = WindowOutput(stop)
        output.write(scene())
        output._root.destroy()
        with pytest.raises(OutputError, match="the window is gone"):
            output.write(scene())
        assert stop.is_set()
        output.close()
    """)


@pytest.mark.parametrize(("value", "message"), [(None, "DISPLAY is not set"), (":987", "can be reached")])
def test_no_display(value: str | None, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tkinter", reason="tkinter is not installed; run: sudo apt install python3-tk")
    if not sys.platform.startswith("linux"):
        pytest.skip("only X11 may be without a display")
    monkeypatch.delenv("DISPLAY", raising=False)
    if value is not None:
        monkeypatch.setenv("DISPLAY", value)
    with pytest.raises(OutputError, match=message):
        WindowOutput(threading.Event()).write(scene())


def test_no_tkinter_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tkinter", None)
    with pytest.raises(MissingError, match="sudo apt install python3-tk"):
        WindowOutput(threading.Event())
