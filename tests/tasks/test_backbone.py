"""Weights are random here: what is tested is that a file's weights are the network's, whatever they are worth."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torchvision import models

from cluster import experiment as experiments
from cluster.config import Experiment
from cluster.errors import ConfigError
from jobs import keys
from ladder.variants import OnnxPredictor, export_onnx, quantise
from tasks import backbone
from tasks.images import Images
from tasks.task import Encoding

COLOUR = Encoding(("a", "b", "c"), (20, 24, 3), "uint8", {"mean": [10.0, 20.0, 30.0], "std": [5.0, 5.0, 5.0]})
GREY = Encoding(("a", "b"), (8, 8, 1), "uint8", {"mean": [10.0], "std": [5.0]})


def experiment(**model: object) -> Experiment:
    return experiments.parse({"name": "x", "data": {"source": {"kind": "digits"}}, "model": model})


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return models.get_model("mobilenet_v3_small", weights=None).state_dict()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_all_weights_but_the_heads_come_from_the_file(
    state: dict[str, torch.Tensor], tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"weights.{suffix}"
    torch.save(state, path) if suffix == "pth" else path.write_bytes(save(state))

    made = backbone.build(experiment(network="mobilenet_v3_small", weights=str(path)).model, COLOUR)

    body = made[1].state_dict()
    assert all(torch.equal(body[name], state[name]) for name in state if not name.startswith("classifier.3."))
    images = torch.zeros(2, 20, 24, 3, dtype=torch.uint8)
    assert made[0](images).shape == (2, 3, 224, 224)  # as the weights were trained
    assert torch.allclose(made[0](images)[0, :, 0, 0], -torch.tensor(backbone.MEAN) / torch.tensor(backbone.STD))
    assert made.eval()(images).shape == (2, 3)


def test_without_weights_images_keep_their_size_and_the_training_rows_scale() -> None:
    made = backbone.build(experiment(network="resnet18").model, GREY)

    prepared = made[0](torch.full((2, 8, 8, 1), 15, dtype=torch.uint8))

    assert prepared.shape == (2, 3, 32, 32)
    assert torch.allclose(prepared, torch.ones(()))


def test_the_whole_ladder_can_be_made_of_it(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "weights.pth")
    made = experiment(network="mobilenet_v3_small", weights=str(tmp_path / "weights.pth"), side=32)
    task = Images(made)

    graph = export_onnx(task.network(COLOUR), COLOUR, task)
    small = quantise(graph, task.example(COLOUR, 64))

    images = task.example(COLOUR, 7)
    assert np.abs(OnnxPredictor(graph)(images) - OnnxPredictor(small)(images)).max() < 0.2
    assert list(task.students(COLOUR)) == ["student", "tiny-student"]


def _lacking(state: dict[str, torch.Tensor]) -> bytes:
    return save({name: tensor for name, tensor in state.items() if name != "features.0.0.weight"})


def _pickled(_: object) -> bytes:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return pytest.fail, ("code of a file of weights was run",)

    out = io.BytesIO()
    torch.save({"a": Harm()}, out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(None, r"cannot be read \(No such file", id="no file"),
        pytest.param(lambda _: b"hello", "is no file of weights", id="something else"),
        pytest.param(lambda _: b"PK\x03\x04broken", "is no file of weights", id="a broken archive"),
        pytest.param(_pickled, "holds more than weights, and is not unpacked", id="code"),
        pytest.param(
            lambda _: pickle.dumps([1]), "is no file of weights|holds no weights|holds more", id="a bare pickle"
        ),
        pytest.param(_lacking, "lacks weights of mobilenet_v3_small, for example features.0.0.weight", id="one lacks"),
        pytest.param(
            lambda state: save({**state, "more": torch.ones(1)}), "has weights that .* has not", id="one more"
        ),
        pytest.param(
            lambda state: save({**state, "features.0.0.weight": torch.ones(3)}), "of other shapes", id="another shape"
        ),
    ],
)
def test_a_wrong_file_is_one_sentence(
    state: dict[str, torch.Tensor], tmp_path: Path, content: object, words: str
) -> None:
    path = tmp_path / "weights"
    if callable(content):
        path.write_bytes(content(state))

    with pytest.raises(ConfigError, match=words) as refused:
        backbone.build(experiment(network="mobilenet_v3_small", weights=str(path)).model, COLOUR)

    assert str(refused.value).startswith("model.weights = ")
    assert "\n" not in str(refused.value)


def test_other_weights_at_the_same_path_are_another_run(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    found = []
    for content in (b"one", b"two", b"one"):
        path.write_bytes(content)
        found.append(keys.of(experiment(network="resnet18", weights=str(path))))

    assert found[0] == found[2]
    assert found[0].run != found[1].run
    assert found[0].dataset == found[1].dataset


@pytest.mark.parametrize(
    "model", [{"weights": "a.pth"}, {"network": "large", "side": 64}, {"network": "resnet18", "width": 2.0}]
)
def test_settings_of_another_network_are_refused(model: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="is not for the network"):
        experiment(**model)
