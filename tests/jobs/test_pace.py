from __future__ import annotations

import pytest
import torch

from jobs import pace
from jobs.pace import Leg, Position, Pulse, Stopwatch
from jobs.ranks import Ranks

ALONE = Ranks(0, 1, torch.device("cpu"))


def row(cpu: float = 1.0, data: float = 1.0, sync: float = 0.0, peak: float = 100.0) -> list[float]:
    """One rank's numbers, as `Leg.mine` gives them: busy for 4 + data seconds."""
    return [cpu, data, 1.0, 2.0, sync, 1.0, peak]


def test_each_second_belongs_to_one_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 4.0, 9.0, 10.0, 20.0])
    monkeypatch.setattr(Stopwatch, "now", staticmethod(lambda: next(clock)))
    watch = Stopwatch()

    watch.lap("data")  # at 1
    watch.lap("forward")  # at 4
    watch.lap("backward", at=7.0)
    watch.lap("sync")  # at 9
    watch.restart()  # at 10
    watch.lap("optimiser")  # at 20

    assert watch.seconds == {"data": 1, "forward": 3, "backward": 3, "sync": 2, "optimiser": 10}


@pytest.mark.parametrize(
    ("table", "found"),
    [
        pytest.param([row(), row()], {}, id="equal"),
        pytest.param([row(data=1.0), row(data=3.0)], {}, id="not by much"),
        pytest.param([row(data=1.0), row(data=6.0)], {"straggler": 1, "straggler_ratio": 2.0}, id="one of two"),
        pytest.param([row(data=21.0), row(), row()], {"straggler": 0, "straggler_ratio": 5.0}, id="one of three"),
        pytest.param([row(sync=50.0), row()], {}, id="waiting for others is no work"),
        pytest.param([row()], {}, id="alone"),
        pytest.param([[0.0, 0.1, 0, 0, 0, 0, 0], [0.0, 0.9, 0, 0, 0, 0, 0]], {}, id="too short to say"),
    ],
)
def test_a_rank_that_takes_longer_than_the_median_is_named(table: list[list[float]], found: dict[str, float]) -> None:
    assert pace.straggler(table) == found


def test_time_spent_is_that_of_all_attempts_at_the_epoch() -> None:
    before = Position(step=3, loss_sum=6.0, rows=30.0, spent={"seconds": 100.0, "cpu_s": 50.0, "data_s": 10.0})
    leg = Leg(epoch=0, start=before, ranks=ALONE)

    spent = leg.spent([row(cpu=2.0, data=1.0), row(cpu=4.0, data=3.0)])

    assert spent["seconds"] > 100.0
    assert spent["cpu_s"] == 56.0
    assert (spent["data_s"], spent["forward_s"], spent["backward_s"]) == (12.0, 1.0, 2.0)


@pytest.mark.parametrize(("rank", "expected"), [(0, [8.0, 34.0]), (1, [2.0, 4.0])])
def test_what_was_done_before_is_counted_by_one_rank(rank: int, expected: list[float]) -> None:
    leg = Leg(0, Position(step=3, loss_sum=6.0, rows=30.0), Ranks(rank, 2, torch.device("cpu")))

    leg.count(torch.tensor(2.0, dtype=torch.float64), 4)

    assert leg.total.tolist() == expected
    assert leg.step == 4
    assert leg.keep(8.0, 38.0, {}) == Position(4, 8.0, 38.0, {})


@pytest.mark.parametrize(
    ("elapsed_s", "due"),
    [
        pytest.param(0.1, 30, id="every twentieth step of ten milliseconds"),
        pytest.param(500.0, 11, id="every step that takes long"),
    ],
)
def test_ranks_look_up_about_five_times_a_second(elapsed_s: float, due: int) -> None:
    pulse = Pulse(0)
    assert pulse.is_due(1)

    pulse.plan(10, elapsed_s)

    assert next(step for step in range(11, 60) if pulse.is_due(step)) == due


def test_memory_is_told_in_bytes() -> None:
    assert 10 * 1024**2 < pace.peak_memory(torch.device("cpu")) < 1024**5
