from __future__ import annotations

from typing import Any

import pytest

from serve.adapt.rivals import Rivals, Shadow, compared
from serve.adapt.sequential import Tally

MODEL = (0.001, 0.0001)


def counted(in_time: int = 0, late: int = 0, failed: int = 0, nonfinite: int = 0, **more: Any) -> dict[str, Any]:
    return {"in_time": in_time, "late": late, "failed": failed, "nonfinite": nonfinite, "rescued": failed, **more}


def replica(stable: dict[str, Any], candidate: dict[str, Any], state: str = "ready", **shadow: float) -> dict[str, Any]:
    told = {"bundle": "b2", "version": 2, "state": state, "reason": "a file is gone" if state == "refused" else None}
    return {"candidate": told, "versions": {"1": stable, "2": candidate}, "shadow": shadow}


def test_nothing_is_compared_where_there_is_no_candidate() -> None:
    assert compared([(None, None), ({"candidate": None, "versions": {}}, None)], 1, MODEL) is None


def test_differences_are_summed_over_the_replicas_and_what_was_rescued_counts_once() -> None:
    first = replica(counted(100, 1), counted(5), rows=8, agreed=7.5), replica(counted(90, 1), counted(5))
    second = replica(counted(50), counted(3, 1, 2, 1), rows=4, agreed=4, failed=1, shed=2), None

    found = compared([first, second], 1, MODEL)

    assert found == Rivals(2, 2, requests=Tally(60, 0, 7, 4), shadow=Shadow(12, 11.5, 1, 2))


def test_a_replica_that_counts_anew_adds_no_less_than_nothing() -> None:
    found = compared([(replica(counted(3), counted(1)), replica(counted(900, 9), counted(40)))], 1, MODEL)

    assert found is not None
    assert found.requests == Tally()


def test_one_replica_that_cannot_hold_it_says_why() -> None:
    found = compared([(replica({}, {}), None), (replica({}, {}, "refused"), None)], 1, MODEL)

    assert found == Rivals(2, 1, "a file is gone")


@pytest.mark.parametrize(
    ("ours", "theirs", "pace"),
    [
        pytest.param((10, 100, 0.02), (1, 1, 0.0011), 1.0, id="as fast, in smaller batches"),
        pytest.param((10, 100, 0.02), (1, 1, 0.011), 10.0, id="ten times slower"),
        pytest.param((10, 100, 0.06), (1, 1, 0.0033), 1.0, id="a busy machine slows both"),
        pytest.param((0, 0, 0.0), (2, 2, 0.0044), 2.0, id="the stable one computed nothing"),
        pytest.param((10, 100, 0.02), (0, 0, 0.0), 0.0, id="it computed nothing"),
    ],
)
def test_its_pace_is_that_of_passes_as_large(ours: tuple[float, ...], theirs: tuple[float, ...], pace: float) -> None:
    spent = [dict(zip(("passes", "compute_rows", "compute_s"), one, strict=True)) for one in (ours, theirs)]

    found = compared([(replica(*spent), None)], 1, MODEL)

    assert found is not None
    assert found.pace == pytest.approx(pace)
