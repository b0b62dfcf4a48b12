"""What is wrongly said and done where nothing has changed: drift alarms, and good versions that are taken back.

A good version is the same network trained with another seed.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks import openloop, report
from benchmarks.loops.events import first, notes
from benchmarks.loops.setting import Setting
from benchmarks.loops.traffic import Traffic, wait

MOST_TAKEN_BACK = 1 / 20
PASSED = "canary at the last step"


def run(setting: Setting) -> list[dict[str, Any]]:
    return [*_drift(setting), *_good(setting)]


def _drift(setting: Setting) -> list[dict[str, Any]]:
    """At the default rate of the sample, with the rows of the test split in random order."""
    num, per_s = (5_000, 250.0) if setting.quick else (100_000, 700.0)
    served = setting.served
    images, labels = setting.rows("test")
    target = openloop.Target(served.cluster.http_port, f"{served.path}/infer", headers=served.headers)
    arrivals = openloop.poisson([(num / per_s, per_s)], seed=0)
    started = time.time()
    records = openloop.replay(openloop.Plan(target), arrivals, images, labels)
    time.sleep(20.0)  # the sample is written and looked at some seconds later
    said = notes(served, started, "drift") + notes(served, started, "ADWIN")
    answered = int((records.status == 200).sum())
    return [
        report.figure(
            f"drift alarms in {answered:,} requests without drift", [len(said)], "alarms", goal=0, met=not said
        )
    ]


def _good(setting: Setting) -> list[dict[str, Any]]:
    served, version = setting.served, setting.twin()
    num, wrong, seconds = setting.runs * 2, 0, []
    with Traffic(served, setting.rows("test"), per_s=setting.per_s, labelled=0.3) as traffic:
        for _ in range(num):
            started = time.time()
            setting.trimtab("canary", str(version))
            wait(lambda since=started: setting.is_through(since, version), 300.0)  # type: ignore[misc]
            taken_back = first(served, started, "taken back", version=version)
            wrong += taken_back is not None
            seconds.append(time.time() - started)
            if taken_back is None:
                setting.trimtab("rollback")
                wait(lambda since=started: first(served, since, "taken back") is not None, 60.0)  # type: ignore[misc]
        failed = sum(one.status != 200 for one in traffic.seen)
    return [
        report.figure(
            f"good canaries taken back, of {num}", [wrong], "rollouts", goal=num * MOST_TAKEN_BACK,
            met=wrong <= num * MOST_TAKEN_BACK,
        ),
        report.figure("a good canary, until its last step is done", seconds, "s"),
        report.figure("requests failed meanwhile", [failed], "requests", goal=0, met=failed == 0),
    ]  # fmt: skip
