"""edge_stra.gallery.pairs against cases worked out by hand, and `edge-stra gallery calibrate`."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from edge_stra.cli import Commands
from edge_stra.commands.gallery_calibrate import calibrate as command
from edge_stra.embeddings import unit_rows
from edge_stra.gallery import pairs
from edge_stra.gallery.open import open_gallery
from edge_stra.gallery.pairs import (
    PairCounts,
    Searches,
    calibrate,
    count_pairs,
    gallery_sizes,
    open_set,
    pair_threshold,
    probe_groups,
    run_searches,
    search_threshold,
    share,
    wilson,
)
from edge_stra.gallery.pairs_svg import draw_curves
from edge_stra.spec import DataError

SHA = "ab" * 32


def at(*degrees: float) -> NDArray[np.float32]:
    """Embeddings [n, 2] of different lengths in these directions."""
    angles = np.radians(degrees)
    rows = np.stack([np.cos(angles), np.sin(angles)], 1) * np.arange(1, len(degrees) + 1)[:, None]
    return rows.astype(np.float32)


def chord(degrees: float) -> float:
    """The distance of two unit vectors with this angle between them."""
    return float(2 * np.sin(np.radians(degrees) / 2))


def numbers(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def filled(counts: NDArray[np.int64]) -> dict[float, int]:
    """The lower edge of each bin that holds pairs, and how many."""
    return {round(index * 2 / pairs.BINS, 4): int(counts[index]) for index in np.flatnonzero(counts)}


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_counts_each_pair_once(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """Person 1 at 0, 3 (one camera) and 20 degrees (another), person 2 at 90; junk and a distractor between them."""
    monkeypatch.setattr(pairs, "CHUNK", chunk)
    counts = count_pairs(at(0, 1, 3, 20, 2, 90), numbers(1, -1, 1, 1, 0, 2), numbers(1, 1, 1, 2, 2, 1))
    bins = 2 / pairs.BINS
    same = [chord(20), chord(17)]  # not 3 degrees: one camera
    different = [chord(90), chord(87), chord(70)]
    assert filled(counts.same) == {round(int(d / bins) * bins, 4): 1 for d in same}
    assert filled(counts.different) == {round(int(d / bins) * bins, 4): 1 for d in different}


def test_pair_threshold() -> None:
    same, different = np.zeros(pairs.BINS, np.int64), np.zeros(pairs.BINS, np.int64)
    same[[100, 1000, 2500]] = 1  # distances 0.05, 0.5, 1.25
    different[[1500, 2000, 3000, 3001]] = 1  # 0.75, 1, 1.5, 1.5005
    counts = PairCounts(same, different)
    assert pair_threshold(counts, 0.25) == pytest.approx((1.0, 0.25, 2 / 3))  # up to the next wrong pair
    assert pair_threshold(counts, 0.5) == pytest.approx((1.5, 0.5, 1.0))
    assert pair_threshold(counts, 0.2) == pytest.approx((0.75, 0.0, 2 / 3))
    different[0] = 1
    assert pair_threshold(counts, 0.1) == (0.0, 0.0, 0.0)


def test_searches_without_cameras() -> None:
    """Every crop of a camera of its own: all enrolled, each searched for among the others."""
    found = run_searches(at(0, 10, 40, 50, 100), numbers(1, 1, 2, 2, 3), numbers(1, 2, 3, 4, 5))
    assert found.people == (2, 3) and found.entries == 5
    assert found.identities.tolist() == [1, 1, 2, 2, 3]
    assert found.same == pytest.approx([chord(10)] * 4 + [np.inf], abs=1e-3)
    assert found.other[:, 1] == pytest.approx([chord(d) for d in (40, 30, 30, 40, 50)], abs=1e-3)
    # In the gallery of two some have to look further.
    assert (found.other[:, 0] >= found.other[:, 1]).all() and found.other[:, 0].sum() > found.other[:, 1].sum()


@pytest.mark.parametrize("seed", range(4))
def test_searches_with_cameras(seed: int) -> None:
    """Who is enrolled from one camera is searched for with the other's crops alone; strangers with all."""
    degrees = (0, 4, 20, 90, 97, 180)
    found = run_searches(at(*degrees), numbers(1, 1, 1, 2, 2, 3), numbers(1, 1, 2, 1, 2, 2), seed=seed)
    # Probes: the mean of 0 and 4 (not quite 2: their lengths are made equal), 20, 90, 97, 180.
    first = {True: [np.inf, chord(16)], False: [chord(18), np.inf]}  # enrolled from camera 1, or 2
    assert any(found.same[:2] == pytest.approx(wanted, abs=1e-3) for wanted in first.values())
    assert np.isfinite(found.same[2:4]).sum() == 1 and found.same[4] == np.inf
    entries_of_first = 2 if np.isinf(found.same[0]) else 1
    assert found.entries == entries_of_first + 2
    to_second = 90 if np.isinf(found.same[2]) else 97
    assert found.other[4, -1] == pytest.approx(chord(180 - to_second), abs=1e-3)


