"""What is muted comes back as it was."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_stra.quiet import quiet_tools


@pytest.mark.parametrize("before", [logging.NOTSET, logging.INFO, logging.CRITICAL])
def test_logging_is_as_disabled_afterwards_as_it_was(before: int) -> None:
    logging.disable(before)
    try:
        with quiet_tools():
            assert not logging.getLogger().isEnabledFor(logging.WARNING)
            assert logging.getLogger().isEnabledFor(logging.ERROR) == (before < logging.ERROR)
            with quiet_tools():
                pass
            assert not logging.getLogger().isEnabledFor(logging.WARNING), "the inner one does not lift the outer"
        assert logging.root.manager.disable == before
    finally:
        logging.disable(logging.NOTSET)


WITHOUT_CONSOLE = """
import sys
kept = open(sys.argv[1], "w")  # takes the number of standard output, which is closed
assert sys.stdout is None and kept.fileno() == 1
from edge_stra.quiet import quiet_tools
with quiet_tools():
    kept.write("kept")
    kept.flush()
"""


@pytest.mark.skipif(os.name != "posix", reason="descriptors are closed by a POSIX shell")
def test_a_service_without_a_console_is_quiet_and_its_files_are_not(tmp_path: Path) -> None:
    code, file = tmp_path / "code.py", tmp_path / "log.txt"
    code.write_text(WITHOUT_CONSOLE)
    done = subprocess.run(["sh", "-c", 'exec "$0" "$1" "$2" >&-', sys.executable, code, file], capture_output=True)
    assert done.returncode == 0, done.stderr
    assert file.read_text() == "kept"
