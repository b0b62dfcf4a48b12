"""The gate's figures of real versions: a good one against itself, and the five bad kinds."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import bad_versions
from cluster.config import Objective
from cluster.errors import ConfigError, GateError, NotFoundError
from cluster.store import Store
from jobs import gate
from ladder.bundle import Bundle, read_bundle, write_bundle
from ladder.gate import Check
from serve.ladder import check_served
from tasks.dataset import read_dataset
from trimtab import rollout
from trimtab.screen import Screen
from trimtab.workspace import Workspace

NOTHING = np.empty((0, 8, 8, 1), np.uint8), np.empty(0, np.int64)


@pytest.fixture(scope="module")
def good(trained_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """In a store of its own, as bad ones are put beside it."""
    folder = shutil.copytree(trained_digits, tmp_path_factory.mktemp("gate") / "store")
    return read_bundle(Store.open(str(folder)), "good")


def measured(good: Bundle, candidate: Bundle, recent: tuple[np.ndarray, np.ndarray] = NOTHING) -> dict[str, Check]:
    checks = gate.measure(good, candidate, read_dataset(good.store, good.dataset), recent)
    return {check.name: check for check in checks}


def changed(good: Bundle, key: str, **parts: Any) -> Bundle:
    """The same files under another key, with other words in the manifest."""
    kept = {name: getattr(good, name) for name in ("experiment", "encoding", "dataset", "run", "metrics", "variants")}
    files = {role: (entry["file"], good.read(role)) for role, entry in good.files.items()}
    return write_bundle(good.store, key, files=files, **{"ladder": good.ladder, **kept, **parts})


def test_a_version_passes_against_itself_with_every_figure(good: Bundle) -> None:
    rows, truth = read_dataset(good.store, good.dataset).load("validation")

    found = measured(good, good, (rows, truth))

    assert list(found) == [
        "opening", "schema", "finite", "accuracy", "recent", "classes", "calibration", "latency", "size",
    ]  # fmt: skip
    assert all(check.passed for check in found.values()), [c.words for c in found.values() if not c.passed]
    assert found["accuracy"].value == found["recent"].value == 0.0
    assert "200 rows" in found["recent"].words


@pytest.mark.parametrize(
    ("kind", "refused", "words"),
    [
        pytest.param("crash", "opening", "SIGFPE|for 1 rows", id="crash on load"),
        pytest.param("nan", "opening", "NaN", id="NaN"),
        pytest.param("slow", "latency", "times the stable version's time", id="ten times as slow"),
        pytest.param("order", "accuracy", "only 0.0", id="classes in another order"),
        pytest.param("worse", "accuracy", "only 0.9", id="five points of accuracy"),
    ],
)
def test_the_five_bad_kinds_are_refused(good: Bundle, kind: bad_versions.Kind, refused: str, words: str) -> None:
    import re

    bad = bad_versions.make(good, kind, f"bad-{kind}")

    found = measured(good, bad)

    failed = [name for name, check in found.items() if not check.passed]
    assert failed[0] == refused
    assert re.search(words, found[refused].words), found[refused].words
    assert set(failed) <= {refused, "classes", "calibration", "size"}


def test_a_version_of_which_a_replica_could_use_no_rung_is_refused_though_its_test_accuracy_is_enough(
    good: Bundle,
) -> None:
    rungs = [{**rung, "accuracy": 0.8999} for rung in (good.ladder or {})["rungs"]]
    serve = good.experiment.serve.model_copy(update={"objective": Objective(accuracy_at_least=0.9)})
    edge = changed(
        good,
        "at-the-edge",
        experiment=good.experiment.model_copy(update={"serve": serve}),
        ladder={**(good.ladder or {}), "rungs": rungs},
    )

    found = measured(good, edge)

    assert found["floor"].passed
    assert [name for name, check in found.items() if not check.passed] == ["rungs"]
    assert "0.8999 right of the validation split" in found["rungs"].words
    with pytest.raises(ConfigError, match="no allowed rung reaches it on the validation split"):
        check_served(edge)


def test_a_version_that_answers_in_another_form_is_refused_before_anything_is_measured(good: Bundle) -> None:
    labels = good.encoding.labels[::-1]
    other = changed(good, "other-labels", encoding=dataclasses.replace(good.encoding, labels=labels))

    found = measured(good, other)

    assert list(found) == ["opening", "schema"]
    assert "labels (10: 0, 1, 2, ... before, now 10: 9, 8, 7, ...)" in found["schema"].words


def test_a_version_whose_files_were_altered_does_not_open(good: Bundle) -> None:
    altered = changed(good, "altered")
    assert altered.store.local is not None
    path = altered.store.local / "bundles" / "altered" / altered.files["weights"]["file"]
    path.write_bytes(path.read_bytes()[:-1] + b"x")

    assert "does not match its sha256" in gate.refusal(altered)


def test_a_version_that_never_opens_is_not_waited_for(good: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "OPENING_S", 0.01)

    assert gate.refusal(good) == "it had not opened after 0 s"


def test_what_the_gate_refuses_no_person_begins_unless_by_force(endpoint: Any) -> None:
    workspace = Workspace(Screen(as_json=True), store_uri=endpoint.store.uri)
    bad = bad_versions.make(read_bundle(endpoint.store, "good"), "order", "bad")
    version = workspace.registry.register("digits", bad.key, None, {})

    with pytest.raises(GateError, match=r"is not tried: .*only 0.0.*; with --force it is tried all the same"):
        rollout.canary(endpoint.experiment, version, workspace)
    with pytest.raises(NotFoundError, match="adapt"):  # it is whole, and there is no endpoint here
        rollout.canary(endpoint.experiment, version, workspace, force=True)
