from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save

from cluster.config import Experiment
from cluster.errors import DataError, NotFoundError
from cluster.store import Store
from jobs import evaluate
from ladder import opening, reference
from ladder.bundle import read_bundle
from ladder.variants import OnnxPredictor
from serve.adapt.sentinel import embedding_of
from tasks.dataset import read_dataset
from tasks.task import load_task

EXPERIMENT = Experiment.model_validate(
    {
        "name": "digits",
        "data": {"source": {"kind": "digits"}},
        "ladder": {"student_steps": 10, "max_accuracy_loss": 0.9},
    }
)


def publish_run(store: Store, dataset_key: str) -> str:
    """A run as training publishes it, of a network that nobody trained."""
    dataset = read_dataset(store, dataset_key)
    torch.manual_seed(0)
    network = load_task(EXPERIMENT).network(dataset.encoding)
    weights = save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    metrics = {"train_loss": 2.3, "validation_loss": 2.3, "validation_accuracy": 0.1}
    with store.stage("runs", "run") as staging:
        staging.publish(
            {
                "experiment": EXPERIMENT.model_dump(mode="json"),
                "dataset": dataset_key,
                "encoding": dataset.encoding.to_json(),
                "best_epoch": 0,
                "epochs": 1,
                "over": "all epochs done",
                "feed": "memory",
                "metrics": metrics,
                "seconds": 1.0,
                "cpu_s": 1.0,
                "rows": 1397,
                "mlflow_run": None,
                "files": {
                    "weights": staging.write("weights.safetensors", weights),
                    "history": staging.write("history.json", json.dumps([{"epoch": 0, **metrics}]).encode()),
                },
            }
        )
    return "run"


@pytest.fixture(scope="module")
def evaluated(
    tmp_path_factory: pytest.TempPathFactory, publish_digits: Callable[..., str]
) -> tuple[Store, dict[str, Any]]:
    store = Store.open(str(tmp_path_factory.mktemp("evaluated")))
    publish_digits(store, EXPERIMENT)
    return store, evaluate.run(EXPERIMENT, store, "digits", publish_run(store, "digits"), "bundle")


def test_the_bundle_holds_what_serving_and_people_need(evaluated):
    store, figures = evaluated

    bundle = read_bundle(store, "bundle")

    assert figures.keys() == {"bundle", "accuracy", "macro_f1", "log_loss", "calibration_error"}
    others = {
        "weights",
        "onnx-fp32",
        "card",
        "confusion",
        "ladder",
        "learning",
        "sample",
        "history",
        "probe",
        "reference",
    }
    assert bundle.files.keys() == others | set(bundle.variants)
    assert (bundle.dataset, bundle.run, bundle.experiment) == ("digits", "run", EXPERIMENT)
    assert bundle.metrics["rows"] == 200


def test_the_bundle_holds_what_later_inputs_are_compared_with(evaluated):
    store, _ = evaluated
    bundle = read_bundle(store, "bundle")
    sample = [{"input": row.tobytes()} for row in read_dataset(store, "digits").load("test")[0]]

    embed = embedding_of(bundle)

    assert embed is not None
    np.testing.assert_array_equal(embed(sample), reference.embeddings(bundle.read("reference")))


def test_the_bundle_holds_its_ladder_from_the_top_down(evaluated):
    store, _ = evaluated

    bundle = read_bundle(store, "bundle")

    assert bundle.ladder is not None
    assert tuple(rung["variant"] for rung in bundle.ladder["rungs"]) == bundle.variants
    named = {each["variant"] for part in ("rungs", "left_out") for each in bundle.ladder[part]}
    assert named == {"onnx-fp32", "onnx-int8", "student-fp32", "student-int8"}
    assert bundle.variants[0].startswith("onnx-")
    assert all(each["reason"] for each in bundle.ladder["left_out"])


