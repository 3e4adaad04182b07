"""The linter of ML Programs: each principle is found where it is broken, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edge_stra.cli import main
from edge_stra.delegates.neural_engine import PRINCIPLES, examine
from edge_stra.quiet import quiet_tools
from edge_stra.spec import ArtifactError

with quiet_tools():
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil import types

SHAPE = (1, 64, 8, 64)


def save(path: Path, body: Callable[[Any], Any], half: bool = True, shape: tuple[int, ...] = SHAPE) -> Path:
    @mb.program(input_specs=[mb.TensorSpec(shape, types.fp16 if half else types.fp32)], opset_version=ct.target.iOS16)
    def program(x: Any) -> Any:
        return body(x)

    with quiet_tools():
        ct.convert(
            program,
            minimum_deployment_target=ct.target.iOS16,
            compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
            skip_model_load=True,
            outputs=[ct.TensorType(dtype=np.float16 if half else np.float32)],
        ).save(str(path))
    return path


def conv(x: Any) -> Any:
    return mb.conv(x=x, weight=np.full((64, 64, 1, 1), 0.1, np.float16))


GOOD = {"conv": conv, "softmax over channels": lambda x: mb.softmax(x=x, axis=1), "relu": lambda x: mb.relu(x=x)}
BROKEN: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "rank": ("rank", lambda x: mb.relu(x=mb.reshape(x=x, shape=(1, 2, 32, 8, 64)))),
    "last axis": ("last axis", lambda x: mb.relu(x=mb.reshape(x=x, shape=(1, 64, 512, 1)))),
    "linear": ("1x1 convs", lambda x: mb.linear(x=x, weight=np.full((64, 64), 0.1, np.float16))),
    "softmax": ("softmax", lambda x: mb.softmax(x=x, axis=-1)),
    "copy": ("copies", lambda x: mb.transpose(x=x, perm=(0, 1, 3, 2))),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_follows_the_principles_is_left_alone(tmp_path: Path, name: str) -> None:
    found = examine(save(tmp_path / "good.mlpackage", GOOD[name]))
    assert found.operators and not found.complaints
    found.check()


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_a_principle_is_named(tmp_path: Path, name: str) -> None:
    principle, body = BROKEN[name]
    found = examine(save(tmp_path / "bad.mlpackage", body))
    assert principle in {complaint.principle for complaint in found.complaints}
    with pytest.raises(ArtifactError, match="principles"):
        found.check()


def test_float32_is_named_for_every_operator(tmp_path: Path) -> None:
    body = lambda x: mb.conv(x=x, weight=np.full((64, 64, 1, 1), 0.1, np.float32))  # noqa: E731
    found = examine(save(tmp_path / "wide.mlpackage", body, half=False))
    assert [complaint.principle for complaint in found.complaints] == ["half floats"]


def test_the_command_says_the_source_of_each_principle(tmp_path: Path) -> None:
    path = save(tmp_path / "bad.mlpackage", BROKEN["softmax"][1])
    result = CliRunner().invoke(main, ["inspect", str(path)])
    assert result.exit_code == 0, result.output
    assert all(principle.source in result.output for principle in PRINCIPLES)
    assert CliRunner().invoke(main, ["inspect", str(path), "--fail-on", "undelegated"]).exit_code == 1
