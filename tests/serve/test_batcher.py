"""Batches, bounds and deadlines, on a real loop and a real thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from cluster.errors import RequestError
from serve.batcher import Batcher, Limits

FAR = 60.0


class Doubler:
    """Doubles rows, remembers the sizes of its batches, and can be held up."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.seen: list[float] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        self.gate.wait(10)
        self.sizes.append(len(rows))
        self.seen += rows[:, 0].tolist()
        if (rows < 0).any():
            raise ValueError("negative")
        return rows * 2


@pytest.fixture
def double() -> Iterator[Doubler]:
    made = Doubler()
    yield made
    made.gate.set()


def rows(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)[:, np.newaxis]


def soon() -> float:
    return time.monotonic() + FAR


def test_each_request_gets_its_own_rows_back(double: Doubler) -> None:
    async def many() -> list[list[float]]:
        batcher = Batcher(Limits(max_batch=4))
        answers = await asyncio.gather(*(batcher.submit(double, rows(i, i + 0.5), soon()) for i in range(20)))
        batcher.close()
        return [answer.outputs[:, 0].tolist() for answer in answers]

    assert asyncio.run(many()) == [[2 * i, 2 * i + 1] for i in range(20)]
    assert max(double.sizes) == 4


def test_requests_that_queue_while_a_batch_runs_become_the_next_batch(double: Doubler) -> None:
    async def held() -> None:
        batcher = Batcher(Limits(max_batch=8))
        double.gate.clear()
        futures = [batcher.submit(double, rows(i), soon()) for i in range(6)]
        double.gate.set()
        await asyncio.gather(*futures)
        batcher.close()

    asyncio.run(held())

    assert double.sizes == [1, 5]


def test_a_batch_waits_for_company_when_told_to(double: Doubler) -> None:
    async def slowly() -> None:
        batcher = Batcher(Limits(max_batch=2, max_wait_s=30.0))
        first = batcher.submit(double, rows(1), soon())
        await asyncio.sleep(0.05)
        assert not first.done()
        await asyncio.gather(first, batcher.submit(double, rows(2), soon()))
        batcher.close()

    asyncio.run(slowly())

    assert double.sizes == [2]


def test_a_wait_ends_by_itself_and_by_new_limits(double: Doubler) -> None:
    async def alone() -> None:
        batcher = Batcher(Limits(max_wait_s=0.02))
        await batcher.submit(double, rows(1), soon())
        batcher.configure(Limits(max_wait_s=600.0))
        second = batcher.submit(double, rows(2), soon())
        batcher.configure(Limits(max_wait_s=0.0))
        await second
        batcher.close()

    asyncio.run(alone())

    assert double.sizes == [1, 1]


def test_new_limits_hold_from_the_next_batch_on(double: Doubler) -> None:
    async def changed() -> None:
        batcher = Batcher(Limits(max_batch=8))
        double.gate.clear()
        futures = [batcher.submit(double, rows(i), soon()) for i in range(7)]
        batcher.configure(Limits(max_batch=3))
        double.gate.set()
        await asyncio.gather(*futures)
        batcher.close()

    asyncio.run(changed())

    assert double.sizes == [1, 3, 3]


def test_a_full_queue_answers_429_and_says_when_to_come_again(double: Doubler) -> None:
    async def crowd() -> RequestError:
        batcher = Batcher(Limits(max_queue=2))
        double.gate.clear()
        futures = [batcher.submit(double, rows(i), soon()) for i in range(3)]  # one runs, two wait
        with pytest.raises(RequestError) as refused:
            batcher.submit(double, rows(3), soon())
        futures[2].cancel()
        futures.append(batcher.submit(double, rows(4), soon()))  # the place of the one that left
        double.gate.set()
        await asyncio.gather(*futures, return_exceptions=True)
        batcher.close()
        return refused.value

    refused = asyncio.run(crowd())

    assert (refused.status, refused.headers) == (429, {"retry-after": "1"})
    assert "2 requests are waiting" in refused.message
    assert double.seen == [0, 1, 4]


def test_expired_and_cancelled_requests_are_never_computed(double: Doubler) -> None:
    async def late() -> list[object]:
        batcher = Batcher()
        double.gate.clear()
        futures = [
            batcher.submit(double, rows(1), soon()),
            batcher.submit(double, rows(2), time.monotonic() + 0.01),
            batcher.submit(double, rows(3), soon()),
            batcher.submit(double, rows(4), soon()),
        ]
        futures[2].cancel()
        await asyncio.sleep(0.05)
        double.gate.set()
        answers: list[object] = await asyncio.gather(*futures, return_exceptions=True)
        batcher.close()
        return answers

    _, expired, cancelled, _ = asyncio.run(late())

    assert isinstance(expired, RequestError)
    assert expired.status == 504
    assert isinstance(cancelled, asyncio.CancelledError)
    assert double.seen == [1, 4]


def test_an_error_fails_its_own_batch_only(double: Doubler) -> None:
    async def one_bad() -> list[object]:
        batcher = Batcher(Limits(max_batch=2))
        futures = [batcher.submit(double, rows(value), soon()) for value in (1, -1, 2, 3)]
        answers: list[object] = await asyncio.gather(*futures, return_exceptions=True)
        batcher.close()
        return answers

    answers = asyncio.run(one_bad())

    assert [isinstance(answer, ValueError) for answer in answers] == [False, True, True, False]


def test_a_request_over_max_batch_is_computed_in_several_passes(double: Doubler) -> None:
    async def large() -> list[float]:
        batcher = Batcher(Limits(max_batch=4))
        answer = await batcher.submit(double, rows(*range(10)), soon())
        batcher.close()
        result: list[float] = answer.outputs[:, 0].tolist()
        return result

    assert asyncio.run(large()) == [2 * i for i in range(10)]
    assert double.sizes == [4, 4, 2]


def test_rows_of_different_models_never_share_a_pass() -> None:
    async def two() -> tuple[list[int], list[int]]:
        old, new = Doubler(), Doubler()
        batcher = Batcher()
        old.gate.clear()
        futures = [batcher.submit(model, rows(1), soon()) for model in (old, old, new, new, old)]
        old.gate.set()
        await asyncio.gather(*futures)
        batcher.close()
        return old.sizes, new.sizes

    assert asyncio.run(two()) == ([1, 1, 1], [2])


def test_the_loop_stays_free_while_a_batch_runs(double: Doubler) -> None:
    async def ticks() -> int:
        batcher = Batcher()
        double.gate.clear()
        answer = batcher.submit(double, rows(1), soon())
        for _ in range(5):
            await asyncio.sleep(0.001)
        done_early = answer.done()
        double.gate.set()
        await answer
        batcher.close()
        return done_early

    assert asyncio.run(ticks()) is False


def test_queueing_and_computing_are_timed_apart(double: Doubler) -> None:
    async def timed() -> tuple[float, float]:
        batcher = Batcher()
        double.gate.clear()
        first = batcher.submit(double, rows(1), soon())
        second = batcher.submit(double, rows(2), soon())
        await asyncio.sleep(0.05)
        double.gate.set()
        answers = await asyncio.gather(first, second)
        batcher.close()
        return answers[0].compute_s, answers[1].queue_s

    computing, queueing = asyncio.run(timed())

    assert computing >= 0.05
    assert queueing >= 0.05
