"""Quantization-aware training: what it rounds, and that the weights it leaves are those of the plain network."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from edge_stra.training.distributed import World
from edge_stra.training.qat import RoundedActivation, RoundedWeight, plain_state, prepare_rounding, rounded_places
from edge_stra.training.recipe import parse_recipe
from edge_stra.training.run import Place, Run, train
from edge_stra.training.tasks import create_task

from edge_stra.loading import load_model
from edge_stra.models.registry import create_model, get_spec
from edge_stra.models.weights import read_weights
from edge_stra.parity import sqnr_db
from edge_stra.preprocess import to_input
from edge_stra.synthetic import face_pictures, structured_pictures

FER = "mobilenetv2_stra.fer"


def pictures(count: int) -> torch.Tensor:
    """Drawn faces as the network takes them, [count, 3, 88, 88]."""
    inputs = [to_input(picture, get_spec(FER).input) for picture in face_pictures(count, (88, 88), seed=2)]
    return torch.from_numpy(np.concatenate(inputs)).permute(0, 3, 1, 2)


def test_weights_are_rounded_to_127_steps_of_each_channels_largest() -> None:
    weight = torch.tensor([[1.27, -0.014, 0.006], [0.0, 0.0, 0.0], [-254.0, 3.1, 2.9]])
    rounded = RoundedWeight()(weight)
    assert torch.allclose(rounded, torch.tensor([[1.27, -0.01, 0.01], [0.0, 0.0, 0.0], [-254.0, 4.0, 2.0]]))


def test_activations_are_rounded_to_255_steps_of_a_range_that_holds_zero() -> None:
    rounder = RoundedActivation(momentum=0.5)
    rounder(torch.tensor([0.5, 51.0]))
    assert (float(rounder.low), float(rounder.high)) == (0, 51)
    rounder(torch.tensor([-10.0, 41.0]))
    assert (float(rounder.low), float(rounder.high)) == (-5, 46)
    rounder.eval()
    rounded = rounder(torch.tensor([-7.0, 0.0, 0.29, 0.31, 60.0]))  # steps of 0.2
    assert torch.allclose(rounded, torch.tensor([-5.0, 0.0, 0.2, 0.4, 46.0]), atol=1e-5)


def test_gradients_pass_through_rounding_and_stop_where_a_value_is_clipped() -> None:
    rounder = RoundedActivation()
    rounder(torch.tensor([0.0, 1.0]))
    x = torch.tensor([0.3, 5.0], requires_grad=True)
    rounder.eval()(x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1.0, 0.0]


def test_every_conv_rounds_and_so_does_every_tensor_that_the_int8_graph_keeps_in_8_bits() -> None:
    network = create_model(FER)
    places = set(rounded_places(network))
    assert {"features.0.2", "features.1.conv.2", "features.1.conv.4", "features.3", "features.3.conv.7"} <= places
    last = {"value", "logit.1", "logit.2", "logit.4"}
    block = "features.17.conv.3."
    assert {name.removeprefix(block) for name in places if name.startswith(block)} == last
    assert {"features.17.conv.5", "head.linear"} <= places  # mode attention is float
    assert "features.2" not in places  # no residual
    assert "features.0.1" not in places  # a BN whose ReLU6 rounds
    assert not [name for name in places if "norm" in name]  # gates stay float
    prepare_rounding(network)
    convs = {n: m for n, m in network.named_modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))}
    for name, conv in convs.items():
        if ".mode." in name:
            assert not torch.nn.utils.parametrize.is_parametrized(conv)
            continue
        weight = conv.weight.detach()
        largest = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True)
        steps = weight / largest.clamp_min(1e-12) * 127
        assert float((steps - steps.round()).abs().max()) < 1e-2


def test_a_rounded_network_is_near_the_plain_one_and_leaves_its_weights_alone() -> None:
    network, _ = load_model(FER, None)
    rounded = copy.deepcopy(network)
    rounding = prepare_rounding(rounded)
    x = pictures(16)
    with torch.no_grad():
        expected = network(x)
        rounding.train()
        rounded(x)  # ranges
        result = rounded(x)
    assert 12 < sqnr_db(expected.numpy(), result.numpy()) < 45  # rounding is there, and no more than rounding
    state = plain_state(rounded)
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())


def test_the_layers_after_a_rounded_tensor_see_256_values_of_it() -> None:
    network, _ = load_model(FER, None)
    rounded = copy.deepcopy(network)
    prepare_rounding(rounded)
    for model, rounds in ((network, False), (rounded, True)):
        seen: list[int] = []
        for module in (model.head, model.features[4].conv[0]):  # type: ignore[index, union-attr]
            module.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(len(args[0].unique())))
        with torch.no_grad():
            model(pictures(4))
        assert len(seen) == 2 and all((count <= 256) == rounds for count in seen), seen


@pytest.mark.slow
def test_a_quantized_recipe_trains_weights_that_load_as_plain_ones(tmp_path: Path) -> None:
    import cv2

    for split in ("train", "validation"):
        for index, name in enumerate(("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")):
            (tmp_path / split / name).mkdir(parents=True)
            for number, picture in enumerate(structured_pictures(2, (48, 48), seed=index + 7 * len(split))):
                cv2.imwrite(str(tmp_path / split / name / f"{number}.png"), picture)
    recipe = {"task": "fer", "batch": 7, "stored": [48, 48], "learning_rate": 0.001, "quantized": True}
    recipe |= {"stages": [{"epochs": 1, "size": [88, 88]}], "precision": "fp32"}
    task = create_task(FER, parse_recipe(recipe, "test"), tmp_path, 0)
    begin = read_weights(Path(str(load_shipped())))
    run = Run(task, World(0, 1, torch.device("cpu")), Place(tmp_path / "out"), 0, load_shipped())
    train(run, False, lambda line: None, lambda values, step: None)
    kept = read_weights(tmp_path / "out" / "best.safetensors")
    assert set(kept) == {key for key in begin if not key.endswith("num_batches_tracked")}
    assert not torch.equal(kept["features.0.0.weight"], begin["features.0.0.weight"].float())
    assert torch.equal(kept["features.0.1.running_mean"], begin["features.0.1.running_mean"].float())
    again = Run(task, World(0, 1, torch.device("cpu")), Place(tmp_path / "out"), 0, None)
    again.resume()
    assert again.epoch == 1
    assert json.loads((tmp_path / "out" / "history.json").read_text())["model"] == FER


def test_every_rounder_of_an_embedding_sees_its_tensor_in_training(tmp_path: Path) -> None:
    import cv2

    (tmp_path / "crops").mkdir()
    for index, picture in enumerate(structured_pictures(8, (64, 32), seed=4)):
        cv2.imwrite(str(tmp_path / "crops" / f"{index // 4 + 1:04d}_c{index % 2 + 1}s1_{index:06d}_00.jpg"), picture)
    recipe = {"task": "reid", "batch": 8, "stored": [64, 32], "learning_rate": 0.001, "quantized": True}
    recipe |= {"stages": [{"epochs": 1, "size": [64, 32]}], "precision": "fp32"}
    task = create_task("mobilenetv2_stra.reid", parse_recipe(recipe, "test"), tmp_path / "crops", 0)
    run = Run(task, World(0, 1, torch.device("cpu")), Place(tmp_path / "out"), 0, None)
    run.prepare(0)
    run.step(torch.arange(8), 0, 1)
    unseen = [name for name, rounder in run.learner.rounding.items() if not rounder.seen]
    assert unseen == []


def load_shipped() -> Path:
    from edge_stra.shipped import shipped_weights

    path = shipped_weights(FER)
    assert path is not None
    return path
