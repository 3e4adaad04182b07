"""The loop of live apps: what reaches the outputs, what happens when one fails, how it stops, recording, privacy."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_stra.apps.attention import STRENGTH
from edge_stra.apps.modes import MODE_COLORS
from edge_stra.apps.privacy import hide
from edge_stra.apps.watch import SIGNALS, stop_on_signals, watch

from edge_stra.commands.common import emit_text, say, say_over
from edge_stra.commands.live import Live, create_mp4, progress_of, run_live
from edge_stra.detections import Detection
from edge_stra.live.scene import Controls, Frame, Look, Output, Scene
from edge_stra.live.summary import KEPT, Summary
from edge_stra.outputs.mp4 import MAX_FPS, Mp4Output
from edge_stra.outputs.recording import SwitchedRecording
from edge_stra.spec import ArtifactError, DataError, InputSpec, ModelSpec, OutputError
from edge_stra.views.expressions import MAX_FACES, ExpressionView

PICTURE = np.full((60, 80, 3), 120, np.uint8)


class Frames:
    """A source of `count` frames at 10 a second; without end where count is None, waiting for its closing."""

    label, live, fps, total = "test", False, 10.0, None

    def __init__(self, count: int | None) -> None:
        self.count, self.closed, self.handed = count, threading.Event(), 0

    def frames(self) -> Iterator[Frame]:
        while self.count is None or self.handed < self.count:
            yield Frame(PICTURE, self.handed, self.handed / 10, time.monotonic())
            self.handed += 1
            if self.count is None and self.closed.wait(0.01):
                return

    def statistics(self) -> Mapping[str, int]:
        return {"frames": self.handed}

    def close(self) -> None:
        self.closed.set()


class Plain:
    """A view that finds one thing in each frame."""

    def look(self, frame: Frame, settings: Mapping[str, Any]) -> Look:
        return Look(frame.rgb_u8, [{"track": 1, "threshold": settings["threshold"]}], {"detect": 1.0})


class Kept:
    """An output that remembers; it fails at the scene `fails_at`, and again at its closing where `fails_closing`."""

    def __init__(self, fails_at: int | None = None, fails_closing: bool = False) -> None:
        self.scenes: list[Scene] = []
        self.closed, self.fails_at, self.fails_closing = 0, fails_at, fails_closing

    def write(self, scene: Scene) -> None:
        if len(self.scenes) == self.fails_at:
            raise OutputError("the disk must have room, but is full")
        self.scenes.append(scene)

    def close(self) -> None:
        self.closed += 1
        if self.fails_closing:
            raise OutputError("can't be closed")


def live_of(source: str, **more: Any) -> Live:
    """The options of a live app, all else as if it were not given."""
    options = dict.fromkeys((field.name for field in dataclasses.fields(Live)), None)
    return Live(**{**options, "source": source, "web": False, "window": False, **more})


def test_every_frame_reaches_every_output_and_all_are_closed() -> None:
    outputs, source = [Kept(), Kept()], Frames(5)
    summary = watch(source, Plain(), outputs, Controls(0.4), print)
    for output in outputs:
        assert [s.index for s in output.scenes] == [0, 1, 2, 3, 4] and output.closed == 1
    assert outputs[0].scenes[2].to_json()["rows"] == [{"track": 1, "threshold": 0.4}]
    assert summary.frames == 5 and summary.rows == 5 and source.closed.is_set()
    assert set(summary.percentiles()) == {"detect", "output", "lag"}


def test_scenes_of_a_camera_have_the_time_of_day_and_those_of_a_file_have_none() -> None:
    for live in (True, False):
        source, kept = Frames(2), Kept()
        source.live = live
        before = datetime.now(timezone.utc)
        watch(source, Plain(), [kept], Controls(0.4), print)
        for scene_ in kept.scenes:
            event = scene_.to_json()
            assert ("at" in event) == live
            if live:
                at = datetime.fromisoformat(event["at"].replace("Z", "+00:00"))
                assert abs(at - before) < timedelta(seconds=20) and event["at"].endswith("Z")


def test_a_service_tells_its_rate_once_an_hour(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("edge_stra.commands.live.time.monotonic", lambda: now[0])
    source, summary = Frames(None), Summary(started_s=0.0)
    source.live = True
    show = progress_of(source, live_of("0"))
    for minute in range(24 * 60):
        now[0] = 60.0 * minute
        summary.frames += 600 if minute < 12 * 60 else 60
        show(summary)
    lines = capfd.readouterr().err.splitlines()
    assert 20 < len(lines) < 30
    assert "10.0 a second" in lines[5] and "1.0 a second" in lines[-1], lines


def test_a_failing_output_is_told_of_and_the_others_go_on() -> None:
    told: list[str] = []
    bad, good = Kept(fails_at=2, fails_closing=True), Kept()
    summary = watch(Frames(5), Plain(), [bad, good], Controls(0.4), told.append)
    assert len(bad.scenes) == 2 and bad.closed == 1 and len(good.scenes) == 5 and good.closed == 1
    assert told == ["the disk must have room, but is full"] == summary.failed


def test_when_the_last_output_has_failed_the_app_ends() -> None:
    bad = Kept(fails_at=1)
    summary = watch(Frames(None), Plain(), [bad], Controls(0.4), lambda line: None)
    assert summary.frames == 2 and summary.failed


def test_a_failure_at_the_end_is_told_of() -> None:
    told: list[str] = []
    summary = watch(Frames(1), Plain(), [Kept(fails_closing=True)], Controls(0.4), told.append)
    assert told == ["can't be closed"] == summary.failed


def test_outputs_are_closed_where_the_view_fails() -> None:
    class Broken:
        def look(self, frame: Frame, settings: Mapping[str, Any]) -> Look:
            raise ArtifactError("not finite")

    output = Kept()
    with pytest.raises(ArtifactError):
        watch(Frames(3), Broken(), [output], Controls(0.4), print)
    assert output.closed == 1


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])  # Ctrl-C, systemd, a lost terminal
def test_a_signal_ends_the_app_with_all_outputs_closed(name: str) -> None:
    number = getattr(signal, name, None)
    if number is None:
        pytest.skip(f"this system has no {name}")
    assert number in SIGNALS

    def before(number: int, frame: Any) -> None: ...

    class Struck(Frames):
        """The signal comes after the third frame."""

        def frames(self) -> Iterator[Frame]:
            for frame in super().frames():
                yield frame
                if frame.index == 2:
                    os.kill(os.getpid(), number)

    controls, output = Controls(0.4), Kept()
    inherited = signal.signal(number, before)  # under nohup the tests ignore one, and would wait for ever
    try:
        with stop_on_signals(controls.stop):
            summary = watch(Struck(None), Plain(), [output], controls, print)
        assert output.closed == 1 and 0 < summary.frames < 5
        assert signal.getsignal(number) is before
    finally:
        signal.signal(number, inherited)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="a terminal's SIGHUP is POSIX's")
def test_a_lost_terminal_that_nohup_ignores_stays_ignored() -> None:
    controls = Controls(0.4)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals(controls.stop):
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert not controls.stop.is_set() and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_was_closed_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("click.echo", gone)
    say("a camera is back")
    say_over("7 frames")
    with pytest.raises(OSError):
        emit_text("a result must not be lost in silence")


def test_controls_change_all_or_nothing() -> None:
    controls = Controls(0.4, model="a", models=("a", "b"))
    controls.change({"threshold": 1, "model": "b"})
    assert controls.snapshot()["threshold"] == 1.0 and controls.model == "b"
    for settings, said in [
        ({"model": "a", "threshold": 2}, "from 0 to 1"),
        ({"model": "c"}, "one of a, b"),
        ({"threshold": float("nan")}, "from 0 to 1"),
        ({"threshold": True}, "from 0 to 1"),
        ({"threshold": 10**400}, "from 0 to 1"),
        ({"recording": 1}, "true or false"),
        ({"attention": True}, "can't be changed"),
        ({"stop": True}, "can't be changed"),
        ({"_lock": None}, "can't be changed"),
    ]:
        with pytest.raises(DataError, match=said):
            controls.change(settings)
    assert controls.model == "b" and controls.threshold == 1.0


def scene(index: int = 0) -> Scene:
    return Scene("test", index, index / 10, PICTURE, [], {}, 0.0)


def test_recording_follows_the_switch(tmp_path: Path) -> None:
    made: list[tuple[Path, Kept]] = []

    def create(path: Path) -> Output:
        path.touch()
        made.append((path, Kept()))
        return made[-1][1]

    controls, told = Controls(0.4), []
    recording = SwitchedRecording(controls, tmp_path, create, told.append)
    for index, on in enumerate([False, True, True, False, True]):
        controls.change({"recording": on})
        recording.write(scene(index))
    recording.close()
    assert [[s.index for s in kept.scenes] for _, kept in made] == [[1, 2], [4]]
    assert [kept.closed for _, kept in made] == [1, 1] and len({path for path, _ in made}) == 2
    assert [line.split()[0] for line in told] == ["recording", "recorded", "recording", "recorded"]


def test_a_full_disk_switches_recording_off_and_nothing_else(tmp_path: Path) -> None:
    controls, told = Controls(0.4, recording=True), []
    kept = Kept(fails_at=1)
    recording = SwitchedRecording(controls, tmp_path, lambda path: kept, told.append)
    for index in range(3):
        recording.write(scene(index))
    recording.close()
    assert not controls.recording and kept.closed == 1 and len(kept.scenes) == 1
    assert "is full" in told[-1] and controls.snapshot()["notice"] == told[-1]


def test_a_folder_that_can_t_be_entered_switches_recording_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    controls, told = Controls(0.4, recording=True), []
    recording = SwitchedRecording(controls, tmp_path, lambda path: Kept(), told.append)
    monkeypatch.setattr(Path, "exists", denied)
    recording.write(scene())
    assert not controls.recording and "Permission denied" in told[-1]


def test_a_silent_source_ends_after_the_seconds_asked(capsys: pytest.CaptureFixture[str]) -> None:
    class Silent(Frames):
        def frames(self) -> Iterator[Frame]:
            self.closed.wait(20)
            yield from ()

    live = live_of("rtsp://camera", seconds=0.2)
    began_s = time.monotonic()
    run_live(live, Plain(), Controls(0.4), Silent(None), began_s)
    assert time.monotonic() - began_s < 10
    assert "0 frames" in capsys.readouterr().out


def test_a_fast_source_is_recorded_at_the_fastest_rate_of_a_recording(tmp_path: Path) -> None:
    output = create_mp4(tmp_path / "a.mp4", 240.0, overwrite=False)
    assert isinstance(output, Mp4Output) and output.fps == MAX_FPS


def test_the_summary_does_not_grow() -> None:
    summary = Summary()
    for _ in range(KEPT + 500):
        summary.take({"detect": 2.0}, 5.0, 1)
    assert summary.frames == KEPT + 500
    assert all(len(times) == KEPT for times in summary._stages.values())
    assert summary.to_json({"dropped": 3})["stages_ms"]["detect"] == {"p50": 2.0, "p90": 2.0}


def test_hidden_faces_keep_no_detail_and_the_rest_stays() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    before = picture.copy()
    hidden = hide(picture, [(30, 30, 40, 40), (90, 90, 30, 30), (200, 200, 10, 10)])
    assert (picture == before).all(), "the frame itself stays"
    inside = hidden[20:80, 20:80].astype(float)
    assert np.abs(np.diff(inside, axis=1)).mean() < 4, "neighbours differ by 85 in noise"
    assert (hidden[:20, :60] == before[:20, :60]).all()


class Fake:
    """A predictor whose probabilities follow the crop's brightness."""

    spec = ModelSpec("fake", "fer", InputSpec((8, 8), "grey"), ("dark", "bright"), "logits")

    def __call__(self, x: np.ndarray, /) -> np.ndarray:
        return np.array([[0.0, 1.5 * float(x.mean())]], np.float32)


