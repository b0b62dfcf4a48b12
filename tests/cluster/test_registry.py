from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import NotFoundError, StoreError
from cluster.registry import Registry
from cluster.store import Store


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry.open(Store.open(str(tmp_path_factory.mktemp("store"))))


def test_an_unfinished_run_is_taken_up_and_a_finished_one_is_not(registry: Registry) -> None:
    first = registry.start_run("digits", "key-1", {"train": {"epochs": 3}}, {})

    assert registry.start_run("digits", "key-1", {}, {}) == first
    registry.end_run(first)
    assert registry.start_run("digits", "key-1", {}, {}) != first


def test_the_mlflow_client_sees_parameters_and_curves(registry: Registry) -> None:
    from mlflow import MlflowClient

    run = registry.start_run("curves", "key-2", {"epochs": 3, "learning_rate": 0.01}, {"trimtab.dataset": "d"})
    for epoch, loss in enumerate([0.9, 0.5]):
        registry.log(run, {"loss": loss}, epoch)
    registry.end_run(run)

    seen = MlflowClient(tracking_uri=registry.uri)
    assert seen.get_run(run).data.params == {"epochs": "3", "learning_rate": "0.01"}
    assert [point.value for point in seen.get_metric_history(run, "loss")] == [0.9, 0.5]
    assert seen.get_run(run).info.status == "FINISHED"


def test_a_bundle_becomes_one_version_however_often_it_is_registered(registry: Registry) -> None:
    first = registry.register("birds", "bundle-a", None, {"accuracy": 0.9})

    assert registry.register("birds", "bundle-a", None, {}) == first
    second = registry.register("birds", "bundle-b", None, {"accuracy": 0.91})
    assert (first.version, second.version) == (1, 2)
    assert registry.version("birds") == second
    assert second.metrics == {"accuracy": 0.91}


def test_a_version_is_found_by_number_and_alias(registry: Registry) -> None:
    registry.register("cats", "bundle-c", None, {})
    registry.register("cats", "bundle-d", None, {})

    registry.set_alias("cats", "stable", 1)

    assert registry.version("cats", "stable").bundle == "bundle-c"
    assert registry.version("cats", "v2").bundle == "bundle-d"
    assert registry.versions("cats")[1].aliases == ("stable",)


def test_the_stable_version_keeps_its_predecessor(registry: Registry) -> None:
    for bundle in ("bundle-e", "bundle-f"):
        registry.register("bats", bundle, None, {})

    registry.set_stable("bats", 1)
    assert "previous" not in registry.versions("bats")[1].aliases
    registry.set_stable("bats", 2)
    registry.set_stable("bats", 2)

    assert [(one.version, one.aliases) for one in registry.versions("bats")] == [(2, ("stable",)), (1, ("previous",))]
    registry.set_stable("bats", 1)
    assert [(one.version, one.aliases) for one in registry.versions("bats")] == [(2, ("previous",)), (1, ("stable",))]


def test_a_refused_version_stays_with_its_reason_and_is_no_more_the_latest(registry: Registry) -> None:
    for bundle in ("bundle-g", "bundle-h"):
        registry.register("owls", bundle, None, {})

    registry.refuse("owls", 2, "only 0.5 right")

    assert registry.version("owls").version == 1
    assert registry.version("owls", "2").refused == "only 0.5 right"
    assert registry.register("owls", "bundle-h", None, {}).refused == "only 0.5 right"


@pytest.mark.parametrize(
    ("model", "reference", "words"),
    [
        pytest.param("nope", "latest", "models there are: .*dogs", id="unknown model"),
        pytest.param("dogs", "7", "has no version 7; versions there are: 1", id="unknown number"),
        pytest.param("dogs", "prod", "has no version or alias prod", id="unknown alias"),
    ],
)
def test_what_is_unknown_is_answered_with_what_there_is(
    registry: Registry, model: str, reference: str, words: str
) -> None:
    registry.register("dogs", "bundle-e", None, {})

    with pytest.raises(NotFoundError, match=words):
        registry.version(model, reference)


def test_an_object_store_needs_a_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    with pytest.raises(StoreError, match="MLFLOW_TRACKING_URI"):
        Registry.open(Store(f"file://{tmp_path}"))
