"""Whether an endpoint keeps its promise while a retraining runs on the same machine."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from benchmarks import report
from benchmarks.loops.events import first
from benchmarks.loops.setting import Setting
from benchmarks.loops.traffic import Seen, Traffic, wait

MOST_LOSS = 0.01


def run(setting: Setting) -> list[dict[str, Any]]:
    seconds = 15.0 if setting.quick else 60.0
    with Traffic(setting.served, setting.rows("test"), per_s=setting.per_s, labelled=0.3) as traffic:
        time.sleep(seconds)
        ordered = time.time()
        setting.trimtab("retrain")
        ended = wait(lambda: first(setting.served, ordered, "gate passed", "gate refused", "failed") is not None, 900.0)
        if first(setting.served, ordered, "gate passed"):  # what comes after must not meet its rollout
            wait(partial(first, setting.served, ordered, "promoted", "taken back"), 300.0)
    before, during = traffic.since(0.0, ordered), traffic.since(ordered, ended or float("inf"))
    alone, beside = _in_time(before, setting.objective_s), _in_time(during, setting.objective_s)
    return [
        report.figure("in time while a retraining runs", [beside], "share", peer="without one", peer_values=[alone]),
        report.figure("loss of it", [alone - beside], "share", goal=MOST_LOSS, met=alone - beside <= MOST_LOSS),
        report.figure("the retraining, until the gate's word", [(ended or time.time()) - ordered], "s"),
    ]


def _in_time(seen: list[Seen], objective_s: float) -> float:
    return sum(one.status == 200 and one.seconds <= objective_s for one in seen) / max(1, len(seen))
