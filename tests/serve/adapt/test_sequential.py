"""The tests on streams whose truth is known. What large runs of the same streams gave is in docs/canary.md."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from serve.adapt.sequential import Duel, Pace, Tally, faced, moved, paced

LIMIT = math.log(3 / 0.01)


def stream(stable: float, candidate: float, share: float, seed: int, *, looks: int = 200, most: float = 8.0) -> Duel:
    """Until it is found: twenty requests a look, of which each version fails with its rate; tolerance 0.02."""
    chance, duel = np.random.default_rng(seed), Duel()
    for _ in range(looks):
        num = int(chance.poisson(20))
        theirs = int(chance.binomial(num, share))
        ours = num - theirs
        seen = Tally(ours, int(chance.binomial(ours, stable)), theirs, int(chance.binomial(theirs, candidate)))
        duel = faced(duel, seen, 0.02, most)
        if duel.evidence > LIMIT:
            break
    return duel


@pytest.mark.parametrize(
    ("stable", "candidate", "share"),
    [
        pytest.param(0.01, 0.01, 0.01, id="few failures, a small share"),
        pytest.param(0.01, 0.03, 0.5, id="worse by just the tolerance"),
        pytest.param(0.3, 0.3, 0.25, id="many failures of both"),
        pytest.param(0.0, 0.0, 0.5, id="no failure at all"),
        pytest.param(0.2, 0.0, 0.5, id="better"),
    ],
)
def test_a_version_that_is_no_worse_is_not_found_out(stable: float, candidate: float, share: float) -> None:
    found = [stream(stable, candidate, share, seed).evidence > LIMIT for seed in range(8)]

    assert sum(found) == 0


@pytest.mark.parametrize(
    ("stable", "candidate", "share", "most"),
    [
        pytest.param(0.001, 1.0, 0.01, 5, id="all fail, one of a hundred requests"),
        pytest.param(0.001, 1.0, 0.5, 30, id="all fail, every second request"),
        pytest.param(0.0, 1.0, 0.05, 5, id="all fail, the stable one never"),
        pytest.param(0.001, 0.3, 0.05, 60, id="a third is late"),
    ],
)
def test_a_bad_version_is_found_within_tens_of_requests(
    stable: float, candidate: float, share: float, most: int
) -> None:
    found = [stream(stable, candidate, share, seed) for seed in range(8)]

    assert all(duel.evidence > LIMIT for duel in found)
    assert max(duel.total.candidate for duel in found) <= most


def test_one_that_turns_bad_after_a_long_good_time_is_found_as_well() -> None:
    duel = Duel()
    for _ in range(3000):
        duel = faced(duel, Tally(10, 1, 10, 1), 0.02, 8.0)
    looks = 0
    while duel.evidence <= LIMIT and looks < 20:
        duel, looks = faced(duel, Tally(10, 1, 10, 10), 0.02, 8.0), looks + 1

    assert duel.evidence > LIMIT
    assert looks <= 6


def test_trials_of_one_version_wait_for_those_of_the_other() -> None:
    alone = faced(Duel(), Tally(99, 0), 0.02)

    together = faced(alone, Tally(0, 0, 1, 1), 0.02)

    assert alone.evidence == pytest.approx(0.0)
    assert together.evidence == pytest.approx(faced(Duel(), Tally(99, 0, 1, 1), 0.02).evidence)
    assert together.total == Tally(99, 0, 1, 1)


@pytest.mark.parametrize("tolerance", [0.0, 0.02, 0.5, 1.0])
def test_extremes_are_numbers(tolerance: float) -> None:
    duel = Duel()
    for seen in (Tally(5000, 5000, 1, 0), Tally(1, 0, 5000, 5000), Tally(5000, 0, 5000, 0), Tally(3, 3, 3, 3)) * 50:
        duel = faced(duel, seen, tolerance)

    assert math.isfinite(duel.evidence)


@pytest.mark.parametrize("tolerance", [0.0, 0.02, 0.1])
def test_the_money_cannot_be_expected_to_grow_while_the_candidate_is_no_worse(tolerance: float) -> None:
    """The mean over all outcomes of a look, exactly, at rates of the null."""
    n, m = 4, 3
    before = faced(Duel(), Tally(40, 6, 5, 1), tolerance)
    for stable in (0.01, 0.1, 0.3, 0.6):
        for candidate in (stable + tolerance, stable, stable / 2):
            mean = sum(
                _binomial(n, i, stable) * _binomial(m, j, candidate)
                * math.exp(faced(before, Tally(n, i, m, j), tolerance).evidence - before.evidence)
                for i in range(n + 1)
                for j in range(m + 1)
            )  # fmt: skip
            assert mean <= 1 + 1e-9


def _binomial(n: int, k: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


def test_dealing_out_keeps_the_sum() -> None:
    money = (math.log(0.5), math.log(0.5))

    after = moved(money, (1.0, 0.0))

    assert sum(map(math.exp, after)) == pytest.approx(0.5 * math.e + 0.5)


def test_slow_looks_are_found_and_a_few_are_forgiven() -> None:
    slow, mixed = Pace(), Pace()
    for i in range(8):
        slow = paced(slow, is_slow=True)
        mixed = paced(mixed, is_slow=i % 4 == 0)

    assert slow.evidence > LIMIT
    assert mixed.evidence < 0.5


def test_what_is_known_reads_back_as_exactly_the_same() -> None:
    duel = stream(0.01, 0.05, 0.3, 1)

    assert Duel.from_json(json.loads(json.dumps(duel.to_json()))) == duel
