"""Ranges of 8-bit activations against hand-made distributions and brute force; corrections only where rounding is."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from edge_stra.calibration.bias import measure_corrections, rounding_error
from edge_stra.calibration.ranges import (
    BINS,
    RANGES,
    Histogram,
    choose_ranges,
    collect_histograms,
    find_extremes,
    minmax_range,
    mse_range,
    percentile_range,
)
from edge_stra.calibration.recipes import RECIPES, adjust
from edge_stra.calibration.statistics import load_statistics, save_statistics
from torch import nn

from edge_stra.artifact import open_artifact
from edge_stra.builds.tflite import clipped_ranges, corrected_graph
from edge_stra.cli import main
from edge_stra.commands.common import shipped_path
from edge_stra.export import Request, export, rewrite, synthetic_inputs
from edge_stra.layers import compare_layers, module_path
from edge_stra.loading import load_model
from edge_stra.models.registry import get_spec
from edge_stra.recheck import recheck
from edge_stra.runtime import find_runtime, read_tensors
from edge_stra.shipped import shipped_statistics
from edge_stra.spec import DataError, ModelError, Settings, Statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_stra.export import Exported

NAME = "mobilenetv2_stra.fer"
SPEC = get_spec(NAME)
EARLY_LAYERS = {"features.0.0", "features.1.conv.0", "features.1.conv.3", "features.2.conv.0"}


def histogram_of(values: NDArray[Any]) -> Histogram:
    made = Histogram(float(values.min()), float(values.max()))
    for part in np.array_split(values.astype(np.float32), 3):  # as pictures come: one after the other
        made.add(part)
    return made


def rounding_noise(values: NDArray[Any], low: float, high: float) -> float:
    """Mean squared error of 8 bits as ai-edge-quantizer makes them: 0 inside the range, a whole zero point."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    zero = np.rint(-128 - low / scale)
    levels = np.clip(np.rint(values / scale) + zero, -128, 127)
    return float(np.square((levels - zero) * scale - values).mean())


def samples(kind: str) -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    return {
        "normal": lambda: rng.normal(0, 1, 40_000),
        "laplace": lambda: rng.laplace(0.5, 1, 40_000),
        "relu6": lambda: rng.normal(0, 2, 40_000).clip(0, 6),
        "outlier": lambda: np.append(rng.normal(0, 1, 40_000), 60.0),
        "positive": lambda: rng.gamma(2.0, 1.0, 40_000) + 1.0,
        "negative": lambda: -rng.gamma(2.0, 1.0, 40_000),
    }[kind]()


def test_a_histogram_counts_every_value_once_and_zeros_apart() -> None:
    values = samples("relu6")
    made = histogram_of(values)
    assert made.zeros == (values == 0).sum() > 10_000
    assert made.counts.shape == (BINS,)
    assert made.counts.sum() + made.zeros == len(values)
    assert made.counts[-1] >= (values == 6).sum() > 0


def test_mse_clips_one_outlier_of_many_and_little_of_the_rest() -> None:
    """The outlier's (60 - h)^2 against 2,000,000 steps^2 / 12, step = (h + 3.8) / 255: least at h = 14."""
    values = np.append(np.random.default_rng(0).normal(0, 1, 2_000_000).astype(np.float32), np.float32(60.0))
    low, high = mse_range(histogram_of(values))
    assert -4.2 < low < -3.4  # arXiv 1810.05723: a Gaussian in 8 bits is best clipped at 3.9 deviations
    assert high == pytest.approx(14.1, abs=0.4)
    assert rounding_noise(values, low, high) < 0.7 * rounding_noise(values, values.min(), values.max())


def test_mse_keeps_an_outlier_of_few() -> None:
    _, high = mse_range(histogram_of(samples("outlier")))
    assert high > 50


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 6.0), (-2.0, 0.0)])
def test_of_a_uniform_nothing_is_clipped(low: float, high: float) -> None:
    assert mse_range(histogram_of(np.linspace(low, high, 100_001))) == (low, high)


def test_of_a_uniform_far_from_zero_no_whole_step_is_clipped() -> None:
    low, high = mse_range(histogram_of(np.linspace(3.0, 5.0, 100_001)))
    assert low == 3.0
    assert 5.0 - high < 5.0 / 255  # a value half a step beyond the last level is rounded to it without a loss


