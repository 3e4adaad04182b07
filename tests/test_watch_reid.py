"""The re-identification view: who gets a name, when, and what happens when something fails."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from edge_stra.apps.draw_people import Named, color_of, draw_people, text_of
from edge_stra.apps.people import find_people_detector
from numpy.typing import NDArray

from edge_stra.detections import Detection, RectXywh
from edge_stra.gallery.naming import DEFAULT_THRESHOLD, largest_number, name_prefix
from edge_stra.gallery.store import Entry, Gallery, Maker, Match
from edge_stra.live.scene import Frame
from edge_stra.live.sightings import HOLD, Sighting, good_crop, head_of, settle
from edge_stra.spec import ArtifactError, DataError, GalleryError, InputSpec, ModelSpec
from edge_stra.views.people import (
    MAX_EMBEDS,
    MAX_PEOPLE,
    RENEW_S,
    RETRY_S,
    PeopleView,
    create_people_view,
    starting_threshold,
)

SIZE_HW = (240, 320)
RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)
BOX: RectXywh = (100, 60, 40, 120)
STEP_S = 0.125  # exact in binary: no schedule hangs on rounding
ZEROS, ONES = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
SPEC = ModelSpec("toy.reid", "reid", InputSpec((16, 8), "rgb", ZEROS, ONES), (), "embedding")


class ColourPredictor:
    """Embeds a crop as its mean colour [1, 3]; counts its calls."""

    spec = SPEC

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: NDArray[np.float32], /) -> NDArray[np.float32]:
        self.calls += 1
        return np.asarray(x.mean((1, 2)) + 1e-3, np.float32)


class MemoryGallery:
    """A gallery in memory that can be made to fail."""

    uri, maker = "memory", Maker("00" * 32, 3)

    def __init__(self, *known: tuple[str, tuple[int, int, int]]) -> None:
        self.kept: list[Entry] = []
        self.failing, self.calls, self.distance, self.number = False, 0, None, 0
        self.add([Entry(name, np.array(rgb, np.float32)) for name, rgb in known])

    def check(self) -> None:
        self.calls += 1
        if self.failing:
            raise GalleryError("memory must answer, but does not")

    def add(self, entries: Sequence[Entry]) -> int:
        self.check()
        self.kept += [
            Entry(e.identity, e.embedding / np.linalg.norm(e.embedding), e.camera, e.time_s, e.site) for e in entries
        ]
        return len(entries)

    def search(self, embedding: NDArray[np.float32], k: int = 5, site: str | None = None) -> list[Match]:
        self.check()
        unit = embedding / np.linalg.norm(embedding)
        found = [
            Match(e.identity, float(np.linalg.norm(e.embedding - unit)), e.camera, e.time_s, e.site)
            for e in self.kept
            if site in (None, e.site)
        ]
        return sorted(found, key=lambda match: match.distance)[:k]

    def identities(self) -> dict[str, int]:
        self.check()
        names = [entry.identity for entry in self.kept]
        return {name: names.count(name) for name in names}

    def take_number(self, prefix: str) -> int:
        self.check()
        self.number = max(self.number, largest_number(self.identities(), prefix)) + 1
        return self.number

    def given(self, prefix: str) -> int:
        raise NotImplementedError

    def set_given(self, prefix: str, number: int) -> None:
        raise NotImplementedError

    def unfinished(self) -> bool:
        return False

    def count(self) -> int:
        self.check()
        return len(self.kept)

    def entries(self) -> Iterator[Entry]:
        return iter(self.kept)

    def forget(self, identity: str) -> int:
        raise NotImplementedError

    def rename(self, identity: str, name: str) -> int:
        raise NotImplementedError

    def purge(self, before_s: float) -> int:
        raise NotImplementedError

    def threshold(self) -> float | None:
        self.check()
        return self.distance

    def set_threshold(self, distance: float) -> None:
        self.distance = distance  # type: ignore[assignment]

    def close(self) -> None: ...


class Stage:
    """A view with everything around it in hand: what is detected, what time it is, what was told."""

    def __init__(self, gallery: MemoryGallery | None = None, **more: Any) -> None:
        self.gallery = gallery or MemoryGallery(("anna", RED))
        self.predictor, self.people, self.told = ColourPredictor(), list[Detection](), list[str]()
        self.frames, self.now_s, self.late_s = 0, 0.0, 0.0
        self.view = PeopleView(self.predictor, lambda rgb: self.people, self.gallery, tell=self.told.append,
                               clock=lambda: 1e9 + self.now_s, timer=lambda: self.now_s, **more)  # fmt: skip

    def show(self, *people: tuple[RectXywh, tuple[int, int, int]], threshold: float = 0.5, **more: Any) -> Any:
        """One more frame with people of one colour each; the look at it."""
        picture = np.full((*SIZE_HW, 3), 90, np.uint8)
        for (left, top, width, height), rgb in people:
            picture[max(0, top) : top + height, max(0, left) : left + width] = rgb
        self.people = [Detection(box, 0.9) for box, _ in people]
        self.now_s = self.frames * STEP_S + self.late_s
        frame = Frame(picture, self.frames, self.now_s, 0.0)
        self.frames += 1
        return self.view.look(frame, {"threshold": threshold, "privacy": False, **more})


def moved(box: RectXywh, dx: int, dy: int = 0) -> RectXywh:
    return box[0] + dx, box[1] + dy, box[2], box[3]


def test_the_mean_is_of_the_newest_eight() -> None:
    sighting, red, green = Sighting(), np.array([1.0, 0, 0]), np.array([0, 1.0, 0])
    for index in range(16):
        sighting.see(red if index < 8 else green, 0.6 * index, 1)
    assert len(sighting.embeddings) == 8 and sighting.count == 16
    assert sighting.mean().tolist() == [0, 1, 0]


def test_a_stranger_whom_another_camera_has_just_enrolled_is_not_enrolled_twice() -> None:
    stage = Stage(MemoryGallery(("anna", RED)), camera="here", enrol=True)
    searches = stage.gallery.search

    def search(embedding: NDArray[np.float32], k: int = 5, site: str | None = None) -> list[Match]:
        """The other camera enrols them between this one's last look at the gallery and its own enrolment."""
        if any(sighting.stranger(stage.now_s, 0.5) for sighting in stage.view.sightings.values()):
            stage.gallery.add([Entry("person-there-0001", np.array(GREEN, np.float32))])
        return searches(embedding, k, site)

    stage.gallery.search = search  # type: ignore[method-assign]
    for _ in range(60):
        look = stage.show((BOX, GREEN))
    assert set(stage.gallery.identities()) == {"anna", "person-there-0001"}, stage.told
    assert look.rows[0]["identity"] == "person-there-0001"


