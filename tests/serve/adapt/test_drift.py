from __future__ import annotations

import numpy as np
import pytest

from ladder import reference
from serve.adapt import drift
from serve.adapt.drift import Reference

NUM_LABELS = 10
EVEN = np.full(NUM_LABELS, 1 / NUM_LABELS)


def probabilities(generator: np.random.Generator, n: int, surety: float = 5.0, shares: np.ndarray = EVEN) -> np.ndarray:
    """Of a model that is as sure as `surety` says, on classes with those shares."""
    truth = generator.choice(NUM_LABELS, n, p=shares)
    logits = generator.normal(0.0, 1.2, (n, NUM_LABELS))
    logits[np.arange(n), truth] += surety
    weights = np.exp(logits)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def known(rows: dict[str, np.ndarray], *, has_classes: bool = True) -> Reference:
    return Reference(reference.unpack(reference.pack(rows)), has_classes=has_classes)


@pytest.fixture(scope="module")
def usual() -> Reference:
    return known({"a": probabilities(np.random.default_rng(0), 4000)})


def test_what_is_as_it_was_is_no_drift(usual: Reference) -> None:
    generator, before, alarms = np.random.default_rng(1), None, 0

    for _ in range(100):
        before = drift.follow(before, usual.judge(probabilities(generator, 100), ["a"] * 100))
        alarms += sum(finding.alarms for finding in before.findings)
        assert before.drift == ()

    assert alarms <= 3  # of 300, at a chance of 0.001 each


@pytest.mark.parametrize(
    ("changed", "found_by"),
    [
        pytest.param({"surety": 3.0}, "outputs, Kolmogorov-Smirnov", id="less sure"),
        pytest.param({"surety": 7.0}, "outputs, Kolmogorov-Smirnov", id="surer"),
        pytest.param({"shares": np.repeat([0.2, 0.0], 5)}, "predicted classes, chi-square", id="half of the classes"),
        pytest.param({"surety": 2.0}, "outputs, maximum mean discrepancy", id="much less sure"),
    ],
)
def test_a_change_is_found_in_the_second_window(usual: Reference, changed: dict, found_by: str) -> None:  # type: ignore[type-arg]
    generator = np.random.default_rng(2)

    first = drift.follow(None, usual.judge(probabilities(generator, 100, **changed), ["a"] * 100))
    second = drift.follow(first, usual.judge(probabilities(generator, 100, **changed), ["a"] * 100))

    assert first.drift == ()
    assert found_by in second.drift
    assert second.severity > 0


def test_a_mix_of_rungs_is_compared_with_the_same_mix() -> None:
    generator = np.random.default_rng(3)
    rungs = known({"a": probabilities(generator, 4000), "b": probabilities(generator, 4000, surety=2.0)})

    mixed = np.concatenate([probabilities(generator, 60), probabilities(generator, 60, surety=2.0)])
    as_said = rungs.judge(mixed, ["a"] * 60 + ["b"] * 60)
    as_if_all_were_of_one = rungs.judge(mixed, ["a"] * 120)

    assert not any(finding.alarms for finding in as_said)
    assert any(finding.alarms for finding in as_if_all_were_of_one)


def test_answers_of_an_unknown_rung_are_left_out(usual: Reference) -> None:
    assert usual.judge(probabilities(np.random.default_rng(4), 50), ["other"] * 50) == ()


def test_values_have_no_classes() -> None:
    generator = np.random.default_rng(5)
    values = known({"a": generator.normal(size=(2000, 1)).astype(np.float32)}, has_classes=False)

    same = values.judge(generator.normal(size=(100, 1)).astype(np.float32), ["a"] * 100)
    moved = values.judge(generator.normal(1.0, 1.0, (100, 1)).astype(np.float32), ["a"] * 100)

    assert [finding.test for finding in same] == ["outputs, Kolmogorov-Smirnov", "outputs, maximum mean discrepancy"]
    assert not any(finding.alarms for finding in same)
    assert all(finding.alarms for finding in moved)


def test_of_wide_outputs_the_largest_are_compared() -> None:
    generator = np.random.default_rng(6)
    wide = generator.dirichlet(np.full(500, 0.05), 3000).astype(np.float32)
    flat = generator.dirichlet(np.full(500, 0.5), 100).astype(np.float32)

    catalogue = known({"a": wide[:2500]})

    assert not any(finding.alarms for finding in catalogue.judge(wide[2500:2600], ["a"] * 100))
    assert any(finding.alarms for finding in catalogue.judge(flat, ["a"] * 100))


def test_few_held_out_rows_alarm_nobody() -> None:
    generator = np.random.default_rng(7)
    few = known({"a": probabilities(generator, 60)})

    for _ in range(50):
        assert not any(finding.alarms for finding in few.judge(probabilities(generator, 100), ["a"] * 100))


def test_inputs_that_the_network_has_not_seen_are_drift_in_the_second_window() -> None:
    generator = np.random.default_rng(3)
    held = known({"a": probabilities(generator, 1000)})
    usual = Reference(
        reference.unpack(reference.pack({"a": probabilities(generator, 1000)})),
        embeddings=generator.normal(0.0, 1.0, (2000, 8)).astype(np.float32),
    )

    quiet = drift.follow(None, usual.judge_inputs(generator.normal(0.0, 1.0, (100, 8))))
    first = drift.follow(quiet, usual.judge_inputs(generator.normal(0.4, 1.0, (100, 8))))
    second = drift.follow(first, usual.judge_inputs(generator.normal(0.4, 1.0, (100, 8))))

    assert quiet.drift == first.drift == ()
    assert second.drift == ("inputs, maximum mean discrepancy",)
    assert held.judge_inputs(generator.normal(0.0, 1.0, (100, 8))) == ()
