from __future__ import annotations

import json

import pytest

from serve.ladder import Spent
from serve.tally import MAX_VERSIONS, Tally, place

IDS = [f"request-{i}" for i in range(4000)]


@pytest.mark.parametrize("share", [0.01, 0.05, 0.25, 0.5, 0.99])
def test_a_share_of_the_ids_is_taken_and_stays_taken_as_it_grows(share: float) -> None:
    places = {request_id: place(request_id, 4, b"canary") for request_id in IDS}

    taken = {request_id for request_id, at in places.items() if at < share}
    more = {request_id for request_id, at in places.items() if at < share + 0.01}

    assert len(taken) / len(IDS) == pytest.approx(share, abs=0.03)
    assert taken <= more
    assert all(0.0 <= at < 1.0 for at in places.values())


@pytest.mark.parametrize(
    ("version", "person"), [pytest.param(5, b"canary", id="version"), pytest.param(4, b"shadow", id="use")]
)
def test_another_version_or_use_takes_other_ids(version: int, person: bytes) -> None:
    one = {request_id for request_id in IDS if place(request_id, 4, b"canary") < 0.5}
    other = {request_id for request_id in IDS if place(request_id, version, person) < 0.5}

    assert len(one & other) / len(IDS) == pytest.approx(0.25, abs=0.03)


def test_counts_are_those_of_all_times_that_a_version_was_loaded() -> None:
    tally, first, second = Tally(), Spent(1, 3, 0.5), Spent()
    tally.meet(4, first)
    tally.of(4).end("late", 2)
    tally.meet(4, first)
    tally.meet(4, second)
    second.passes += 1
    second.rows += 1
    second.seconds += 0.25

    said = json.loads(json.dumps(tally.to_json()))

    assert said["versions"] == {
        "4": {"requests": 1, "rows": 2, "in_time": 0, "late": 1, "failed": 0, "nonfinite": 0, "rescued": 0,
              "compute_s": 0.75, "compute_rows": 4, "passes": 2},
    }  # fmt: skip
    assert said["shadow"] == {"rows": 0, "agreed": 0.0, "failed": 0, "shed": 0, "difference": 0.0}


def test_versions_met_long_ago_are_forgotten() -> None:
    tally, last = Tally(), MAX_VERSIONS + 3
    for version in range(2, last + 1):
        tally.meet(1, Spent())  # the stable one, again and again
        tally.meet(version, Spent())

    kept = set(tally.to_json()["versions"])

    assert kept == {"1", *map(str, range(last - MAX_VERSIONS + 2, last + 1))}
