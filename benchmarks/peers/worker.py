"""A peer's process, as `run.py` sees it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import threading
from pathlib import Path
from typing import Any

HERE, REPOSITORY = Path(__file__).parent, Path(__file__).parents[2]
LOAD_SECONDS, RUN_SECONDS = 900, 120
REASON_CHARACTERS = 400
# An exception's line: its dotted name and a colon (ONNX Runtime has a NotImplemented), or a builtin's, or C++'s.
ERROR_LINE = re.compile(r"terminate called after throwing|[A-Za-z_][\w.]*(Error|Exception|Exit)\b|[a-z_]\w*(\.\w+)+: ")


class WorkerFailed(Exception):
    """Why a peer gives no figures, in one line."""


class Worker:
    """A process that answers questions (protocol.py), on one core and with high priority where that is allowed."""

    def __init__(self, python: Path, script: str, log: Path, core: int | None, threads: int, nice: int) -> None:
        self.log = log
        reading, writing = os.pipe()
        environment = os.environ | {
            "PYTHONPATH": str(REPOSITORY),  # torch's workers build the network
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        }

        with log.open("wb") as sink:
            self.process = subprocess.Popen(
                [str(python), str(HERE / script), str(writing)],
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=sink,
                pass_fds=(writing,),
                env=environment,
                text=True,
            )
        # From here, not between fork and exec, which threads of this process make unsafe: it has one thread as yet.
        # An ordinary user may not, and the run is noisier; a worker that has ended already says so when it is asked.
        with contextlib.suppress(PermissionError, ProcessLookupError):
            if core is not None:
                os.sched_setaffinity(self.process.pid, {core})
            os.setpriority(os.PRIO_PROCESS, self.process.pid, os.getpriority(os.PRIO_PROCESS, 0) + nice)
        os.close(writing)
        self.answers = os.fdopen(reading, encoding="utf-8")

    def ask(self, question: dict[str, Any], seconds: float = RUN_SECONDS) -> dict[str, Any]:
        """Its answer. Raises WorkerFailed where it ended, or took too long; it is ended then."""
        assert self.process.stdin is not None
        late = threading.Event()
        timer = threading.Timer(seconds, lambda: (late.set(), self.process.kill()))
        timer.start()
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            line = self.answers.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        code = self.process.wait()
        raise WorkerFailed(f"took more than {seconds:g} s" if late.is_set() else why(self.log.read_bytes(), code))

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.answers.close()
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # a question that it did not live to read
                self.process.stdin.close()


def why(log: bytes, code: int) -> str:
    """How a process ended, and the last exception in its log, on one line."""
    lines = [" ".join(line.split()) for line in log.decode("utf-8", "replace").splitlines()]
    starts = [i for i, line in enumerate(lines) if ERROR_LINE.match(line)]
    ending = f"ended by signal {-code}" if code < 0 else f"ended with code {code}"
    if not starts:
        return ending
    words = " ".join(filter(None, lines[starts[-1] :]))[:REASON_CHARACTERS]
    return words if code > 0 else f"{ending}: {words}"
