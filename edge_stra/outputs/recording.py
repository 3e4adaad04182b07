"""Recording that is switched on and off while an app runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from edge_stra.live.scene import Controls, Output, Scene
from edge_stra.spec import DataError, OutputError


class SwitchedRecording:
    """An output that records into a new file of `folder` while `controls.recording` is on.

    create: opens an output at a path. tell: takes one line where a recording begins, ends or fails; a failure switches
    recording off and the app goes on.
    """

    def __init__(
        self, controls: Controls, folder: Path, create: Callable[[Path], Output], tell: Callable[[str], None]
    ) -> None:
        self.controls, self.folder, self.create, self.tell = controls, folder, create, tell
        self.output: Output | None = None
        self.path: Path | None = None

    def write(self, scene: Scene) -> None:
        wanted = self.controls.recording
        try:
            if wanted and self.output is None:
                self.controls.notice = ""
                self.path = self.new_path()
                self.output = self.create(self.path)
                self.tell(f"recording to {self.path}")
            elif not wanted and self.output is not None:
                self.close()
            if self.output is not None:
                self.output.write(scene)
        except (OutputError, DataError, OSError) as error:
            self.controls.notice = f"recording stopped: {error}"
            self.controls.change({"recording": False})
            self.tell(self.controls.notice)
            output, self.output = self.output, None
            if output is not None:
                output.close()

    def new_path(self) -> Path:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        names = (f"{stamp}.mp4" if i == 0 else f"{stamp}-{i}.mp4" for i in range(1000))
        return next(self.folder / name for name in names if not (self.folder / name).exists())

    def close(self) -> None:
        output, self.output = self.output, None
        if output is not None:
            output.close()
            self.tell(f"recorded {self.path}")