def frame(value: int, time_s: float) -> Frame:
    return Frame(np.full((60, 80, 3), value, np.uint8), 0, time_s, time.monotonic())


SETTINGS = {"model": "fake", "threshold": 0.0, "privacy": False, "attention": None}


def test_probabilities_are_averaged_along_a_track_and_not_across_a_change_of_model() -> None:
    face = Detection((10, 10, 30, 30), 0.9)
    view = ExpressionView({"fake": Fake(), "other": Fake()}, lambda rgb: [face], tau_s=0.5)
    bright = view.look(frame(255, 0.0), SETTINGS).rows[0]
    assert bright["label"] == "bright" and bright["track"] == 1 and bright["probability"] > 0.9
    mixed = view.look(frame(0, 0.1), SETTINGS).rows[0]
    assert mixed["label"] == "bright", "the label is of the average, not of the last frame alone"
    alone = ExpressionView({"fake": Fake()}, lambda rgb: [face], 0.5).look(frame(0, 0.0), SETTINGS).rows[0]
    assert alone["probabilities"]["bright"] < mixed["probabilities"]["bright"] < bright["probabilities"]["bright"]
    changed = view.look(frame(0, 0.2), {**SETTINGS, "model": "other"}).rows[0]
    assert changed["probabilities"] == alone["probabilities"]


