"""Sketches of durations, against the durations themselves."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.sketch import LEAST_S, NUM_BUCKETS, RATIO, Sketch

durations = st.lists(st.floats(1e-5, 1000.0), max_size=200)


def of(*seconds: float) -> Sketch:
    made = Sketch()
    for one in seconds:
        made.add(one)
    return made


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [
        pytest.param(0.0, 0, id="nothing"),
        pytest.param(-1.0, 0, id="a clock that went back"),
        pytest.param(1.05e-5, 0, id="first"),
        pytest.param(1.15e-5, 1, id="second"),
        pytest.param(0.1, math.floor(math.log(0.1 / LEAST_S) / math.log(RATIO)), id="100 ms"),
        pytest.param(1e9, NUM_BUCKETS - 1, id="longest"),
        pytest.param(math.inf, NUM_BUCKETS - 1, id="for ever"),
    ],
)
def test_a_duration_is_counted_in_its_bucket(seconds: float, bucket: int) -> None:
    counts = of(seconds).counts

    assert [index for index, count in enumerate(counts) if count] == [bucket]


def test_what_is_no_number_counts_as_nothing() -> None:
    assert of(math.nan).total == 0


@given(durations.filter(bool), st.floats(0.01, 1.0))
def test_a_quantile_is_right_to_within_a_bucket(seconds: list[float], q: float) -> None:
    exact = sorted(seconds)[math.ceil(q * len(seconds)) - 1]

    assert of(*seconds).quantile(q) == pytest.approx(exact, rel=0.06)


def test_of_nothing_every_quantile_is_0() -> None:
    assert Sketch().quantile(0.99) == 0.0


@given(durations, durations)
def test_readings_add_up_and_their_difference_is_what_came_between(before: list[float], later: list[float]) -> None:
    first, second = of(*before), of(*before, *later)

    assert second.minus(first).counts == of(*later).counts
    assert of(*before).merge(of(*later)).counts == second.counts
    assert min(first.minus(second).counts) == 0  # a replica that began anew


@given(durations)
def test_it_survives_json(seconds: list[float]) -> None:
    made = of(*seconds)

    assert Sketch.from_json(json.loads(json.dumps(made.to_json()))).counts == made.counts


def test_whole_numbers_name_buckets_too() -> None:
    assert Sketch.from_json({"b": {7: 3}}).to_json() == {"b": {"7": 3}}


@pytest.mark.parametrize("tree", [{"b": {"200": 1}}, {"b": {"-1": 1}}, {"b": {"x": 1}}, {}])
def test_what_is_no_sketch_is_refused(tree: dict[str, dict[str, int]]) -> None:
    with pytest.raises((ValueError, KeyError)):
        Sketch.from_json(tree)


def test_a_sketch_has_all_its_buckets() -> None:
    with pytest.raises(ValueError, match="200 counts"):
        Sketch([1, 2])