def test_names_a_known_person_and_nobody_else() -> None:
    stage, other = Stage(), moved(BOX, 100)
    looks = [stage.show((BOX, RED), (other, GREEN)) for _ in range(4)]
    first = looks[0].rows
    assert [row["identity"] for row in first] == [None, None]  # one search is not enough
    assert first[0]["distance"] == pytest.approx(0, abs=0.01)
    named, unknown = looks[-1].rows
    assert named == {"track": 1, "box_xywh": list(BOX), "score": 0.9, "identity": "anna",
                     "distance": named["distance"]}  # fmt: skip
    assert (unknown["track"], unknown["identity"]) == (2, None)
    assert unknown["distance"] == pytest.approx(2**0.5, abs=0.01)
    assert list(looks[-1].stages_ms) == ["detect", "embed", "search", "draw"]
    json.dumps(looks[-1].rows)
    for _ in range(40):
        stage.show((BOX, RED), (other, GREEN))
    assert stage.gallery.identities() == {"anna": 1}  # nobody is enrolled unasked


def test_people_nobody_could_embed_are_unknown() -> None:
    stage = Stage()
    row = stage.show(((0, 60, 40, 120), RED)).rows[0]  # cut by the border
    assert (row["identity"], row["distance"], stage.predictor.calls) == (None, None, 0)
    assert stage.show().rows == []


def test_an_empty_gallery_knows_nobody() -> None:
    stage = Stage(MemoryGallery())
    rows = [stage.show((BOX, RED)).rows[0] for _ in range(5)]
    assert {(row["identity"], row["distance"]) for row in rows} == {(None, None)}


