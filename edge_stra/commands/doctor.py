"""`edge-stra doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from edge_stra.commands.common import PathType, emit
from edge_stra.spec import ArtifactError


@click.command()
@click.argument("artifact", required=False, type=PathType)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
def doctor(artifact: Path | None, as_json: bool) -> None:
    """Tell what is installed, which runtime and delegate serve, what is missing and the command that adds it.

    With ARTIFACT, a .tflite file, the delegate is asked how much of it it takes.
    """
    from edge_stra import doctor as examine

    found = examine.diagnose(artifact)
    emit(found, as_json, examine.render(found))
    if found["delegate"].get("failed"):
        raise ArtifactError(found["delegate"]["note"])
