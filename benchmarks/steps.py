"""How soon a change shows: a step of three times the load until p99 is back inside, and replicas added and removed.

Both under open-loop load. Knows one endpoint or target at a time.
"""

from __future__ import annotations

import threading
import time

import numpy as np

from benchmarks import openloop, tally
from benchmarks.burst import OBJECTIVE_S
from benchmarks.contenders import Trimtab, say
from benchmarks.openloop import FAILED, Plan, Target
from cluster import session

TIMEOUT_S = 25.0  # until replicas are as many as asked for


def recovery(target: Target, rows: int, base: float, images: np.ndarray, labels: np.ndarray, *, quick: bool) -> float:
    """Seconds from a step from 0.5 to 1.5 times `base` requests a second; the step lasts 16 s, or 4."""
    before_s, after_s = (1.0, 4.0) if quick else (4.0, 16.0)
    arrivals = openloop.poisson([(before_s, 0.5 * base), (after_s, 1.5 * base)], seed=1)
    records = openloop.replay(Plan(target, rows, seed=1), arrivals, images, labels)
    return tally.recovery_s(records, before_s, before_s + after_s, OBJECTIVE_S)


def scaling(trimtab: Trimtab, rows: int, base: float, told_ms: float, *, quick: bool) -> dict[str, float | None]:
    """1 -> 2 -> 1 replicas at half of `base`: seconds until so many run, and what became of the requests."""
    arrivals = openloop.poisson([(20.0 if quick else 30.0, 0.5 * base)], seed=2)
    plan = Plan(trimtab.target, rows, seed=2)
    with openloop.running(plan, arrivals, trimtab.images, trimtab.labels) as load:
        time.sleep(2.0)
        found = {f"to {wanted}": _scale(trimtab, wanted, told_ms) for wanted in (2, 1)}
        records = load.result()
    errors = (records.status >= 500) & (records.status != 504)
    found["lost"] = float(((records.status == FAILED) | errors).sum())
    found["requests"] = float(len(records.status))
    found["in time"] = tally.tally(records, OBJECTIVE_S).in_time
    say(f"scaling: {found}")
    return found


def _scale(trimtab: Trimtab, wanted: int, told_ms: float) -> float | None:
    """Seconds from asking for so many replicas until so many run; None when they do not in time."""
    asked = time.monotonic()
    replicas = {"min": wanted, "max": wanted}
    asking = threading.Thread(target=lambda: trimtab.set(told_ms, replicas=replicas))
    asking.start()
    found = None
    while found is None and time.monotonic() < asked + TIMEOUT_S:
        if _running(trimtab) == wanted:
            found = time.monotonic() - asked
        time.sleep(0.1)
    asking.join()
    return found


def _running(trimtab: Trimtab) -> int:
    tree = session.rest(trimtab.endpoint.cluster, "GET", session.APPLICATIONS)["applications"]
    deployments = tree[trimtab.endpoint.bundle.name]["deployments"].values()
    return sum(replica["state"] == "RUNNING" for each in deployments for replica in each["replicas"])
