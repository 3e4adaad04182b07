"""What the live apps share on the command line: source and output options, and how these are put together."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from edge_stra.commands.common import FiniteRange, PathType, say, say_over
from edge_stra.live.scene import Controls, Output, Source, View
from edge_stra.live.summary import Summary
from edge_stra.spec import DataError, OutputError

Command = TypeVar("Command", bound=Callable[..., Any])
STATUS_S = 5.0  # before the first line of progress where there is no terminal, and between those of a file
STATUS_LIVE_S = 3600.0  # between those of a camera: a service's journal keeps other lines
TOKEN_VARIABLE, SOURCE_VARIABLE = "EDGE_STRA_TOKEN", "EDGE_STRA_SOURCE"

OPTIONS = [
    click.argument("source", default="0", envvar=SOURCE_VARIABLE),
    click.option("--size", metavar="WxH", help="Ask the camera for this size, in pixels."),
    click.option("--fps", type=FiniteRange(0.001),
                 help="Ask the camera for this rate; of a file, take about so many frames."),
    click.option("--rotate", type=click.Choice(["0", "90", "180", "270"]), default="0", help="Degrees clockwise."),
    click.option("--mirror", is_flag=True, help="Left and right exchanged, as in a mirror."),
    click.option("--loop", is_flag=True, help="Begin a file again at its end."),
    click.option("--realtime", is_flag=True, help="Play a file at its own rate, as if it were a camera."),
    click.option("--seconds", type=FiniteRange(0, min_open=True), help="Stop after so long."),
    click.option("--mp4", type=PathType, help="Record the annotated pictures."),
    click.option("--jsonl", type=PathType, help="One line of JSON for each frame; - is standard output."),
    click.option("--csv", type=PathType, help="One line for each face or person."),
    click.option("--mqtt", metavar="URL", help="Publish to a broker: mqtt://HOST[:PORT], or mqtts:// for TLS."),
    click.option("--topic", default="edge-stra", show_default=True, help="MQTT topic; one for each camera."),
    click.option("--window", is_flag=True, help="Show a window; q ends it, or Ctrl-C while the camera is away."),
    click.option("--web", is_flag=True, help="Serve a page with the live picture."),
    click.option("--host", default="127.0.0.1", show_default=True, help="Where the page listens."),
    click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one."),
    click.option("--token", envvar=TOKEN_VARIABLE,
                 help=f"What the page demands beyond loopback; 'new' makes one up. Better in ${TOKEN_VARIABLE}."),
    click.option("--recordings", type=PathType, default=Path("recordings"), show_default=True,
                 help="Folder for what the page records."),
    click.option("--privacy", is_flag=True, help="Hide faces in every output."),
    click.option("--overwrite", is_flag=True, help="Replace files that exist, but those that --append goes on with."),
    click.option("--append", is_flag=True, help="Go on writing --jsonl and --csv files that exist."),
    click.option("--json", "as_json", is_flag=True, help="The summary as JSON."),
]  # fmt: skip


def live_options(command: Command) -> Command:
    """Adds SOURCE and the options that every live app has."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True)
class Live:
    """The options above, by their names."""

    source: str
    size: str | None
    fps: float | None
    rotate: str
    mirror: bool
    loop: bool
    realtime: bool
    seconds: float | None
    mp4: Path | None
    jsonl: Path | None
    csv: Path | None
    mqtt: str | None
    topic: str
    window: bool
    web: bool
    host: str
    port: int
    token: str | None
    recordings: Path
    privacy: bool
    overwrite: bool
    append: bool
    as_json: bool

    @staticmethod
    def take(options: dict[str, Any]) -> Live:
        """Moves the shared options out of a command's."""
        return Live(**{field.name: options.pop(field.name) for field in dataclasses.fields(Live)})


def open_live_source(live: Live) -> Source:
    from edge_stra.capture.opening import open_source
    from edge_stra.capture.options import CaptureOptions

    return open_source(
        live.source,
        CaptureOptions(
            tell=say,
            size_wh=parse_size(live.size),
            fps=live.fps,
            rotate=int(live.rotate),
            mirror=live.mirror,
            loop=live.loop,
            realtime=live.realtime,
        ),
    )


def parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    if (sides := re.fullmatch(r"0*([1-9][0-9]{0,5})[xX]0*([1-9][0-9]{0,5})", text)) is None:
        raise DataError(f"--size must be WIDTHxHEIGHT in pixels, like 640x480, but is {text[:40]!r}")
    return int(sides[1]), int(sides[2])


def check_places(live: Live, kept: Path | None = None) -> None:
    """Refuses, before any work, an output that is the source, the gallery's file `kept`, or another output.

    Raises OutputError.
    """
    written = [path for path in (live.mp4, live.jsonl, live.csv) if path is not None]
    places = [path if path == Path("-") else path.resolve() for path in written]
    for path, place in zip(written, places, strict=True):
        if places.count(place) > 1:
            raise OutputError(f"two outputs can't be written to one place, {path}; give each a name of its own")
    read = [kept] if kept else []
    if "://" not in live.source:  # a URL is no path, and may be longer than any
        source = Path(live.source)
        read += [source, *(source.iterdir() if source.is_dir() else ())]
    taken = {path.resolve() for path in read if path.is_file()}
    for path, place in zip(written, places, strict=True):
        if place in taken:
            raise OutputError(f"{path} is read by this command and would be replaced; give another name")


