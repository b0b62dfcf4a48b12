"""How many trials fit, by tables: nothing may wait for what another trial holds."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.config import Experiment
from cluster.errors import ConfigError
from cluster.experiment import parse
from tune.room import room


def experiment(device: str = "auto", **tune: Any) -> Experiment:
    tree = {"name": "digits", "data": {"source": {"kind": "digits"}}, "train": {"device": device}}
    return parse({**tree, "tune": {"space": {"width": {"uniform": [0.5, 2.0]}}, **tune}})


@pytest.mark.parametrize(
    ("tune", "cluster", "cores", "parallel", "cpu"),
    [
        pytest.param({}, {"CPU": 4.0}, 2, 2, 1.0, id="no more than the cores, also where logical CPUs are more"),
        pytest.param({}, {"CPU": 16.0}, None, 12, 1.0, id="three quarters of a cluster"),
        pytest.param({}, {"CPU": 1.0}, 1, 1, 0.75, id="one CPU"),
        pytest.param({"trials": 3}, {"CPU": 16.0}, None, 3, 1.0, id="no more than there are trials"),
        pytest.param({"parallel": 4}, {"CPU": 4.0}, 2, 4, 0.75, id="as asked"),
        pytest.param(
            {"algorithm": "pbt", "space": {"dropout": {"uniform": [0.0, 0.5]}}},
            {"CPU": 4.0},
            2,
            2,
            1.5,
            id="a population holds all there is, so that no more of it runs at a time",
        ),
        pytest.param({}, {"CPU": 16.0, "GPU": 4.0}, None, 4, 1.0, id="one for each GPU"),
    ],
)
def test_trials_at_a_time_and_what_each_reserves(
    tune: dict[str, Any], cluster: dict[str, float], cores: int | None, parallel: int, cpu: float
) -> None:
    found = room(experiment(**tune), cluster, cores, own_process=True)

    assert (found.parallel, found.reserved["cpu"], found.needed) == (parallel, cpu, None)
    assert found.parallel * found.reserved["cpu"] <= cluster["CPU"]
    assert ("gpu" in found.reserved) == ("GPU" in cluster)


def test_a_trial_of_several_workers_holds_next_to_nothing_itself() -> None:
    found = room(experiment(workers=2), {"CPU": 8.0}, None, own_process=False)

    assert found.parallel == 3
    assert found.reserved == {"cpu": 0.01}
    assert found.needed == {"use_gpu": False, "resources_per_worker": {"CPU": 1.0}}
    assert found.parallel * 2 * 1.0 <= 8.0


@pytest.mark.parametrize(
    ("made", "field", "words"),
    [
        pytest.param(experiment(workers=8), "tune.workers", "the cluster has 4 CPUs", id="workers"),
        pytest.param(experiment(parallel=5), "tune.parallel", "room for 4 trials", id="trials at a time"),
        pytest.param(experiment(device="cuda"), "train.device", "the cluster has 0 GPUs", id="a GPU"),
    ],
)
def test_more_than_there_is_is_refused(made: Experiment, field: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        room(made, {"CPU": 4.0}, 2, own_process=True)

    assert caught.value.field == field
