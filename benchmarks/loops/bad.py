"""Versions that are worse in five ways, ordered into the canary by hand, past the gate: what they cost the clients."""

from __future__ import annotations

import time
from typing import Any

from benchmarks import bad_versions, report
from benchmarks.loops.events import first
from benchmarks.loops.setting import Setting
from benchmarks.loops.traffic import Seen, Traffic, wait

MOST_TOUCHED, MOST_S = 0.01, 10.0


def run(setting: Setting) -> list[dict[str, Any]]:
    figures = []
    for kind in bad_versions.KINDS:
        key = f"bad-{kind}-{time.time_ns()}"
        version = setting.registered(bad_versions.make(setting.served.bundle, kind, key).key)
        rounds = [_round(setting, version) for _ in range(setting.runs)]
        figures += _figures(kind, rounds)
    return figures


def _round(setting: Setting, version: int) -> dict[str, float]:
    """One canary of a bad version under traffic, until it is taken back."""
    with Traffic(setting.served, setting.rows("test"), per_s=setting.per_s, labelled=0.3) as traffic:
        time.sleep(3.0)
        started = time.time()
        if setting.is_refused(version):
            return {"touched": 0.0, "seconds": 0.0, "failed": 0.0, "back": 1.0, "refused": 1.0}
        ended = wait(lambda: first(setting.served, started, "taken back", version=version) is not None, 300.0, 0.1)
        time.sleep(2.0)
    seen = traffic.since(started, ended or float("inf"))
    touched = [one for one in seen if one.version == version]
    return {
        "touched": len(touched) / max(1, len(seen)),
        "seconds": _evidence_s(touched, ended),
        "failed": float(sum(one.status != 200 for one in traffic.seen)),
        "back": float(ended is not None),
        "refused": 0.0,
    }


def _evidence_s(touched: list[Seen], ended: float | None) -> float:
    """From the first answer of the bad version, which is the first evidence for a client, until it is taken back."""
    if not touched or ended is None:
        return 0.0
    return max(0.0, ended - min(one.at for one in touched))


def _figures(kind: str, rounds: list[dict[str, float]]) -> list[dict[str, Any]]:
    def of(name: str) -> list[float]:
        return [measured[name] for measured in rounds]

    num, back, failed = len(rounds), sum(of("back")), sum(of("failed"))
    return [
        report.figure(f"{kind}: taken back or not begun, of {num}", [back], "rollouts", goal=num, met=back == num),
        report.figure(f"{kind}: of these not begun, as no replica could open it", [sum(of("refused"))], "rollouts"),
        report.figure(
            f"{kind}: share of the requests that it answered", of("touched"), "share", goal=MOST_TOUCHED,
            met=max(of("touched")) < MOST_TOUCHED,
        ),
        report.figure(
            f"{kind}: its first answer until it is taken back", of("seconds"), "s", goal=MOST_S,
            met=max(of("seconds")) < MOST_S,
        ),
        report.figure(f"{kind}: requests failed", [failed], "requests", goal=0, met=failed == 0),
    ]  # fmt: skip
