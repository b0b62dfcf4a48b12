"""How long a topic may be silent, by its own gaps."""

from __future__ import annotations

import math

from serve.watch.gaps import LEAST_GAPS, REMEMBERED, Gaps


def after(*gaps: float) -> Gaps:
    made, time = Gaps(), 1000.0
    made.add(time)
    for gap in gaps:
        time += gap
        made.add(time)
    return made


def test_with_few_gaps_nothing_is_silence() -> None:
    assert after(*[10.0] * (LEAST_GAPS - 1)).allowed_s(60.0, 600.0, 1e-4) is None


def test_a_steady_topic_may_be_silent_for_some_of_its_gaps() -> None:
    allowed = after(*[10.0] * 1000).allowed_s(60.0, 600.0, 1e-4)

    assert allowed is not None
    assert -10 * math.log(1e-4 / 60) < allowed < 200.0


def test_what_has_been_before_is_no_news() -> None:
    allowed = after(*[10.0] * 500, 28_800.0, *[10.0] * 500).allowed_s(60.0, 600.0, 1e-4)

    assert allowed is not None
    assert allowed >= 2 * 28_800.0


def test_no_silence_is_shorter_than_the_least() -> None:
    assert after(*[0.01] * 1000).allowed_s(600.0, 600.0, 1e-4) == 600.0


def test_events_out_of_order_leave_no_gap_and_take_none_away() -> None:
    gaps = after(*[10.0] * 50)

    gaps.add(1005.0)

    assert (gaps.num, gaps.last) == (50, 1500.0)


def test_a_new_pace_is_learned() -> None:
    gaps = after(*[1.0] * 5 * REMEMBERED, *[100.0] * 3 * REMEMBERED)

    assert gaps.total_s / gaps.num > 80.0