def test_crops_are_embedded_at_once_then_seldom() -> None:
    stage, times = Stage(), []
    for _ in range(26):
        before = stage.predictor.calls
        stage.show((BOX, RED))
        if stage.predictor.calls > before:
            times.append(stage.now_s)
    assert times == [0.0, 0.25, 0.5, 1.125, 1.75, 2.375, 3.0]
    before = stage.predictor.calls
    stage.show(((90, 50, 55, 150), RED))  # came nearer
    assert stage.predictor.calls == before + 1
    stage.show((BOX, RED))
    assert stage.predictor.calls == before + 1


def test_the_track_s_mean_is_asked_and_only_when_new() -> None:
    stage = Stage(MemoryGallery(("anna", RED), ("bob", GREEN)))
    stage.show((BOX, RED))
    calls = stage.gallery.calls
    stage.show((BOX, RED))
    assert stage.gallery.calls == calls
    stage.show((BOX, GREEN))
    near = stage.view.sightings[1].near
    assert near["anna"] == pytest.approx(near["bob"], abs=0.01)  # halfway between the two


def test_a_person_who_is_forgotten_loses_the_name_also_without_a_new_crop() -> None:
    stage = Stage()
    for _ in range(16):
        stage.show((BOX, RED))
    cut = (0, *BOX[1:])  # at the picture's border: no crop is good
    shown = [(max(0, BOX[0] - 10 * step), *BOX[1:]) for step in range(12)]
    for box in shown:
        row = stage.show((box, RED)).rows[0]
    assert row["identity"] == "anna"
    calls = stage.predictor.calls
    stage.gallery.kept = [entry for entry in stage.gallery.kept if entry.identity != "anna"]
    searches = stage.gallery.calls
    for _ in range(round(2 * RENEW_S / STEP_S)):
        row = stage.show((cut, RED)).rows[0]
    assert stage.predictor.calls == calls and (row["track"], row["identity"], row["distance"]) == (1, None, None)
    assert stage.gallery.calls - searches == 1, "now and then, not with every frame"


def test_a_person_who_is_forgotten_is_not_enrolled_by_what_was_seen_before() -> None:
    stage = Stage(camera="door", enrol=True)
    for _ in range(48):
        stage.show((BOX, GREEN))
    assert set(stage.gallery.identities()) == {"anna", "person-door-0001"}
    for step in range(12):
        stage.show(((max(0, BOX[0] - 10 * step), *BOX[1:]), GREEN))
    stage.gallery.kept = [entry for entry in stage.gallery.kept if entry.identity == "anna"]
    for _ in range(round(3 * RENEW_S / STEP_S)):
        row = stage.show(((0, *BOX[1:]), GREEN)).rows[0]
    assert (row["track"], row["identity"]) == (1, None) and stage.gallery.identities() == {"anna": 1}


def test_a_person_who_is_renamed_has_the_new_name_also_without_a_new_crop() -> None:
    stage = Stage()
    for _ in range(16):
        stage.show((BOX, RED))
    for step in range(12):
        stage.show(((max(0, BOX[0] - 10 * step), *BOX[1:]), RED))
    stage.gallery.kept = [replace(entry, identity="bob") for entry in stage.gallery.kept]
    names = [stage.show(((0, *BOX[1:]), RED)).rows[0]["identity"] for _ in range(round(2 * RENEW_S / STEP_S))]
    assert names[0] == "anna" and names[-1] == "bob" and None not in names


def test_of_a_crowd_one_is_looked_up_again_with_each_frame() -> None:
    stage = Stage()
    crowd = [(20 + 50 * i, *BOX[1:]) for i in range(5)]
    for _ in range(16):
        stage.show(*[((left, 60, 30, 90), RED) for left, *_ in crowd])
    before, most = stage.gallery.calls, 0
    for _ in range(round(2 * RENEW_S / STEP_S)):
        stage.show(*[((left, 60, 30, 30), RED) for left, *_ in crowd])  # too low for a crop
        most, before = max(most, stage.gallery.calls - before), stage.gallery.calls
    assert most == 1 and all(one.searched_s > 2.0 for one in stage.view.sightings.values())


