"""Sources of frames: what each gives, in which order and when, and one clear line for what can't be opened."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_stra.capture import CaptureOptions, cameras, live, open_source
from edge_stra.capture.live import LiveSource
from edge_stra.capture.options import prepared
from edge_stra.spec import DataError, MissingError, SourceError

FPS = 20.0
PATIENCE_S = 20.0  # how long a test waits for what must come; never how long anything may take


def shade(number: int, size_wh: tuple[int, int] = (64, 48)) -> NDArray[np.uint8]:
    """A grey picture whose brightness is its number; a lossy codec keeps it within 2."""
    return np.full((size_wh[1], size_wh[0], 3), 10 * number % 250, np.uint8)


def number_of(picture: NDArray[np.uint8]) -> int:
    return round(float(picture.mean()) / 10)


def make_video(path: Path, frames: int = 10, fps: float = FPS) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (64, 48))
    for number in range(frames):
        writer.write(shade(number))
    writer.release()
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return make_video(tmp_path / "clip.avi")


class Camera:
    """An MJPEG server. limit: frames until it drops the connection; None for none. hang: it then stays silent."""

    def __init__(self) -> None:
        self.limit: int | None = None
        self.hang, self.sent, self.connections = False, 0, 0
        self.released = threading.Event()
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                camera.serve(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://user:geheim@127.0.0.1:{self.server.server_port}/video?key=geheim"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        self.connections += 1
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        handler.end_headers()
        left = self.limit
        try:
            while left is None or left > 0:
                jpeg = cv2.imencode(".jpg", shade(self.sent % 20))[1].tobytes()
                head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
                handler.wfile.write(head + jpeg + b"\r\n")
                self.sent += 1
                left = None if left is None else left - 1
                time.sleep(0.01)
            if self.hang:
                handler.wfile.flush()
                self.released.wait(PATIENCE_S)
        except OSError:
            return

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Iterator[Camera]:
    monkeypatch.setattr(live, "BACK_OFF_S", 0.01)
    served = Camera()
    yield served
    served.close()


class Steps:
    """A grabber that gives what the test puts into it, one picture for each `step`; None is a drop."""

    fps: float | None = None

    def __init__(self) -> None:
        self.ready = threading.Semaphore(0)
        self.pictures: list[NDArray[np.uint8] | None] = []
        self.reads = self.closed = 0

    def step(self, picture: NDArray[np.uint8] | None) -> None:
        self.pictures.append(picture)
        self.ready.release()

    def read(self) -> NDArray[np.uint8] | None:
        self.reads += 1
        assert self.ready.acquire(timeout=PATIENCE_S)
        return self.pictures.pop(0)

    def close(self) -> None:
        self.closed += 1


def wait_until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, "what the test waits for never came"
        time.sleep(0.005)


@pytest.mark.parametrize(
    "wrong",
    [{"rotate": 45}, {"fps": 0.0}, {"fps": float("nan")}, {"size_wh": (0, 5)}, {"size_wh": (99999, 5)},
     {"timeout_s": -1.0}, {"timeout_s": float("inf")}],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        CaptureOptions(**wrong)


# A picture of 4x2 whose corners are red (top left), green (top right), blue (bottom left), white (bottom right)
@pytest.mark.parametrize(
    ("options", "size_wh", "corners"),
    [
        ({}, (8, 4), "RGBW"),
        ({"mirror": True}, (8, 4), "GRWB"),
        ({"rotate": 90}, (4, 8), "BRWG"),
        ({"rotate": 180}, (8, 4), "WBGR"),
        ({"rotate": 270}, (4, 8), "GWRB"),
        ({"rotate": 90, "mirror": True}, (4, 8), "RBGW"),
        ({"size_wh": (4, 4)}, (4, 2), "RGBW"),
        ({"size_wh": (4, 4), "rotate": 90}, (2, 4), "BRWG"),
        ({"size_wh": (100, 100)}, (8, 4), "RGBW"),
    ],
)
def test_pictures_are_turned_as_asked(options: dict[str, Any], size_wh: tuple[int, int], corners: str) -> None:
    colours = {"R": (255, 0, 0), "G": (0, 255, 0), "B": (0, 0, 255), "W": (255, 255, 255)}
    quarters = [[colours[c] for c in row] for row in ("RG", "BW")]
    rgb = np.array(quarters, np.uint8).repeat(2, axis=0).repeat(4, axis=1)
    picture = prepared(rgb[:, :, ::-1], CaptureOptions(**options))
    assert picture.shape == (size_wh[1], size_wh[0], 3)
    seen = [tuple(picture[y, x].tolist()) for y in (0, -1) for x in (0, -1)]
    assert seen == [colours[c] for c in corners]


@pytest.mark.parametrize(
    ("fps", "indices"),
    [(None, list(range(10))), (100.0, list(range(10))), (10.0, [0, 2, 4, 6, 8]), (8.0, [0, 3, 5, 8]), (0.5, [0])],
)
def test_a_video_gives_every_frame_or_as_many_as_asked(video: Path, fps: float | None, indices: list[int]) -> None:
    source = open_source(str(video), CaptureOptions(fps=fps))
    frames = list(source.frames())
    assert [f.index for f in frames] == indices
    assert [number_of(f.rgb_u8) for f in frames] == indices
    assert [f.time_s for f in frames] == pytest.approx([i / FPS for i in indices])
    assert (source.live, source.label, source.total) == (False, "clip.avi", len(indices))
    assert source.fps == pytest.approx(min(fps or FPS, FPS))
    assert source.statistics() == {"frames": len(indices), "dropped": 0, "reconnects": 0}


def test_a_looped_video_goes_on_in_time(video: Path) -> None:
    source = open_source(str(video), CaptureOptions(loop=True))
    frames = list(islice(source.frames(), 25))
    assert [f.index for f in frames] == list(range(25))
    assert [number_of(f.rgb_u8) for f in frames] == [i % 10 for i in range(25)]
    assert frames[-1].time_s == pytest.approx(24 / FPS)
    assert source.total is None


def test_close_ends_a_file(video: Path) -> None:
    source = open_source(str(video), CaptureOptions(loop=True))
    frames = source.frames()
    next(frames)
    source.close()
    assert list(frames) == []


def test_a_video_that_was_cut_off_gives_what_it_has(video: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.avi"
    cut.write_bytes(video.read_bytes()[: video.stat().st_size * 85 // 100])
    numbers = [number_of(f.rgb_u8) for f in open_source(str(cut)).frames()]
    assert 0 < len(numbers) < 10
    assert numbers == list(range(len(numbers)))


def test_a_video_that_vanishes_is_told_when_it_begins_again(video: Path) -> None:
    frames = open_source(str(video), CaptureOptions(loop=True)).frames()
    video_frames = list(islice(frames, 10))
    video.unlink()
    assert len(video_frames) == 10
    with pytest.raises(SourceError, match="not any more"):
        list(frames)


def test_a_folder_gives_its_pictures_by_name(tmp_path: Path) -> None:
    sizes = {"b.png": (30, 20), "a.JPG": (64, 48), "c.webp": (16, 16), "d.bmp": (10, 8), "e.tif": (12, 9)}
    for name, size_wh in sizes.items():
        good, data = cv2.imencode(Path(name).suffix, shade(1 + list(sizes).index(name), size_wh))
        assert good
        (tmp_path / name).write_bytes(data.tobytes())
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "._a.jpg").write_text("what macOS leaves behind")
    (tmp_path / "e.png").mkdir()
    source = open_source(str(tmp_path), CaptureOptions(fps=4.0))
    frames = list(source.frames())
    assert [number_of(f.rgb_u8) for f in frames] == [2, 1, 3, 4, 5]
    assert [f.rgb_u8.shape[1::-1] for f in frames] == [(64, 48), (30, 20), (16, 16), (10, 8), (12, 9)]
    assert [f.time_s for f in frames] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert (source.total, source.fps) == (5, 4.0)


def test_a_bad_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", shade(1))[1].tobytes())
    (tmp_path / "b.png").write_bytes(b"no picture")
    frames = open_source(str(tmp_path)).frames()
    next(frames)
    with pytest.raises(SourceError, match=r"b\.png must be a picture"):
        next(frames)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("absent.mp4", "'absent.mp4' must be a camera's number, picamera2, a video.* but is not there"),
        ("", "must be a camera's number"),
        ("a\0b", "but is not there"),
        ("text.mp4", "text.mp4 must be a video that OpenCV can decode"),
        ("empty", "empty must hold pictures .* but holds none"),
        ("pipe", "is neither a file nor a folder"),
        ("99", r"camera 99 must be at .*video99, but is not; plug it in \(there is: "),
        ("ftp://user:geheim@host/x", "a URL must be rtsp://"),
        ("rtsp://user:geheim@host:no/x", "a URL must be rtsp://"),
        ("rtsp://user:geheim@[::/x", "a URL must be rtsp://"),
        ("rtsp:///x", "a URL must be rtsp://"),
        ("http://user:geheim@host/a\nb", "a URL must be rtsp://"),
        ("http://user:geheim@127.0.0.1:PORT/a?pw=geheim", r"http://127.0.0.1:\d+/a\?\.\.\. must be .* not answer"),
        ("rtsp://user:geheim@127.0.0.1:PORT/a", r"rtsp://127.0.0.1:\d+/a must be .* does not answer"),
        (
            "rtsp://127.0.0.1:PORT/cam/user=a&password=geheim&x=1.sdp",
            r"rtsp://127.0.0.1:\d+/cam/\.\.\. must be .* not ans",
        ),
        ("rtsp://127.0.0.1:PORT/user%3Da&password%3Dgeheim/1", r"rtsp://127.0.0.1:\d+/\.\.\./1 must be .* not answer"),
        ("rtsp:/10.0.0.5/user=a&password=geheim", r"'rtsp:/10\.0\.0\.5/\.\.\.' must be a camera's number"),
        ("videos/clip@2x.mp4", r"'videos/clip@2x\.mp4' must be a camera's number"),
        ("rtsp:/admin:geheim@10.0.0.5/s", r"'\.\.\.@10\.0\.0\.5/s' must be a camera's number"),
        ("rtsp://user:geheim@no-such-host.invalid/a", "the name no-such-host.invalid is not known"),
        ("rtsp://user:geheim@192.168.1..5/a", "the name 192.168.1..5 is not known"),
    ],
)
def test_what_cannot_be_opened_is_one_clear_line(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.mp4").write_text("no video\n" * 100)
    Path("empty").mkdir()
    os.mkfifo("pipe")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound but not listening: refuses
        with pytest.raises(SourceError, match=message) as caught:
            open_source(source.replace("PORT", str(free.getsockname()[1])), CaptureOptions(timeout_s=2.0))
    assert "geheim" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (None, "busy in another program or is no capture device"),
        (errno.EBUSY, "must be free, but is busy"),
        (errno.EACCES, "usermod -aG video"),
        (errno.ENXIO, "can't be opened"),
    ],
)
def test_a_camera_that_is_there_but_does_not_open(
    fault: int | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "video3").touch()
    monkeypatch.setattr(cameras, "DEVICES", str(tmp_path / "video"))
    if fault is not None:

        def refuse(*_: Any) -> int:
            raise OSError(fault, os.strerror(fault))

        monkeypatch.setattr(cameras.os, "open", refuse)
    with pytest.raises(SourceError, match=message):
        open_source("3")
    monkeypatch.undo()
    assert capfd.readouterr() == ("", "")


class FakePi:
    """What of picamera2 is used; its pictures lie in memory as BGR, whatever the format is called."""

    made: list[FakePi] = []  # noqa: RUF012
    fault: Exception | None = None
    frames = 1

    def __init__(self) -> None:
        if self.fault:
            raise self.fault
        self.left, self.closed, self.asked = self.frames, False, {}
        self.made.append(self)

    def create_video_configuration(self, **asked: Any) -> dict[str, Any]:
        return asked

    def configure(self, asked: dict[str, Any]) -> None:
        self.asked = asked

    def start(self) -> None:
        pass

    def capture_array(self, name: str, wait: bool) -> Any:
        job: Future[NDArray[np.uint8]] = Future()
        if self.left > 0:
            self.left -= 1
            job.set_result(np.full((4, 6, 3), (1, 2, 3), np.uint8))
        return types.SimpleNamespace(get_result=lambda timeout: job.result(timeout))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def picamera2(monkeypatch: pytest.MonkeyPatch) -> type[FakePi]:
    class Fresh(FakePi):
        made: list[FakePi] = []  # noqa: RUF012

    monkeypatch.setitem(sys.modules, "picamera2", types.SimpleNamespace(Picamera2=Fresh))
    return Fresh


def test_picamera2_gives_rgb_and_comes_back(picamera2: type[FakePi], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "BACK_OFF_S", 0.01)
    options = CaptureOptions(size_wh=(320, 240), fps=500.0, timeout_s=0.02)
    source = open_source("picamera2", options)
    frames = list(islice(source.frames(), 2))
    source.close()
    assert frames[0].rgb_u8[0, 0].tolist() == [3, 2, 1]
    first, second = picamera2.made[:2]
    assert first.asked == {"main": {"size": (320, 240), "format": "RGB888"}, "controls": {"FrameRate": 500.0}}
    assert first.closed
    assert second is not first
    assert source.statistics()["reconnects"] >= 1


def test_picamera2_that_is_not_installed_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "picamera2", None)
    with pytest.raises(MissingError, match=r"sudo apt install python3-picamera2.*--system-site-packages"):
        open_source("picamera2")


@pytest.mark.parametrize(
    ("fault", "message"),
    [(IndexError("list index out of range"), "finds none"), (RuntimeError("did not complete"), "must be free")],
)
def test_picamera2_without_a_camera(picamera2: type[FakePi], fault: Exception, message: str) -> None:
    picamera2.fault = fault
    with pytest.raises(SourceError, match=message):
        open_source("picamera2")


def test_only_the_newest_frame_of_a_live_source_counts() -> None:
    steps = Steps()
    steps.step(shade(0))
    source = LiveSource("camera", lambda: steps, CaptureOptions())
    frames = source.frames()
    seen = [next(frames)]
    for number in range(1, 8):  # while the reader is busy with the first frame
        steps.step(shade(number))
    wait_until(lambda: steps.reads == 9)
    seen.append(next(frames))
    assert [number_of(f.rgb_u8) for f in seen] == [0, 7]
    assert [f.index for f in seen] == [0, 7]
    assert source.statistics() == {"frames": 2, "dropped": 6, "reconnects": 0}
    steps.step(None)
    source.close()


def test_frames_before_anybody_looks_are_not_counted() -> None:
    steps = Steps()
    for number in range(5):
        steps.step(shade(number))
    source = LiveSource("camera", lambda: steps, CaptureOptions())
    wait_until(lambda: steps.reads == 6)
    frame = next(source.frames())
    assert (number_of(frame.rgb_u8), frame.index, frame.time_s) == (4, 0, 0.0)
    assert source.statistics()["dropped"] == 0
    steps.step(None)
    source.close()


def test_a_dropped_source_is_tried_again_ever_later() -> None:
    class Waits(threading.Event):
        def __init__(self) -> None:
            super().__init__()
            self.asked: list[float] = []

        def wait(self, timeout: float | None = None) -> bool:
            self.asked.append(timeout or 0.0)
            return super().wait(0)

    steps, refusals, waits = Steps(), 7, Waits()

    def connect() -> Steps:
        if 0 < steps.closed <= refusals:
            steps.closed += 1
            raise SourceError("still away")
        return steps

    steps.step(shade(1))
    source = LiveSource("camera", connect, CaptureOptions())
    source._stop = waits
    frames = source.frames()
    next(frames)
    steps.step(None)
    steps.step(shade(2))
    assert number_of(next(frames).rgb_u8) == 2
    assert [w for w in waits.asked if w > 0] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]
    wait_until(lambda: source.statistics()["reconnects"] == 1)  # the thread that reads counts after the picture came
    steps.step(None)
    source.close()


def test_an_mjpeg_stream_that_drops_goes_on(camera: Camera, capfd: pytest.CaptureFixture[str]) -> None:
    camera.limit = 5
    source = open_source(camera.url, CaptureOptions(timeout_s=5.0))
    frames = list(islice(source.frames(), 15))
    source.close()
    assert source.label == f"http://127.0.0.1:{camera.server.server_port}/video?..."
    assert source.live and source.total is None
    assert source.statistics()["reconnects"] >= 2
    assert camera.connections >= 3
    times, indices = [f.time_s for f in frames], [f.index for f in frames]
    assert times[0] == 0 and times == sorted(times)
    assert indices == sorted(set(indices))
    assert frames[0].rgb_u8.shape == (48, 64, 3)
    assert capfd.readouterr() == ("", "")


def test_fps_limits_what_a_live_source_hands_out(camera: Camera) -> None:
    source = open_source(camera.url, CaptureOptions(fps=4.0))
    frames = list(islice(source.frames(), 4))
    source.close()
    assert frames[-1].taken_s - frames[0].taken_s > 0.5  # three periods of 250 ms, less what a frame's age may vary
    assert source.statistics()["dropped"] > 0


def test_close_ends_a_reading_that_hangs(camera: Camera) -> None:
    camera.limit, camera.hang = 3, True
    source = open_source(camera.url, CaptureOptions(timeout_s=PATIENCE_S))
    seen: list[int] = []
    reader = threading.Thread(target=lambda: seen.extend(f.index for f in source.frames()), daemon=True)
    reader.start()
    wait_until(lambda: bool(seen))
    source.close()
    reader.join(PATIENCE_S / 2)
    assert not reader.is_alive()


def test_a_server_without_a_picture_is_no_source(camera: Camera) -> None:
    camera.limit = 0
    with pytest.raises(SourceError, match=r"answers without a video|gave none"):
        open_source(camera.url, CaptureOptions(timeout_s=1.0))


def test_a_fault_of_the_reading_thread_reaches_the_reader() -> None:
    class Broken(Steps):
        def read(self) -> NDArray[np.uint8] | None:
            self.reads += 1
            if self.reads > 1:
                raise ZeroDivisionError("a fault of the program")
            return shade(1)

    source = LiveSource("camera", Broken, CaptureOptions())
    with pytest.raises(ZeroDivisionError):
        list(source.frames())


def test_a_file_in_real_time_drops_what_comes_too_fast(video: Path) -> None:
    source = open_source(str(video), CaptureOptions(realtime=True))
    assert source.live
    frames, indices, times = source.frames(), [], []
    for frame in frames:
        indices.append(frame.index)
        times.append(frame.time_s)
        time.sleep(0.12)  # as slow as two frames of the file
    counts = source.statistics()
    assert indices == sorted(set(indices)) and indices[-1] == 9
    assert counts["frames"] + counts["dropped"] == 10
    assert counts["dropped"] > 0
    assert times == sorted(times)


def test_a_looped_file_in_real_time_does_not_end(video: Path) -> None:
    source = open_source(
        str(make_video(video.with_name("fast.avi"), 5, 100.0)), CaptureOptions(realtime=True, loop=True)
    )
    assert len(list(islice(source.frames(), 12))) == 12
    source.close()


@pytest.mark.slow
def test_every_frame_of_the_test_video_comes(shared_file: Callable[[str], Path]) -> None:
    source = open_source(str(shared_file("media/vtest.avi")))
    indices = [f.index for f in source.frames()]
    assert indices == list(range(795))
    assert (source.fps, source.total) == (10.0, 795)
