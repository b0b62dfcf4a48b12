from __future__ import annotations

from random import Random

from ladder.choose import Envelope, Rung
from ladder.latency import Latency
from serve.adapt.bounds import Bounds
from serve.adapt.simulator.fleet import Fleet
from serve.adapt.simulator.replica import Replica, Request

LADDER = [Rung("only", 0.9, Latency(0.001, 0.02, 0.02))]


def fleet(num: int) -> Fleet:
    made = Fleet(Replica, LADDER, Envelope(), 512, Bounds(), Random(0))
    for _ in range(num):
        made.ready(made.start(0.0))
    return made


def busy(made: Replica) -> Replica:
    assert made.submit(Request(0, 0.0, 10.0, 1), 0.0) is None
    return made


def test_the_router_prefers_the_shorter_queue_of_two():
    made = fleet(2)
    busy(made.running[0])

    assert {made.route() for _ in range(20)} == {made.running[1]}
    assert fleet(0).route() is None


def test_a_new_replica_has_the_envelope_that_holds():
    made = fleet(1)
    made.tell({"epoch": 5, "max_batch": 3})

    made.ready(made.start(1.0))

    assert [(replica.epoch, replica.limits.max_batch) for replica in made.running] == [(5, 3), (5, 3)]


def test_fewer_replicas_cost_no_request_and_what_was_never_ready_goes_first():
    made = fleet(2)
    made.start(1.0)
    last = busy(made.running[1])

    made.stop_one(2.0)
    assert (made.starting, len(made.running)) == ([], 2)
    made.stop_one(2.0)
    assert made.draining == [last]

    made.drained(last, 3.0)
    assert made.draining == [last]
    batch = last.next(3.0)
    assert batch is not None
    last.finish(batch, 3.5)
    made.drained(last, 3.5)
    assert made.draining == []
    assert made.replica_s(4.0) == 1.0 + 3.5 + 4.0


def test_a_dead_replica_loses_its_requests_and_counts_until_it_is_noticed():
    made = fleet(2)
    for replica in made.running:
        busy(replica)

    lost = made.kill(0)

    assert len(lost) == 1
    assert (made.num, len(made.running), len(made.dead)) == (2, 1, 1)
    made.bury(3.0)
    assert made.num == 1
