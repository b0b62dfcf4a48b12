from __future__ import annotations

import ast
import gzip
import os
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

import pytest

from cluster import experiment as experiments
from jobs import keys
from jobs.keys import Keys

ROOT = Path(__file__).resolve().parents[2]
DIGITS: dict[str, Any] = {"name": "digits", "data": {"source": {"kind": "digits"}}}


@pytest.mark.parametrize(
    ("override", "num_unchanged"),
    [
        pytest.param("serve.max_batch=8", 3, id="serving changes nothing made before"),
        pytest.param("ladder.int8=false", 2, id="the ladder keeps the run"),
        pytest.param("train.epochs=5", 1, id="training keeps the dataset"),
        pytest.param("train.wait=5m", 3, id="waiting changes no result"),
        pytest.param("train.max_failures=9", 3, id="nor does trying again"),
        pytest.param("settings={depth: 3}", 0, id="settings of one's own task change all"),
        pytest.param("model.network=large", 1, id="the network keeps the dataset"),
        pytest.param("data.shards=3", 0, id="data changes all"),
        pytest.param("seed=1", 0, id="the seed changes all"),
    ],
)
def test_a_setting_changes_the_keys_of_the_steps_that_read_it(override: str, num_unchanged: int) -> None:
    before, after = keys.of(experiments.parse(DIGITS)), keys.of(experiments.parse(DIGITS, [override]))

    assert [a == b for a, b in zip(astuple(before), astuple(after), strict=True)] == [
        i < num_unchanged or i == 3 for i in range(4)
    ]


TUNED: dict[str, Any] = {**DIGITS, "tune": {"space": {"width": {"uniform": [0.5, 2.0]}}, "latency": True}}


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        pytest.param("tune.trials=3", {"search", "run", "bundle"}, id="a budget makes another search"),
        pytest.param("serve.objective.latency_ms=5", {"search", "run", "bundle"}, id="the objective chooses"),
        pytest.param("tune.space={dropout: {uniform: [0, 0.5]}}", {"search", "run", "bundle"}, id="the space"),
        pytest.param("serve.route=/x", set(), id="serving changes nothing made before"),
    ],
)
def test_a_search_has_a_key_of_its_own(override: str, changed: set[str]) -> None:
    before, after = asdict(keys.of(experiments.parse(TUNED))), asdict(keys.of(experiments.parse(TUNED, [override])))

    assert {name for name in before if before[name] != after[name]} == changed
    assert keys.of(experiments.parse(DIGITS)).search == ""


@pytest.mark.parametrize("words", [["a", "b", "c"], ["a", "b", "c", "d"]])
def test_keys_travel_as_words(words: list[str]) -> None:
    assert Keys.given(words).words() == words


def test_data_that_changed_gives_another_dataset(tmp_path: Path) -> None:
    for part in ("train-images-idx3", "train-labels-idx1"):
        (tmp_path / f"{part}-ubyte.gz").write_bytes(gzip.compress(b"anything"))
    experiment = experiments.parse({"name": "x", "data": {"source": {"kind": "idx", "path": str(tmp_path)}}})
    before = keys.of(experiment).dataset

    os.utime(tmp_path / "train-images-idx3-ubyte.gz", (1, 1))

    assert keys.of(experiment).dataset != before


@pytest.mark.parametrize(
    ("step", "listed"),
    [
        ("preprocess", keys.PREPROCESS_CODE),
        ("train", keys.TRAIN_CODE),
        ("evaluate", keys.EVALUATE_CODE),
    ],
)
def test_every_module_of_ours_that_a_step_imports_is_part_of_its_key(step: str, listed: tuple[str, ...]) -> None:
    # Those that only carry words and keys do not decide a result; tasks have a hash of their own.
    carriers = {"jobs.command", "jobs.keys", "jobs.follower", "jobs.notice", "jobs.report", "jobs.room"}

    assert _imported(f"jobs.{step}", set(carriers)) - carriers <= set(listed)


def _imported(module: str, seen: set[str]) -> set[str]:
    seen.add(module)
    path = ROOT / f"{module.replace('.', '/')}.py"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("jobs", "ladder"):
            names = [f"{node.module}.{a.name}" for a in node.names] if "." not in (node.module or "") else [node.module]
            for name in names:
                if name not in seen:
                    _imported(str(name), seen)
    return seen
