from __future__ import annotations

import json
from typing import Any

import pytest

from cluster.errors import ConfigError
from cluster.experiment import parse
from ladder.choose import Rung
from ladder.latency import Latency
from serve.adapt.bounds import Bounds, impossible

LADDER = [Rung("large", 0.9, Latency(0.001, 0.020)), Rung("small", 0.8, Latency(0.0005, 0.0045))]


def experiment(**serve: Any) -> Any:
    return parse({"name": "x", "data": {"source": {"kind": "digits"}}, "serve": serve})


def test_bounds_come_from_the_experiment_and_read_back_as_they_were() -> None:
    made = Bounds.of(
        experiment(
            objective={"latency_ms": 100.0, "accuracy_at_least": 0.8, "percentile": 95.0},
            replicas={"min": 2, "max": 5},
            rungs=["large"],
            cpus_per_replica=4.0,
        )
    )

    assert (made.objective_s, made.share_in_time, made.floor) == (0.1, 0.95, 0.8)
    assert (made.min_replicas, made.max_replicas, made.rungs, made.cores) == (2, 5, ("large",), 4)
    assert Bounds.from_json(json.loads(json.dumps(made.to_json()))) == made


@pytest.mark.parametrize(
    ("serve", "field", "figure"),
    [
        pytest.param(
            {"objective": {"accuracy_at_least": 0.95}},
            "serve.objective.accuracy_at_least",
            "0.9000",
            id="floor too high",
        ),
        pytest.param(
            {"objective": {"latency_ms": 4.0}}, "serve.objective.latency_ms", "5 ms", id="objective too short"
        ),
        pytest.param(
            {"objective": {"latency_ms": 10.0, "accuracy_at_least": 0.85}},
            "serve.objective.latency_ms",
            "21 ms",
            id="too short for those above the floor",
        ),
        pytest.param({"rungs": ["other"]}, "serve.rungs", "large, small", id="no such rung"),
    ],
)
def test_what_no_replica_could_keep_is_refused_with_the_figure(serve: dict[str, Any], field: str, figure: str) -> None:
    error = impossible(experiment(**serve), LADDER)

    assert isinstance(error, ConfigError)
    assert error.field == field
    assert figure in str(error)


def test_what_can_be_kept_is_not_refused() -> None:
    assert impossible(experiment(objective={"latency_ms": 10.0, "accuracy_at_least": 0.8}), LADDER) is None


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        pytest.param({"serve": {"replicas": {"min": 4, "max": 2}}}, "min 4 is above max 2", id="min over max"),
        pytest.param({"adapt": {"cooldown": "10s", "dwell": "5s"}}, "cooldown 10.0s is above dwell", id="cooldown"),
        pytest.param({"adapt": {"patience": "1s"}}, "patience 1.0s is below", id="patience"),
        pytest.param({"adapt": {"journal": "1KiB"}}, "journal 1024B", id="journal"),
        pytest.param(
            {"serve": {"max_wait": "200ms", "objective": {"latency_ms": 100.0}}},
            "max_wait 200 ms",
            id="wait over objective",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(tree: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse({"name": "x", "data": {"source": {"kind": "digits"}}, **tree})
