"""What the modes do: numbers against the reference, drawings against hand-made masks, and the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from edge_stra.apps import modes
from numpy.typing import NDArray

from edge_stra.cli import main
from edge_stra.explain import Explanation, explain, explain_folder, explain_picture, load_explainable
from edge_stra.models.attention import Attention, StRA, diversity_loss
from edge_stra.models.mobilenetv2 import MobileNetV2
from edge_stra.models.random_weights import random_model
from edge_stra.models.registry import create_model, get_spec
from edge_stra.models.weights import save_weights
from edge_stra.preprocess import load_input, read_rgb, resize_exact, softmax
from edge_stra.spec import ModelError
from edge_stra.synthetic import face_pictures

FER, REID = "mobilenetv2_stra.fer", "mobilenetv2_stra.reid"
SPEC = get_spec(FER)
GREY = np.full((120, 120, 3), 128, np.uint8)
Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def model() -> MobileNetV2:
    """Random weights: their masks are soft and move with the picture."""
    return random_model(FER)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("faces")
    paths = [folder / f"{index}.png" for index in range(5)]
    for path, picture in zip(paths, face_pictures(5, (60, 48), seed=3), strict=True):
        cv2.imwrite(str(path), picture)
    return paths


def by_hand(model: MobileNetV2, x: Array) -> Attention:
    """What StRA.attend gives on the features below the slot."""
    block = model.slot_block
    slot = block.conv[block.slot_index]
    assert isinstance(slot, StRA)
    with torch.inference_mode():
        below = model.features[:-2](torch.from_numpy(x).permute(0, 3, 1, 2))
        return slot.attend(block.conv[: block.slot_index](below))


def one_hot(nodes: list[tuple[int, int]], size_hw: tuple[int, int] = (6, 6)) -> Array:
    """Masks [G, h, w], each with all its weight at one node."""
    masks = np.zeros((len(nodes), *size_hw), np.float32)
    for mask, node in zip(masks, nodes, strict=True):
        mask[node] = 1
    return masks


def hand_made(masks: Array, name: str = FER) -> Explanation:
    """An explanation with these masks, coefficients that all look to the right, and local output 1, 2, 3, ..."""
    count, height, width = masks.shape
    taps = np.zeros((count, 9, height, width), np.float32)
    taps[:, 5] = 1
    local = np.arange(1, count + 1, dtype=np.float32)[:, None, None] * np.ones((1, height, width), np.float32)
    output = np.arange(7 if name == FER else 512, dtype=np.float32)
    return Explanation(get_spec(name), output, masks, taps, local)


def test_arrays_are_those_of_the_reference(model: MobileNetV2, faces: list[Path]) -> None:
    x = load_input(faces[0], SPEC.input)
    found, expected = explain(model, SPEC, x), by_hand(model, x)
    assert expected.masks is not None
    np.testing.assert_allclose(found.masks.reshape(8, -1), expected.masks[0], rtol=1e-5)
    np.testing.assert_allclose(found.coefficients.reshape(8, 9, -1), expected.coefficients[0], rtol=1e-5)
    local = expected.local[0].numpy()  # (960, 6, 6), mode-major
    np.testing.assert_allclose(found.local, np.linalg.norm(local, axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.mode_local[3], np.linalg.norm(local[360:480], axis=0), rtol=1e-5)
    assert found.diversity_loss == pytest.approx(float(diversity_loss(expected.masks)), abs=1e-5)


def test_masks_and_coefficients_sum_to_one(model: MobileNetV2, faces: list[Path]) -> None:
    found = explain_picture(model, SPEC, read_rgb(faces[1]))
    assert found.masks.shape == (8, 6, 6)
    assert found.coefficients.shape == (8, 9, 6, 6)
    np.testing.assert_allclose(found.masks.sum((1, 2)), 1, rtol=1e-5)
    np.testing.assert_allclose(found.coefficients.sum(1), 1, rtol=1e-5)


def test_prediction_is_the_forward_pass(model: MobileNetV2, faces: list[Path]) -> None:
    x = load_input(faces[2], SPEC.input)
    with torch.inference_mode():
        logits = model(torch.from_numpy(x).permute(0, 3, 1, 2))[0].numpy()
    found = explain(model, SPEC, x)
    assert found.label == SPEC.labels[int(logits.argmax())]
    assert found.probabilities == pytest.approx(dict(zip(SPEC.labels, softmax(logits).tolist(), strict=True)))


def test_the_hook_does_not_stay(model: MobileNetV2, faces: list[Path]) -> None:
    explain_picture(model, SPEC, read_rgb(faces[0]))
    assert not model.slot_block.conv[model.slot_block.slot_index]._forward_pre_hooks


def test_numbers_that_are_not_finite_are_an_error(faces: list[Path]) -> None:
    broken = create_model(FER).eval()
    torch.nn.init.constant_(broken.slot_block.conv[0].weight, float("nan"))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="finite"):
        explain_picture(broken, SPEC, read_rgb(faces[0]))


def test_numbers_of_disjoint_masks() -> None:
    data = hand_made(one_hot([(0, 5), (3, 1)])).to_json()
    assert [m["centre_yx"] for m in data["modes"]] == [
        pytest.approx([0.5 / 6, 5.5 / 6], abs=1e-5),
        pytest.approx([3.5 / 6, 1.5 / 6], abs=1e-5),
    ]
    assert [m["entropy_nats"] for m in data["modes"]] == [0, 0]
    assert [m["coefficient_entropy_relative"] for m in data["modes"]] == [0, 0]
    assert data["overlap"] == [[1, 0], [0, 1]]
    assert data["diversity_loss"] == 0


def test_numbers_of_even_masks() -> None:
    even = hand_made(np.full((3, 4, 5), 1 / 20, np.float32))
    data = replace(even, coefficients=np.full((3, 9, 4, 5), 1 / 9, np.float32)).to_json()
    for mode in data["modes"]:
        assert mode["centre_yx"] == pytest.approx([0.5, 0.5], abs=1e-5)
        assert mode["entropy_nats"] == pytest.approx(np.log(20), abs=1e-5)
        assert mode["entropy_relative"] == mode["coefficient_entropy_relative"] == pytest.approx(1, abs=1e-5)
    assert np.array(data["overlap"]) == pytest.approx(np.ones((3, 3)), abs=1e-5)
    assert data["diversity_loss"] == pytest.approx(2, abs=1e-5)


def test_a_folder_is_the_mean_of_its_pictures(model: MobileNetV2, faces: list[Path]) -> None:
    single = np.stack([explain_picture(model, SPEC, read_rgb(path)).masks for path in faces])  # (5, g, h, w)
    found = explain_folder(model, SPEC, faces)
    np.testing.assert_allclose(found.masks, single.mean(0), rtol=1e-5)
    np.testing.assert_allclose(
        found.overlap_with_mean, np.minimum(single, single.mean(0)).sum((2, 3)).mean(0), rtol=1e-5
    )
    pictures = np.stack([resize_exact(read_rgb(path), (88, 88)) for path in faces])
    assert np.abs(found.picture - pictures.mean(0)).max() <= 0.5
    assert 1 - found.overlap_with_mean.min() > 0.05  # else a mean of equal masks would prove nothing
    assert found.pictures == 5


def test_a_folder_of_one_picture_lies_on_its_mean(model: MobileNetV2, faces: list[Path]) -> None:
    np.testing.assert_allclose(explain_folder(model, SPEC, faces[:1]).overlap_with_mean, 1, rtol=1e-5)


@pytest.mark.parametrize("node", [(0, 0), (2, 4), (5, 3)])
def test_heat_is_where_the_mask_is(node: tuple[int, int]) -> None:
    tile = modes.heat_tile(GREY, one_hot([node])[0]).astype(float).sum(2)
    row, column = (int(v) // 20 for v in np.unravel_index(tile.argmax(), tile.shape))
    assert (row, column) == node
    cells = tile.reshape(6, 20, 6, 20).mean((1, 3))
    far = np.abs(np.indices((6, 6)) - np.array(node)[:, None, None]).max(0) > 2
    assert np.ptp(cells[far]) == 0  # the picture below, and nothing on it
    assert np.unravel_index(cells.argmax(), cells.shape) == node
    assert cells[node] > 1.8 * cells[far].max()


def test_an_enlarged_mask_keeps_within_its_values() -> None:
    values = one_hot([(2, 2)])[0] * np.float32(0.3)
    large = modes.enlarge(values, GREY)
    assert large.shape == (120, 120)
    assert large.min() == 0
    assert 0.28 < large.max() <= values.max()
    assert large[110, 110] == 0


def test_each_mode_has_its_colour_at_its_node() -> None:
    nodes = [(0, 0), (0, 5), (3, 2), (5, 5)]
    tile = modes.assignment_tile(np.zeros((240, 240, 3), np.uint8), one_hot(nodes)).astype(float)
    for mode, (row, column) in enumerate(nodes):
        seen = tile[row * 40 + 3, column * 40 + 20]  # in the node's cell, above the disc
        color = np.array(modes.mode_color(mode), float)
        assert seen @ color / np.linalg.norm(seen) / np.linalg.norm(color) > 0.999
    assert tile[120, 220].sum() == 0  # no mask comes near


def test_discs_of_one_node_stand_side_by_side() -> None:
    tile = modes.assignment_tile(np.full((240, 240, 3), 255, np.uint8), one_hot([(2, 2), (2, 2)]))
    side = round(1.2 * modes.CAPTION)
    for mode, left in ((0, 100), (1, 100 + side)):
        disc = tile[100 - side // 2 : 100 + side // 2, left - side // 2 : left + side // 2].reshape(-1, 3)
        assert np.abs(disc.astype(int) - modes.mode_color(mode)).sum(1).min() < 60  # its number, in its colour


@pytest.mark.parametrize("tap", range(9))
def test_arrows_lead_to_the_neighbour_that_is_taken(tap: int, images: Callable[..., torch.Tensor]) -> None:
    """With one coefficient of 1 and the identity as value, local attention shifts the map by the displacement."""
    block = StRA(4, modes=1, ratio=1).eval()
    with torch.no_grad():
        block.logit[4].bias[1 + tap] = 100  # after the norm, nu comes first
        block.value.weight.copy_(torch.eye(4)[:, :, None, None])
        x = images((1, 4, 5, 5))
        found = block.attend(x)
    moves = modes.displacement(found.coefficients[0, 0].reshape(9, 5, 5).numpy())
    y, x_ = (round(float(v)) for v in moves[2, 2])
    np.testing.assert_allclose(moves[1:4, 1:4], np.broadcast_to([y, x_], (3, 3, 2)), atol=1e-4)
    np.testing.assert_allclose(found.local[0, :, 2, 2], x[0, :, 2 + y, 2 + x_], atol=1e-4)


def test_an_arrow_points_from_its_node() -> None:
    """All look to the right on a black picture: what is drawn starts at the node, and goes to the right of it."""
    looks = hand_made(one_hot([(0, 0)], (3, 3)))
    tile = modes.arrow_tile(np.zeros((180, 180, 3), np.uint8), looks.coefficients[0], np.zeros((3, 3), np.float32))
    rows, columns = np.nonzero(tile[60:120, :, 0] > 200)  # of the middle row of nodes, which are at 30, 90 and 150
    assert np.abs(rows - 30).max() < 20
    assert columns.min() >= 28
    assert not ((columns > 75) & (columns < 88)).any()  # between the tip of one and the start of the next
    assert (tile[90, 92:128, 0] > 200).all()


@pytest.mark.parametrize(("name", "size_hw", "nodes_hw"), [(FER, (48, 48), (6, 6)), (REID, (128, 64), (16, 8))])
def test_a_sheet_is_drawn_for_both_tasks(name: str, size_hw: tuple[int, int], nodes_hw: tuple[int, int]) -> None:
    found = hand_made(one_hot([(g % nodes_hw[0], g % nodes_hw[1]) for g in range(8)], nodes_hw), name)
    picture = np.random.default_rng(0).integers(0, 255, (*size_hw, 3), np.uint8)
    drawn = modes.draw_explanation(picture, found, "face.png")
    tile = modes.resized(picture, 1)
    assert drawn.dtype == np.uint8
    assert drawn.shape[1] == 8 * tile.shape[1] + 7 * modes.GAP + 2 * modes.MARGIN
    assert (drawn[: modes.MARGIN] == modes.DARK).all()
    assert (drawn[:, -modes.MARGIN :] == modes.DARK).all()
    top = drawn[modes.MARGIN : modes.MARGIN + modes.TITLE]
    predicted = (top == modes.color_of("neutral")).all(2).any()  # the last label has the largest logit
    assert predicted == (name == FER)


@pytest.mark.parametrize("aspect", [0.01, 0.5, 1.0, 100.0])
def test_tiles_keep_their_area_and_a_bounded_aspect(aspect: float) -> None:
    tile = modes.resized(np.zeros((100, round(100 * aspect), 3), np.uint8), 1)
    assert tile.shape[0] * tile.shape[1] == pytest.approx(modes.TILE_AREA, rel=0.01)
    assert tile.shape[1] / tile.shape[0] == pytest.approx(float(np.clip(aspect, *modes.ASPECTS)), rel=0.02)


def test_a_long_name_is_shortened_in_the_middle() -> None:
    name = "a" * 100 + "b" * 100 + ".png"
    short = modes.shortened(name, modes.TITLE, 600)
    assert modes.text_width(short, modes.TITLE) <= 600
    assert short.startswith("aaa")
    assert short.endswith("bbb.png")
    assert modes.shortened("né.png", modes.TITLE, 600) == "n?.png"


# The command.


def edge_stra(*words: object) -> Result:
    return CliRunner().invoke(main, ["explain", *(str(word) for word in words)])


def assert_one_clear_line(result: Result, contains: str) -> None:
    assert isinstance(result.exception, SystemExit), result.exception  # no traceback
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    assert result.exit_code == 1
    assert len(errors) == 1, result.output
    assert contains in errors[0]


def test_the_command_draws_and_prints_numbers(faces: list[Path], tmp_path: Path) -> None:
    result = edge_stra(FER, faces[0], "--folder", faces[0].parent, "--most", 3, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    (row,), folder = report["pictures"], report["folder"]
    assert (report["model"], report["weights"]) == (FER, "shipped")
    assert set(row) == {"image", "explained", "prediction", "modes", "overlap", "diversity_loss"}
    keys = {"mode", "entropy_nats", "entropy_relative", "centre_yx", "largest_weight"}
    assert all(set(mode) == keys | {"coefficient_entropy_relative"} for mode in row["modes"])
    assert all(set(mode) == keys | {"overlap_with_mean"} for mode in folder["modes"])
    assert [mode["mode"] for mode in row["modes"]] == list(range(1, 9))
    assert [mode["mode"] for mode in folder["modes"]] == list(range(1, 9))
    assert folder["pictures"] == 3
    model, spec, _ = load_explainable(FER, None)
    assert row["prediction"] == explain_picture(model, spec, read_rgb(faces[0])).to_json()["prediction"]
    written = sorted((tmp_path / "out").iterdir())
    assert [str(path) for path in written] == sorted([row["explained"], folder["explained"]])
    assert all(read_rgb(path).shape[1] > 1000 for path in written)


def test_the_command_prints_text(faces: list[Path], tmp_path: Path) -> None:
    result = edge_stra(FER, *faces[:2], "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n  mode 8: centre y ") == 2
    assert f" -> {tmp_path / '1.modes.png'}" in result.stdout


def test_pictures_of_one_stem_get_a_sheet_each(tmp_path: Path) -> None:
    assert modes.sheet_paths(["a", "a", "a-2", "b"], tmp_path, []) == [
        tmp_path / f"{stem}.modes.png" for stem in ("a", "a-2", "a-2-2", "b")
    ]


def test_a_file_may_say_its_model(faces: list[Path], tmp_path: Path) -> None:
    save_weights(create_model(FER), tmp_path / "named.safetensors", name=FER)
    save_weights(create_model(FER), tmp_path / "silent.safetensors")
    assert load_explainable(str(tmp_path / "named.safetensors"), None)[1] == SPEC
    assert load_explainable(str(tmp_path / "silent.safetensors"), FER)[1] == SPEC
    with pytest.raises(ModelError, match=r"holds weights of mobilenetv2_stra\.fer, but --model names .*\.reid; leave"):
        load_explainable(str(tmp_path / "named.safetensors"), "mobilenetv2_stra.reid")
    with pytest.raises(ModelError, match="--model"):
        load_explainable(str(tmp_path / "silent.safetensors"), None)


WRONG: dict[str, tuple[list[Any], str]] = {
    "a plain model": (["mobilenetv2.fer", "0.png"], "must have modes (StRA)"),
    "a plain model by option": (["random", "0.png", "--model", "mobilenetv2.reid"], "must have modes (StRA)"),
    "unknown model": ([FER + "x", "0.png"], "must be a weights file that is there, or a model"),
    "unknown --model": (["random", "0.png", "--model", "resnet.fer"], "unknown model 'resnet.fer'"),
    "two models": ([FER, "0.png", "--model", REID], "must be one model"),
    "no such weights": (["none.pt", "0.png", "--model", FER], "no such file"),
    "nothing shipped": (["mobilenetv2_140_stra.reid", "0.png"], "no weights are shipped"),
    "no such picture": ([FER, "none.png"], "none.png must be a picture"),
    "no picture": ([FER], "give pictures to explain, or --folder"),
    "no such folder": ([FER, "--folder", "none"], "must be a folder of pictures"),
    "output below a file": ([FER, "0.png", "--out", "0.png/out"], "must be a folder that can be written"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_call_is_one_line(case: str, faces: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    words, message = WRONG[case]
    monkeypatch.chdir(faces[0].parent)
    before = {path: path.read_bytes() for path in faces}
    assert_one_clear_line(edge_stra(*words), message)
    assert {path: path.read_bytes() for path in faces} == before


def test_a_sheet_never_replaces_an_input(faces: list[Path], tmp_path: Path) -> None:
    """Neither a picture that is given, nor one of the folder; also by another way of naming it."""
    source = tmp_path / "x.modes.png"
    source.write_bytes(faces[0].read_bytes())
    (tmp_path / "x.png").write_bytes(faces[1].read_bytes())
    out = tmp_path / "sub" / ".."
    (tmp_path / "sub").mkdir()
    for words in ([tmp_path / "x.png", source], [tmp_path / "x.png", "--folder", tmp_path]):
        assert_one_clear_line(edge_stra(FER, *words, "--out", out), "would be replaced")
        assert source.read_bytes() == faces[0].read_bytes()


def test_progress_sees_every_picture(model: MobileNetV2, faces: list[Path]) -> None:
    seen: list[Path] = []

    def progress(items: list[Path]) -> list[Path]:
        seen.extend(items)
        return items

    explain_folder(model, SPEC, faces[:2], progress)
    assert seen == faces[:2]