def test_the_seed_draws_the_camera() -> None:
    rows, identities, cameras = at(0, 20, 90, 80), numbers(1, 1, 2, 2), numbers(1, 2, 2, 2)
    drawn = {tuple(np.isinf(run_searches(rows, identities, cameras, seed=seed).same)) for seed in range(8)}
    assert drawn == {(True, False, True), (False, True, True)}


def test_probes_and_sizes() -> None:
    groups = probe_groups(numbers(1, 1, 2, 1, 1, 1, 1), numbers(1, 1, 1, 1, 2, 1, 1))
    assert [group.tolist() for group in groups] == [[0, 1, 3], [5, 6], [4], [2]]
    assert gallery_sizes(376) == (47, 94, 188, 376)
    assert gallery_sizes(5) == (2, 5)
    many = run_searches(at(*range(12)), numbers(*[1] * 9, 2, 2, 2), numbers(*[1] * 9, 1, 1, 1))
    assert many.entries == pairs.ENTRY_CROPS + 3 and len(many.same) == 4
    assert run_searches(at(0, 5, 40, 90), numbers(1, 1, 2, 3), numbers(1, 2, 3, 4), people=2).people == (2,)


@pytest.mark.parametrize(
    ("wanted", "threshold"),
    [(0.4, (0.3 + 0.5) / 2), (0.2, None), (0.6, (0.5 + 0.7) / 2), (0.8, 0.8), (1.0, 2.0), (0.59, (0.3 + 0.5) / 2)],
)
def test_search_threshold(wanted: float, threshold: float | None) -> None:
    """Never more false accepts than wanted, also where two wrong answers are equally near."""
    found = Searches(np.zeros(5), np.array([[0.9, 0.3, 0.5, 0.3, 0.7]]).T, (2,), 2, numbers(1, 2, 3, 4, 5))
    chosen = search_threshold(found, wanted)
    assert chosen == pytest.approx(threshold) if threshold is not None else 0.29 < chosen < 0.3
    assert open_set(found, chosen)["false_accepts"]["share"] <= wanted


