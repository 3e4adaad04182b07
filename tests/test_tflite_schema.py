"""The compacted file is the same graph with less in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("litert_torch", reason="needs the export extra")

import torch
from ai_edge_litert import schema_py_generated as schema
from edge_stra.calibration.quantize import quantize
from edge_stra.calibration.recipes import RECIPES
from edge_stra.converters.tflite import convert
from torch import nn

from edge_stra.builds.travelling import travelling_statistics
from edge_stra.export import Request, rewrite
from edge_stra.loading import load_model
from edge_stra.models.registry import get_spec
from edge_stra.runtime import find_runtime
from edge_stra.targets.tflite_schema import ALIGNMENT, compact

if TYPE_CHECKING:
    from edge_stra.export import Exported

pytestmark = pytest.mark.slow
NAME = "mobilenetv2_stra.fer"
SPEC = get_spec(NAME)


def run(model: bytes, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    interpreter = find_runtime()[1](model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    result: np.ndarray[Any, Any] = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return result


@pytest.fixture(scope="module")
def int8() -> bytes:
    """As the quantizer writes it."""
    statistics = travelling_statistics(Request(NAME, "int8", Path()), RECIPES["int8"])
    network = rewrite(load_model(NAME, None)[0], SPEC, False)
    return quantize(convert(network, SPEC.input.size_hw), RECIPES["int8"], statistics)


def test_the_graph_gives_the_same_and_takes_less(int8: bytes) -> None:
    smaller = compact(int8)
    x = np.random.default_rng(0).standard_normal((1, *SPEC.input.size_hw, 3)).astype(np.float32)
    assert np.array_equal(run(int8, x), run(smaller, x))
    assert len(smaller) < len(int8) - 150_000
    assert compact(smaller) == smaller


def test_equal_vectors_are_written_once_and_constants_are_aligned(int8: bytes) -> None:
    data = compact(int8)
    model = schema.Model.GetRootAs(data, 0)
    start = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    arrays = [model.Buffers(i).DataAsNumpy() for i in range(model.BuffersLength()) if model.Buffers(i).DataLength()]
    places = [array.__array_interface__["data"][0] - start for array in arrays]
    assert len(arrays) > 100
    assert {place % ALIGNMENT for place in places} == {0}
    contents = {}
    for place, array in zip(places, arrays, strict=True):
        assert contents.setdefault(array.tobytes(), place) == place
    graph = model.Subgraphs(0)
    zeros = {}
    for index in range(graph.TensorsLength()):
        found = graph.Tensors(index).Quantization()
        if found is not None and found.ZeroPointLength() > 1:
            zeros.setdefault(found.ZeroPointLength(), set()).add(
                found.ZeroPointAsNumpy().__array_interface__["data"][0]
            )
    assert zeros and all(len(places) == 1 for places in zeros.values())


def test_a_quantized_file_takes_less_than_a_third_of_fp32(int8: bytes, exported: Exported) -> None:
    assert len(compact(int8)) <= 0.32 * exported.manifest["bytes"]


def test_a_constant_inside_stays_inside() -> None:
    """Both forms of the tools: constants within the flatbuffer, and after it."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    with torch.no_grad():
        network[0].weight.normal_()
    model = convert(network, (16, 16))
    x = np.random.default_rng(1).standard_normal((1, 16, 16, 3)).astype(np.float32)
    assert np.array_equal(run(model, x), run(compact(compact(model)), x))