def open_outputs(live: Live, controls: Controls, fps: float | None) -> list[Output]:
    """All outputs that were asked for, or none: where one can't be opened, those before it are closed again."""
    from edge_stra.outputs.log import check_log

    for log in (live.jsonl, live.csv):
        if log is not None:
            check_log(log, log_mode(live))  # both, before the first is made or emptied
    outputs: list[Output] = []
    try:
        for create in planned_outputs(live, controls, fps or 15.0):
            outputs.append(create())
    except BaseException:
        for output in outputs:
            output.close()
        raise
    return outputs


def planned_outputs(live: Live, controls: Controls, fps: float) -> list[Callable[[], Output]]:
    """Logs last: --overwrite empties them, so by then all else must have been opened."""
    plan: list[Callable[[], Output]] = []
    if live.mqtt is not None:
        from edge_stra.outputs.mqtt import MqttOutput

        plan.append(lambda: MqttOutput(live.mqtt, live.topic, tell=say))  # type: ignore[arg-type]
    if live.window:
        from edge_stra.outputs.window import WindowOutput

        plan.append(lambda: WindowOutput(controls.stop))
    if live.web:
        plan.append(lambda: create_recording(live, controls, fps))
        plan.append(lambda: create_web(live, controls))
    if live.mp4 is not None:
        plan.append(lambda: create_mp4(live.mp4, fps, live.overwrite))  # type: ignore[arg-type]
    if live.jsonl is not None:
        from edge_stra.outputs.log import JsonlOutput

        plan.append(lambda: JsonlOutput(live.jsonl, log_mode(live)))  # type: ignore[arg-type]
    if live.csv is not None:
        from edge_stra.outputs.log import CsvOutput

        plan.append(lambda: CsvOutput(live.csv, log_mode(live)))  # type: ignore[arg-type]
    return plan


def log_mode(live: Live) -> Literal["new", "overwrite", "append"]:
    return "append" if live.append else "overwrite" if live.overwrite else "new"


def create_mp4(path: Path, fps: float, overwrite: bool) -> Output:
    from edge_stra.outputs.mp4 import MAX_FPS, Mp4Output

    return Mp4Output(path, min(fps, MAX_FPS), overwrite=overwrite)  # of a faster source it leaves pictures out


def create_recording(live: Live, controls: Controls, fps: float) -> Output:
    from edge_stra.outputs.recording import SwitchedRecording

    return SwitchedRecording(controls, live.recordings, lambda path: create_mp4(path, fps, overwrite=False), say)


def create_web(live: Live, controls: Controls) -> Output:
    from edge_stra.web.server import WebOutput

    token = secrets.token_urlsafe(18) if live.token == "new" else live.token
    web = WebOutput(controls, host=live.host, port=live.port, token=token)
    say(f"page: {web.url}" + (f"?token={token}" if live.token == "new" else ""))
    return web


def run_live(live: Live, view: View, controls: Controls, source: Source, started_s: float) -> None:
    """Runs an app to its end and prints what it did. Exits with 1 where an output had to be given up."""
    from edge_stra.apps.watch import stop_on_signals, watch
    from edge_stra.outputs.log import STANDARD_OUTPUT

    with stop_on_signals(controls.stop), contextlib.closing(source), stop_after(live.seconds, controls.stop):
        outputs = open_outputs(live, controls, source.fps)
        summary = watch(source, view, outputs, controls, say, progress_of(source, live), started_s)
    counters = source.statistics()
    # Where standard output carries the log, the summary goes beside it.
    text = json.dumps(summary.to_json(counters), indent=1) if live.as_json else summary.text(counters)
    click.echo(text, err=STANDARD_OUTPUT in (live.jsonl, live.csv))
    if summary.failed:
        raise OutputError(f"{len(summary.failed)} output(s) ended early; the first: {summary.failed[0]}")


@contextlib.contextmanager
def stop_after(seconds: float | None, stop: threading.Event) -> Iterator[None]:
    """Sets `stop` so many seconds from now, also while a source is silent; None never."""
    if seconds is None:
        yield
        return
    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), stop.set)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def progress_of(source: Source, live: Live) -> Callable[[Summary], None]:
    """A line every few seconds on standard error, rewritten in place on a terminal."""
    last, counted, wait_s = time.monotonic(), 0, 0.5 if sys.stderr.isatty() else STATUS_S
    terminal = sys.stderr.isatty()

    def show(summary: Summary) -> None:
        nonlocal last, counted, wait_s
        now = time.monotonic()
        if now - last < wait_s:
            return
        rate, last, counted = (summary.frames - counted) / (now - last), now, summary.frames
        if source.live and not terminal:
            wait_s = STATUS_LIVE_S
        of = f" of {source.total}" if source.total and not live.loop else ""
        left = ""
        if of and summary.fps > 0:
            left = f", {max(0.0, (source.total or 0) - summary.frames) / summary.fps:.0f} s left"
        line = f"{summary.frames}{of} frames, {rate:.1f} a second{left}"
        (say_over if terminal else say)(line)

    return show


def default_threads() -> int:
    """Threads of the runtime: the detector and the outputs want a core too."""
    return max(1, min(4, (os.cpu_count() or 1) - 1))
