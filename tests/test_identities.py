"""Re-identification sets: layouts and names, identities held out, queries and gallery, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_stra.identities import (
    Crops,
    count_answerable,
    hold_out,
    list_crops,
    list_market,
    market_crops,
    query_and_gallery,
)
from edge_stra.spec import DataError

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "hold_out.py"


def crops(*names: str) -> Crops:
    return market_crops(Path("set"), [Path(name) for name in names])


def touch(folder: Path, *names: str) -> Path:
    """Empty files: the readers look at names alone."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def named(found: Crops) -> dict[str, tuple[int, int]]:
    triples = zip(found.paths, found.identities.tolist(), found.cameras.tolist(), strict=True)
    return {path.name: (identity, camera) for path, identity, camera in triples}


def test_names_of_market_give_identity_and_camera(tmp_path: Path) -> None:
    names = {
        "0002_c1s1_000451_03.jpg": (2, 1),
        "1501_c6s3_090042_00.jpg": (1501, 6),
        "-1_c3s2_012345_01.jpg": (-1, 3),
        "0000_c4s1_000001_01.jpg": (0, 4),
        "0005_c2_f0046985.jpg": (5, 2),  # DukeMTMC
        "0007_c12s1_000001_01.png": (7, 12),
    }
    touch(tmp_path, *names, "Thumbs.db", "readme.txt")
    assert named(list_crops(tmp_path)) == names


def test_a_folder_for_each_identity(tmp_path: Path) -> None:
    """Folders are numbered from 1 in the order of their names, cameras come from the crops' names."""
    touch(tmp_path, "bob/x_c1_1.jpg", "bob/x_c2_1.jpg", "anna/y_c2_7.jpg")
    assert named(list_crops(tmp_path)) == {"y_c2_7.jpg": (1, 2), "x_c1_1.jpg": (2, 1), "x_c2_1.jpg": (2, 2)}


def test_without_cameras_every_crop_has_its_own(tmp_path: Path) -> None:
    found = list_crops(touch(tmp_path, "anna/1.jpg", "anna/2.jpg", "bob/1.jpg"))
    assert found.identities.tolist() == [1, 1, 2]
    assert len(set(found.cameras.tolist())) == 3


WRONG_LAYOUTS = {
    "another name": (("0001_c1s1_1.jpg", "holiday.jpg"), "but one is named holiday.jpg"),
    "no camera": (("0001_s1_1.jpg",), "but one is named 0001_s1_1.jpg"),
    "folders too deep": (("anna/c1/1.jpg",), "but holds anna/c1/1.jpg"),
    "a crop beside folders": (("anna/1_c1.jpg", "0001_c1s1_1.jpg"), "but holds 0001_c1s1_1.jpg"),
    "a camera in some names": (("anna/x_c1.jpg", "anna/y.jpg"), "but y.jpg has none"),
    "no picture": (("notes.txt",), "holds none"),
    "Market's root": (("query/0001_c1.jpg", "bounding_box_test/0001_c2.jpg"), "give one of them, .*bounding_box_test"),
}


@pytest.mark.parametrize("case", WRONG_LAYOUTS)
def test_another_layout_is_refused(case: str, tmp_path: Path) -> None:
    names, message = WRONG_LAYOUTS[case]
    with pytest.raises(DataError, match=message):
        list_crops(touch(tmp_path, *names))


def test_people_in_linked_folders_are_found_and_circles_end(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "x_c1_1.jpg", ".hidden.jpg")
    touch(tmp_path / "set", "bob/y_c2_1.jpg", ".trash/z_c1_1.jpg")
    (tmp_path / "set" / "anna").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "bob" / "again").symlink_to(tmp_path / "set")
    assert named(list_crops(tmp_path / "set")) == {"x_c1_1.jpg": (1, 1), "y_c2_1.jpg": (2, 2)}


def test_a_list_of_crops_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("0001_c1s1_000001_00.jpg\n")
    with pytest.raises(DataError, match="must be a folder of crops, but is a file"):
        list_crops(tmp_path / "list.txt")


def test_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        list_crops(tmp_path / "none")


