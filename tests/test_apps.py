"""Apps: detection, crops, expressions, embeddings, overlay, doctor; and that none of them needs a heavy framework."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from edge_stra.apps import detect as detection
from edge_stra.apps.detect import crop_with_margin, find_detector, scaled_box
from edge_stra.apps.expression import predict_expressions
from edge_stra.apps.overlay import draw_expressions, enlarged, layout, write_picture
from edge_stra.apps.pictures import annotate_pictures, annotated_paths
from edge_stra.apps.reid import distance, embed_picture
from numpy.typing import NDArray

from edge_stra.detections import Detection, RectXywh, common_area
from edge_stra.doctor import describe_cpu, describe_delegate, describe_package, diagnose, render, render_delegate
from edge_stra.extras import install_command
from edge_stra.faces import Expression
from edge_stra.preprocess import read_rgb
from edge_stra.runtime import Delegated
from edge_stra.spec import FER_LABELS, ArtifactError, DataError, InputSpec, MissingError, ModelSpec, OutputError

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
FER_SPEC = ModelSpec("stub", "fer", InputSpec((48, 48), "grey"), FER_LABELS, "logits")
REID_SPEC = ModelSpec("stub", "reid", InputSpec((256, 128), "rgb"), (), "embedding")
HAAR = pytest.param(
    "haar",
    marks=pytest.mark.skipif(
        detection.haar_path() is None, reason=f"OpenCV {cv2.__version__} ships no Haar cascade; 4.x wheels do"
    ),
)
HEAVY = ("torch", "tensorflow", "coremltools", "litert_torch")
# Faces as seen by eye: picture -> the centre (x, y) of each face, largest first where sizes differ clearly.
CENTRES = {
    "astronaut.png": [(224, 118)],
    "grace_hopper.bmp": [(267, 225)],
    "face.jpg": [(178, 143), (303, 107), (465, 150), (28, 131)],
}


class Stub:
    """A predictor that gives one fixed row, and keeps what it was given."""

    def __init__(self, spec: ModelSpec, row: list[float]) -> None:
        self.spec, self.row = spec, row
        self.seen: list[NDArray[np.float32]] = []

    def __call__(self, x: NDArray[np.float32], /) -> NDArray[np.float32]:
        self.seen.append(x)
        return np.array([self.row], np.float32)


def shared(path: str) -> Path:
    if not (SHARED / path).is_file():
        pytest.skip(f"../shared/{path} is absent: reference data that does not belong to the repository")
    return SHARED / path


def gradient(height: int, width: int) -> NDArray[np.uint8]:
    """Every pixel says where it is: red is its row, green its column, blue 7."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, 7)], 2).astype(np.uint8)


def expression(box: RectXywh, label: str = "surprise") -> Expression:
    rest = {name: 0.05 for name in FER_LABELS}
    return Expression(Detection(box), rest | {label: 0.7}, label)


@pytest.fixture(autouse=True)
def no_user_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No YuNet file of the person who runs the tests is found."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EDGE_STRA_YUNET", raising=False)