@pytest.mark.parametrize("kind", ["normal", "laplace", "relu6", "outlier", "positive", "negative"])
def test_mse_comes_as_near_as_brute_force(kind: str) -> None:
    """Every pair of 65 x 65 ends is tried with real rounding; a thinner grid than ours, so ours may be better."""
    values = samples(kind)
    low, high = float(values.min()), float(values.max())
    grid = [(a, b) for a in np.linspace(min(low, 0), 0, 17) for b in np.linspace(0, max(high, 0), 65)[1:]]
    if kind == "negative":
        grid = [(-b, -a) for a, b in [(0.0, c) for c in np.linspace(0, -low, 65)[1:]]]
    best = min(rounding_noise(values, a, b) for a, b in grid)
    assert rounding_noise(values, *mse_range(histogram_of(values))) <= 1.05 * best


@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99])
def test_percentile_clips_no_more_than_it_may_at_each_end(percentile: float) -> None:
    values = samples("laplace").astype(np.float32)
    low, high = percentile_range(histogram_of(values), percentile)
    share = 1 - percentile / 100
    for clipped in ((values < low).mean(), (values > high).mean()):
        assert clipped <= share + 1e-9
        assert clipped >= 0.5 * share - 1 / len(values)  # and no less than the bins allow
    assert values.min() <= low < 0 < high <= values.max()


@pytest.mark.parametrize("choose", [minmax_range, percentile_range, mse_range])
@pytest.mark.parametrize("kind", ["normal", "relu6", "outlier", "positive", "negative"])
def test_a_range_lies_within_what_was_measured_and_keeps_zero(choose: Callable[..., Any], kind: str) -> None:
    values = samples(kind).astype(np.float32)
    low, high = choose(histogram_of(values))
    assert values.min() <= low <= high <= values.max()
    assert low <= max(0, values.min())
    assert high >= min(0, values.max())


def test_percentile_never_clips_past_zero() -> None:
    values = np.concatenate([np.full(100_000, 1.0), [-1e-3, 0.0]])  # almost nothing lies below 1
    low, high = percentile_range(histogram_of(values))
    assert low <= 0
    assert high == pytest.approx(1.0)


def test_only_given_tensors_are_chosen_and_constants_left_alone() -> None:
    extremes = {"a": (-1.0, 1.0), "b": (0.0, 8.0), "c": (2.0, 2.0)}
    tensors = [("a", np.linspace(-1, 1, 99, dtype=np.float32)), ("c", np.full(5, 2, np.float32))]
    histograms = collect_histograms(extremes, tensors)
    assert choose_ranges("mse", histograms) == {"a": (-1.0, 1.0)}
    with pytest.raises(ModelError, match="unknown ranges 'entropy'; they are minmax, percentile, mse"):
        choose_ranges("entropy", histograms)