def test_take_by_mask_and_by_places() -> None:
    three = crops("0001_c1.jpg", "0002_c2.jpg", "0003_c3.jpg")
    expected = {"0001_c1.jpg": (1, 1), "0003_c3.jpg": (3, 3)}
    assert named(three.take(three.identities != 2)) == expected
    assert named(three.take(np.array([0, 2]))) == expected
    assert [p.name for p in three.take(np.array([2, 0])).paths] == ["0003_c3.jpg", "0001_c1.jpg"]


def many(identities: int = 9) -> Crops:
    """Each identity with three crops in each of cameras 1 and 2; distractors and junk beside."""
    names = [f"{i:04d}_c{c}s1_{n:06d}_00.jpg" for i in range(1, identities + 1) for c in (1, 2) for n in range(3)]
    return crops(*names, "0000_c1s1_000001_00.jpg", "-1_c1s1_000001_00.jpg")


def test_held_out_identities_are_whole_and_stay_out_of_training() -> None:
    everything = many()
    train, held = hold_out(everything, 4)
    assert len(np.unique(held.identities)) == 4 and len(held) == 4 * 6
    assert not set(held.identities.tolist()) & set(train.identities.tolist())
    assert {*train.paths, *held.paths} == set(everything.paths) and len(train) + len(held) == len(everything)
    assert min(held.identities) > 0  # distractors and junk are nobody to hold out


