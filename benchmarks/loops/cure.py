"""The world changes under an endpoint that nobody looks after: how soon that is found, and how soon it is right again.

First the images are turned and noisy; when that is cured, they are another script under the same labels, which only
the labels that come back can tell. Beside it: the same without a loop, and with a training every night, both computed
from the accuracies that were measured (a change at a random time of day waits twelve hours for the night at the mean).
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks import report
from benchmarks.loops import worlds
from benchmarks.loops.events import first, notes
from benchmarks.loops.setting import Setting
from benchmarks.loops.traffic import Rows, Traffic, accuracy, failed, wait

NIGHT_S = 43_200.0  # mean wait for the night
DAY_S = 86_400.0


def run(setting: Setting) -> list[dict[str, Any]]:
    usual = setting.rows("test")
    changes = {"turned and noisy": worlds.shifted(usual)}
    if not setting.quick:
        changes["another script"] = worlds.kmnist(setting.data / "kmnist_test")
    figures = []
    setting.served.redeploy(**setting.serve | {"record": {"rate": 1.0}})
    with Traffic(setting.served, usual, per_s=setting.per_s, labelled=0.3) as traffic:
        for name, rows in changes.items():
            figures += _cured(setting, traffic, name, rows)
    return figures


def _cured(setting: Setting, traffic: Traffic, name: str, rows: Rows) -> list[dict[str, Any]]:
    quiet_s, patience_s = (20.0, 420.0) if setting.quick else (60.0, 1200.0)
    time.sleep(quiet_s)
    changed = time.time()
    traffic.show(rows)
    found = wait(lambda: bool(notes(setting.served, changed, "drift")), patience_s)
    ordered = wait(lambda: first(setting.served, changed, "ordered") is not None, patience_s)
    promoted = wait(lambda: first(setting.served, changed, "promoted") is not None, patience_s)
    time.sleep(quiet_s)
    before = accuracy(traffic.since(changed - quiet_s, changed))
    worst = accuracy(traffic.since(changed, promoted or float("inf")))
    figures = [
        report.figure(f"{name}: effective accuracy before", [before], "share"),
        report.figure(f"{name}: until the cure, as without a loop", [worst], "share"),
        report.figure(f"{name}: cured", [float(promoted is not None)], "of 1", goal=1, met=promoted is not None),
    ]
    if found:
        figures += [
            report.figure(f"{name}: change until drift is said", [found - changed], "s"),
            report.figure(f"{name}: requests until then", [len(traffic.since(changed, found))], "requests"),
        ]
    if ordered:
        figures.append(report.figure(f"{name}: change until a retraining is ordered", [ordered - changed], "s"))
    if promoted:
        after = accuracy(traffic.since(promoted))
        lost = failed(traffic.since(changed))
        with_loop = _day(worst, after, promoted - changed)
        figures += [
            report.figure(f"{name}: change until the promotion", [(promoted - changed) / 60], "min"),
            report.figure(
                f"{name}: effective accuracy after", [after], "share", peer="without a loop", peer_values=[worst]
            ),
            report.figure(
                f"{name}: effective accuracy of the first day",
                [with_loop],
                "share",
                peer="a training every night",
                peer_values=[_day(worst, after, NIGHT_S)],
            ),
            report.figure(f"{name}: requests failed", [lost], "requests", goal=0, met=lost == 0),
        ]
    return figures


def _day(worst: float, after: float, waited_s: float) -> float:
    """Effective accuracy of the day that begins with the change."""
    return (worst * waited_s + after * (DAY_S - waited_s)) / DAY_S
