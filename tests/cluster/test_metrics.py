"""Metrics are made once, by name, and set from whole snapshots."""

from __future__ import annotations

from typing import Any

import pytest
from ray.util import metrics as ray_metrics

from cluster.metrics import METRICS, Meter
from serve.adapt.bounds import Bounds
from serve.adapt.replay import Mind
from serve.adapt.signals import RungSeen, Snapshot


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> dict[Any, float]:
    """What was set or added, by name and labels."""
    found: dict[Any, float] = {}

    class Kept:
        def __init__(self, name: str, _: str, labels: tuple[str, ...]) -> None:
            self._name, self._labels = name, labels

        def set(self, value: float, labels: dict[str, str]) -> None:
            assert sorted(labels) == sorted(self._labels)
            found[self._name, *labels.values()] = value

        inc = set

    monkeypatch.setattr(ray_metrics, "Gauge", Kept)
    monkeypatch.setattr(ray_metrics, "Counter", Kept)
    return found


def test_names_say_what_and_in_which_unit() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert all(metric.name.startswith("trimtab_") for metric in METRICS)
    assert all(metric.name.endswith("_total") == (metric.kind == "counter") for metric in METRICS)


def test_a_snapshot_sets_what_it_holds(values: dict[Any, float]) -> None:
    rungs = (RungSeen("int8", 0.9, 0.001, 0.001, 0.1, 1.0),)
    seen = Snapshot(1.0, 0.2, 100.0, 100.0, 90.0, 20, 17, 2, {"late": 1, "full": 1}, running=2, target=3, rungs=rungs,
                    missing=("c",))  # fmt: skip

    Meter("digits").saw(seen, Mind.fresh(Bounds()), [])

    assert values["trimtab_rung_rows_ratio", "digits", "int8"] == 1.0
    states = [values["trimtab_replicas", "digits", state] for state in ("running", "wanted", "missing")]
    assert states == [2, 3, 1]
    outcomes = {key[2]: value for key, value in values.items() if key[0] == "trimtab_requests_total"}
    assert outcomes == {"in_time": 17, "late": 1, "refused_late": 1, "refused_full": 1}
