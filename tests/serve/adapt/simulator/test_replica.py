from __future__ import annotations

import pytest

from ladder.choose import Envelope, Rung
from ladder.latency import Latency
from serve.adapt.signals import Sample
from serve.adapt.simulator.peers import Aimd, Fifo
from serve.adapt.simulator.replica import Replica, Request
from serve.counters import Counters

LADDER = [Rung("large", 0.9, Latency(0.001, 0.02, 0.02)), Rung("small", 0.7, Latency(0.0001, 0.001, 0.02))]


def replica(kind: type[Replica] = Replica, max_queue: int = 512, **envelope: int) -> Replica:
    return kind(1, 0.0, LADDER, Envelope(**envelope), max_queue)


def request(at: float = 0.0, left_s: float = 0.1, rows: int = 1) -> Request:
    return Request(0, at, at + left_s, rows)


def test_its_statistics_have_what_a_real_replicas_have():
    made = replica()
    made.submit(request(), 0.0)
    batch = made.next(0.0)
    assert batch is not None
    made.finish(batch, 0.02)

    stats = made.stats(0.5)

    real = Counters()
    assert set(real.to_json(LADDER)) <= set(stats)
    assert set(stats["rungs"]["large"]) == set(real.to_json(LADDER)["rungs"]["large"])
    sample = Sample.parse(stats)
    assert (sample.replica, sample.variants) == ("replica-1", ("large", "small"))
    assert stats["in_time"] == {"requests": 1, "rows": 1}


@pytest.mark.parametrize(
    ("made", "new", "refusal"),
    [
        pytest.param(replica(), request(), None, id="let in"),
        pytest.param(replica(max_queue=0), request(), "full", id="no place"),
        pytest.param(replica(), request(left_s=0.0005), "hopeless", id="no rung is so fast"),
        pytest.param(replica(max_batch=4), request(rows=120), "hopeless", id="too many rows"),
    ],
)
def test_who_is_let_in(made: Replica, new: Request, refusal: str | None):
    assert made.submit(new, 0.0) == refusal


def test_behind_a_queue_that_takes_all_its_time_a_request_is_not_let_in():
    made = replica()

    refusals = [made.submit(request(), 0.0) for _ in range(200)]

    assert refusals[0] is None
    assert refusals[-1] == "overloaded"
    assert made.ongoing == refusals.count(None)


def test_the_queue_is_in_the_order_of_deadlines():
    made = replica()
    for left_s in (0.3, 0.1, 0.2):
        made.submit(request(left_s=left_s), 0.0)

    assert [waiting.deadline for waiting in made.queue] == [0.1, 0.2, 0.3]


def test_an_envelope_narrows_and_its_end_brings_back_what_the_experiment_says():
    made = replica(max_batch=32)

    made.apply({"epoch": 3, "variants": ["small"], "max_batch": 2, "admit": 0.5, "max_wait_s": 0.01})
    assert (made.epoch, made.limits.max_batch, made.admit, made.max_wait_s) == (3, 2, 0.5, 0.01)
    assert [rung.variant for rung in made.outlook.rungs] == ["small"]

    made.apply({"epoch": 4}, default_wait_s=0.002)
    assert (made.limits.max_batch, made.admit, made.max_wait_s) == (32, 1.0, 0.002)
    assert len(made.outlook.rungs) == 2


def test_who_became_hopeless_in_the_queue_is_told_so():
    made = replica()
    made.submit(request(), 0.0)
    made.submit(request(left_s=1.0), 0.0)

    batch = made.next(0.5)

    assert batch is not None
    assert [kind for _, kind in made.refused] == ["late"]
    assert (made.ongoing, made.num_rows) == (1, 0)


def test_a_rival_refuses_nobody_and_takes_what_waits_on_one_rung():
    made = replica(Fifo, max_batch=8)
    for _ in range(20):
        assert made.submit(request(left_s=0.0), 0.0) is None

    batch = made.next(0.0)

    assert batch is not None
    assert (len(batch.requests), LADDER[batch.place].variant) == (8, "large")


def test_aimd_grows_by_one_and_shrinks_by_a_tenth():
    made = replica(Aimd)
    sizes = []
    for _ in range(200):
        made.submit(request(left_s=10.0), 0.0)
    for seconds in [1.0] * 9 + [11.0]:
        batch = made.next(0.0)
        assert batch is not None
        sizes.append(batch.num_rows)
        made.finish(batch, seconds)

    assert sizes == list(range(1, 11))
    assert isinstance(made, Aimd)
    assert made.most_rows == 9
