"""`edge-stra demo fer` from end to end on the device runtime alone: what it writes, shows, refuses and imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from edge_stra.apps.attention import draw_masks

from edge_stra.artifact import open_artifact
from edge_stra.cli import main
from edge_stra.loading import load_model
from edge_stra.models.attention import StRA
from edge_stra.models.registry import create_model
from edge_stra.shipped import shipped_artifact
from edge_stra.spec import NetworkSpec
from edge_stra.synthetic import face_pictures
from edge_stra.views.masks import find_masks, grid_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_stra.export import Exported

FRAMES = 6
HEAVY = ("torch", "tensorflow", "coremltools", "matplotlib", "onnx", "litert_torch", "ai_edge_quantizer")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six frames of 160x120 at 10 a second, with waves that move."""
    path = tmp_path_factory.mktemp("video") / "waves.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (160, 120))
    y, x = np.mgrid[:120, :160]
    for index in range(FRAMES):
        wave = 127 + 100 * np.sin(x / 20 + index) * np.cos(y / 15)
        writer.write(np.repeat(wave.astype(np.uint8)[..., None], 3, 2))
    writer.release()
    return path


def demo(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["demo", "fer", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_a_video_becomes_a_recording_a_log_and_a_table(video: Path, exported: Exported, tmp_path: Path) -> None:
    mp4, log, table = (tmp_path / name for name in ("out.mp4", "out.jsonl", "out.csv"))
    code, said, _ = demo(
        video, "--model", exported.path, "--detector", "none", "--mp4", mp4, "--jsonl", log, "--csv", table, "--json"
    )
    summary = json.loads(said)
    assert code == 0 and summary["frames"] == FRAMES and summary["failed"] == []
    assert {"detect", "predict", "draw", "output"} <= set(summary["stages_ms"])
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["frame"] for event in events] == list(range(FRAMES))
    for event in events:
        (row,) = event["rows"]
        assert row["track"] == 1 and row["box_xywh"] == [0, 0, 160, 120]
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    assert len(table.read_text().splitlines()) == FRAMES + 1
    recorded, count = cv2.VideoCapture(str(mp4)), 0
    while recorded.grab():
        count += 1
    assert count == FRAMES


def test_the_log_on_standard_output_stays_alone(video: Path, exported: Exported) -> None:
    code, said, told = demo(video, "--model", exported.path, "--detector", "none", "--jsonl", "-")
    assert code == 0 and len([json.loads(line) for line in said.splitlines()]) == FRAMES
    assert f"{FRAMES} frames" in told


@pytest.mark.slow
def test_what_ships_finds_the_smile(shared_file: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "faces"
    folder.mkdir()
    (folder / "a.png").symlink_to(shared_file("media/astronaut.png"))
    assert shipped_artifact("mobilenetv2_stra.fer") is not None
    code, said, _ = demo(folder, "--yunet", shared_file("models/yunet_n_320_320.onnx"), "--jsonl", "-")
    (row,) = json.loads(said.splitlines()[0])["rows"]
    assert code == 0 and row["label"] == "happiness" and row["probability"] > 0.5


def test_bad_input_is_one_line(video: Path, exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "kept.jsonl").write_text("a line\n")
    fer = ["--model", exported.path, "--detector", "none"]
    cases: list[tuple[list[object], str]] = [
        (["77", *fer], "camera 77"),
        ([tmp_path / "absent.mp4", *fer], "is not there"),
        ([tmp_path / "text.mp4", *fer], "text.mp4"),
        ([video, "--model", tmp_path / "no.tflite"], "no.tflite"),
        ([video, "--model", exported.path, "--model", exported.path], "names of their own"),
        ([video, *fer, "--size", "wide"], "--size must be"),
        ([video, *fer, "--size", "\u00b2x480"], "--size must be"),
        ([video, *fer, "--size", "9" * 5000 + "x480"], "--size must be"),
        ([video, *fer, "--jsonl", tmp_path / "kept.jsonl"], "exists"),
        ([video, *fer, "--mp4", tmp_path / "no" / "way" / "x.avi"], ".mp4"),
        ([video, *fer, "--web", "--host", "0.0.0.0"], "token"),
        ([video, *fer, "--mqtt", "http://broker"], "mqtt://"),
    ]
    for arguments, named in cases:
        code, _, told = demo(*arguments)
        errors = [line for line in told.splitlines() if line.startswith("Error: ")]
        assert code == 1 and len(errors) == 1 and named in errors[0], (arguments, told)
    assert (tmp_path / "kept.jsonl").read_text() == "a line\n"


@pytest.mark.parametrize("option", ["--threshold", "--smooth", "--seconds", "--fps"])
@pytest.mark.parametrize("value", ["nan", "inf", "-nan"])
def test_a_number_that_is_none_is_refused(option: str, value: str, video: Path) -> None:
    code, _, told = demo(video, option, value)
    assert code == 2 and option in told.splitlines()[-1] and "Traceback" not in told, told


def test_append_goes_on_with_logs_also_where_a_recording_is_replaced(
    video: Path, exported: Exported, tmp_path: Path
) -> None:
    fer = ["--model", exported.path, "--detector", "none", "--json", "--append"]
    files = ["--mp4", tmp_path / "a.mp4", "--jsonl", tmp_path / "a.jsonl", "--csv", tmp_path / "a.csv"]
    for overwrite in ([], ["--overwrite"]):
        code, _, told = demo(video, *fer, *files, *overwrite)
        assert code == 0, told
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 2 * FRAMES


def test_an_address_longer_than_any_path_is_opened_and_its_secrets_are_not_told(exported: Exported) -> None:
    address = f"http://anna:geheim@127.0.0.1:9/live?auth={'y' * 5000}"
    code, _, told = demo(address, "--model", exported.path, "--detector", "none", "--seconds", 1)
    assert code == 1 and "geheim" not in told and "yyy" not in told and "name too long" not in told.lower(), told


def test_the_source_may_come_from_the_environment(
    video: Path, exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_STRA_SOURCE", str(video))
    code, output, told = demo("--model", exported.path, "--detector", "none", "--json")
    assert code == 0 and json.loads(output)["frames"] == FRAMES, told


def test_nothing_that_is_read_or_kept_is_written_over(video: Path, exported: Exported, tmp_path: Path) -> None:
    fer = ["--model", exported.path, "--detector", "none", "--overwrite"]
    source = tmp_path / "a.mp4"
    source.write_bytes(video.read_bytes())
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a.png").write_bytes(cv2.imencode(".png", np.zeros((20, 20, 3), np.uint8))[1].tobytes())
    log = tmp_path / "log.jsonl"
    log.write_text("kept\n")
    cases: list[tuple[list[object], str]] = [
        ([source, *fer, "--mp4", source], "read by this command"),
        ([source, *fer, "--jsonl", tmp_path / "x" / ".." / "a.mp4"], "read by this command"),
        ([pictures, *fer, "--csv", pictures / "a.png"], "read by this command"),
        ([source, *fer, "--csv", log, "--jsonl", log], "two outputs"),
        ([source, *fer, "--csv", "-", "--jsonl", "-"], "two outputs"),
        ([source, *fer, "--jsonl", log, "--mqtt", "foo"], "mqtt://"),
        ([source, *fer, "--jsonl", log, "--mp4", tmp_path / "x.avi"], ".mp4"),
        ([source, *fer, "--jsonl", log, "--csv", pictures], "no ordinary file"),
        ([source, *fer[:-1], "--jsonl", tmp_path / "new.jsonl", "--csv", log], "exists"),
    ]
    before = {path: path.read_bytes() for path in (source, pictures / "a.png", log)}
    for arguments, named in cases:
        code, _, told = demo(*arguments)
        assert code == 1 and named in told, (arguments, told)
        assert all(path.read_bytes() == kept for path, kept in before.items()), arguments
    assert not (tmp_path / "new.jsonl").exists(), "a refused table leaves no empty log beside it"


def test_the_gallery_is_not_written_over(video: Path, tmp_path: Path) -> None:
    (tmp_path / "people.db").write_text("kept")
    options = [str(video), "--gallery", f"sqlite:///{tmp_path}/people.db", "--jsonl", str(tmp_path / "people.db")]
    result = CliRunner().invoke(main, ["demo", "reid", *options, "--overwrite"])
    assert result.exit_code == 1 and "read by this command" in result.stderr
    assert (tmp_path / "people.db").read_text() == "kept"


def test_a_site_without_a_name_is_refused_before_a_gallery_is_made(video: Path, tmp_path: Path) -> None:
    made = tmp_path / "gallery.db"
    options = [str(video), "--gallery", f"sqlite:///{made}", "--detector", "hog", "--enrol", "--site", ""]
    result = CliRunner().invoke(main, ["demo", "reid", *options])
    assert result.exit_code == 1 and "site" in result.output, result.output
    assert not made.exists()


def test_with_flip_average_a_face_and_its_mirror_image_are_answered_alike(exported: Exported, tmp_path: Path) -> None:
    (face,) = face_pictures(1, (88, 88), seed=3)
    face[:, : face.shape[1] // 2] //= 2  # lit from one side
    for name, picture in (("a.png", face), ("b.png", face[:, ::-1])):
        cv2.imwrite(str(tmp_path / name), picture)
    words = [tmp_path, "--model", exported.path, "--detector", "none", "--smooth", "0", "--jsonl", "-"]
    apart = []
    for more in ([], ["--flip-average"]):
        _, said, _ = demo(*words, *more)
        one, other = (json.loads(line)["rows"][0]["probabilities"] for line in said.splitlines())
        apart.append(max(abs(one[label] - other[label]) for label in one))
    assert apart[0] > 0.005 and apart[1] <= 1e-4
    options = [str(tmp_path / "a.png"), "--detector", "none", "--flip-average", "--json"]
    done = CliRunner().invoke(main, ["run", str(exported.path), *options])
    ((row,),) = (r["faces"] for r in json.loads(done.stdout))
    assert max(abs(row["probabilities"][label] - one[label]) for label in one) <= 1e-4


def test_rows_of_a_folder_name_their_pictures(exported: Exported, tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        cv2.imwrite(str(tmp_path / name), np.full((60, 60, 3), 90, np.uint8))
    _, said, _ = demo(tmp_path, "--model", exported.path, "--detector", "none", "--jsonl", "-")
    sources = [json.loads(line)["source"] for line in said.splitlines()]
    assert sources == [f"{tmp_path.name}/a.png", f"{tmp_path.name}/b.png"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_standard_output_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "edge_stra", "completion", "bash"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.returncode == 1 and "No space left" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_artifact_of_another_task_is_refused(video: Path) -> None:
    artifact = shipped_artifact("mobilenetv2_stra.reid")
    code, _, told = demo(video, "--model", artifact, "--detector", "none")
    assert code == 1 and "task 'fer'" in told


def test_the_app_runs_where_heavy_packages_can_not_be_imported(video: Path, exported: Exported) -> None:
    script = (
        "import sys\n"
        f"for name in {HEAVY!r}: sys.modules[name] = None\n"
        "from edge_stra.cli import main\n"
        "import edge_stra.web.server, edge_stra.commands.gallery, edge_stra.views.people\n"
        "main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", script, "demo", "fer", str(video), "--model", str(exported.path)]
    done = subprocess.run([*command, "--detector", "haar"], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0 and f"{FRAMES} frames" in done.stdout, done.stderr[-800:]


def test_models_are_listed_without_pytorch() -> None:
    script = "import sys; sys.modules['torch'] = None; from edge_stra.cli import main; main(['models'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0 and "fer.int8.tflite" in done.stdout and "yunet" in done.stdout, done.stderr


def test_masks_read_from_a_file_are_those_of_pytorch(exported: Exported) -> None:
    reader = find_masks(open_artifact(exported.path))
    assert reader is not None
    network = load_model("mobilenetv2_stra.fer", None)[0].eval()
    x = torch.rand(1, 3, 88, 88, generator=torch.Generator().manual_seed(3)) * 4 - 2
    seen: list[torch.Tensor] = []
    (block,) = (m for m in network.modules() if isinstance(m, StRA))
    block.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        network(x)
        wanted = block.attend(seen[0]).masks
    assert wanted is not None
    masks = reader(x.permute(0, 2, 3, 1).contiguous().numpy())
    assert masks.shape == (8, 6, 6) and masks.sum(axis=(1, 2)) == pytest.approx(1, abs=1e-5)
    assert np.abs(masks.reshape(8, -1) - wanted[0].numpy()).max() < 1e-4
    assert wanted.std() > 1e-3, "masks that are all alike would compare equal"


@pytest.mark.parametrize("strides", [(2, 1), (1, 1), (2, 2), (1, 2)])
@pytest.mark.parametrize("size_hw", [(88, 88), (256, 128), (65, 96), (97, 128), (33, 128), (44, 44)])
def test_the_grid_of_the_masks_is_that_of_the_map(strides: tuple[int, int], size_hw: tuple[int, int]) -> None:
    shape = NetworkSpec(stem_stride=strides[0], last_stage_stride=strides[1])
    network = create_model("mobilenetv2_stra.fer", network=shape).eval()
    with torch.inference_mode():
        assert grid_of(size_hw, shape) == tuple(network.features(torch.zeros(1, 3, *size_hw)).shape[2:])


def test_masks_of_another_number_of_nodes_are_not_drawn(exported: Exported) -> None:
    artifact = open_artifact(exported.path)
    other = replace(artifact.spec, network=NetworkSpec(stem_stride=1))
    assert find_masks(replace(artifact, spec=other)) is None


def test_masks_colour_the_face_alone() -> None:
    picture = np.full((100, 120, 3), 90, np.uint8)
    masks = np.zeros((2, 4, 4), np.float32)
    masks[0, 0, 0] = masks[1, 3, 3] = 1
    draw_masks(picture, (30, 20, 40, 40), masks)
    changed = (picture != 90).any(axis=2)
    assert changed[20:60, 30:70].any() and changed.sum() == changed[20:60, 30:70].sum()
    first, second = picture[22, 32].astype(int), picture[57, 67].astype(int)
    assert np.abs(first - second).max() > 30, "each mode has its colour"
    draw_masks(picture, (300, 300, 10, 10), masks)  # beside the picture: nothing


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_memory_stays_under_250_mb(exported: Exported, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    for index in range(20):
        cv2.imwrite(str(folder / f"{index:02}.png"), np.roll(noise, index, 1))
    peak = "import sys\nfrom edge_stra.cli import main\nmain(sys.argv[1:], standalone_mode=False)\n"
    # Not ru_maxrss: that of a child begins with what its parent had when it forked.
    peak += "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"
    command = [sys.executable, "-c", peak, "demo", "fer", str(folder), "--mp4", str(tmp_path / "x.mp4")]
    command += ["--detector", "haar", "--model", str(exported.path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert int(done.stdout.split()[-2]) / 1024 < 250