def test_the_same_embeddings_asked_again_confirm_nothing() -> None:
    sighting = Sighting()
    sighting.see(np.array([1.0, 0, 0]), 0.0, 1)
    for _ in range(3):
        sighting.found([Match("anna", 0.1, "", 0.0, "")])
    assert sighting.wanted(0.5) is None
    sighting.see(np.array([1.0, 0, 0]), 0.6, 1)
    sighting.found([Match("anna", 0.1, "", 0.0, "")])
    assert sighting.wanted(0.5) == "anna"


def test_a_crowd_takes_turns() -> None:
    """Whom the view knows least comes first."""
    stage = Stage()
    crowd = [((5 + 30 * i, 60, 25, 80), RED) for i in range(10)]
    counts = []
    for _ in range(3):
        stage.show(*crowd)
        counts.append([stage.view.sightings[n].count for n in range(1, 11)])
    assert counts == [[1] * MAX_EMBEDS + [0] * 6, [1] * 2 * MAX_EMBEDS + [0] * 2, [2, 2, *[1] * 8]]


@pytest.mark.parametrize(
    ("box", "others", "good"),
    [
        (BOX, [], True),
        (BOX, [moved(BOX, 30)], True),  # a quarter covered
        (BOX, [moved(BOX, 20)], False),  # a half
        (BOX, [(90, 150, 300, 300)], True),  # only the feet
        ((0, 60, 40, 120), [], False),
        ((100, 0, 40, 120), [], False),
        ((280, 60, 40, 120), [], False),
        ((100, 120, 40, 120), [], False),
        ((100, 60, 20, 47), [], False),
        ((100, 60, 15, 60), [], False),
        ((100, 60, 100, 120), [], False),  # two side by side, rather
        ((100, 60, 20, 120), [], False),  # a post
    ],
)
def test_good_crops(box: RectXywh, others: list[RectXywh], good: bool) -> None:
    assert good_crop(box, others, SIZE_HW) is good


def sighting_after(*answers: dict[str, float], identity: str | None = None) -> Sighting:
    sighting = Sighting(identity=identity)
    for answer in answers:
        pairs = sorted(answer.items(), key=lambda pair: pair[1])
        sighting.pending = True  # by another embedding each time
        sighting.found([Match(name, distance, "", 0.0, "") for name, distance in pairs])
    return sighting


@pytest.mark.parametrize(
    ("answers", "identity", "wanted"),
    [
        ([{"a": 0.3}], None, None),  # not confirmed
        ([{"a": 0.3}, {"a": 0.3}], None, "a"),
        ([{"a": 0.5}, {"a": 0.5}], None, "a"),  # at the threshold
        ([{"a": 0.51}, {"a": 0.51}], None, None),
        ([{"b": 0.3}, {"a": 0.3}], None, None),  # they disagree
        ([{"b": 0.3}, {"a": 0.3}, {"a": 0.3}], None, "a"),
        ([{"a": 0.54}, {"a": 0.54}], "a", "a"),  # held a little beyond the threshold
        ([{"a": 0.56}, {"a": 0.56}], "a", None),
        ([{"a": 0.3}], "a", "a"),
        ([{"b": 0.3, "a": 0.34}] * 2, "a", "a"),  # hardly nearer
        ([{"b": 0.3, "a": 0.36}] * 2, "a", "b"),
        ([{"b": 0.3, "a": 0.36}], "a", "a"),  # but not at once
        ([{"b": 0.3, "a": 0.6}] * 2, "a", "b"),
        ([{"b": 0.3}], "a", None),  # nothing near is left of the old name
        ([{}], "a", None),
    ],
)
def test_names_do_not_flicker(answers: list[dict[str, float]], identity: str | None, wanted: str | None) -> None:
    assert sighting_after(*answers, identity=identity).wanted(0.5) == wanted


def test_the_threshold_may_change_meanwhile() -> None:
    sighting = sighting_after({"a": 0.4}, {"a": 0.4})
    assert [sighting.wanted(t) for t in (0.3, 0.5)] == [None, "a"]


