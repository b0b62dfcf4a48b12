"""What is wrongly said and done where nothing has changed: drift alarms, and good versions that are taken back.

A good version is the same network trained with another seed.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from benchmarks import openloop, report
from benchmarks.loops.events import first, notes
from benchmarks.loops.setting import Setting
from benchmarks.loops.traffic import Traffic, failed, wait

MOST_TAKEN_BACK = 1 / 20


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
    """Two versions take turns: the one that does not answer is rolled out."""
    served, versions = setting.served, [setting.twin(), setting.served.version]
    num, wrong, seconds = setting.runs * 2, 0, []
    with Traffic(served, setting.rows("test"), per_s=setting.per_s, labelled=0.3) as traffic:
        for _ in range(num):
            started, version = time.time(), versions[0]
            setting.trimtab("canary", str(version), "--force")
            ended = wait(partial(first, served, started, "taken back", "promoted", version=version), 300.0)
            if ended is None or first(served, started, "taken back", version=version):
                wrong += 1
            else:
                versions.reverse()
                seconds.append(ended - started)
        lost = failed(traffic.seen)
    most = num * MOST_TAKEN_BACK
    return [
        report.figure(f"good versions not promoted, of {num}", [wrong], "rollouts", goal=most, met=wrong <= most),
        report.figure("a good version, from the order to the promotion", seconds or [0.0], "s"),
        report.figure("requests failed meanwhile", [lost], "requests", goal=0, met=lost == 0),
    ]