def test_open_set() -> None:
    same = np.array([0.3, 0.5, 0.9, np.inf, 0.4])
    other = np.array([[0.6], [0.4], [0.95], [0.2], [0.4]])
    figures = open_set(Searches(same, other, (7,), 9, numbers(1, 2, 3, 4, 5)), 0.55)
    counts = {name: (part["count"], part["of"]) for name, part in figures.items() if name != "people"}
    assert counts == {
        "rank1": (2, 4),  # a tie is no hit
        "identified": (1, 4),
        "misnamed": (2, 4),
        "missed": (1, 4),
        "false_accepts": (3, 5),
    }
    assert figures["people"] == 7 and figures["rank1"]["share"] == 0.5


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        (0, 10, 0.0, 0.27753),
        (5, 10, 0.23659, 0.76341),
        (10, 10, 0.72247, 1.0),
        (1, 100, 0.00177, 0.05449),
        (0, 0, 0, 1),
    ],
)
def test_wilson(count: int, total: int, low: float, high: float) -> None:
    """Against scipy.stats.binomtest(count, total).proportion_ci(method="wilson")."""
    assert wilson(count, total) == pytest.approx((low, high), abs=1e-5)
    if total:
        assert share([True] * count + [False] * (total - count))["share"] == count / total


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda: unit_rows(np.zeros((2, 3), np.float32)), "finite numbers"),
        (lambda: unit_rows(np.array([[1, np.nan]], np.float32)), "finite numbers"),
        (lambda: unit_rows(np.ones(3, np.float32)), "rows"),
        (lambda: count_pairs(at(0, 9), numbers(1, 1), numbers(1, 2)), "different people are missing"),
        (lambda: count_pairs(at(0, 9, 50), numbers(1, 1, 2), numbers(1, 1, 1)), "one person are missing"),
        (lambda: run_searches(at(0, 9), numbers(1, 1), numbers(1, 2)), "at least 2 people, but there are 1"),
        (lambda: run_searches(at(0, 9, 50), numbers(1, 1, 2), numbers(1, 2, 1), people=3), "at least 3 people"),
    ],
)
def test_refuses(work: Callable[[], object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        work()


def lively(people: int = 12, crops: int = 6, seed: int = 0) -> tuple[Any, Any, Any]:
    """Embeddings of people with spread around each, in two cameras."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((people, 16))
    identities = np.repeat(np.arange(1, people + 1), crops)
    rows = centres[identities - 1] + 0.6 * random.standard_normal((len(identities), 16))
    return rows.astype(np.float32), identities, np.tile(np.arange(crops) % 2 + 1, people)


def test_report_and_picture() -> None:
    rows, identities, cameras = lively()
    counts, searches = count_pairs(rows, identities, cameras), run_searches(rows, identities, cameras)
    report = calibrate(counts, searches, 0.05)
    assert report["pairs"]["same"] == 12 * 9 and report["pairs"]["different"] == 66 * 36
    assert [row["people"] for row in report["searches"]] == [2, 3, 6, 12]
    accepted = [row["false_accepts"]["share"] for row in report["searches"]]
    assert accepted == sorted(accepted) and accepted[-1] <= 0.05  # more people, more false accepts
    levels = (0.1, 0.05, 0.01, 0.001, 0.0001)
    assert all(row["false_accepts"] <= level for row, level in zip(report["pairs"]["roc"], levels, strict=True))
    assert report["warning"] == ""
    assert "at least 1000" in calibrate(counts, searches, 0.001)["warning"]
    drawing = draw_curves(counts, searches, report["threshold"], 0.05)
    root = ElementTree.fromstring(drawing)
    drawn = {element.get("class"): element.get("d") or "" for element in root.iter() if element.tag.endswith("path")}
    assert drawn["pairs"].count("L") > 50 and drawn["searches"].count("L") > 5
    assert "href" not in drawing and f"threshold {report['threshold']:.3f}" in drawing


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """Pictures of 12 people by two cameras, named as in Market-1501."""
    folder = tmp_path / "crops"
    folder.mkdir()
    _, identities, cameras = lively()
    for index, (identity, camera) in enumerate(zip(identities, cameras, strict=True)):
        cv2.imwrite(str(folder / f"{identity:04d}_c{camera}s1_{index:06d}_01.png"), np.zeros((8, 4, 3), np.uint8))
    return folder


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An artifact and its embeddings, looked up by the number in a picture's name."""
    rows, _, _ = lively()

    def embed(paths: list[Path], progress: Any = iter) -> Any:
        return np.stack([rows[int(path.name.split("_")[2])] for path in progress(paths)])

    spec = SimpleNamespace(task="reid", name="toy.reid")
    state = SimpleNamespace(spec=spec, quantize="fp32", sha256=SHA, label="toy", embed=embed)
    # First what imports the other: else it would keep the stand-in for good.
    monkeypatch.setattr("edge_stra.evaluation.subjects.open_file", lambda path, name, threads: state)
    monkeypatch.setattr("edge_stra.artifact.open_artifact", lambda path: state)
    return state


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(Commands("edge-stra", commands={"calibrate": command}), ["calibrate", *arguments])


def test_command_keeps_the_threshold(crops: Path, model: SimpleNamespace, tmp_path: Path) -> None:
    uri, picture = f"sqlite:///{tmp_path}/people.db", tmp_path / "roc.svg"
    arguments = ["--model=toy.tflite", "--data", str(crops), "--gallery", uri, "--false-accepts", "0.05"]
    done = invoke(*arguments, "--picture", str(picture), "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    gallery = open_gallery(uri, None)
    assert gallery.threshold() == pytest.approx(report["threshold"])
    assert gallery.maker.sha256 == SHA and gallery.maker.dimension == 16
    gallery.close()
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")
    text = invoke(*arguments).stdout
    assert f"threshold {report['threshold']:.4f}" in text and "stored in sqlite:" in text and "12 people" in text


def test_crops_without_cameras_are_told_of(crops: Path, model: SimpleNamespace) -> None:
    told = "no name holds a camera (like anna/x_c3_001.jpg)"
    assert told not in invoke("--model=toy.tflite", "--data", str(crops), "--false-accepts", "0.1").stderr
    for picture in sorted(crops.iterdir()):
        identity, _, number, _ = picture.name.split("_")
        (crops / identity).mkdir(exist_ok=True)
        picture.rename(crops / identity / f"a_b_{number}_01.png")
    done = invoke("--model=toy.tflite", "--data", str(crops), "--false-accepts", "0.1")
    assert done.exit_code == 0 and told in done.stderr, done.output


def test_command_refuses_in_one_line(crops: Path, model: SimpleNamespace, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/people.db"
    assert invoke("--model=toy.tflite", "--data", str(crops), "--gallery", uri, "--false-accepts", "0.1").exit_code == 0
    new = f"sqlite:///{tmp_path}/new.db"
    few = invoke("--model=toy.tflite", "--data", str(crops), "--gallery", new, "--false-accepts", "0.0001")
    assert few.exit_code == 1 and not (tmp_path / "new.db").exists(), "a refusal leaves no empty gallery"
    few = invoke("--model=toy.tflite", "--data", str(crops), "--gallery", uri, "--false-accepts", "0.0001")
    assert few.exit_code == 1 and "nothing is stored in the gallery" in few.stderr
    assert "known people: named rightly" in few.stdout, "minutes of work are not thrown away"
    model.sha256 = "cd" * 32
    cases = {
        ("--data", str(crops), "--gallery", uri): "another --gallery",
        ("--data", str(tmp_path / "absent")): "no such folder",
        ("--data", str(crops), "--picture", str(tmp_path / "roc.png")): "must name a .svg file",
        ("--data", str(crops), "--people", "13"): "at least 13 people, but there are 12",
    }
    for arguments, message in cases.items():
        done = invoke("--model=toy.tflite", *arguments)
        assert done.exit_code == 1 and message in done.stderr.splitlines()[-1], done.output
    model.spec.task = "fer"
    assert "task 'reid'" in invoke("--model=toy.tflite", "--data", str(crops)).stderr
    assert invoke("--model=toy.tflite", "--data", str(crops), "--false-accepts", "0").exit_code == 2