def test_several_embeddings_of_an_identity_count_once() -> None:
    sighting = Sighting()
    sighting.found([Match(name, d, "", 0.0, "") for name, d in (("a", 0.2), ("a", 0.3), ("b", 0.4))])
    assert sighting.near == {"a": 0.2, "b": 0.4} and sighting.distance() == 0.2


@pytest.mark.parametrize(
    ("distances", "held", "named"),
    [
        ((0.3, 0.2), (None, None), (None, "a")),  # the nearer wins
        ((0.2 + HOLD / 2, 0.2), ("a", None), ("a", None)),  # who has the name keeps it against a little
        ((0.2 + 2 * HOLD, 0.2), ("a", None), (None, "a")),
    ],
)
def test_one_track_for_each_identity(distances: Any, held: Any, named: Any) -> None:
    sightings = {
        number: sighting_after({"a": d}, {"a": d}, identity=name)
        for number, d, name in zip((1, 2), distances, held, strict=True)
    }
    settle(sightings, 0.5, 0.0)
    assert tuple(sighting.identity for sighting in sightings.values()) == named
    settle(sightings, 0.5, 0.0)
    assert tuple(sighting.identity for sighting in sightings.values()) == named


def test_strangers_are_enrolled_where_asked() -> None:
    stage = Stage(camera="door", site="shop", enrol=True)
    for _ in range(24):
        assert stage.show((BOX, GREEN), (moved(BOX, 100), BLUE)).rows[0]["identity"] is None
    rows = [stage.show((BOX, GREEN), (moved(BOX, 100), BLUE)).rows for _ in range(3)][-1]
    assert [row["identity"] for row in rows] == ["person-shop-door-0001", "person-shop-door-0002"]
    assert rows[0]["distance"] == pytest.approx(0, abs=1e-3)
    kept = [entry for entry in stage.gallery.kept if entry.identity == "person-shop-door-0001"]
    assert len(kept) >= 5
    assert {(e.camera, e.site, e.time_s > 1e9) for e in kept} == {("door", "shop", True)}
    count = len(stage.gallery.kept)
    for _ in range(30):
        stage.show((BOX, GREEN), (moved(BOX, 100), BLUE))
    assert len(stage.gallery.kept) == count
    assert stage.told == [f"enrolled person-shop-door-000{n} with 7 embeddings" for n in (1, 2)]