@pytest.mark.parametrize(
    ("box", "margin", "rows", "columns"),
    [
        pytest.param((10, 20, 8, 8), 0.0, (20, 27), (10, 17), id="square inside"),
        pytest.param((10, 20, 4, 8), 0.0, (20, 27), (8, 15), id="tall box becomes a square around its centre"),
        pytest.param((10, 20, 8, 4), 0.0, (18, 25), (10, 17), id="wide box"),
        pytest.param((10, 20, 8, 8), 0.5, (18, 29), (8, 19), id="margin"),
        pytest.param((-4, -4, 8, 8), 0.0, (0, 3), (0, 3), id="over the upper left corner"),
        pytest.param((56, 36, 8, 8), 0.0, (36, 39), (56, 59), id="over the lower right corner"),
        pytest.param((-20, -30, 100, 100), 0.0, (0, 39), (0, 59), id="larger than the picture"),
    ],
)
def test_crop_takes_these_pixels(box: RectXywh, margin: float, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    crop = crop_with_margin(gradient(40, 60), box, margin)
    side = round(max(box[2:]) * (1 + margin))
    assert crop.shape == (side, side, 3) and crop.dtype == np.uint8
    assert (crop[0, 0, 0], crop[-1, -1, 0]) == rows
    assert (crop[0, 0, 1], crop[-1, -1, 1]) == columns
    assert (crop[:, :, 2] == 7).all()


def test_crop_repeats_the_edge_and_keeps_the_face_in_its_place() -> None:
    crop = crop_with_margin(gradient(40, 60), (-4, 10, 8, 8), 0.0)
    assert crop[0, :, 1].tolist() == [0, 0, 0, 0, 0, 1, 2, 3]


@pytest.mark.parametrize(
    "box", [(60, 0, 5, 5), (0, 40, 5, 5), (-5, 0, 5, 5), (0, -5, 5, 5), (3, 3, 0, 5), (3, 3, 5, -1)]
)
def test_crop_refuses_a_box_without_picture(box: RectXywh) -> None:
    with pytest.raises(DataError, match="must touch the picture of 60 x 40"):
        crop_with_margin(gradient(40, 60), box)


def test_crop_refuses_what_is_no_picture() -> None:
    with pytest.raises(DataError, match=r"uint8 \[height, width, 3\].*but is float32 \[4, 4, 3\]"):
        crop_with_margin(np.zeros((4, 4, 3), np.float32), (0, 0, 2, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["yunet", HAAR])
@pytest.mark.parametrize("picture", CENTRES)
@pytest.mark.parametrize("enlargement", [1, 3])
def test_detectors_find_every_face_and_no_other(kind: str, picture: str, enlargement: int) -> None:
    """Also on a picture larger than what the detector sees, where boxes must come back in the picture's own pixels."""
    rgb = read_rgb(shared(f"media/{picture}"))
    rgb = np.repeat(np.repeat(rgb, enlargement, 0), enlargement, 1)
    name, detect = find_detector(shared("models/yunet_n_320_320.onnx") if kind == "yunet" else None, kind)
    faces = detect(rgb)
    assert name == kind
    assert len(faces) == len(CENTRES[picture])
    assert [face.area for face in faces] == sorted((face.area for face in faces), reverse=True)
    for x, y in CENTRES[picture]:
        close = [
            f
            for f in faces
            if np.hypot(*centre_offset(f, x * enlargement, y * enlargement)) < 0.2 * max(f.box_xywh[2:])
        ]
        assert len(close) == 1, f"one face around {x}, {y} in {faces}"
    assert all((face.score is None) == (kind == "haar") for face in faces)


def centre_offset(face: Detection, x: float, y: float) -> tuple[float, float]:
    left, top, width, height = face.box_xywh
    return left + width / 2 - x, top + height / 2 - y


@pytest.mark.parametrize("kind", ["yunet", HAAR])
def test_no_face_gives_an_empty_list(kind: str) -> None:
    yunet = shared("models/yunet_n_320_320.onnx") if kind == "yunet" else None
    assert find_detector(yunet, kind)[1](np.full((120, 160, 3), 128, np.uint8)) == []


def test_boxes_scale_back_and_never_vanish() -> None:
    assert scaled_box((10.0, 20.0, 30.0, 0.1), 0.25) == (40, 80, 120, 1)


@pytest.mark.parametrize("kind", [HAAR])
def test_haar_is_taken_where_yunet_is_not_found_or_not_wanted(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_detector()[0] == kind
    monkeypatch.setenv("EDGE_STRA_YUNET", str(shared("models/yunet_n_320_320.onnx")))
    assert find_detector(kind=kind)[0] == kind


def test_auto_takes_yunet_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_STRA_YUNET", str(shared("models/yunet_n_320_320.onnx")))
    assert find_detector()[0] == "yunet"


def test_another_file_is_not_taken_for_yunet(tmp_path: Path) -> None:
    data = bytearray(shared("models/yunet_n_320_320.onnx").read_bytes())
    data[-1] ^= 1
    wrong = tmp_path / "yunet_n_320_320.onnx"
    wrong.write_bytes(data)
    with pytest.raises(ArtifactError, match="SHA-256 81dbde155e98"):
        find_detector(wrong)


def test_without_any_detector_the_command_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cv2, "data", SimpleNamespace(haarcascades=str(tmp_path)), raising=False)
    with pytest.raises(MissingError, match='pip install "opencv-python-headless<5"'):
        find_detector()
    with pytest.raises(MissingError, match="models pull yunet"):
        find_detector(kind="yunet")
    with pytest.raises(DataError, match="'mtcnn'"):
        find_detector(kind="mtcnn")


def test_each_face_is_cropped_predicted_and_labelled() -> None:
    stub = Stub(FER_SPEC, [0, 0, 0, 2, 0, 1, 0])
    faces = [Detection((10, 10, 20, 20), 0.9), Detection((30, 5, 8, 8), 0.8)]
    rgb = gradient(40, 60)
    found = predict_expressions(stub, rgb, lambda picture: faces)
    assert [e.face for e in found] == faces
    assert [e.label for e in found] == ["happiness", "happiness"]
    assert list(found[0].probabilities) == list(FER_LABELS)
    odds = np.exp([0, 0, 0, 2, 0, 1, 0])
    np.testing.assert_allclose(list(found[0].probabilities.values()), odds / odds.sum(), rtol=1e-5)
    assert [x.shape for x in stub.seen] == [(1, 48, 48, 3)] * 2
    assert not np.array_equal(*stub.seen)  # each face has its own crop
    assert predict_expressions(stub, rgb, lambda picture: []) == []


def test_without_a_detector_the_whole_picture_is_the_face() -> None:
    stub = Stub(FER_SPEC, [0, 0, 3, 0, 0, 0, 0])
    (found,) = predict_expressions(stub, gradient(40, 60), None)
    assert found.face == Detection((0, 0, 60, 40)) and found.label == "fear"


@pytest.mark.parametrize(
    ("stub", "match"),
    [
        (Stub(REID_SPEC, [0.0] * 512), "must be for the task 'fer', but stub is for 'reid'"),
        (Stub(FER_SPEC, [0.0] * 6), "7 numbers, one for each label, but gave 6"),
        (Stub(FER_SPEC, [0, 0, float("nan"), 0, 0, 0, 0]), "1 that are not finite"),
    ],
)
def test_expressions_refuse_another_model(stub: Stub, match: str) -> None:
    with pytest.raises(ArtifactError, match=match):
        predict_expressions(stub, gradient(40, 60), None)


def test_embedding_and_distance() -> None:
    stub = Stub(REID_SPEC, [3.0, 4.0] + [0.0] * 510)
    embedding = embed_picture(stub, gradient(40, 60))
    assert embedding.shape == (512,) and embedding.dtype == np.float32
    assert stub.seen[0].shape == (1, 256, 128, 3)
    assert distance(embedding, 7 * embedding) == 0
    assert distance(embedding, -embedding) == pytest.approx(2)
    assert distance(np.array([1, 0], np.float32), np.array([0, 5], np.float32)) == pytest.approx(2**0.5)


def test_embedding_refuses_another_model_and_vectors_without_direction() -> None:
    with pytest.raises(ArtifactError, match="must be for the task 'reid', but stub is for 'fer'"):
        embed_picture(Stub(FER_SPEC, [0.0] * 7), gradient(40, 60))
    zero = np.zeros(512, np.float32)
    with pytest.raises(DataError, match=r"length above 0, but has 0\.0"):
        distance(zero, zero + 1)
    with pytest.raises(DataError, match=r"\[512\] and \[256\]"):
        distance(zero + 1, zero[:256] + 1)


OVERLAYS = {
    "one face": ((300, 400), [(150, 60, 60, 70)]),
    "at the border": ((300, 400), [(-20, 260, 60, 70), (380, -10, 50, 50)]),
    "fills the picture": ((480, 480), [(0, 0, 480, 480)]),
    "large picture": ((1500, 2000), [(300, 300, 400, 500), (1400, 200, 300, 300)]),
    "crowd": ((240, 320), [(x, y, 50, 50) for x in (5, 85, 165, 245) for y in (20, 95, 170)]),
    "too small for text": ((48, 48), [(0, 0, 48, 48)]),
    "outside the picture": ((100, 100), [(200, 200, 20, 20)]),
}


@pytest.mark.parametrize(("size_hw", "boxes"), OVERLAYS.values(), ids=OVERLAYS.keys())
def test_overlay_changes_only_what_its_layout_names(size_hw: tuple[int, int], boxes: list[RectXywh]) -> None:
    rgb = np.random.default_rng(0).integers(60, 200, (*size_hw, 3), np.uint8)
    before = rgb.copy()
    expressions = [expression(box) for box in boxes]
    drawn = draw_expressions(rgb, expressions)
    assert drawn.shape == rgb.shape and drawn.dtype == np.uint8
    np.testing.assert_array_equal(rgb, before)
    allowed = np.zeros(size_hw, bool)
    for frame, tag, panel in layout(size_hw, expressions):
        for left, top, width, height in filter(None, (frame, tag, panel)):
            allowed[top : top + height, left : left + width] = True
    changed = (drawn != rgb).any(2)
    assert not (changed & ~allowed).any()
    assert changed.any()


@pytest.mark.parametrize(("size_hw", "boxes"), OVERLAYS.values(), ids=OVERLAYS.keys())
def test_overlay_panels_stay_inside_and_off_all_text(size_hw: tuple[int, int], boxes: list[RectXywh]) -> None:
    places = layout(size_hw, [expression(box) for box in boxes])
    panels = [panel for _, _, panel in places if panel]
    tags = [tag for _, tag, _ in places if tag]
    for left, top, width, height in panels + tags:
        assert left >= 0 and top >= 0 and left + width <= size_hw[1] and top + height <= size_hw[0]
    for index, panel in enumerate(panels):
        assert not any(common_area(panel, other) for other in tags + panels[:index])


def test_overlay_leaves_the_inside_of_a_lone_face_untouched() -> None:
    rgb = np.full((300, 400, 3), 128, np.uint8)
    drawn = draw_expressions(rgb, [expression((150, 60, 60, 70))])
    np.testing.assert_array_equal(drawn[70:120, 160:200], rgb[70:120, 160:200])
    ((_, tag, panel),) = layout((300, 400), [expression((150, 60, 60, 70))])
    assert tag is not None and panel is not None


def test_overlay_bars_have_the_length_of_their_probability() -> None:
    """The bright part of the top row's bar, by its colour, grows in proportion."""

    def bright(probability: float) -> int:
        rest = {name: (1 - probability) / 6 for name in FER_LABELS}
        one = Expression(Detection((20, 20, 60, 70)), rest | {"anger": probability}, "anger")
        ((_, _, panel),) = layout((700, 900), [one])
        assert panel is not None
        left, top, width, height = panel
        inside = draw_expressions(np.zeros((700, 900, 3), np.uint8), [one])[top : top + height, left : left + width]
        coloured = (np.abs(inside.astype(int) - (255, 107, 99)).max(2) < 8).sum(0)
        return int((coloured[width // 3 :] > 4).sum())

    lengths = [bright(p) for p in (0.25, 0.5, 1.0)]
    assert lengths[0] > 10
    assert lengths[1] == pytest.approx(2 * lengths[0], abs=4)
    assert lengths[2] == pytest.approx(4 * lengths[0], abs=6)


def test_enlarged_gives_a_small_crop_room_for_its_panel() -> None:
    crop, whole = gradient(48, 48), expression((0, 0, 48, 48))
    large, (moved,) = enlarged(crop, [whole])
    assert large.shape == (480, 480, 3) and moved.face.box_xywh == (0, 0, 480, 480)
    assert layout((48, 48), [whole])[0][2] is None
    assert layout((480, 480), [moved])[0][2] is not None
    same, _ = enlarged(large, [moved])
    assert same is large


def test_a_strip_is_enlarged_no_further_than_a_format_holds(tmp_path: Path) -> None:
    longer, strip = np.zeros((1, 20000, 3), np.uint8), np.zeros((4, 2000, 3), np.uint8)
    assert enlarged(longer, [])[0] is longer
    assert enlarged(strip, [])[0].shape == (16, 8000, 3)
    write_picture(tmp_path / "strip.png", enlarged(longer, [])[0])


def test_pictures_are_written_and_read_back(tmp_path: Path) -> None:
    rgb = gradient(40, 60)
    write_picture(tmp_path / "out.PNG", rgb)
    np.testing.assert_array_equal(read_rgb(tmp_path / "out.PNG"), rgb)
    assert [p.name for p in tmp_path.iterdir()] == ["out.PNG"]
    for path, match in ((tmp_path / "out.gif", "but ends in '.gif'"), (tmp_path / "a" / "out.png", "must be a folder")):
        with pytest.raises(OutputError, match=match):
            write_picture(path, rgb)
    with pytest.raises(DataError, match="uint8"):
        write_picture(tmp_path / "b.png", rgb.astype(np.float32))  # type: ignore[arg-type]


def test_doctor_says_what_is_there_and_what_adds_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    report = json.loads(json.dumps(diagnose()))
    assert report["packages"]["numpy"]["version"] == np.__version__
    assert report["opencv"]["version"] == cv2.__version__
    cascade = detection.haar_path() is not None
    assert report["opencv"]["cascade"] is cascade
    assert report["face_detector"]["name"] == ("haar" if cascade else None)
    absent = {"version": None, "extra": "onnx", "install": install_command("onnx")}
    assert describe_package(("edge-stra-is-not-this",), "onnx") == absent
    monkeypatch.setattr("edge_stra.doctor.metadata.version", lambda name: None)  # a folder without metadata is left
    assert describe_package(("torch",), "onnx") == absent
    report["packages"] = {name: {"version": "1"} for name in report["packages"]}
    for name in ("onnx", "onnxsim"):
        report["packages"][name] = absent
    report["packages"]["aiohttp"] = absent | {"extra": "pi", "install": install_command("pi")}
    lines = render(report).splitlines()
    (told,) = (line for line in lines if line.startswith("[onnx]"))
    assert told.endswith(f"lacks onnx, onnxsim; run: {install_command('onnx')}")
    assert any(line.startswith("aiohttp") and f"missing; run: {install_command('pi')}" in line for line in lines)
    assert not any(line.startswith(("onnx ", "onnxsim ", "[coreml]")) for line in lines)


def test_doctor_reads_a_board(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "processor\t: 0\nFeatures\t: fp asimd crc32 asimddp\n\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n"
    )
    cpu = describe_cpu(cpuinfo)
    assert cpu["name"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert cpu["features"] == ["asimd", "asimddp"]


def test_doctor_sees_xnnpack_on_a_loaded_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert describe_delegate(None)["checked"] is False
    seen = describe_delegate(shared("models/peer_fer_mini_xception.tflite"))
    assert seen["checked"] and seen["xnnpack"] and seen["parts"] >= 1
    assert 0 < seen["taken"] <= seen["nodes"]
    split = Delegated("LiteRT", 9, (frozenset({1, 2}), frozenset({5})))
    monkeypatch.setattr("edge_stra.doctor.delegated", lambda path: split)
    assert "takes 3 of 9 operators of a.tflite, in 2 parts" in render_delegate(describe_delegate(Path("a.tflite")))
    monkeypatch.undo()
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"\x1c\0\0\0TFL3" + bytes(64))
    with pytest.raises(ArtifactError, match=r"broken\.tflite can't be loaded"):
        describe_delegate(broken)


def test_apps_run_where_no_framework_is_installed() -> None:
    code = f"""
import sys
for name in {HEAVY!r}:
    sys.modules[name] = None
import importlib, pkgutil
import edge_stra.apps, edge_stra.runtime, edge_stra.doctor
names = [m.name for m in pkgutil.iter_modules(edge_stra.apps.__path__)]
for name in names:
    importlib.import_module("edge_stra.apps." + name)
assert edge_stra.doctor.diagnose()["packages"]
print(" ".join(names))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert {"detect", "expression", "overlay", "reid"} <= set(done.stdout.split())


def test_doctor_imports_nothing_heavy() -> None:
    code = f"import sys, edge_stra.doctor as d; d.diagnose(); print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


def test_spec_of_another_size_is_followed() -> None:
    stub = Stub(replace(FER_SPEC, input=InputSpec((96, 64), "rgb")), [1, 0, 0, 0, 0, 0, 0])
    predict_expressions(stub, gradient(40, 60), None)
    assert stub.seen[0].shape == (1, 96, 64, 3)


def test_one_bad_picture_of_several_ends_nothing(tmp_path: Path) -> None:
    stub = Stub(FER_SPEC, [1, 0, 0, 0, 0, 0, 0])
    paths = [tmp_path / name for name in ("a.png", "bad.png", "c.png")]
    for path in paths:
        write_picture(path, gradient(40, 40))
    paths[1].write_text("no picture")
    out = tmp_path / "out"
    rows, _ = annotate_pictures(stub, paths, out, "none", None, overwrite=False)
    assert [row["image"] for row in rows] == [str(path) for path in paths]
    assert ["bad.png must be a picture" in row.get("error", "") for row in rows] == [False, True, False]
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "c.png"]
    before = (out / "c.png").read_bytes()
    with pytest.raises(OutputError, match="--overwrite"):
        annotate_pictures(stub, [paths[2]], out, "none", None, overwrite=False)
    assert (out / "c.png").read_bytes() == before
    annotate_pictures(stub, [paths[2]], out, "none", None, overwrite=True)
    with pytest.raises(OutputError, match="must end in one of"):
        annotate_pictures(stub, [paths[2]], tmp_path / "new" / "x.gif", "none", None, overwrite=False)
    assert not (tmp_path / "new").exists()


def test_annotated_copies_replace_no_picture(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "x.png", tmp_path / "b" / "x.jpg"
    assert annotated_paths([first], tmp_path / "out.png") == [tmp_path / "out.png"]
    assert annotated_paths([first, tmp_path / "c" / "y.png"], tmp_path) == [tmp_path / "x.png", tmp_path / "y.png"]
    for paths, out in (([first], first), ([first], tmp_path / "a"), ([first, second], tmp_path / "b" / "..")):
        with pytest.raises(OutputError, match=r"one of the pictures to read|would both become"):
            annotated_paths(paths, out)


@pytest.mark.parametrize("size_hw", [(8, 300), (20, 640), (60, 2000), (32, 640), (640, 20)])
def test_flat_pictures_have_no_faces(size_hw: tuple[int, int]) -> None:
    _, detect = find_detector(shared("models/yunet_n_320_320.onnx"), "yunet")
    picture = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    assert detect(picture) == []