@pytest.mark.parametrize(
    ("precision", "switches", "message"),
    [
        ("int9", {}, "unknown precision 'int9'"),
        ("fp32", {"ranges": "mse"}, r"--ranges needs .* \(int8, int8-full\), but this is fp32"),
        ("dynamic", {"ranges": "minmax"}, r"--ranges needs .*, but this is dynamic"),
        ("int8", {"ranges": "widest"}, "unknown ranges 'widest'; they are minmax, percentile, mse"),
        (
            "fp16",
            {"bias_correction": True},
            r"--bias-correction needs .* \(dynamic, int8, int8-full\)",
        ),
        ("fp32", {"equalise": True}, r"--equalise needs .*, but this is fp32"),
    ],
)
def test_switches_that_make_no_sense_are_refused(precision: str, switches: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        adjust(precision, **switches)


def test_switches_override_the_recipe_and_nothing_else() -> None:
    assert adjust("int8-full") == RECIPES["int8-full"]
    assert adjust("int8-full", "minmax", bias_correction=False).settings == Settings("minmax", False, False)
    assert adjust("int8", "mse", True, True).settings == Settings("mse", True, True)
    assert adjust("int8", "mse").rules == RECIPES["int8"].rules
    assert adjust("fp32", bias_correction=False, equalise=False) == RECIPES["fp32"]
    assert str(adjust("dynamic", bias_correction=True).settings) == "bias correction on, equalisation off"
    assert adjust("dynamic", bias_correction=True).needs_pictures
    assert not adjust("dynamic").needs_pictures


def test_the_command_refuses_in_one_line(tmp_path: Path) -> None:
    arguments = ["export", "--model", NAME, "--quantize", "fp32", "--ranges", "mse", "--out", str(tmp_path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "Error: --ranges needs a precision with int8 activations (int8, int8-full), but this is fp32"
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("precision", "switches"),
    [
        ("int8", {"ranges": "percentile"}),
        ("int8", {"bias_correction": not RECIPES["int8"].correct_bias}),
        ("int8-full", {"bias_correction": False}),
        ("int8", {"equalise": True}),
        ("dynamic", {"bias_correction": True}),
    ],
)
def test_statistics_of_other_switches_are_not_used(tmp_path: Path, precision: str, switches: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"^[^\n]*--calibration FOLDER[^\n]*$"):
        export(Request(NAME, precision, tmp_path, **switches))
    assert list(tmp_path.iterdir()) == []


def test_statistics_say_what_they_were_measured_for(tmp_path: Path) -> None:
    shipped = shipped_statistics(NAME)
    assert shipped is not None
    for precision in ("int8", "int8-full"):
        assert load_statistics(shipped, precision).settings == RECIPES[precision].settings
    other = Settings("percentile", True, True)
    save_statistics(tmp_path / "s.safetensors", {"int8": Statistics({"a": (0.0, 1.0)}, {}, {}, other)})
    assert load_statistics(tmp_path / "s.safetensors", "int8").settings == other


@pytest.mark.parametrize("corrections", [{}, {"head.linear": np.zeros(7, np.float32)}])
def test_statistics_from_before_the_switches_are_of_plain_ranges(tmp_path: Path, corrections: dict[str, Any]) -> None:
    save_statistics(tmp_path / "s.safetensors", {"int8": Statistics({"a": (0.0, 1.0)}, corrections, {})})
    loaded = load_statistics(tmp_path / "s.safetensors", "int8")
    assert loaded.settings == Settings("minmax", bool(corrections), False)


def test_corrections_keep_to_the_layers_that_are_named() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    inputs = [np.random.default_rng(0).random((1, 5, 5, 3), np.float32)]
    everything = measure_corrections(network, inputs)
    assert set(everything) == {"0", "2"}
    some = measure_corrections(network, inputs, {"2"})
    assert set(some) == {"2"}
    np.testing.assert_array_equal(some["2"], everything["2"])


def test_corrected_biases_give_the_mean_output_of_unrounded_weights() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(100, 2)).eval()
    inputs = [np.random.default_rng(seed).random((1, 5, 5, 3), np.float32) for seed in (0, 1)]
    corrections = measure_corrections(network, inputs)
    x = torch.from_numpy(np.concatenate(inputs)).permute(0, 3, 1, 2)
    for name, fed, axes in (("0", x, (0, 2, 3)), ("2", network[:2](x), (0,))):
        layer = copy.deepcopy(network.get_submodule(name))
        with torch.no_grad():
            wanted = layer(fed).mean(axes)
            layer.weight += rounding_error(layer.weight)  # type: ignore[operator]
            rounded = layer(fed).mean(axes)
        assert float((rounded - wanted).abs().max()) > 1e-5
        np.testing.assert_allclose((rounded + torch.from_numpy(corrections[name])).numpy(), wanted.numpy(), atol=1e-6)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return rewrite(load_model(NAME, None)[0], SPEC, equalised=False)


@pytest.mark.slow
def test_parts_are_those_that_the_recipe_quantizes(exported: Exported, network: nn.Module) -> None:
    from edge_stra.calibration.parts import find_parts

    graph = exported.path.read_bytes()
    convs = {name for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    int8, full, dynamic = (find_parts(graph, RECIPES[p]) for p in ("int8", "int8-full", "dynamic"))
    assert convs - int8.layers(network) == EARLY_LAYERS | {"features.17.conv.3.neighbours"}
    assert full.layers(network) == convs
    depthwise = {f"features.{k}.conv.3" for k in range(2, 17)} | {"features.17.conv.3.neighbours"}
    assert convs - dynamic.layers(network) == EARLY_LAYERS | depthwise
    assert dynamic.tensors == set()
    for parts in (int8, full):
        modules = {module_path(name) for name in parts.tensors}
        assert {"features.5", "features.5.conv.2", "features.5.conv.5", "features.5.conv.6"} <= modules
        assert not {m for m in modules if m.startswith(("features.17.conv.3", "features.0", "features.1.", "default"))}
    early = {m for m in map(module_path, full.tensors) if m.startswith("features.2.conv.2")}
    assert not early, "the first expansion has 16 bits in int8-full: its range stays"


@pytest.mark.slow
def test_corrections_and_clips_reach_only_int8_parts(network: nn.Module) -> None:
    inputs, _ = synthetic_inputs(SPEC, 4, seed=0)
    recipe = adjust("int8", "percentile", bias_correction=True)
    graph, corrections = corrected_graph(recipe, SPEC, network, inputs)
    assert corrections
    assert not EARLY_LAYERS & set(corrections)
    extremes = find_extremes(read_tensors(graph, inputs))
    clipped = clipped_ranges(recipe, graph, extremes, inputs)
    assert len(clipped) > 50
    assert all(extremes[n][0] <= low <= high <= extremes[n][1] for n, (low, high) in clipped.items())
    assert sum(clipped[n] != extremes[n] for n in clipped) > 25
    assert clipped_ranges(adjust("int8", "minmax"), graph, extremes, inputs) == {}


@pytest.fixture(scope="module")
def switched(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """All switches at once, on random weights, which calibrate with drawn pictures."""
    folder = tmp_path_factory.mktemp("switched")
    return export(
        Request(NAME, "int8", folder, weights="random", ranges="percentile", bias_correction=True, equalise=True)
    )


@pytest.mark.slow
def test_the_manifest_records_the_switches(switched: Exported, exported: Exported) -> None:
    manifest = json.loads(switched.path.with_suffix(".json").read_text("utf-8"))
    assert manifest["settings"] == {"ranges": "percentile", "bias_correction": True, "equalise": True}
    assert exported.manifest["settings"] == {"ranges": None, "bias_correction": False, "equalise": False}


@pytest.mark.slow
def test_an_equalised_artifact_is_checked_against_its_own_streams(switched: Exported) -> None:
    result = recheck(switched.path, None, None)
    assert [c.sqnr_db for c in result.comparisons] == pytest.approx([c.sqnr_db for c in switched.comparisons], abs=0.01)
    rows = {row.module: row.sqnr_db for row in compare_layers(result.network, result.artifact, result.inputs[:2])}
    streams = [rows[f"features.{k}"] for k in (3, 5, 6, 8, 9, 10) if f"features.{k}" in rows]
    assert len(streams) >= 4
    assert min(streams) > 15, "an unscaled stream agrees with no scaled one"
    plain = rewrite(load_model(NAME, "random")[0], SPEC, equalised=False)
    wrong = {row.module: row.sqnr_db for row in compare_layers(plain, result.artifact, result.inputs[:2])}
    assert wrong.get("features.5", 0) < rows["features.5"] - 3


def test_kinds_of_ranges_are_those_of_the_documentation() -> None:
    text = (Path(__file__).parents[1] / "docs" / "quantization.md").read_text("utf-8")
    assert RANGES == ("minmax", "percentile", "mse")
    assert all(f"`{kind}`" in text for kind in RANGES)


def test_the_rounding_that_is_corrected_is_what_the_file_has() -> None:
    """The shipped int8 file's last conv, the only one of its shape, against `rounding_error` of the same weights."""
    artifact = open_artifact(shipped_path(NAME))
    settings = (artifact.manifest or {}).get("settings", {})
    network = rewrite(load_model(NAME, None)[0], artifact.spec, bool(settings.get("equalise")))
    weight = network.get_submodule("features.18.0").weight.detach()  # type: ignore[operator, union-attr]
    interpreter = find_runtime()[1](model_path=str(artifact.path))
    details = [d for d in interpreter.get_tensor_details() if list(d["shape"]) == [1280, 1, 1, 320]]
    (detail,) = (d for d in details if d["dtype"] == np.int8)
    interpreter.allocate_tensors()
    stored = interpreter.get_tensor(detail["index"]).astype(np.float32).reshape(1280, 320)
    rounded = stored * detail["quantization_parameters"]["scales"][:, None]
    expected = (weight + rounding_error(weight)).numpy().reshape(1280, 320)
    assert np.abs(rounded - expected).max() <= 1e-5 * np.abs(expected).max()
