from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from cluster.config import Gate
from ladder import gate
from ladder.gate import Check, Figures, Pair

RULES = Gate()


def pair(num_rows: int, lost: int, won: int, both_wrong: int = 0) -> Pair:
    """So many rows that only the stable version, or only the candidate, or neither got right."""
    stable, candidate = np.ones(num_rows), np.ones(num_rows)
    candidate[:lost] = 0.0
    stable[lost : lost + won] = 0.0
    stable[lost + won : lost + won + both_wrong] = candidate[lost + won : lost + won + both_wrong] = 0.0
    return Pair(stable, candidate)


SAME = Figures(
    test=pair(1000, 10, 10, 20),
    recent=pair(200, 5, 5),
    classes={"cat": np.arange(500), "dog": np.arange(500, 1000)},
    calibration=(0.02, 0.03),
    seconds={("onnx-fp32", 1): (0.001, 0.0012), ("onnx-fp32", 32): (0.01, 0.009)},
    num_bytes=(1000, 1500),
)


def judged(**changed: Any) -> dict[str, Check]:
    return {check.name: check for check in gate.judge(dataclasses.replace(SAME, **changed), RULES)}


def refused(**changed: Any) -> list[str]:
    return [name for name, check in judged(**changed).items() if not check.passed]


def test_a_version_as_good_as_the_stable_one_passes_every_check() -> None:
    checks = gate.judge(SAME, RULES)

    names = ["schema", "finite", "accuracy", "recent", "classes", "calibration", "latency", "size"]
    assert [check.name for check in checks] == names
    assert all(check.passed and check.words for check in checks)
    assert gate.reasons(checks) == ""


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        pytest.param({"test": pair(1000, 55, 5), "classes": {}}, ["accuracy"], id="five points of accuracy"),
        pytest.param({"test": pair(20, 3, 1), "classes": {}}, [], id="as much of few rows, which is chance"),
        pytest.param({"test": pair(10_000, 40, 0), "classes": {}}, [], id="less than is allowed, however sure"),
        pytest.param({"recent": pair(200, 20, 4)}, ["recent"], id="recent labels"),
        pytest.param({"recent": pair(40, 40, 0)}, [], id="too few recent labels"),
        pytest.param({"recent": pair(200, 0, 100)}, [], id="better on recent labels"),
        pytest.param({"calibration": (0.02, 0.08)}, ["calibration"], id="sure and wrong"),
        pytest.param({"calibration": (0.02, 0.0)}, [], id="better calibrated"),
        pytest.param({"seconds": {("a", 1): (1.0, 1.0), ("a", 32): (1.0, 1.6)}}, ["latency"], id="slow batches"),
        pytest.param({"seconds": {}}, [], id="nothing to time against"),
        pytest.param({"num_bytes": (1000, 2001)}, ["size"], id="too large"),
        pytest.param({"differences": ["labels"]}, ["schema"], id="another form"),
        pytest.param({"num_nonfinite": 1}, ["finite"], id="one NaN"),
        pytest.param({"floor": 0.99, "rungs": {"a": 0.99}}, ["floor"], id="below the endpoint's promise"),
        pytest.param({"floor": 0.9, "rungs": {"a": 0.9, "b": 0.8}}, [], id="above the endpoint's promise"),
        pytest.param(
            {"floor": 0.95, "rungs": {"a": 0.94, "b": 0.8}}, ["rungs"], id="no rung would be allowed to serve"
        ),
    ],
)
def test_what_is_refused(changed: dict[str, Any], expected: list[str]) -> None:
    assert refused(**changed) == expected


def test_one_label_that_is_lost_is_named_though_others_make_up_for_it() -> None:
    test = pair(1000, 30, 30)  # the first 30 rows, and better on the next
    classes = {"rare": np.arange(30), "common": np.arange(30, 1000)}

    found = judged(test=test, classes=classes)

    assert found["accuracy"].passed
    assert not found["classes"].passed
    assert found["classes"].value == 1.0
    assert "rare" in found["classes"].words


def test_every_refusal_has_its_number_its_bound_and_its_words() -> None:
    found = judged(test=pair(1000, 100, 0))["accuracy"]

    assert found.to_json() == {
        "name": "accuracy",
        "value": pytest.approx(0.1),
        "bound": RULES.max_accuracy_loss,
        "passed": False,
        "words": "only 0.9000 right of the test split (1,000 rows), the stable version 1.0000",
    }


def test_a_loss_that_may_be_chance_passes_and_is_said() -> None:
    found = judged(test=pair(20, 3, 1), classes={"cat": np.arange(10)})

    assert (
        found["accuracy"].words
        == "0.8500 right of the test split (20 rows), the stable version 0.9500, which may be chance"
    )
    assert found["classes"].words == "label cat is found 0.2000 less often, which may be chance"


def test_a_version_that_does_not_open_says_why() -> None:
    check = gate.opening("it was ended by SIGSEGV")

    assert not check.passed
    assert gate.reasons([check]) == "a replica cannot open it: it was ended by SIGSEGV"
    assert gate.opening("").passed


@pytest.mark.parametrize(
    ("lost", "won", "allowed"),
    [
        pytest.param(0.02, 0.02, 0.0, id="equal"),
        pytest.param(0.025, 0.02, 0.005, id="loses just what it may"),
        pytest.param(0.005, 0.0, 0.005, id="loses just what it may and wins nothing"),
        pytest.param(0.07, 0.02, 0.05, id="as a label"),
    ],
)
@pytest.mark.parametrize("num_rows", [200, 2000, 10_000])
def test_a_version_within_its_allowance_is_rarely_refused(
    lost: float, won: float, allowed: float, num_rows: int
) -> None:
    generator = np.random.default_rng(0)
    counts = generator.multinomial(num_rows, [lost, won, 1 - lost - won], size=1000)

    false = sum(gate._loses(pair(num_rows, int(a), int(b)), allowed) for a, b, _ in counts)

    assert false / len(counts) <= 2 * gate.CHANCE


@pytest.mark.parametrize("num_rows", [400, 2000])
def test_five_points_less_are_found(num_rows: int) -> None:
    generator = np.random.default_rng(1)
    counts = generator.multinomial(num_rows, [0.06, 0.01, 0.93], size=500)

    found = sum(gate._loses(pair(num_rows, int(a), int(b)), RULES.max_accuracy_loss) for a, b, _ in counts)

    assert found / len(counts) >= 0.9


def test_rows_that_are_right_in_parts_are_judged_by_their_mean() -> None:
    generator = np.random.default_rng(0)
    stable = generator.uniform(0.5, 1.0, 400)

    worse, same = Pair(stable, stable - 0.1), Pair(stable, stable + generator.normal(0.0, 0.1, 400))

    assert gate._loses(Pair(stable, worse.candidate + generator.normal(0.0, 0.1, 400)), 0.005)
    assert gate._loses(worse, 0.005)
    assert not gate._loses(same, 0.005)
