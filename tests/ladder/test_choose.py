from __future__ import annotations

import math
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ladder.choose import Choice, Envelope, Rung, _look, _look_at_each, choose, predicted_wait
from ladder.latency import Latency, learn

SPREAD = 0.02

# A busy machine is slow now and then; that says nothing about the rule.
property_test = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass(frozen=True)
class Request:
    num_rows: int
    deadline: float


def ladder(*rungs: tuple[float, float, float]) -> list[Rung]:
    """From (accuracy, milliseconds of a pass, milliseconds of a row)."""
    return [
        Rung(f"v{i}", accuracy, Latency(fixed / 1000, row / 1000, SPREAD))
        for i, (accuracy, fixed, row) in enumerate(rungs)
    ]


FOUR = [(0.88, 1.0, 20.0), (0.85, 0.35, 7.0), (0.79, 0.11, 2.2), (0.70, 0.035, 0.7)]
DEADLINE_S = 0.1
WHOLE = Envelope(planned=1.0)  # all the time there is


def requests(*deadlines_ms: float, rows: int = 1) -> list[Request]:
    return [Request(rows, deadline / 1000) for deadline in deadlines_ms]


@pytest.mark.parametrize(
    ("queue", "variant", "num_requests", "refused"),
    [
        pytest.param([], None, 0, (), id="nobody waits"),
        pytest.param(requests(100), "v0", 1, (), id="one has time: the best"),
        pytest.param(requests(100, 100, 100), "v0", 3, (), id="three have time"),
        pytest.param(requests(15), "v1", 1, (), id="too late for the best"),
        pytest.param(requests(1), "v3", 1, (), id="only the cheapest answers in time"),
        pytest.param(requests(0.5), None, 0, (0,), id="none answers in time"),
        pytest.param(requests(0.5, 100, -3), "v0", 1, (0, 2), id="the hopeless go, the other gets the best"),
        pytest.param(requests(3, 100, 100), "v2", 1, (), id="one is urgent: the others need not share its rung"),
        pytest.param(requests(*[100] * 7), "v1", 4, (), id="as few at the next rung as let the rest have the best"),
        pytest.param(requests(*[100] * 40), "v2", 32, (), id="many: a full batch at a rung that clears them"),
        pytest.param(requests(*[100] * 60), "v3", 25, (), id="more: enough at the fastest for the rung above"),
        pytest.param(requests(*[10] * 60), "v3", 13, (), id="too many for any rung: the fastest, what it can"),
        pytest.param(requests(2000, rows=80), "v0", 1, (), id="one larger than a batch, in passes"),
        pytest.param(requests(100, rows=80), "v3", 1, (), id="one larger than a batch, on the rung that does it"),
        pytest.param(requests(50, rows=80), None, 0, (0,), id="one larger than any rung does in time"),
    ],
)
def test_the_rule_in_situations(queue: list[Request], variant: str | None, num_requests: int, refused: tuple[int, ...]):
    choice = choose(queue, ladder(*FOUR), 0.0, WHOLE)

    assert (choice.variant, choice.num_requests, choice.refused) == (variant, num_requests, refused)


@pytest.mark.parametrize(
    ("envelope", "variant"),
    [
        pytest.param(Envelope(), "v0", id="all"),
        pytest.param(Envelope(variants=frozenset({"v2", "v1"})), "v1", id="named"),
        pytest.param(Envelope(variants=frozenset({"v3", "v0"}), least_accuracy=0.75), "v0", id="a floor"),
    ],
)
def test_only_what_the_envelope_allows_is_chosen(envelope: Envelope, variant: str):
    assert choose(requests(100), ladder(*FOUR), 0.0, envelope).variant == variant


def test_an_envelope_that_allows_nothing_is_a_mistake_not_an_outage():
    with pytest.raises(ValueError, match="v0, v1, v2, v3"):
        choose(requests(100), ladder(*FOUR), 0.0, Envelope(least_accuracy=0.9))


def test_arrivals_near_what_the_fastest_can_do_make_it_step_down_earlier():
    two = ladder((0.88, 1.0, 20.0), (0.80, 0.7, 14.0))
    queue = requests(*[100] * 4)

    assert choose(queue, two, 0.0, WHOLE).variant == "v0"
    assert choose(queue, two, 0.0, WHOLE, arrivals_per_s=60).variant == "v1"


