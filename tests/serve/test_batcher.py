"""Batches, bounds and deadlines, on a real loop and a real thread."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from cluster.errors import RequestError
from ladder.choose import Rung
from ladder.latency import Latency
from serve.batcher import Batcher
from serve.ladder import Ladder
from serve.limits import Limits
from serve.queues import Batched, NotFiniteError

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


@functools.cache
def only(forward: Doubler) -> Ladder:
    """One rung, taken to be fast; the same for the same forward, as batches are made by ladder."""
    return Ladder([Rung("only", 1.0, Latency(1e-4, 1e-6))], {"only": forward})


def soon() -> float:
    return time.monotonic() + FAR


def test_each_request_gets_its_own_rows_back(double: Doubler) -> None:
    async def many() -> list[list[float]]:
        batcher = Batcher(Limits(max_batch=4))
        answers = await asyncio.gather(*(batcher.submit(only(double), rows(i, i + 0.5), soon()) for i in range(20)))
        batcher.close()
        return [answer.outputs[:, 0].tolist() for answer in answers]

    assert asyncio.run(many()) == [[2 * i, 2 * i + 1] for i in range(20)]
    assert max(double.sizes) == 4


def test_requests_that_queue_while_a_batch_runs_become_the_next_batch(double: Doubler) -> None:
    async def held() -> None:
        batcher = Batcher(Limits(max_batch=8))
        double.gate.clear()
        futures = [batcher.submit(only(double), rows(i), soon()) for i in range(6)]
        double.gate.set()
        await asyncio.gather(*futures)
        batcher.close()

    asyncio.run(held())

    assert double.sizes == [1, 5]


def test_a_batch_waits_for_company_when_told_to(double: Doubler) -> None:
    async def slowly() -> None:
        batcher = Batcher(Limits(max_batch=2, max_wait_s=30.0))
        first = batcher.submit(only(double), rows(1), soon())
        await asyncio.sleep(0.05)
        assert not first.done()
        await asyncio.gather(first, batcher.submit(only(double), rows(2), soon()))
        batcher.close()

    asyncio.run(slowly())

    assert double.sizes == [2]


def test_a_wait_ends_by_itself_and_by_new_limits(double: Doubler) -> None:
    async def alone() -> None:
        batcher = Batcher(Limits(max_wait_s=0.02))
        await batcher.submit(only(double), rows(1), soon())
        batcher.configure(Limits(max_wait_s=600.0))
        second = batcher.submit(only(double), rows(2), soon())
        batcher.configure(Limits(max_wait_s=0.0))
        await second
        batcher.close()

    asyncio.run(alone())

    assert double.sizes == [1, 1]


def test_new_limits_hold_from_the_next_batch_on(double: Doubler) -> None:
    async def changed() -> None:
        batcher = Batcher(Limits(max_batch=8))
        double.gate.clear()
        futures = [batcher.submit(only(double), rows(i), soon()) for i in range(7)]
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
        futures = [batcher.submit(only(double), rows(i), soon()) for i in range(3)]  # one runs, two wait
        with pytest.raises(RequestError) as refused:
            batcher.submit(only(double), rows(3), soon())
        futures[2].cancel()
        futures.append(batcher.submit(only(double), rows(4), soon()))  # the place of the one that left
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
            batcher.submit(only(double), rows(1), soon()),
            batcher.submit(only(double), rows(2), time.monotonic() + 0.01),
            batcher.submit(only(double), rows(3), soon()),
            batcher.submit(only(double), rows(4), soon()),
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
        futures = [batcher.submit(only(double), rows(value), soon()) for value in (1, -1, 2, 3)]
        answers: list[object] = await asyncio.gather(*futures, return_exceptions=True)
        batcher.close()
        return answers

    answers = asyncio.run(one_bad())

    assert [isinstance(answer, ValueError) for answer in answers] == [False, True, True, False]


def test_a_request_over_max_batch_is_computed_in_several_passes(double: Doubler) -> None:
    async def large() -> list[float]:
        batcher = Batcher(Limits(max_batch=4))
        answer = await batcher.submit(only(double), rows(*range(10)), soon())
        batcher.close()
        result: list[float] = answer.outputs[:, 0].tolist()
        return result

    assert asyncio.run(large()) == [2 * i for i in range(10)]
    assert double.sizes == [4, 4, 2]


def test_rows_of_different_models_never_share_a_pass() -> None:
    async def two() -> tuple[list[int], list[int]]:
        old, new = Doubler(), Doubler()
        ladders = {old: only(old), new: only(new)}
        batcher = Batcher()
        old.gate.clear()
        futures = [batcher.submit(ladders[model], rows(1), soon()) for model in (old, old, new, new, old)]
        old.gate.set()
        await asyncio.gather(*futures)
        batcher.close()
        return old.sizes, new.sizes

    assert asyncio.run(two()) == ([1, 2], [2])


def test_the_loop_stays_free_while_a_batch_runs(double: Doubler) -> None:
    async def ticks() -> int:
        batcher = Batcher()
        double.gate.clear()
        answer = batcher.submit(only(double), rows(1), soon())
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
        first = batcher.submit(only(double), rows(1), soon())
        second = batcher.submit(only(double), rows(2), soon())
        while not batcher.forward_s:  # its thread may begin late, when garbage is collected for example
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        double.gate.set()
        answers = await asyncio.gather(first, second)
        batcher.close()
        return answers[0].compute_s, answers[1].queue_s

    computing, queueing = asyncio.run(timed())

    assert computing >= 0.05
    assert queueing >= 0.05


# Two rungs


class Sleeper:
    """Takes its time for each row, answers with its own number, and remembers who came."""

    def __init__(self, number: float, row_s: float) -> None:
        self.number, self.row_s = number, row_s
        self.seen: list[float] = []

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        time.sleep(0.001 + self.row_s * len(rows))
        self.seen += rows[:, 0].tolist()
        return np.full_like(rows, self.number)


@dataclass
class Two:
    """A slow and a fast rung; the ladder knows how long each takes."""

    slow: Sleeper
    fast: Sleeper
    ladder: Ladder


def two_rungs(slow_s: float = 0.02, fast_s: float = 0.0005) -> Two:
    slow, fast = Sleeper(1.0, slow_s), Sleeper(2.0, fast_s)
    rungs = [Rung("slow", 0.9, Latency(0.001, slow_s, 0.05)), Rung("fast", 0.8, Latency(0.001, fast_s, 0.05))]
    return Two(slow, fast, Ladder(rungs, {"slow": slow, "fast": fast}))


@pytest.fixture
def two() -> Two:
    return two_rungs()


Outcome = Batched | BaseException


def ask(batcher: Batcher, ladder: Ladder, within_s: float, *values: float) -> asyncio.Future[Batched]:
    return batcher.submit(ladder, rows(*values), time.monotonic() + within_s)


def variants(answers: list[Outcome]) -> Counter[str]:
    return Counter(answer.variant for answer in answers if isinstance(answer, Batched))


async def settle(futures: list[asyncio.Future[Batched]]) -> list[Outcome]:
    return await asyncio.gather(*futures, return_exceptions=True)


def test_with_time_enough_the_most_accurate_rung_answers(two: Two) -> None:
    async def calm() -> list[Outcome]:
        batcher = Batcher()
        answers = [await ask(batcher, two.ladder, 5.0, i) for i in range(3)]
        batcher.close()
        return list(answers)

    assert variants(asyncio.run(calm())) == {"slow": 3}
    assert two.fast.seen == []


def test_a_deadline_too_short_for_the_best_rung_gets_the_next() -> None:
    two = two_rungs(slow_s=30.0)  # would be noticed

    async def hurried() -> Batched:
        batcher = Batcher()
        answer = await ask(batcher, two.ladder, 10.0, 1)
        batcher.close()
        return answer

    answer = asyncio.run(hurried())

    assert answer.variant == "fast"
    assert answer.outputs.tolist() == [[2.0]]


def test_a_burst_is_answered_in_time_by_both_rungs() -> None:
    two = two_rungs(slow_s=0.1)

    async def burst() -> list[Outcome]:
        batcher = Batcher(Limits(max_batch=8))
        futures = [ask(batcher, two.ladder, 5.0, i) for i in range(100)]  # 10 s of the slow rung
        answers = await settle(futures)
        batcher.close()
        return answers

    counted = variants(asyncio.run(burst()))

    assert counted["slow"] + counted["fast"] == 100
    assert counted["slow"] > 0
    assert counted["fast"] > 50


def test_what_cannot_be_answered_in_time_is_refused_at_arrival(two: Two) -> None:
    async def crowd() -> list[RequestError]:
        batcher, refused = Batcher(), []
        with pytest.MonkeyPatch.context() as patch:
            arrived = time.monotonic()
            patch.setattr(time, "monotonic", lambda: arrived)  # all at once, also where the machine stands still
            running = ask(batcher, two.ladder, 60.0, *range(20))  # 0.4 s of the best rung
            for num_rows, within_s in ((1, 0.0005), (400, 0.1), (1, 0.2)):
                with pytest.raises(RequestError) as error:
                    ask(batcher, two.ladder, within_s, *[-1.0] * num_rows)
                refused.append(error.value)
        await running
        with pytest.raises(RequestError) as error:
            ask(batcher, two.ladder, 0.0005, -1.0)
        batcher.close()
        return [*refused, error.value]

    refused = asyncio.run(crowd())

    assert [error.status for error in refused] == [504, 504, 429, 504]
    assert all("no answer within the request's deadline" in error.message for error in refused if error.status == 504)
    assert refused[2].headers == {"retry-after": "1"}
    assert -1.0 not in two.slow.seen + two.fast.seen


def test_the_nearest_deadline_goes_first_and_leaves_the_others_their_rung(two: Two) -> None:
    async def mixed() -> tuple[Batched, list[Outcome]]:
        batcher = Batcher()
        futures = [ask(batcher, two.ladder, 60.0, i) for i in range(10)]  # the first runs, the others wait
        urgent = ask(batcher, two.ladder, 5.0, 99)
        answers = await settle(futures)
        batcher.close()
        return await urgent, answers

    urgent, answers = asyncio.run(mixed())

    assert two.slow.seen[:2] == [0, 99]
    assert urgent.variant == "slow"
    assert variants(answers) == {"slow": 10}


def test_those_that_are_lost_go_and_the_patient_between_them_stay(two: Two) -> None:
    held = Doubler()
    ladder = Ladder([two.ladder.rungs[1]], {"fast": held})

    async def stalled() -> list[Outcome]:
        batcher = Batcher()
        held.gate.clear()
        futures = [ask(batcher, ladder, FAR, 0)]
        await asyncio.sleep(0.01)
        futures += [ask(batcher, ladder, within_s, i) for i, within_s in enumerate((0.04, FAR, 0.05, FAR), 1)]
        await asyncio.sleep(0.1)
        held.gate.set()
        answers = await settle(futures)
        assert batcher.num_waiting == 0
        batcher.close()
        return answers

    answers = asyncio.run(stalled())

    assert [getattr(answer, "status", 200) for answer in answers] == [200, 504, 200, 504, 200]
    assert held.seen == [0, 2, 4]


def test_rows_of_a_request_that_left_count_no_more(two: Two) -> None:
    many, more = range(4000), range(1500)  # 2.3 s and 0.9 s of the fast rung

    async def leaving() -> None:
        batcher = Batcher()
        running = ask(batcher, two.ladder, FAR, 0)
        waiting = ask(batcher, two.ladder, 3.0, *many)
        with pytest.raises(RequestError, match="with the work that is waiting it takes"):
            ask(batcher, two.ladder, 3.0, *more)
        waiting.cancel()
        assert batcher.num_waiting == 0
        ask(batcher, two.ladder, 3.0, *more).cancel()
        await running
        batcher.close()

    asyncio.run(leaving())


def test_another_envelope_holds_from_the_next_batch_on(two: Two) -> None:
    async def changed() -> list[Outcome]:
        batcher = Batcher(Limits(max_batch=2))
        futures = [ask(batcher, two.ladder, FAR, i) for i in range(5)]
        batcher.configure(Limits(max_batch=2, variants=frozenset({"fast"})))
        answers = await settle(futures)
        batcher.configure(Limits(least_accuracy=0.85))
        answers.append(await ask(batcher, two.ladder, FAR, 5))
        batcher.close()
        return answers

    answers = asyncio.run(changed())

    assert [answer.variant for answer in answers if isinstance(answer, Batched)] == ["slow"] + ["fast"] * 4 + ["slow"]


def test_while_versions_change_each_answers_its_own_also_where_the_old_has_no_allowed_rung(two: Two) -> None:
    new = Sleeper(3.0, 0.0)
    later = Ladder([Rung("new", 0.7, Latency(0.001, 0.0001))], {"new": new})

    async def changing() -> list[Outcome]:
        batcher = Batcher(Limits(max_batch=2))
        futures = [ask(batcher, two.ladder, FAR, i) for i in range(6)]
        batcher.configure(Limits(max_batch=2, variants=frozenset({"new"})))
        futures += [ask(batcher, later, FAR, i) for i in range(6)]
        answers = await settle(futures)
        batcher.close()
        return answers

    answers = asyncio.run(changing())

    assert variants(answers) == {"slow": 6, "new": 6}
    assert [answer.outputs.item() for answer in answers if isinstance(answer, Batched)] == [1.0] * 6 + [3.0] * 6


def test_waiting_for_company_costs_no_deadline() -> None:
    two = two_rungs(slow_s=1.0)  # predicted, so it starts seconds before the deadline
    two.slow.row_s = 0.02

    async def patient() -> Batched:
        batcher = Batcher(Limits(max_batch=4, max_wait_s=600.0))
        answer = await ask(batcher, two.ladder, 5.0, 1)
        batcher.close()
        return answer

    assert asyncio.run(patient()).variant in ("slow", "fast")


def test_a_machine_that_becomes_slower_is_learned(two: Two) -> None:
    two.slow.row_s = 0.1  # five times what its model says

    async def slowly() -> float:
        batcher = Batcher()
        for i in range(6):
            await ask(batcher, two.ladder, FAR, i)
        batcher.close()
        return two.ladder.rungs[0].latency.predict(1)

    assert asyncio.run(slowly()) > 0.05


def test_a_pass_that_fails_teaches_nothing() -> None:
    def broken(rows: np.ndarray) -> np.ndarray:
        raise ValueError("broken")

    latency = Latency(5.0, 5.0)
    ladder = Ladder([Rung("broken", 0.9, latency)], {"broken": broken})

    async def failing() -> list[Outcome]:
        batcher = Batcher()
        answers = [(await settle([ask(batcher, ladder, FAR, i)]))[0] for i in range(5)]
        batcher.close()
        return answers

    assert all(isinstance(answer, ValueError) for answer in asyncio.run(failing()))
    assert (latency.fixed_s, latency.per_row_s) == (5.0, 5.0)


# Several forward passes at once


def test_as_many_passes_run_at_once_as_there_are_workers(double: Doubler) -> None:
    async def crowd() -> list[int]:
        batcher, running = Batcher(Limits(max_batch=2)), []
        double.gate.clear()
        futures = [batcher.submit(only(double), rows(i), soon()) for i in range(9)]
        for workers in (1, 3, 2):
            batcher.configure(Limits(max_batch=2, workers=workers))
            running.append(len(batcher._running))
        double.gate.set()
        answers = await asyncio.gather(*futures)
        batcher.close()
        assert [answer.outputs.item() for answer in answers] == [2 * i for i in range(9)]
        return running

    assert asyncio.run(crowd()) == [1, 3, 3]  # what runs is not stopped
    assert sorted(double.sizes) == [1, 2, 2, 2, 2]


def test_more_workers_let_more_requests_in_but_none_that_is_too_large_for_one(double: Doubler) -> None:
    async def asked(workers: int) -> tuple[int, int]:
        ladder = Ladder([Rung("only", 1.0, Latency(0.01, 0.001))], {"only": double})  # 42 ms a full batch
        batcher, futures = Batcher(Limits(workers=workers)), []
        double.gate.clear()
        with pytest.raises(RequestError, match="it takes") as large:
            ask(batcher, ladder, 1.0, *range(1600))
        with contextlib.suppress(RequestError):
            for i in range(100):
                futures.append(ask(batcher, ladder, 1.0, *[i] * 32))
        double.gate.set()
        await settle(futures)
        batcher.close()
        return large.value.status, len(futures)

    (one, few), (four, many) = (asyncio.run(asked(workers)) for workers in (1, 4))

    assert (one, four) == (504, 504)
    assert many > 2 * few


def test_a_pass_that_gives_too_few_rows_is_an_error() -> None:
    ladder = Ladder([Rung("short", 0.9, Latency(0.001, 0.001))], {"short": lambda rows: rows[1:]})

    async def short() -> list[Outcome]:
        batcher = Batcher()
        answers = await settle([ask(batcher, ladder, FAR, 0)])
        batcher.close()
        return answers

    (answer,) = asyncio.run(short())

    assert "gave 0 rows for 1" in str(answer)


# Short passes


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.batcher.INLINE_S", 0.0003)


def test_of_a_batch_only_the_request_whose_outputs_are_not_finite_fails(double: Doubler) -> None:
    batcher = Batcher()

    async def three() -> list[BaseException | Batched]:
        double.gate.clear()
        held_up = batcher.submit(only(double), rows(0), soon())  # so that the others become one batch
        await asyncio.sleep(0.01)
        asked = [batcher.submit(only(double), rows(value), soon()) for value in (1.0, float("inf"), 3.0)]
        double.gate.set()
        await held_up
        answers = await asyncio.gather(*asked, return_exceptions=True)
        batcher.close()
        return list(answers)

    first, second, third = asyncio.run(three())

    assert isinstance(first, Batched)
    assert isinstance(third, Batched)
    assert (first.outputs.item(), third.outputs.item()) == (2.0, 6.0)
    assert isinstance(second, NotFiniteError)
    assert double.sizes == [1, 3]
    assert (batcher.counters.answered_requests, batcher.counters.failed) == (3, 1)


@pytest.mark.usefixtures("inline")
def test_a_short_pass_runs_on_the_loop_with_all_that_came_at_once(double: Doubler) -> None:
    threads: list[str] = []

    def named(part: np.ndarray) -> np.ndarray:
        threads.append(threading.current_thread().name)
        return double(part)

    ladder = Ladder([Rung("only", 1.0, Latency(1e-5, 1e-6))], {"only": named})

    async def many() -> list[float]:
        batcher = Batcher(Limits(max_batch=4))
        answers = await asyncio.gather(*(batcher.submit(ladder, rows(i), soon()) for i in range(6)))
        batcher.close()
        return [float(answer.outputs[0, 0]) for answer in answers]

    assert asyncio.run(many()) == [0, 2, 4, 6, 8, 10]
    assert set(threads) == {threading.main_thread().name}
    assert double.sizes == [4, 2]


@pytest.mark.usefixtures("inline")
def test_a_short_pass_that_fails_fails_its_own_requests_only(double: Doubler) -> None:
    ladder = Ladder([Rung("only", 1.0, Latency(1e-5, 1e-6))], {"only": double})

    async def two() -> tuple[BaseException | Batched, Batched]:
        batcher = Batcher(Limits(max_batch=1))
        first, second = batcher.submit(ladder, rows(-1), soon()), batcher.submit(ladder, rows(2), soon())
        (failed,) = await asyncio.gather(first, return_exceptions=True)
        answered = await second
        batcher.close()
        return failed, answered

    failed, answered = asyncio.run(two())

    assert isinstance(failed, ValueError)
    assert answered.outputs.tolist() == [[4]]


@pytest.mark.usefixtures("inline")
def test_a_rung_that_turns_out_slower_goes_to_a_thread(double: Doubler) -> None:
    threads: list[str] = []

    def slow(part: np.ndarray) -> np.ndarray:
        threads.append(threading.current_thread().name)
        time.sleep(0.005)
        return double(part)

    ladder = Ladder([Rung("only", 1.0, Latency(1e-5, 1e-6))], {"only": slow})

    async def one_by_one() -> None:
        batcher = Batcher()
        for i in range(30):
            await batcher.submit(ladder, rows(i), soon())
        batcher.close()

    asyncio.run(one_by_one())

    assert threads[0] == threading.main_thread().name
    assert threads[-1].startswith("forward")
