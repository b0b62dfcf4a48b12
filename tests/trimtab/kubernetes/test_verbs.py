from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import experiment as experiments
from cluster.errors import ConfigError, NotFoundError
from cluster.store import Store
from trimtab.kubernetes import verbs
from trimtab.kubernetes.render import Version
from trimtab.screen import Screen

DIGITS = Path(__file__).parents[3] / "experiments" / "digits.yaml"
EXAMPLE = Path(__file__).parents[3] / "experiments" / "own_task" / "diabetes.yaml"


def test_a_task_that_lies_in_a_folder_of_this_machine_is_told_to_go_into_the_image() -> None:
    with pytest.raises(ConfigError, match="install it as a package in the image"):
        verbs.files(experiments.load(EXAMPLE), None, None)


class Registry:
    def __init__(self, **known: int) -> None:
        self._known = known

    def version(self, name: str, reference: str) -> Any:
        if reference not in self._known:
            raise NotFoundError(f"{name} has no {reference}")
        return SimpleNamespace(bundle=f"b{self._known[reference]}", version=self._known[reference])


@pytest.mark.parametrize(
    ("known", "asked", "expected"),
    [
        pytest.param({"stable": 3, "latest": 4}, "stable", Version("b3", 3), id="the newest may be one taken back"),
        pytest.param({"latest": 4}, "stable", Version("b4", 4), id="none is stable yet"),
        pytest.param({"stable": 3, "latest": 4}, "latest", Version("b4", 4), id="the newest where it is asked for"),
        pytest.param({}, "stable", None, id="no version at all"),
    ],
)
def test_the_stable_version_is_rendered_or_else_the_newest(
    store: Store, monkeypatch: pytest.MonkeyPatch, known: dict[str, int], asked: str, expected: Version | None
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    workspace: Any = SimpleNamespace(store=store, registry=Registry(**known), screen=Screen())

    assert verbs.version_of(experiments.load(DIGITS), asked, workspace) == expected


def test_a_version_that_is_not_there_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    workspace: Any = SimpleNamespace(store=store, registry=Registry(latest=4), screen=Screen())

    with pytest.raises(NotFoundError, match="has no 7"):
        verbs.version_of(experiments.load(DIGITS), "7", workspace)