@pytest.mark.parametrize(
    ("queue", "variant", "num_requests"),
    [
        pytest.param(requests(30), "v0", 1, id="one alone has all its time"),
        pytest.param(requests(100, 100), "v0", 2, id="two that half the time is enough for"),
        pytest.param(requests(*[100] * 4), "v1", 3, id="four: half the time is not enough for the best"),
        pytest.param(requests(*[1.2] * 2), "v3", 1, id="no rung is done in half the time: the fastest in all of it"),
    ],
)
def test_those_who_wait_together_are_planned_into_half_of_their_time(
    queue: list[Request], variant: str, num_requests: int
):
    choice = choose(queue, ladder(*FOUR), 0.0, Envelope())

    assert (choice.variant, choice.num_requests, choice.refused) == (variant, num_requests, ())


def test_a_rung_that_turned_out_slower_than_a_better_one_is_not_chosen():
    odd = ladder((0.88, 0, 5.0), (0.85, 0, 9.0))

    assert {choose(requests(*[left] * 20), odd, 0.0, Envelope()).variant for left in (6, 30, 90, 400)} == {"v0"}


def test_of_a_long_queue_only_the_front_is_read():
    class Counted(deque[Request]):
        read = 0

        def __iter__(self) -> Iterator[Request]:
            for request in super().__iter__():
                self.read += 1
                yield request

    queue = Counted(Request(1, DEADLINE_S + i / 100_000) for i in range(4096))

    choice = choose(queue, ladder(*FOUR), 0.0, WHOLE)

    assert (choice.variant, choice.num_requests) == ("v3", 32)
    assert queue.read <= 64


def test_the_predicted_wait_is_what_the_fastest_allowed_rung_takes():
    rungs = ladder(*FOUR)

    assert predicted_wait(64, rungs, Envelope(spreads=0)) == pytest.approx(2 * 0.035e-3 + 64 * 0.7e-3)
    assert predicted_wait(64, rungs, Envelope(spreads=0, least_accuracy=0.85)) == pytest.approx(0.35e-3 * 2 + 64 * 7e-3)
    assert predicted_wait(0, rungs, Envelope()) == 0


