"""The eyes of the re-identification app: people found, followed, embedded, looked up in a gallery, named or unknown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stra.apps.draw_people import Named, draw_people
from edge_stra.apps.privacy import hide
from edge_stra.apps.reid import embed_picture, unit_vector
from edge_stra.detections import Detect, Detection, RectXywh, check_picture
from edge_stra.faces import Predicts, check_task
from edge_stra.gallery.checks import checked_name
from edge_stra.gallery.naming import effective_threshold, name_prefix
from edge_stra.gallery.store import Entry, Gallery
from edge_stra.live.scene import Frame, Look, Stopwatch
from edge_stra.live.sightings import CONFIRM, Sighting, good_crop, head_of, settle
from edge_stra.live.tracks import GAP_S, Tracker
from edge_stra.spec import GalleryError

MAX_PEOPLE = 32  # that are followed and named, largest first
MAX_EMBEDS = 4  # of one frame: a crowd must not make the app late without bound; the others' turn comes next
MATCHES = 64  # asked of a search: several embeddings of a few identities
LEAST_FRAMES = 1.5  # within a track's life: with fewer a late frame ends it
THRESHOLD_RANGE = (0.0, 2.0)  # of distances, for Controls
MAX_RENEWED = 1  # of one frame: a search of a large gallery takes tens of milliseconds
RENEW_S = 5.0  # after which a person is looked up again without a new crop
RETRY_S = 5.0  # before a gallery that failed is asked again
SEARCH, ENROL = "search", "enrol"  # what a gallery is asked for
CONSEQUENCES = {
    SEARCH: "people stay unknown until it answers again",
    ENROL: "nobody is enrolled until that works again",
}


class PeopleView:
    """Names the people of a camera by a gallery (a `View` of `edge_stra.live.scene`).

    The gallery is used by the thread that calls `look` alone. A gallery that fails while running is told of once and
    asked again later; people stay unknown meanwhile. With `enrol`, who stays unknown is added under a new name.
    `confirm` is how many searches of a track must agree before it gets a name.
    `clock` gives seconds since 1970, `timer` a clock that never runs backwards. Raises ArtifactError where the model
    is of another task.
    """

    def __init__(
        self,
        predictor: Predicts,
        detect: Detect,
        gallery: Gallery,
        camera: str = "",
        site: str | None = None,
        enrol: bool = False,
        tell: Callable[[str], None] = print,
        confirm: int = CONFIRM,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        check_task(predictor.spec, "reid")
        self.predictor, self.detect, self.gallery = predictor, detect, gallery
        self.camera, self.site, self.enrol = camera, site, enrol
        self.tell, self.confirm, self.clock, self.timer = tell, confirm, clock, timer
        self.tracker = Tracker()
        self.sightings: dict[int, Sighting] = {}
        self.retries_s: dict[str, float] = {}  # when what failed may be tried again: SEARCH, ENROL
        self.blind_s = 0.0  # that the gallery took since the last frame: a server that is down takes seconds to fail
        self.farthest: float | None = None  # the threshold at the start: the page's may be lower, and strangers many

    def look(self, frame: Frame, settings: Mapping[str, Any]) -> Look:
        watch = Stopwatch()
        threshold = float(settings["threshold"])
        self.farthest = threshold if self.farthest is None else self.farthest
        with watch("detect"):
            found = self.detect(frame.rgb_u8)
            people = found[:MAX_PEOPLE]
            boxes = [person.box_xywh for person in people]
            numbers = self.tracker.update(boxes, frame.time_s, self.blind_s)
            self.blind_s = 0.0
            self.sightings = {n: self.sightings.get(n, Sighting()) for n in self.tracker.tracks}
        with watch("embed"):
            self.embed(frame, boxes, numbers)
        with watch("search"):
            self.ask_gallery(SEARCH, partial(self.search, frame.time_s))
            settle(self.sightings, threshold, frame.time_s, self.confirm)
            if self.enrol and SEARCH not in self.retries_s:
                self.ask_gallery(ENROL, partial(self.enrol_strangers, frame.time_s, max(threshold, self.farthest)))
        with watch("draw"):
            base = frame.rgb_u8
            if settings["privacy"]:
                beyond = (head_of(person.box_xywh) for person in found[MAX_PEOPLE:])
                base = hide(base, [*self.private_boxes(frame.time_s), *beyond])
            named = [Named(p.box_xywh, s.identity, s.distance()) for p, s in self.seen(people, numbers)]
            notice = "gallery does not answer" if SEARCH in self.retries_s else ""
            picture = draw_people(base, named, notice)
        where = {key: word for key, word in (("camera", self.camera), ("site", self.site)) if word}
        rows = [row_of(n, p, self.sightings[n]) | where for n, p in zip(numbers, people, strict=True)]
        return Look(picture, rows, watch.stages_ms)

    def seen(self, people: Sequence[Detection], numbers: Sequence[int]) -> Iterable[tuple[Detection, Sighting]]:
        return [(person, self.sightings[number]) for person, number in zip(people, numbers, strict=True)]

    def private_boxes(self, time_s: float) -> list[RectXywh]:
        """Where heads are, and where those should be of people whom the detector has just lost."""
        return [head_of(track.expected(time_s)) for track in self.tracker.tracks.values()]

    def embed(self, frame: Frame, boxes: Sequence[RectXywh], numbers: Sequence[int]) -> None:
        """Embeds the good crops whose turn it is, the least known people first."""
        size_hw = check_picture(frame.rgb_u8)
        waiting = []
        for index, (box, number) in enumerate(zip(boxes, numbers, strict=True)):
            others = [other for i, other in enumerate(boxes) if i != index]
            sighting = self.sightings[number]
            if sighting.due(frame.time_s, box[2] * box[3]) and good_crop(box, others, size_hw):
                waiting.append((sighting.count, sighting.embedded_s, number, box))
        for _, _, number, (left, top, width, height) in sorted(waiting)[:MAX_EMBEDS]:
            crop = frame.rgb_u8[top : top + height, left : left + width]
            unit = unit_vector(embed_picture(self.predictor, crop))
            self.sightings[number].see(unit, frame.time_s, width * height)

    def ask_gallery(self, what: str, work: Callable[[], None]) -> None:
        """Does what needs the gallery, unless the same failed a moment ago; tells once when it fails.

        A gallery may answer and yet take nobody in, as on a full disk: known people keep their names then.
        """
        start = self.timer()
        if start < self.retries_s.get(what, 0.0):
            return
        try:
            work()
        except GalleryError as error:
            if what not in self.retries_s:
                self.tell(f"{error}; {CONSEQUENCES[what]}")
            self.retries_s[what] = self.timer() + RETRY_S
        finally:
            self.blind_s += self.timer() - start

    def search(self, time_s: float) -> None:
        """Looks up each track that has new embeddings, and of the others the one that was looked up longest ago.

        Its person may be forgotten or renamed since. A gallery that failed is asked something also where nobody is.
        """
        asked = False
        known = [sighting for sighting in self.sightings.values() if sighting.embeddings]
        new = [sighting for sighting in known if sighting.pending]
        old = [sighting for sighting in known if not sighting.pending and time_s - sighting.searched_s >= RENEW_S]
        for sighting in (*new, *sorted(old, key=lambda one: one.searched_s)[:MAX_RENEWED]):
            sighting.found(self.gallery.search(sighting.mean(), k=MATCHES, site=self.site))
            sighting.searched_s = time_s
            asked = True
        if not asked and SEARCH in self.retries_s:
            anybody = np.zeros(self.gallery.maker.dimension, np.float32)
            anybody[0] = 1
            self.gallery.search(anybody, k=1, site=self.site)
            asked = True
        if asked and self.retries_s.pop(SEARCH, None) is not None:
            self.tell(f"{self.gallery.uri} answers again")

    def enrol_strangers(self, time_s: float, threshold: float) -> None:
        """Adds those who stayed unknown, each under a new name with all the embeddings kept of the track."""
        for sighting in self.sightings.values():
            if not sighting.stranger(time_s, threshold):
                continue
            # Somebody else may have enrolled them a moment ago, from another camera.
            sighting.found(self.gallery.search(sighting.mean(), k=MATCHES, site=self.site))
            if not sighting.stranger(time_s, threshold):
                continue
            prefix = name_prefix(self.camera, self.site or "")
            name = f"{prefix}{self.gallery.take_number(prefix):04d}"
            units: list[NDArray[np.float32]] = [unit.astype(np.float32) for unit in sighting.embeddings]
            self.gallery.add([Entry(name, unit, self.camera, self.clock(), self.site or "") for unit in units])
            self.retries_s.pop(ENROL, None)
            nearest = min(float(np.linalg.norm(unit - sighting.mean())) for unit in units)
            sighting.near = {name: nearest, **sighting.near}
            sighting.identity, sighting.unknown_since_s = name, None
            self.tell(f"enrolled {name} with {len(units)} embeddings")


def row_of(number: int, person: Detection, sighting: Sighting) -> dict[str, Any]:
    """One person of a scene, JSON-ready; `identity` is null for somebody unknown."""
    distance = sighting.distance()
    return {
        "track": number,
        "box_xywh": list(person.box_xywh),
        "score": None if person.score is None else round(person.score, 4),
        "identity": sighting.identity,
        "distance": None if distance is None else round(distance, 4),
    }


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
