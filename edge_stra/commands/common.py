"""What the commands share: how they print, and the type of a path."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from edge_stra.quiet import printable
from edge_stra.shipped import shipped_artifact
from edge_stra.spec import ArtifactError

PathType = click.Path(path_type=Path)


def shipped_path(name: str) -> Path:
    """The shipped artifact of a model, for commands that were given none. Raises ArtifactError where there is none."""
    path = shipped_artifact(name)
    if path is None:
        raise ArtifactError(f"this installation carries no artifact of {name}; give one with --model")
    return path


def say(line: str) -> None:
    """Progress, for people: standard error, so that standard output stays the result.

    Where nobody can read it any more, on a terminal that was closed or a full disk, the work goes on without.
    """
    with contextlib.suppress(OSError):
        click.echo(printable(line), err=True)


def say_over(line: str) -> None:
    """Progress in place of the terminal's last line, which it was said on before."""
    with contextlib.suppress(OSError):
        click.echo(f"\r{printable(line)}\x1b[K", err=True, nl=False)


class FiniteRange(click.FloatRange):
    """A number within a range; NaN, which no comparison holds back, and infinity are refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


def emit(data: dict[str, Any] | list[Any], as_json: bool, text: str) -> None:
    if as_json:
        emit_json(data)
    else:
        emit_text(text)


def emit_json(data: dict[str, Any] | list[Any]) -> None:
    click.echo(json.dumps(without_nan(data), indent=1))


def without_nan(value: Any) -> Any:
    """The same, with null for NaN and infinity, which JSON does not know: a foreign program's output may hold them."""
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def emit_text(text: str) -> None:
    click.echo(printable(text))


def bar(label: str) -> Callable[[list[Any]], Iterable[Any]]:
    """A progress bar on standard error, with time left; nothing where that is no terminal."""

    def show(items: list[Any]) -> Iterable[Any]:
        with click.progressbar(items, label=label, file=sys.stderr) as shown:
            yield from shown

    return show