@dataclass(frozen=True)
class Case:
    queue: list[Request]
    rungs: list[Rung]
    envelope: Envelope
    arrivals_per_s: float | None

    def choose(self, queue: Sequence[Request] | None = None) -> Choice:
        queue = self.queue if queue is None else queue
        return choose(queue, self.rungs, 0.0, self.envelope, self.arrivals_per_s)

    @property
    def allowed(self) -> list[Rung]:
        return [rung for rung in self.rungs if self.envelope.allows(rung)]

    def seconds(self, rung: Rung, num_rows: int) -> float:
        full, rest = divmod(num_rows, self.envelope.max_batch)
        passes = [self.envelope.max_batch] * full + [rest] * (rest > 0)
        return sum(rung.latency.upper(rows, self.envelope.spreads) for rows in passes)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Ladders as they are built: each step down is faster for every size of batch."""
    parts = st.tuples(st.floats(1e-5, 0.03), st.floats(1e-5, 0.03), st.floats(0, 0.3))
    steps = draw(st.lists(parts, min_size=1, max_size=5))
    fixed_s, row_s, spread = 0.0, 0.0, 0.0
    rungs: list[Rung] = []
    for i, (more_fixed_s, more_row_s, more_spread) in enumerate(steps):
        fixed_s, row_s, spread = fixed_s + more_fixed_s, row_s + more_row_s, spread + more_spread
        rungs.insert(0, Rung(f"v{i}", 0.5 + i / 20, Latency(fixed_s, row_s, spread)))
    names = draw(st.none() | st.sets(st.sampled_from([rung.variant for rung in rungs]), min_size=1))
    envelope = Envelope(
        max_batch=draw(st.integers(1, 16)),
        variants=None if names is None else frozenset(names),
        spreads=draw(st.sampled_from([0.0, 2.0])),
        planned=draw(st.sampled_from([0.3, 0.5, 1.0])),
    )
    request = st.builds(Request, st.integers(1, 24), st.floats(-0.01, 1.0))
    queue = draw(st.lists(request, max_size=50))
    return Case(queue, rungs, envelope, draw(st.none() | st.floats(0, 5000)))


@property_test
@given(cases())
def test_a_choice_is_inside_the_envelope_and_answers_its_earliest_deadline(case: Case):
    choice = case.choose()

    served = [request for i, request in enumerate(case.queue) if i not in choice.refused][: choice.num_requests]
    num_rows = sum(request.num_rows for request in served)
    assert len(served) == choice.num_requests
    if choice.variant is None:
        assert not served
        return
    (rung,) = [rung for rung in case.allowed if rung.variant == choice.variant]
    # Stronger than "while a cheaper rung would make it": what no rung makes is refused.
    assert case.seconds(rung, num_rows) <= min(request.deadline for request in served) + 1e-9
    assert choice.seconds == pytest.approx(case.seconds(rung, num_rows))
    assert num_rows <= case.envelope.max_batch or len(served) == 1


@property_test
@given(cases())
def test_only_those_are_refused_that_no_rung_answers_in_time_and_they_stop_nobody(case: Case):
    choice = case.choose()

    def can_be_served(request: Request, margin_s: float) -> bool:
        left_s = request.deadline - margin_s  # the margin is for rounding
        return any(case.seconds(rung, request.num_rows) <= left_s for rung in case.allowed)

    assert not any(can_be_served(case.queue[i], 1e-9) for i in choice.refused)
    if any(can_be_served(request, 1e-9) for request in case.queue):
        assert choice.num_requests >= 1
    elif not any(can_be_served(request, -1e-9) for request in case.queue):
        assert (choice.num_requests, len(choice.refused)) == (0, len(case.queue))


@property_test
@given(cases(), st.lists(st.floats(1e-6, 1.0), min_size=50, max_size=50))
def test_more_slack_never_gives_a_less_accurate_rung(case: Case, more_s: list[float]):
    refused = case.choose().refused  # slack that brings back the hopeless is more load, another matter
    queue = [request for i, request in enumerate(case.queue) if i not in refused]
    assume(queue)
    before = case.choose(queue)
    assume(not before.refused)

    after = case.choose([replace(r, deadline=r.deadline + s) for r, s in zip(queue, more_s, strict=False)])

    accuracy = {rung.variant: rung.accuracy for rung in case.rungs}
    assert accuracy[str(after.variant)] >= accuracy[str(before.variant)]


@property_test
@given(cases(), st.integers(1, 24))
def test_at_low_load_it_is_the_most_accurate(case: Case, num_rows: int):
    best = case.allowed[0]
    left_s = case.seconds(best, num_rows) * 1.01
    lonely = replace(case, arrivals_per_s=None)

    assert lonely.choose([Request(num_rows, left_s)]).variant == best.variant


@property_test
@given(cases())
def test_everybody_is_served_or_refused_once(case: Case):
    queue, now, num_gone = deque(case.queue), 0.0, 0

    while queue:
        choice = choose(queue, case.rungs, now, case.envelope, case.arrivals_per_s)
        num = len(choice.refused) + choice.num_requests
        assert num > 0
        kept = [request for i, request in enumerate(queue) if i not in choice.refused][choice.num_requests :]
        assert len(kept) == len(queue) - num
        queue, now, num_gone = deque(kept), now + choice.seconds, num_gone + num

    assert num_gone == len(case.queue)


@dataclass(frozen=True)
class Outcome:
    effective_accuracy: float
    late: float  # shares of all requests
    refused: float
    by_variant: dict[str, float]


def bursts(load: float, seconds: int, seed: int) -> list[float]:
    """Poisson arrivals at `load` of the best rung's 50 a second, three times as many in one second of four."""
    rng, now, arrived = random.Random(seed), 0.0, []
    while now < seconds:
        now += rng.expovariate(50 * load * (3 if now % 4 < 1 else 1))
        arrived.append(now)
    return arrived


