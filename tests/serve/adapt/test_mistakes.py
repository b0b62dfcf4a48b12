"""ADWIN over made errors whose truth is known: how seldom it alarms, how soon, and that each change is found once."""

from __future__ import annotations

import numpy as np
import pytest

from serve.adapt import mistakes
from serve.adapt.mistakes import Change, Errors, Watch, follow

S = 10**9


def errors(wrong: np.ndarray, losses: np.ndarray | None = None) -> Errors:
    """One answer a second."""
    return Errors(np.arange(len(wrong)) * S, wrong.astype(float), np.zeros(len(wrong)) if losses is None else losses)


def made(seed: int, *parts: tuple[int, float]) -> np.ndarray:
    """So many answers, wrong with this chance, part after part."""
    generator = np.random.default_rng(seed)
    return np.concatenate([generator.random(num) < chance for num, chance in parts])


def looked(whole: Errors, every: int, arrived: np.ndarray | None = None) -> tuple[Watch, list[tuple[int, Change]]]:
    """Looks after each so many labels; the changes with how many labels there were."""
    arrived = np.arange(len(whole.wrong)) if arrived is None else arrived
    watch, found = Watch("b", 1), list[tuple[int, Change]]()
    for num in range(every, len(arrived) + 1, every):
        there = np.sort(arrived[:num])
        part = Errors(whole.at_ns[there], whole.wrong[there], whole.losses[there])
        watch, changes = follow(Watch.from_json(watch.to_json()), part, float(num))
        found += [(num, change) for change in changes]
    return watch, found


@pytest.mark.parametrize("chance", [0.01, 0.05, 0.1, 0.3])
@pytest.mark.parametrize("late", [pytest.param(0, id="in order"), pytest.param(300, id="late and in any order")])
def test_errors_that_stay_as_they_are_raise_nothing(chance: float, late: int) -> None:
    """1,200 windows of 100 labels in all; of 12,800 none alarmed."""
    generator = np.random.default_rng(0)
    for seed in range(3):
        arrived = np.argsort(np.arange(5000) + generator.exponential(late + 1e-9, 5000))

        assert looked(errors(made(seed, (5000, chance))), 250, arrived)[1] == []


@pytest.mark.parametrize(
    ("chance", "most", "usual"), [pytest.param(0.15, 600, 220, id="15 %"), pytest.param(0.4, 80, 45, id="40 %")]
)
def test_a_rise_from_5_percent_is_found_with_its_place_and_its_figures(chance: float, most: int, usual: int) -> None:
    needed = []
    for seed in range(9):
        found = looked(errors(made(seed, (1000, 0.05), (600, chance))), 10)[1]

        num, change = found[0]
        needed.append(num - 1000)
        assert change.is_rise
        assert 0 < num - 1000 <= most
        assert change.since == pytest.approx(1000, abs=most / 2)
        assert change.before == pytest.approx(0.05, abs=0.03)
        assert num - 10 < change.num_before + change.num_after <= num
        assert change.after > change.before + 0.05

    assert np.median(needed) <= usual


def test_each_change_is_found_once_and_a_fall_ends_a_rise() -> None:
    whole = errors(made(0, (800, 0.05), (300, 0.4), (500, 0.05)))

    watch, found = looked(whole, 100)

    assert [change.is_rise for _, change in found] == [True, False]
    assert watch.rise is None
    assert follow(watch, whole, 9.0) == (watch, ())
    again, at_once = follow(Watch("b", 1), whole, 9.0)
    assert (again.since_ns, len(at_once)) == (watch.since_ns, 2)


def test_labels_of_answers_before_a_change_come_too_late_to_count() -> None:
    whole = errors(made(0, (800, 0.05), (200, 0.4)))
    watch, _ = follow(Watch("b", 1), whole, 9.0)
    more = np.concatenate([np.ones(500), whole.wrong])

    late = Errors(np.concatenate([np.arange(500) * S // 2, whole.at_ns]), more, np.zeros(1500))

    assert follow(watch, late, 10.0) == (watch, ())


def test_another_mix_of_rungs_is_no_change() -> None:
    wrong = made(1, (1000, 0.05), (1000, 0.25))
    losses = np.repeat([0.0, 0.2], 1000)

    assert follow(Watch(), errors(wrong), 0.0)[1] != ()
    assert follow(Watch(), errors(wrong, losses), 0.0)[1] == ()


def test_the_newest_answers_alone_are_gone_through() -> None:
    watch, found = follow(Watch(), errors(np.zeros(mistakes.MOST + 1)), 0.0)

    assert (watch.since_ns, found) == ((mistakes.MOST + 1 - mistakes.KEPT) * S, ())
    assert follow(watch, errors(np.zeros(mistakes.MOST + 1)), 0.0)[0] == watch


def test_a_change_is_a_sentence_with_its_evidence() -> None:
    change = Change(at=0.0, since=1e9, before=0.048, num_before=620, after=0.385, num_after=26, is_rise=True)

    assert str(change) == (
        "4.8 % of 620 labelled answers were wrong until 2001-09-09 01:46:40 UTC, "
        "38.5 % of 26 from then on, found by ADWIN"
    )