def test_below_the_threshold_the_app_is_unsure() -> None:
    view = ExpressionView({"fake": Fake()}, None, 0.0)
    row = view.look(frame(255, 0.0), {**SETTINGS, "threshold": 0.9999}).rows[0]
    assert row["label"] is None and row["probabilities"]["bright"] > 0.9
    assert row["box_xywh"] == [0, 0, 80, 60]


def test_privacy_hides_a_face_that_was_just_lost() -> None:
    found = [Detection((20, 10, 30, 30), 0.9)]
    view = ExpressionView({"fake": Fake()}, lambda rgb: list(found), 0.0)
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    settings = {**SETTINGS, "privacy": True}
    view.look(Frame(noise, 0, 0.0, 0.0), settings)
    found.clear()
    picture = view.look(Frame(noise, 1, 0.1, 0.0), settings).picture_u8
    assert (picture[15:35, 25:45] != noise[15:35, 25:45]).mean() > 0.9
    picture = view.look(Frame(noise, 2, 5.0, 0.0), settings).picture_u8
    assert (picture == noise).all(), "long gone"


def test_privacy_hides_faces_beyond_those_that_are_named() -> None:
    crowd = [Detection((4 * i, 10, 3, 10), 0.9) for i in range(MAX_FACES + 1)]
    view = ExpressionView({"fake": Fake()}, lambda rgb: list(crowd), 0.0)
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    look = view.look(Frame(noise, 0, 0.0, 0.0), {**SETTINGS, "privacy": True})
    left, top, width, height = crowd[-1].box_xywh
    last = np.s_[top : top + height, left : left + width]
    assert len(look.rows) == MAX_FACES
    assert (look.picture_u8[last] != noise[last]).mean() > 0.9