def test_the_seed_decides_who_is_held_out() -> None:
    drawn = [tuple(np.unique(hold_out(many(30), 5, seed)[1].identities)) for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3


@pytest.mark.parametrize("count", [-1, 0, 9, 10])
def test_all_or_none_cannot_be_held_out(count: int) -> None:
    with pytest.raises(DataError, match=f"must be 1 to 8 of 9, but got {count}"):
        hold_out(many(), count)


def test_one_crop_of_each_identity_in_each_camera_asks() -> None:
    query, gallery = query_and_gallery(
        crops("0001_c1_a.jpg", "0001_c1_b.jpg", "0001_c2_a.jpg", "0001_c2_b.jpg", "0002_c1_a.jpg", "0002_c1_b.jpg")
    )
    # 0002 was seen by camera 1 alone: no other camera could answer
    assert set(named(query)) == {"0001_c1_a.jpg", "0001_c2_a.jpg"}
    assert set(named(gallery)) == {"0001_c1_b.jpg", "0001_c2_b.jpg", "0002_c1_a.jpg", "0002_c1_b.jpg"}


def test_where_cameras_saw_each_identity_once_its_last_crop_stays_to_be_found() -> None:
    query, gallery = query_and_gallery(
        crops("0001_c1_a.jpg", "0001_c2_a.jpg", "0001_c3_a.jpg", "0002_c1_a.jpg", "0002_c2_a.jpg", "0003_c1_a.jpg")
    )
    assert set(named(query)) == {"0001_c1_a.jpg", "0001_c2_a.jpg", "0002_c1_a.jpg"}
    assert set(named(gallery)) == {"0001_c3_a.jpg", "0002_c2_a.jpg", "0003_c1_a.jpg"}


def test_a_query_has_an_answer_where_another_camera_shows_the_identity() -> None:
    query = crops("0001_c1_a.jpg", "0001_c2_a.jpg", "0002_c1_a.jpg", "0003_c1_a.jpg")
    gallery = crops("0001_c1_b.jpg", "0002_c1_b.jpg", "0002_c2_b.jpg")
    assert count_answerable(query, gallery) == 2  # 0001 of camera 2, and 0002


def run_script(*words: object) -> subprocess.CompletedProcess[str]:
    return run_command(SCRIPT, *words)


def run_command(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_script_writes_the_official_layout(tmp_path: Path) -> None:
    names = [path.name for path in many().paths if path.name[0] == "0" and path.name[:4] != "0000"]
    source, out = touch(tmp_path / "train", *names), tmp_path / "held"
    done = run_script(source, out, "--identities", 3, "--seed", 5)
    assert done.returncode == 0, done.stderr
    query, gallery = list_market(out)
    train = list_crops(out / "bounding_box_train")
    assert (len(query), len(gallery), len(train)) == (3 * 2, 3 * 4, 6 * 6)  # of 6 crops of a person, 2 ask
    assert sorted(p.name for c in (query, gallery, train) for p in c.paths) == sorted(names)
    assert all(path.is_symlink() and path.resolve().parent == source for path in query.paths)
    again = run_script(source, out)
    assert again.returncode != 0 and "holds something" in again.stderr and "Traceback" not in again.stderr
    assert run_script(source, tmp_path / "copies", "--identities", 3, "--copy").returncode == 0
    assert not any(path.is_symlink() for path in list_market(tmp_path / "copies")[0].paths)


def test_the_script_adds_who_stays_to_the_gallery_as_distractors(tmp_path: Path) -> None:
    names = [path.name for path in many().paths if path.name[0] == "0" and path.name[:4] != "0000"]
    source, plain, out = touch(tmp_path / "train", *names), tmp_path / "plain", tmp_path / "held"
    assert run_script(source, plain, "--identities", 3).returncode == 0
    done = run_script(source, out, "--identities", 3, "--distractors")
    assert done.returncode == 0, done.stderr
    (query, gallery), (same_query, alone), train = (
        list_market(out),
        list_market(plain),
        list_crops(plain / "bounding_box_train"),
    )
    assert named(query) == named(same_query)
    added = gallery.identities == 0
    assert named(gallery.take(~added)) == named(alone)
    assert {path.resolve() for path in gallery.take(added).paths} == {path.resolve() for path in train.paths}
    cameras = dict(zip((path.resolve() for path in train.paths), train.cameras, strict=True))
    assert all(cameras[path.resolve()] == gallery.cameras[i] for i, path in enumerate(gallery.paths) if added[i])


@pytest.mark.parametrize("names", [("a_c1.jpg", "b_c1.jpg", "c_c2.jpg"), ("1.jpg", "2.jpg", "3.jpg")])
def test_the_script_names_crops_of_a_folder_for_each_identity(names: tuple[str, ...], tmp_path: Path) -> None:
    people = ("anna", "bob", "carl")
    for name in people:
        touch(tmp_path / "people" / name, *names)
    done = run_script(tmp_path / "people", tmp_path / "held", "--identities", 1, "--distractors")
    assert done.returncode == 0, done.stderr
    query, gallery = list_market(tmp_path / "held")
    (shown,) = set(query.identities.tolist())
    mine = gallery.take(gallery.identities == shown)
    assert {path.resolve().parent.name for c in (query, mine) for path in c.paths} == {people[shown - 1]}
    assert (len(query), len(mine), len(gallery)) == (2, 1, 1 + 2 * 3)
    assert set(gallery.identities.tolist()) == {0, shown}
    assert set(list_crops(tmp_path / "held" / "bounding_box_train").identities.tolist()) == {1, 2, 3} - {shown}


def test_the_script_refuses_too_many_identities_and_writes_nothing(tmp_path: Path) -> None:
    done = run_script(touch(tmp_path / "train", "0001_c1_a.jpg", "0002_c1_a.jpg"), tmp_path / "held")
    assert done.returncode != 0 and "must be 1 to 1 of 2, but got 100" in done.stderr
    assert not (tmp_path / "held").exists()


def test_the_script_refuses_a_seed_below_0_and_writes_nothing(tmp_path: Path) -> None:
    source = touch(tmp_path / "train", "0001_c1_a.jpg", "0002_c1_a.jpg")
    done = run_script(source, tmp_path / "held", "--identities", 1, "--seed", -1)
    assert done.returncode == 1 and done.stderr == "Error: the seed must be 0 or more, but is -1\n"
    assert not (tmp_path / "held").exists()


def test_the_script_leaves_nothing_where_links_cannot_be_made(tmp_path: Path) -> None:
    """As on FAT, and on Windows without the right to make links."""
    source = touch(tmp_path / "train", "0001_c1_a.jpg", "0001_c2_a.jpg", "0002_c1_a.jpg", "0002_c2_a.jpg")
    refusing = """
import runpy, sys
from pathlib import Path
def symlink_to(self, target):
    if self.parent.name == "query":
        raise OSError(1314, "a required privilege is not held")
    made(self, target)
made, Path.symlink_to = Path.symlink_to, symlink_to
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    done = run_command("-c", refusing, SCRIPT, source, tmp_path / "held", "--identities", 1)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "a required privilege is not held; where links can't be made, --copy copies the pictures" in done.stderr
    assert list((tmp_path / "held").iterdir()) == []
    assert run_script(source, tmp_path / "held", "--identities", 1, "--copy").returncode == 0
