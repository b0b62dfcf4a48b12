"""The order of the queue, what is taken from it, and the rate of arrivals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import numpy as np
import pytest

from ladder.choose import Rung
from ladder.latency import Latency
from serve.ladder import Ladder
from serve.queues import RATE_S, Arrivals, Queues, Waiting


def ladder() -> Ladder:
    return Ladder([Rung("only", 1.0, Latency(0.001, 0.001))], {"only": lambda rows: rows})


def on_a_loop(test: Callable[[], None]) -> None:
    async def run() -> None:
        test()

    asyncio.run(run())


def filled(model: Ladder, *deadlines: float) -> Queues:
    queues = Queues()
    for deadline in deadlines:
        queues.enter(waiting(model, deadline))
    return queues


def waiting(model: Ladder, deadline: float, num_rows: int = 2) -> Waiting:
    future = asyncio.get_running_loop().create_future()
    return Waiting(model, np.zeros((num_rows, 1)), 0.0, deadline, 0.0, future)


def deadlines(those: Iterable[Waiting]) -> list[float]:
    return [one.deadline for one in those]


def test_requests_wait_in_the_order_of_their_deadlines() -> None:
    def ordered() -> None:
        model = ladder()

        queues = filled(model, 3, 1, 2, 3, 9)

        assert deadlines(queues.most_urgent) == [1, 2, 3, 3, 9]
        assert (queues.num_waiting, queues.num_rows) == (5, 10)

    on_a_loop(ordered)


@pytest.mark.parametrize(
    ("num_requests", "refused", "taken", "stay"),
    [
        pytest.param(2, (), [1, 2], [3, 4, 5], id="the first"),
        pytest.param(5, (), [1, 2, 3, 4, 5], [], id="all"),
        pytest.param(0, (0, 1, 2, 3, 4), [], [], id="all refused"),
        pytest.param(2, (0,), [2, 3], [4, 5], id="behind a refused one"),
        pytest.param(1, (1, 3), [1], [3, 5], id="refused behind the batch"),
        pytest.param(2, (1, 4), [1, 3], [4], id="on both sides"),
    ],
)
def test_a_batch_and_the_refused_leave_and_the_rest_keeps_its_order(
    num_requests: int, refused: tuple[int, ...], taken: list[float], stay: list[float]
) -> None:
    def takes() -> None:
        model = ladder()
        queues = filled(model, 1, 2, 3, 4, 5)

        batch, gone = queues.take(model, num_requests, refused)

        assert deadlines(batch) == taken
        assert deadlines(gone) == [place + 1 for place in refused]
        assert deadlines(queues) == stay
        assert queues.num_rows == 2 * len(stay)
        assert bool(queues) == bool(stay)

    on_a_loop(takes)


def test_who_has_cancelled_is_forgotten() -> None:
    def cancels() -> None:
        model = ladder()
        queues = filled(model, 1, 2, 3, 4)
        (first,), _ = queues.take(model, 1, ())

        queues.most_urgent[1].future.cancel()
        first.future.cancel()  # is being computed: it counts no more
        queues.forget_cancelled(1)  # not at the front
        assert queues.num_waiting == 3
        queues.forget_cancelled()

        assert deadlines(queues) == [2, 4]
        assert (queues.num_waiting, queues.num_rows) == (2, 4)

    on_a_loop(cancels)


def test_a_queue_whose_callers_have_all_gone_is_none() -> None:
    def leaves() -> None:
        queues = filled(ladder(), 1, 2)

        for one in queues:
            one.future.cancel()
        queues.forget_cancelled(1)

        assert not queues
        assert (queues.num_waiting, queues.num_rows) == (0, 0)

    on_a_loop(leaves)


def test_of_two_versions_the_one_with_the_nearest_deadline_is_next() -> None:
    def two() -> None:
        old, new = ladder(), ladder()
        queues = filled(old, 2, 5)
        queues.enter(waiting(new, 3, 1))

        order = []
        while queues:
            first = queues.most_urgent[0]
            order.append(first.ladder)
            queues.take(first.ladder, 1, ())

        assert order == [old, new, old]

    on_a_loop(two)


def test_the_rate_of_arrivals_follows_and_fades() -> None:
    arrivals = Arrivals()

    for i in range(400):
        arrivals.count(2, i / 100)

    assert arrivals.rows_per_s(4.0) == pytest.approx(200, rel=0.05)
    assert arrivals.rows_per_s(4.0 + 10 * RATE_S) < 0.1