def test_the_bundles_onnx_form_is_its_weights(evaluated):
    store, _ = evaluated
    bundle = read_bundle(store, "bundle")
    rows, truth = read_dataset(store, "digits").load("test")

    network = load_task(bundle.experiment).network(bundle.encoding)
    network.load_state_dict(load(bundle.read("weights")))
    probabilities = OnnxPredictor(bundle.read("onnx-fp32"))(rows)

    with torch.inference_mode():
        expected = torch.softmax(network.eval()(torch.from_numpy(rows)), dim=1).numpy()
    assert np.allclose(probabilities, expected, atol=1e-4)
    top = OnnxPredictor(bundle.read(bundle.variants[0]))(rows)
    assert bundle.metrics["accuracy"] == pytest.approx((top.argmax(axis=1) == truth).mean())


def test_the_sample_is_a_test_image_with_its_true_label(evaluated):
    store, _ = evaluated
    bundle = read_bundle(store, "bundle")
    rows, truth = read_dataset(store, "digits").load("test")

    row = load_task(bundle.experiment).decode(bundle.read("sample"), "image/png", bundle.encoding)

    found = [i for i, other in enumerate(rows) if np.array_equal(row, other)]
    assert bundle.metrics["sample_label"] in {bundle.encoding.labels[truth[i]] for i in found}


def test_the_card_says_what_it_is_and_shows_every_class(evaluated):
    store, _ = evaluated
    bundle = read_bundle(store, "bundle")

    card = bundle.read("card").decode()

    for heading in (
        "# digits",
        "## Data",
        "## How it was made",
        "## Results on 200 test rows",
        "## Ladder",
        "## By class",
        "## Lim",
    ):
        assert heading in card
    # Metrics, rungs and classes, each with its head.
    assert card.count("\n| ") == 6 + 1 + len(bundle.variants) + 11
    assert "1,397 train, 200 validation, 200 test" in card
    for role in ("confusion", "ladder", "learning"):
        with Image.open(io.BytesIO(bundle.read(role))) as picture:
            assert picture.format == "PNG"


def test_labels_of_any_script_and_with_markup_make_no_warning():
    from jobs import model_card

    labels = ("a|b", "$x^2", "数字", "line\nbreak", "x" * 200)

    picture = model_card.confusion_picture(np.eye(5, dtype=int).tolist(), labels)

    assert picture.startswith(b"\x89PNG")


def test_evaluating_again_changes_nothing(evaluated):
    store, figures = evaluated
    manifest = store.manifest("bundles", "bundle")

    again = evaluate.run(EXPERIMENT, store, "digits", "run", "bundle")

    assert again == figures
    assert store.manifest("bundles", "bundle") == manifest


def test_a_run_that_is_not_there_is_not_found(store: Store):
    with pytest.raises(NotFoundError, match="no run nowhere"):
        evaluate.run(EXPERIMENT, store, "digits", "nowhere", "bundle")


def test_where_a_gpu_serves_torch_runs_the_network_before_all_others(
    tmp_path: Path, publish_digits: Callable[..., str]
) -> None:
    store = Store.open(str(tmp_path / "store"))
    serve = EXPERIMENT.serve.model_copy(update={"gpus_per_replica": 0.5})
    publish_digits(store, EXPERIMENT)

    evaluate.run(
        EXPERIMENT.model_copy(update={"serve": serve}), store, "digits", publish_run(store, "digits"), "bundle"
    )

    bundle = read_bundle(store, "bundle")
    assert bundle.variants[0] == "torch-fp32"
    assert "onnx-fp32" in bundle.files
    rows, _ = read_dataset(store, "digits").load("test")
    ours, graphs = (opening.open_one(bundle, variant)(rows) for variant in ("torch-fp32", "onnx-fp32"))
    assert np.allclose(ours, graphs, atol=1e-4)
    assert opening.main([store.uri, "bundle", "4"]) == 0


def test_no_test_rows_is_a_data_error(store: Store, publish_digits: Callable[..., str]):
    publish_digits(store, EXPERIMENT, test=(np.zeros((0, 8, 8, 1), np.uint8), np.zeros(0, int)))

    with pytest.raises(DataError, match=r"data\.split\.test"):
        evaluate.run(EXPERIMENT, store, "digits", publish_run(store, "digits"), "bundle")

    assert not store.has("bundles", "bundle")
