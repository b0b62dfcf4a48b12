"""What is counted, of requests that really were answered, refused, failed or given up."""

from __future__ import annotations

import asyncio
import json

from ladder.choose import Rung
from ladder.latency import Latency
from serve.counters import TICK_S, Counters, LagMeter
from serve.sketch import Sketch


def test_counts_are_json_with_the_rungs_of_the_present_version_in_their_order() -> None:
    counters = Counters()
    counters.computed("gone", 3, 3, 0.1)
    counters.computed("best", 8, 6, 0.5)
    counters.refuse("full", 2)

    said = json.loads(
        json.dumps(counters.to_json([Rung("best", 0.9, Latency(0.01, 0.001, 0.2)), Rung("new", 0.8, Latency(1, 1))]))
    )

    assert list(said["rungs"]) == ["best", "new"]
    best = {"batches": 1, "rows": 8, "in_time_rows": 6, "seconds": 0.5, "accuracy": 0.9}
    assert said["rungs"]["best"] == {**best, "fixed_s": 0.01, "per_row_s": 0.001, "spread": 0.2}
    assert said["rungs"]["new"]["rows"] == 0
    assert said["refused"] == {"full": 1, "overloaded": 0, "hopeless": 0, "late": 0, "admission": 0}
    assert said["refused_rows"] == 2


def test_a_blocked_loop_is_seen() -> None:
    lag = Sketch()

    async def blocked() -> None:
        LagMeter(lag).start()
        await asyncio.sleep(2 * TICK_S)
        end = asyncio.get_running_loop().time() + 10 * TICK_S
        while asyncio.get_running_loop().time() < end:
            pass
        await asyncio.sleep(0)

    asyncio.run(blocked())

    assert lag.quantile(1.0) > 5 * TICK_S