def simulate(
    arrived: Sequence[float],
    rungs: list[Rung],
    envelope: Envelope,
    slower: Callable[[float], float] = lambda _: 1.0,
    noise: float = 0.05,
) -> Outcome:
    """One worker in virtual time; the models learn from what they see."""
    rng = random.Random(1)
    truth = {rung.variant: (rung.latency.fixed_s, rung.latency.per_row_s) for rung in rungs}
    by_name = {rung.variant: rung for rung in rungs}
    queue: deque[Request] = deque()
    now, num_arrived, right, late, refused = 0.0, 0, 0.0, 0, 0
    by_variant: Counter[str] = Counter()
    while queue or num_arrived < len(arrived):
        if not queue:
            now = max(now, arrived[num_arrived])
        while num_arrived < len(arrived) and arrived[num_arrived] <= now:
            queue.append(Request(1, arrived[num_arrived] + DEADLINE_S))
            num_arrived += 1
        recent = sum(1 for at in arrived[max(0, num_arrived - 200) : num_arrived] if at > now - 0.5)
        choice = choose(queue, rungs, now, envelope, arrivals_per_s=recent / 0.5)
        kept = [request for i, request in enumerate(queue) if i not in choice.refused]
        refused += len(choice.refused)
        batch, queue = kept[: choice.num_requests], deque(kept[choice.num_requests :])
        if choice.variant is None:
            continue
        fixed_s, row_s = truth[choice.variant]
        seconds = (fixed_s + row_s * len(batch)) * slower(now) * math.exp(rng.gauss(0, noise))
        now += seconds
        rung = by_name[choice.variant]
        learn([rung.latency for rung in rungs], rung.latency, len(batch), seconds)
        num_in_time = sum(request.deadline >= now for request in batch)
        right += rung.accuracy * num_in_time
        late += len(batch) - num_in_time
        by_variant[choice.variant] += len(batch)
    n = len(arrived)
    return Outcome(right / n, late / n, refused / n, {name: count / n for name, count in by_variant.items()})


def fluid_bound(arrived: Sequence[float], rungs: list[Rung]) -> float:
    """Per second the best mix of rungs that clears its arrivals, as if a batch had no fixed part."""
    best = 0.0
    points = [(rung.accuracy, rung.latency.per_row_s) for rung in rungs]
    for num in Counter(int(at) for at in arrived).values():
        if num * points[0][1] <= 1:
            best += num * points[0][0]
            continue
        mixes = [
            (1 - num * cheap_s) / (dear_s - cheap_s) * (dear - cheap) + num * cheap
            for dear, dear_s in points
            for cheap, cheap_s in [*points, (0.0, 0.0)]
            if num * cheap_s <= 1 < num * dear_s
        ]
        best += max(mixes)
    return best / len(arrived)


@pytest.mark.parametrize("load", [0.5, 0.7, 0.9])
def test_under_bursts_it_comes_near_the_fluid_bound_and_beats_every_single_rung(load: float):
    arrived = bursts(load, 60, seed=3)

    free = simulate(arrived, ladder(*FOUR), Envelope())

    fixed = [simulate(arrived, ladder(*FOUR), Envelope(variants=frozenset({f"v{i}"}))) for i in range(4)]
    assert free.effective_accuracy > max(outcome.effective_accuracy for outcome in fixed)
    assert free.effective_accuracy > fluid_bound(arrived, ladder(*FOUR)) - 0.015
    assert free.late + free.refused < 0.01
    assert fixed[0].late + fixed[0].refused > 0.1


def test_a_machine_that_becomes_twice_as_slow_and_recovers_is_followed():
    arrived = bursts(0.5, 60, seed=5)

    outcome = simulate(arrived, ladder(*FOUR), Envelope(), slower=lambda now: 2.0 if 20 <= now < 40 else 1.0)

    assert outcome.late + outcome.refused < 0.01
    assert outcome.effective_accuracy > 0.85  # the cheaper rungs alone would give that at most
    assert outcome.by_variant["v0"] > 0.3


@property_test
@given(st.data())
def test_the_short_way_to_look_at_a_queue_sees_what_the_long_way_sees(data: st.DataObject) -> None:
    max_batch = data.draw(st.integers(1, 8))
    sizes = data.draw(st.lists(st.integers(1, 10), max_size=30))
    waits = data.draw(st.lists(st.floats(0.001, 2.0), min_size=len(sizes), max_size=len(sizes)))
    waiting = [Request(rows, wait) for rows, wait in zip(sizes, waits, strict=True)]
    paces = [(0.02, 0.01), (0.001, 0.002)]

    totals, lefts, least_s, refused = _look(waiting, paces, 0.0, max_batch)
    long_totals, long_lefts, long_least_s, long_refused = _look_at_each(waiting, paces, 0.0, max_batch)

    assert (totals, lefts, refused) == (long_totals, long_lefts, long_refused)
    assert least_s <= long_least_s
