"""The loop of every live app: frames in, scenes out, until the source ends or somebody stops it."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from types import FrameType

from edge_stra.live.scene import Controls, Output, Scene, Source, Stopwatch, View
from edge_stra.live.summary import Summary
from edge_stra.spec import OutputError

Tell = Callable[[str], None]
SIGNALS = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])


def watch(
    source: Source,
    view: View,
    outputs: Sequence[Output],
    controls: Controls,
    tell: Tell,
    progress: Callable[[Summary], None] = lambda summary: None,
    started_s: float | None = None,
) -> Summary:
    """Shows every frame of `source` to `view` and its scenes to all outputs; closes all of them at the end.

    Ends with the source, or when `controls.stop` is set, from any thread. An output that fails is told of, closed and
    left out from then on; the others go on. Raises what source and view raise, after the outputs are closed whole.
    """
    summary = Summary() if started_s is None else Summary(started_s=started_s)
    open_outputs = list(outputs)
    threading.Thread(target=close_on_stop, args=(source, controls.stop), daemon=True).start()
    try:
        for frame in source.frames():
            if controls.stop.is_set():
                break
            looked = view.look(frame, controls.snapshot())
            lag_ms = 1000 * (time.monotonic() - frame.taken_s)
            scene = Scene(
                f"{source.label}/{frame.name}" if frame.name else source.label,
                frame.index,
                frame.time_s,
                looked.picture_u8,
                looked.rows,
                looked.stages_ms,
                lag_ms,
                datetime.now(timezone.utc) - timedelta(milliseconds=lag_ms) if source.live else None,
            )
            output_ms = write_all(open_outputs, scene, summary, tell)
            if outputs and not open_outputs:
                controls.stop.set()  # nobody is left to see more
            summary.take({**looked.stages_ms, "output": output_ms}, lag_ms, len(looked.rows))
            progress(summary)
    finally:
        controls.stop.set()
        source.close()
        close_all(open_outputs, summary, tell)
    return summary


def close_on_stop(source: Source, stop: threading.Event) -> None:
    """A source may wait long for its next frame; closing it ends the wait."""
    stop.wait()
    source.close()


def write_all(outputs: list[Output], scene: Scene, summary: Summary, tell: Tell) -> float:
    """Hands a scene to each output; drops those that fail. Returns the milliseconds that all took."""
    watch_stage = Stopwatch()
    with watch_stage("output"):
        for output in list(outputs):
            try:
                output.write(scene)
            except OutputError as error:
                outputs.remove(output)
                give_up(output, error, summary, tell)
    return watch_stage.stages_ms["output"]


def give_up(output: Output, error: OutputError, summary: Summary, tell: Tell) -> None:
    summary.failed.append(str(error))
    tell(f"{error}")
    with contextlib.suppress(OutputError):  # told of already: closing what is full may fail the same way
        output.close()


def close_all(outputs: Sequence[Output], summary: Summary, tell: Tell) -> None:
    for output in outputs:
        try:
            output.close()
        except OutputError as error:
            summary.failed.append(str(error))
            tell(f"{error}")


@contextlib.contextmanager
def stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """SIGINT, SIGTERM and a lost terminal set `stop` while this is open, so that recordings end whole.

    A second one ends at once. A lost terminal that the process was told to ignore (`nohup`) stays ignored.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    hangup = getattr(signal, "SIGHUP", None)
    heeded = [n for n in SIGNALS if n != hangup or signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
