"""What a client saw, cut at the changes."""

from __future__ import annotations

import base64

import numpy as np

from benchmarks.timeline import Timeline, p99_ms


def timeline(*answers: tuple[float, float, int]) -> Timeline:
    ended, latencies, marked = zip(*answers, strict=True)
    return Timeline(np.array(ended), np.array(latencies), np.array(marked))


def test_what_a_client_says_is_read_back() -> None:
    columns = {"ended_s": np.array([1.0, 2.0]), "latencies_s": np.array([0.5, 0.25]), "marked": np.array([-1, 7])}
    said = {name: base64.b64encode(column.tobytes()).decode() for name, column in columns.items()}

    read = Timeline.read(said)

    assert (read.ended_s.tolist(), read.latencies_s.tolist(), read.marked.tolist()) == (
        [1.0, 2.0],
        [0.5, 0.25],
        [-1, 7],
    )


def test_the_last_old_answer_is_looked_for_between_two_orders() -> None:
    seen = timeline((1.0, 0.1, 1), (2.1, 0.1, 1), (2.3, 0.1, 2), (2.4, 0.1, 1), (2.5, 0.1, 2), (9.0, 0.1, 1))

    assert np.isclose(seen.last_before(2, ordered_s=2.0, until_s=5.0), 0.4)
    assert seen.last_before(2, ordered_s=2.4, until_s=5.0) == 0.0


def test_a_request_belongs_to_a_change_that_it_was_under_way_in() -> None:
    seen = timeline((1.0, 0.5, 1), (2.0, 0.9, 1), (3.0, 0.1, 1))

    during, calm = seen.split([(1.2, 1.5)])

    assert (during.tolist(), calm.tolist()) == ([0.9], [0.5, 0.1])
    assert np.isnan(p99_ms(np.array([])))
