"""The re-identification app put together: a view for `edge_stra.apps.watch`, and the threshold to begin with."""

from __future__ import annotations

from collections.abc import Callable

from edge_stra.detections import Detect
from edge_stra.faces import Predicts
from edge_stra.gallery.checks import checked_name
from edge_stra.gallery.naming import effective_threshold
from edge_stra.gallery.store import Gallery
from edge_stra.reid_view import PeopleView
from edge_stra.sightings import CONFIRM
from edge_stra.tracks import GAP_S

LEAST_FRAMES = 1.5  # within a track's life: with fewer a late frame ends it
THRESHOLD_RANGE = (0.0, 2.0)  # of distances, for Controls


def create_people_view(
    predictor: Predicts,
    detect: Detect,
    gallery: Gallery,
    camera: str = "",
    site: str | None = None,
    enrol: bool = False,
    tell: Callable[[str], None] = print,
    fps: float | None = None,
) -> PeopleView:
    """A view that names people by a gallery; `site` limits searches to one, None searches all.

    fps: frames a second that will come, where that is known. Where they come further apart than a track lives, or
    nearly so, each person is seen once, and one search has to do for a name.

    Raises ArtifactError where the model is of another task, DataError where camera or site is no name that a gallery
    keeps, GalleryError where the gallery does not answer.
    """
    camera, site = checked_name("camera", camera, empty=True), None if site is None else checked_name("site", site)
    gallery.count()  # a gallery that can't be read ends the start, not the night
    confirm = 1 if fps is not None and fps * GAP_S < LEAST_FRAMES else CONFIRM
    return PeopleView(predictor, detect, gallery, camera, site, enrol, tell, confirm)


def starting_threshold(gallery: Gallery, given: float | None = None) -> tuple[float, str]:
    """The threshold to begin with, and a line that says where it is from. Raises GalleryError, DataError."""
    distance, origin = effective_threshold(gallery, given)
    lines = {
        "given": f"threshold {distance:g}",
        "gallery": f"threshold {distance:.3f}, calibrated for this gallery",
        "default": f"threshold {distance:g}, a guess: this gallery is not calibrated; "
        "run: edge-stra gallery calibrate --data CROPS --gallery URI",
    }
    return distance, lines[origin]