def test_attention_is_drawn_over_what_the_model_saw() -> None:
    masks = np.ones((2, 2, 2), np.float32)
    grey = np.full((60, 80, 3), 90, np.uint8)
    for detect, corner in ((None, True), (lambda rgb: [Detection((20, 10, 40, 40), 0.9)], False)):
        view = ExpressionView({"fake": Fake()}, detect, 0.0, {"fake": lambda x: masks})
        picture = view.look(Frame(grey, 0, 0.0, 0.0), {**SETTINGS, "attention": True}).picture_u8
        assert (picture[58, 40] != 90).any() == corner, "the whole frame, or the face's square alone"
    first_row = np.float32([[[1, 1], [0, 0], [0, 0], [0, 0]]])  # its middle lies at 7.5 of 60 rows
    view = ExpressionView({"fake": Fake()}, None, 0.0, {"fake": lambda x: first_row})
    picture = view.look(Frame(grey, 0, 0.0, 0.0), {**SETTINGS, "attention": True}).picture_u8
    full = STRENGTH * np.array(MODE_COLORS[0]) + (1 - STRENGTH) * 90
    assert picture[7, 70] == pytest.approx(full, abs=2)


def test_a_model_of_another_task_is_refused() -> None:
    class Embedder(Fake):
        spec = ModelSpec("people", "reid", InputSpec((8, 8), "rgb"), (), "embedding")

    with pytest.raises(ArtifactError, match="for 'reid'"):
        ExpressionView({"people": Embedder()}, None, 0.0)
