"""A reference executor for Core ML ML Programs, on any system.

    from edge_stra.mil import load_executor, open_package

    package = open_package(Path("model.mlpackage"))     # what it says of itself; needs protobuf alone
    executor = load_executor(Path("model.mlpackage"))   # and torch, to run it
    outputs = executor.run({"image": pixels_rgb_u8})

It reads the SAVED package, not a converter's program in memory. It walks the protobuf of the specification with
field numbers of its own (`edge_stra.mil.schema`) instead of coremltools' reader, since importing coremltools takes
many times what reading takes, its reader needs native libraries that Windows does not have, and an independent
reader is a check on the writer. `docs/mil.md` says what a run proves and what it does not.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edge_stra.mil.package import Feature, Package, open_package

if TYPE_CHECKING:
    from edge_stra.mil.executor import Executor

__all__ = ["Feature", "Package", "load_executor", "open_package"]


def load_executor(path: Path) -> Executor:
    """A saved .mlpackage, checked and compiled for `Executor.run`.

    Raises ArtifactError for a damaged package or an operator that is not known (it is named, and nothing was run),
    MissingError where torch or protobuf is not installed.
    """
    from edge_stra.mil.executor import compile_package

    return compile_package(open_package(path))
