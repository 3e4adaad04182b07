"""Switches of `edge-stra export` that belong to some targets alone."""

from __future__ import annotations

from edge_stra.calibration.recipes import adjust
from edge_stra.export import Request
from edge_stra.spec import ModelError, Recipe


def recipe_of(request: Request) -> Recipe:
    """The recipe that a request's precision and switches name. Raises ModelError where they do not fit."""
    return adjust(request.quantize, request.ranges, request.bias_correction, request.equalise)


def refuse_switches(request: Request, *names: str) -> None:
    """Raises ModelError where a switch is given that the target has not."""
    for name in names:
        if getattr(request, name) is not None:
            raise ModelError(f"--{name.replace('_', '-')} has no meaning for {request.target}; leave it out")
