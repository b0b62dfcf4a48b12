"""Versions that are worse in five ways: whether the gate lets them pass, and what a canary of them costs the clients.

Past the gate go, by force, those that answer at all and are worse at once; five points of accuracy take thousands of
labels and are the gate's to find. Labels come back for all answers here.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks import bad_versions, report
from benchmarks.loops.events import first
from benchmarks.loops.setting import Setting
from benchmarks.loops.traffic import Seen, Traffic, failed, refused, wait

FORCED: tuple[bad_versions.Kind, ...] = ("slow", "order")
MOST_TOUCHED, MOST_S = 0.01, 10.0


def run(setting: Setting) -> list[dict[str, Any]]:
    figures = []
    for kind in bad_versions.KINDS:
        key = f"bad-{kind}-{time.time_ns()}"
        version = setting.registered(bad_versions.make(setting.served.bundle, kind, key).key)
        is_refused = setting.is_refused(version)
        figures.append(report.figure(f"{kind}: refused by the gate", [is_refused], "of 1", goal=1, met=is_refused))
        if kind in FORCED:
            figures += _figures(kind, [_round(setting, version) for _ in range(setting.runs)])
    return figures


def _round(setting: Setting, version: int) -> dict[str, float]:
    """One canary of a bad version under traffic, until it is taken back."""
    with Traffic(setting.served, setting.rows("test"), per_s=setting.per_s, labelled=1.0) as traffic:
        time.sleep(3.0)
        started = time.time()
        setting.trimtab("canary", str(version), "--force")
        ended = wait(lambda: first(setting.served, started, "taken back", version=version) is not None, 300.0, 0.1)
        time.sleep(2.0)
    seen = traffic.since(started, ended or float("inf"))
    touched = [one for one in seen if one.version == version]
    return {
        "touched": len(touched) / max(1, len(seen)),
        "seconds": _evidence_s(touched, ended),
        "failed": float(failed(seen)),
        "refused": refused(seen),
        "refused before": refused(traffic.since(0.0, started)),
        "back": float(ended is not None),
    }


def _evidence_s(touched: list[Seen], ended: float | None) -> float:
    """From the first answer of the bad version, which is the first evidence for a client, until it is taken back."""
    if not touched or ended is None:
        return 0.0
    return max(0.0, ended - min(one.at for one in touched))


def _figures(kind: str, rounds: list[dict[str, float]]) -> list[dict[str, Any]]:
    def of(name: str) -> list[float]:
        return [measured[name] for measured in rounds]

    num, back, lost = len(rounds), sum(of("back")), sum(of("failed"))
    touched, seconds = of("touched"), of("seconds")
    return [
        report.figure(f"{kind}, forced: taken back, of {num}", [back], "rollouts", goal=num, met=back == num),
        report.figure(
            f"{kind}, forced: share of the requests that it answered", touched, "share", goal=MOST_TOUCHED,
            met=max(touched) < MOST_TOUCHED,
        ),
        report.figure(
            f"{kind}, forced: its first answer until it is taken back", seconds, "s", goal=MOST_S,
            met=max(seconds) < MOST_S,
        ),
        report.figure(f"{kind}, forced: requests failed", [lost], "requests", goal=0, met=lost == 0),
        report.figure(f"{kind}, forced: refused for want of time meanwhile", of("refused"), "share"),
        report.figure(f"{kind}, forced: refused for want of time before", of("refused before"), "share"),
    ]  # fmt: skip