@pytest.mark.parametrize(
    "colours",
    [
        [(255, 160, 0)],  # 0.55 from anna: nearly her
        [GREEN, BLUE],  # two people in one track
    ],
)
def test_doubtful_tracks_are_not_enrolled(colours: list[tuple[int, int, int]]) -> None:
    stage = Stage(enrol=True)
    for index in range(40):
        stage.show((BOX, colours[index // 5 % len(colours)]))
    assert stage.view.sightings[1].count > 6
    assert list(stage.gallery.identities()) == ["anna"]


def test_a_failing_gallery_does_not_end_the_app() -> None:
    stage = Stage(enrol=True)
    stage.gallery.failing = True
    assert {stage.show((BOX, RED)).rows[0]["identity"] for _ in range(60)} == {None}  # asked twice
    assert stage.gallery.calls == 3
    assert len(stage.told) == 1 and "people stay unknown" in stage.told[0] and "\n" not in stage.told[0]
    calls = stage.gallery.calls
    stage.gallery.failing = False
    while stage.now_s < 2 * RETRY_S - 0.5:
        stage.show((BOX, RED))
    assert stage.gallery.calls == calls  # not asked before its time
    for _ in range(16):
        row = stage.show((BOX, RED)).rows[0]
    assert row["identity"] == "anna"
    assert stage.told[1:] == ["memory answers again"]


def test_a_gallery_that_is_back_is_told_of_also_where_nobody_is_seen() -> None:
    stage = Stage()
    stage.gallery.failing = True
    for _ in range(20):
        stage.show((BOX, RED))
    assert len(stage.told) == 1
    stage.gallery.failing = False
    until_s = stage.now_s + RETRY_S + 20  # people's tracks end first
    while stage.now_s < until_s:
        stage.show()
    assert stage.told[1:] == ["memory answers again"]


def test_names_given_stay_while_the_gallery_is_away() -> None:
    stage = Stage()
    for _ in range(5):
        stage.show((BOX, RED))
    stage.gallery.failing = True
    assert {stage.show((BOX, RED)).rows[0]["identity"] for _ in range(30)} == {"anna"}


def test_names_given_stay_while_a_gallery_takes_seconds_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a server that is down does: the next live frame is seconds newer, and nobody has left meanwhile."""
    stage = Stage()
    for _ in range(5):
        stage.show((BOX, RED))

    def slow(*words: Any, **more: Any) -> list[Match]:
        stage.late_s, stage.now_s = stage.late_s + 3.0, stage.now_s + 3.0
        raise GalleryError("no answer")

    monkeypatch.setattr(stage.gallery, "search", slow)
    rows = [stage.show((BOX, RED)).rows[0] for _ in range(60)]
    assert stage.late_s > 3.0, "asked more than once"
    assert {(row["identity"], row["track"]) for row in rows} == {("anna", 1)}
    stage.late_s += 3.0  # a camera that gives no frames for so long: who is there then may be anybody
    assert stage.show((BOX, RED)).rows[0]["track"] == 2


def test_a_threshold_that_a_viewer_lowers_makes_no_strangers_of_people(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(enrol=True)
    stage.show((BOX, (255, 160, 0)))  # 0.55 from anna, no stranger at the threshold of the start, 0.5
    for _ in range(60):
        assert stage.show((BOX, (255, 160, 0)), threshold=0.2).rows[0]["identity"] is None
    assert list(stage.gallery.identities()) == ["anna"]


def test_an_enrolment_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(enrol=True)

    def full(entries: Sequence[Entry]) -> int:
        raise GalleryError("disk full")

    monkeypatch.setattr(stage.gallery, "add", full)
    for _ in range(30):
        assert stage.show((BOX, GREEN)).rows[0]["identity"] is None
    assert stage.told[0].startswith("disk full")
    monkeypatch.undo()
    for _ in range(60):
        row = stage.show((BOX, GREEN)).rows[0]
    # The first number went with what failed.
    assert row["identity"] == "person-0002" and stage.gallery.identities()["person-0002"] >= 5


def test_a_gallery_that_takes_nobody_in_still_names_whom_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(enrol=True)

    def full(entries: Sequence[Entry]) -> int:
        raise GalleryError("disk full")

    monkeypatch.setattr(stage.gallery, "add", full)
    while stage.now_s < 3 * RETRY_S:
        stage.show((BOX, GREEN))
    rows = [stage.show((BOX, GREEN), (moved(BOX, 100), RED)).rows[1]["identity"] for _ in range(8)]
    assert rows[-1] == "anna", "within a second, whether a stranger can be enrolled or not"
    assert stage.told == ["disk full; nobody is enrolled until that works again"]


def test_the_name_of_somebody_forgotten_is_not_given_to_the_next_stranger() -> None:
    stage = Stage(camera="door", enrol=True)
    for _ in range(40):
        stage.show((BOX, GREEN))
    assert set(stage.gallery.identities()) == {"anna", "person-door-0001"}
    stage.gallery.kept = [entry for entry in stage.gallery.kept if entry.identity == "anna"]
    for _ in range(40):
        row = stage.show((moved(BOX, 100), BLUE)).rows[0]
    assert row["identity"] == "person-door-0002" and row["camera"] == "door" and "site" not in row


def test_other_errors_are_not_hidden() -> None:
    stage = Stage()
    stage.predictor.spec = ModelSpec("x", "fer", SPEC.input, ("a",), "logits")
    with pytest.raises(ArtifactError):
        stage.show((BOX, RED))


def test_privacy_blurs_heads_also_of_the_lost() -> None:
    stage, plain = Stage(), Stage()
    checked = np.indices((8, 8)).sum(0) % 2 * 255
    pattern = np.repeat(np.tile(checked, (30, 40))[:, :, None], 3, 2).astype(np.uint8)

    def look(stage: Stage, people: list[Detection], privacy: bool) -> NDArray[np.uint8]:
        stage.people = people
        stage.frames += 1
        frame = Frame(pattern, stage.frames, stage.frames * STEP_S, 0.0)
        picture: NDArray[np.uint8] = stage.view.look(frame, {"threshold": 0.5, "privacy": privacy}).picture_u8
        return picture

    def spread_in(picture: NDArray[np.uint8], rows: slice) -> float:
        return float(picture[rows, 110:130].astype(float).std())  # inside the frame's line

    head, body = slice(66, 86), slice(120, 170)
    blurred = look(stage, [Detection(BOX)], True)
    assert spread_in(blurred, head) < 0.3 * spread_in(blurred, body)
    lost = look(stage, [], True)
    assert spread_in(lost, head) < 0.3 * spread_in(lost, body)
    assert spread_in(look(plain, [Detection(BOX)], False), head) > 100
    assert set(np.unique(pattern)) == {0, 255}  # the frame itself stays as it was


@pytest.mark.parametrize(
    ("box", "height"),
    [
        ((10, 20, 40, 160), 40),  # walks by: a quarter
        ((0, 0, 60, 160), 48),  # arms out
        ((0, 0, 300, 400), 240),  # behind a counter: head and chest
        ((0, 0, 300, 200), 200),  # a face that fills the picture
        ((0, 0, 1, 1), 1),
    ],
)
def test_a_head_is_as_large_as_the_box_is_wide(box: RectXywh, height: int) -> None:
    assert head_of(box) == (*box[:3], height)


def test_privacy_blurs_heads_beyond_those_that_are_followed() -> None:
    stage = Stage()
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 3), dtype=np.uint8)
    stage.people = [Detection(moved(BOX, i % 2)) for i in range(MAX_PEOPLE)] + [Detection((20, 120, 30, 80))]
    look = stage.view.look(Frame(noise, 0, 0.0, 0.0), {"threshold": 0.5, "privacy": True})
    assert len(look.rows) == MAX_PEOPLE
    assert (look.picture_u8[122:138, 24:46] != noise[122:138, 24:46]).mean() > 0.9


def test_pictures_apart_need_one_search_and_a_video_two() -> None:
    picture = np.full((*SIZE_HW, 3), 90, np.uint8)
    left, top, width, height = BOX
    picture[top : top + height, left : left + width] = RED
    for fps, names in ((0.5, ["anna"] * 2), (1.0, ["anna"] * 2), (10.0, [None, "anna"]), (None, [None, "anna"])):
        gallery = MemoryGallery(("anna", RED))
        view = create_people_view(ColourPredictor(), lambda rgb: [Detection(BOX, 0.9)], gallery, fps=fps)
        looks = [
            view.look(Frame(picture, i, i / (fps or 5.0), 0.0), {"threshold": 0.5, "privacy": False}) for i in (0, 2)
        ]
        assert [look.rows[0]["identity"] for look in looks] == names, fps


def test_draws_frames_and_names() -> None:
    picture = np.full((*SIZE_HW, 3), 90, np.uint8)
    drawn = draw_people(picture, [Named(BOX, "anna", 0.31), Named(moved(BOX, 100), None, 0.9)])
    changed = (drawn != picture).any(2)
    assert changed[60:180, 100:103].any() and not changed[80:170, 110:130].any()
    assert changed[40:58, 100:150].any()  # the label above
    assert not (draw_people(picture, []) != picture).any()
    assert (draw_people(picture, [], "gallery does not answer") != picture).any()
    assert draw_people(np.zeros((3, 3, 3), np.uint8), [Named((0, 0, 3, 3), "anna", 0.1)]).shape == (3, 3, 3)
    for box in ((-50, -90, 20, 20), (500, 500, 9, 9)):  # nothing of them is in the picture
        assert not (draw_people(picture, [Named(box, "anna", 0.1)]) != picture).any()
    assert (draw_people(picture, [Named((-10, -10, 900, 900), "anna", 0.1)]) != picture).any()


def test_texts_and_colours() -> None:
    assert text_of(Named(BOX, "anna", 0.305)) == "anna 0.30"
    assert text_of(Named(BOX, None, 0.3)) == "unknown"
    assert text_of(Named(BOX, "x" * 24, None)) == "x" * 24
    strangers = [text_of(Named(BOX, f"person-shop-entrance-{n:04d}", None)) for n in (1, 2)]
    assert strangers == ["person-shop-...ance-0001", "person-shop-...ance-0002"]  # two people stay two
    assert color_of("anna") == color_of("anna") != color_of("bob") and len({color_of(None), color_of("")}) == 2


@pytest.mark.parametrize(
    ("taken", "camera", "site", "name"),
    [
        ([], "", "", "person-0001"),
        (["person-0001", "person-0007", "anna", "person-x"], "", "", "person-0008"),
        (["person-0007", "person-door-0002"], "door", "", "person-door-0003"),
        (["person-9999"], "", "", "person-10000"),
        ([], "rtsp://cam/1", "Haus A", "person-Haus-A-rtsp-cam-1-0001"),
        (["person-.-0004"], "(", "", "person-0001"),
        (["person-0004b", "person-000000000005"], "", "", "person-0001"),
        ([], "c" * 256, "", f"person-{'c' * 60}-0001"),
    ],
)
def test_new_names(taken: list[str], camera: str, site: str, name: str) -> None:
    prefix = name_prefix(camera, site)
    assert f"{prefix}{largest_number(taken, prefix) + 1:04d}" == name


def test_sites_are_searched_apart() -> None:
    gallery = MemoryGallery(("anna", RED))
    stage = Stage(gallery, site="elsewhere")
    assert [stage.show((BOX, RED)).rows[0]["identity"] for _ in range(6)] == [None] * 6


def test_put_together() -> None:
    gallery: Gallery = MemoryGallery(("anna", RED))
    assert starting_threshold(gallery)[0] == DEFAULT_THRESHOLD
    assert "not calibrated" in starting_threshold(gallery)[1]
    gallery.set_threshold(0.42)
    assert starting_threshold(gallery) == (0.42, "threshold 0.420, calibrated for this gallery")
    predictor = ColourPredictor()
    assert create_people_view(predictor, lambda rgb: [], gallery).enrol is False
    predictor.spec = ModelSpec("x", "fer", SPEC.input, ("a",), "logits")
    with pytest.raises(ArtifactError, match="reid artifact"):
        create_people_view(predictor, lambda rgb: [], gallery)
    for names in ({"camera": "a\nb"}, {"site": ""}, {"site": "s" * 300}):
        with pytest.raises(DataError):
            create_people_view(ColourPredictor(), lambda rgb: [], gallery, **names)
    gallery.failing = True  # type: ignore[attr-defined]
    with pytest.raises(GalleryError):
        create_people_view(ColourPredictor(), lambda rgb: [], gallery)


def test_on_a_street(shared_file: Callable[[str], Path]) -> None:
    """Five seconds of vtest.avi: tracks last, strangers get names of their own, one at a time each."""
    _, detect = find_people_detector(shared_file("models/fastestdet.onnx"))
    gallery = MemoryGallery()
    view = create_people_view(ColourPredictor(), detect, gallery, enrol=True, tell=lambda line: None)
    capture = cv2.VideoCapture(str(shared_file("media/vtest.avi")))
    capture.set(cv2.CAP_PROP_POS_FRAMES, 230)
    seen: dict[int, int] = {}
    for index in range(50):
        read, bgr = capture.read()
        assert read
        look = view.look(Frame(bgr[:, :, ::-1], index, index / 10, 0.0), {"threshold": 0.02, "privacy": index % 2 == 0})
        names = [row["identity"] for row in look.rows if row["identity"]]
        assert len(names) == len(set(names))
        for row in look.rows:
            seen[row["track"]] = seen.get(row["track"], 0) + 1
    capture.release()
    assert sum(count >= 30 for count in seen.values()) >= 4, seen


def test_imports_are_light() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'tensorflow', 'matplotlib', 'onnxruntime'): sys.modules[name] = None\n"
        "import edge_stra.views.people, edge_stra.apps.people, edge_stra.gallery.pairs_svg\n"
        "import edge_stra.commands.models, edge_stra.commands.gallery_calibrate\n"
        "assert 'urllib.request' not in sys.modules and 'sqlite3' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
