from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from ladder.choose import Rung
from ladder.latency import Latency
from serve.adapt.signals import NUM_SHOWN, Sample, Snapshot, carried, observe
from serve.counters import Counters

NOW = 1_000_000.0
RUNGS = [Rung("large", 0.9, Latency(0.001, 0.020)), Rung("small", 0.7, Latency(0.0005, 0.0045))]


class Counting:
    """A replica's own counters, with what its `stats` adds to them."""

    def __init__(self, name: str = "r0", pid: int = 1, started: float = NOW - 3600) -> None:
        self.counters, self.name, self.pid = Counters(), name, pid
        self.counters.started = started
        self.more: dict[str, Any] = {"at": 100.0, "epoch": 0, "version": 1, "loading": False}

    def serve(self, num: int, variant: str = "large", late: int = 0, seconds: float = 0.02) -> None:
        c = self.counters
        c.arrived_requests += num
        c.arrived_rows += num
        c.answered_requests += num
        c.answered_rows += num
        c.in_time_requests += num - late
        c.in_time_rows += num - late
        c.busy_s += num * seconds
        c.computed(variant, num, num - late, num * seconds)
        c.queue_delay.add(0.010, num)
        c.latency.add(0.030, num)

    def refuse(self, kind: str, num: int) -> None:
        self.counters.arrived_requests += num
        self.counters.arrived_rows += num
        for _ in range(num):
            self.counters.refuse(kind, 1)

    def sample(self, after_s: float = 0.0) -> Sample:
        self.more["at"] += after_s
        stats = {"replica": self.name, "pid": self.pid, **self.counters.to_json(RUNGS), **self.more}
        return Sample.parse(json.loads(json.dumps(stats)))


def test_what_happened_is_the_difference_of_two_readings() -> None:
    replica = Counting()
    replica.serve(1000)
    before = replica.sample()
    replica.serve(6)
    replica.serve(4, "small", late=1)
    replica.refuse("overloaded", 2)
    replica.refuse("late", 1)

    seen = observe({"r0": before}, {"r0": replica.sample(0.5)}, now=NOW, target=1)

    assert (seen.ended, seen.in_time, seen.late, seen.refused) == (13, 9, 2, {"overloaded": 2, "late": 1})
    assert (seen.arrivals_per_s, seen.answered_per_s, seen.interval_s) == (26.0, 20.0, 0.5)
    assert [(rung.variant, rung.share) for rung in seen.rungs] == [("large", 0.6), ("small", 0.4)]
    assert seen.utilisation == pytest.approx(10 * 0.02 / 0.5)
    assert seen.accuracy == pytest.approx(0.82)
    assert seen.effective_accuracy == pytest.approx((6 * 0.9 + 3 * 0.7) / 13, rel=1e-4)
    assert seen.queue_delay_p99_s == pytest.approx(0.010, rel=0.06)
    assert seen.latency_p50_s == pytest.approx(0.030, rel=0.06)


def test_a_reading_that_was_lost_loses_nothing() -> None:
    replica, other = Counting("r0"), Counting("r1")
    last = {"r0": replica.sample(), "r1": other.sample()}
    replica.serve(10)
    other.serve(10)
    without = {"r1": other.sample(0.2)}
    first = observe(last, without, now=NOW, target=2, missing=["r0"])
    last = carried(last, without, ["r0"])
    replica.serve(5)

    second = observe(last, {"r0": replica.sample(0.4), "r1": other.sample(0.2)}, now=NOW + 0.2, target=2)

    assert (first.ended, first.missing, first.running) == (10, ("r0",), 1)
    assert second.ended == 15


def test_a_replica_that_started_again_counts_from_its_start() -> None:
    replica = Counting(pid=1)
    replica.serve(1000)
    again = Counting(pid=2, started=NOW - 2)
    again.serve(10)

    seen = observe({"r0": replica.sample()}, {"r0": again.sample()}, now=NOW, target=1)

    assert (seen.ended, seen.arrivals_per_s) == (10, 5.0)


def test_an_actor_that_just_began_does_not_take_an_hours_counts_for_a_moments() -> None:
    replica = Counting()
    replica.serve(1_000_000, late=500_000)

    seen = observe({}, {"r0": replica.sample()}, now=NOW, target=1)

    assert (seen.ended, seen.late, seen.arrivals_per_s, seen.utilisation) == (0, 0, 0.0, 0.0)
    assert [rung.variant for rung in seen.rungs] == ["large", "small"]


def test_the_ladder_is_that_of_most_replicas_while_a_version_changes() -> None:
    replicas = {f"r{i}": Counting(f"r{i}") for i in range(3)}
    replicas["r0"].more["version"] = 2

    seen = observe({}, {name: made.sample() for name, made in replicas.items()}, now=NOW, target=3)

    assert seen.version == 1


def test_those_in_most_trouble_are_shown_and_the_snapshot_stays_small() -> None:
    replicas = {f"r{i}": Counting(f"r{i}") for i in range(50)}
    replicas["r33"].more["forward_s"] = 12.0

    seen = observe({}, {name: made.sample() for name, made in replicas.items()}, now=NOW, target=50)

    assert seen.running == 50
    assert len(seen.replicas) == NUM_SHOWN
    assert (seen.replicas[0].replica, seen.replicas[0].forward_s) == ("r33", 12.0)
    assert len(json.dumps(seen.to_json())) < 2500


def test_a_snapshot_reads_back_as_exactly_the_same() -> None:
    replica = Counting()
    before = replica.sample()
    replica.serve(7)
    replica.refuse("full", 1)

    seen = observe(
        {"r0": before},
        {"r0": replica.sample(0.3)},
        now=NOW + 1 / 3,
        target=2,
        envelope={"epoch": 3, "variants": ["large"]},
    )

    assert Snapshot.from_json(json.loads(json.dumps(seen.to_json()))) == seen


def test_when_nobody_answers_there_is_a_snapshot_all_the_same() -> None:
    seen = observe({}, {}, now=NOW, target=2, missing=["b", "a"])

    assert (seen.running, seen.missing, seen.share_in_time) == (0, ("a", "b"), 1.0)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda s: s.pop("rungs"), id="no rungs"),
        pytest.param(lambda s: s.update(pid="x"), id="a process that is no number"),
        pytest.param(lambda s: s.update(arrived=7), id="counts that are none"),
        pytest.param(lambda s: s.update(latency={"b": {"999": 1}}), id="a bucket that is not there"),
        pytest.param(lambda s: s.update(rungs={"large": {"rows": 1}}), id="a rung without its model"),
        pytest.param(lambda s: s.update(latency=[1, 2]), id="a sketch that is a list"),
    ],
)
def test_what_are_no_statistics_is_said_to_be_none(change: Any) -> None:
    stats = {"replica": "r0", "pid": 1, **Counters().to_json(RUNGS), **Counting().more}
    broken = copy.deepcopy(stats)
    change(broken)

    Sample.parse({**stats, "something": "unknown"})
    with pytest.raises(ValueError, match=r"no statistics|invalid"):
        Sample.parse(broken)
