"""Slow change: found, not imagined, and the same after a restart."""

from __future__ import annotations

import random

from serve.watch.change import MOST, Change


def scores(num: int, share: float, seed: int) -> list[float]:
    generator = random.Random(seed)
    return [float(generator.random() < share) for _ in range(num)]


def test_a_stream_that_stays_has_no_change_and_bounded_memory() -> None:
    change = Change()

    found = [change.add(score) for score in scores(20_000, 0.2, 0)]

    assert not any(found)
    assert len(change.to_json()) < 2 * MOST


def test_a_change_says_what_was_and_what_is() -> None:
    change = Change()

    found = [change.add(score) for score in scores(1500, 0.1, 1) + scores(1500, 0.4, 2)]

    changes = [(i, one) for i, one in enumerate(found) if one]
    assert changes
    at, (before, after, num) = changes[0]
    assert 1500 < at < 2500
    assert before < after
    assert 0 < num <= at


def test_after_a_restart_at_any_moment_it_finds_the_same() -> None:
    every = scores(3000, 0.1, 3) + scores(3000, 0.5, 4)
    whole, broken = Change(), Change()

    for i, score in enumerate(every):
        if i % 400 == 0:
            broken = Change.from_json(broken.to_json())
        assert whole.add(score) == broken.add(score)
