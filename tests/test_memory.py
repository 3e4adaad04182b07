"""The memory that training keeps."""

import platform
import subprocess
import sys

import pytest

FREED = """
import os
import sys
from edge_stra.training.memory import keep_freed_memory
import numpy as np

def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

if sys.argv[1] == "keep":
    keep_freed_memory()
before = resident()
block = np.ones(32 << 20)  # 256 MiB
del block
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told so")
def test_a_large_block_that_was_freed_stays_with_the_process() -> None:
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", FREED, how], check=True, capture_output=True, text=True).stdout)
        for how in ("keep", "leave")
    )
    assert kept > 200 << 20
    assert given_back < 50 << 20
