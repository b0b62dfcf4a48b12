from __future__ import annotations

import numpy as np
import pytest

from serve.adapt.simulator.outcome import Action, limit_cycles

STEADY = np.full(600, 100.0)
STEP = np.concatenate([np.full(60, 100.0), np.full(540, 300.0)])


def turning(*times: float, field: str = "replicas") -> list[Action]:
    """Up, down, up ... at these times."""
    return [Action(at, "a rule", field, 1, 2, 1 if i % 2 == 0 else -1) for i, at in enumerate(times)]


@pytest.mark.parametrize(
    ("actions", "arrived", "num"),
    [
        pytest.param([], STEADY, 0, id="nothing done"),
        pytest.param(turning(100, 110, 120, 130), STEADY, 0, id="three reversals may be"),
        pytest.param(turning(100, 110, 120, 130, 140), STEADY, 1, id="four may not"),
        pytest.param(turning(100, 200, 300, 400, 500), STEADY, 0, id="as many in a long time"),
        pytest.param(turning(30, 40, 50, 65, 75), STEP, 0, id="because the load changed"),
        pytest.param(turning(300, 310, 320, 330, 340), STEP, 1, id="long after the load changed"),
        pytest.param(turning(100, 110, 120) + turning(105, 115, 125, field="admit"), STEADY, 0, id="two fields"),
        pytest.param([Action(t, "a rule", "replicas", t, t + 1, 1) for t in range(100, 110)], STEADY, 0, id="one way"),
    ],
)
def test_a_limit_cycle_is_too_many_reversals_under_stationary_load(
    actions: list[Action], arrived: np.ndarray, num: int
):
    assert len(limit_cycles(actions, arrived)) == num
