"""What a candidate has shown beside the stable version between two ticks, summed over the replicas.

A replica's counts only grow from its start, so each adds the difference to its last reading; one that was started
anew counts from 0. Pure; knows neither how requests are shared out nor what follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from serve.adapt.plain import Plain
from serve.adapt.sequential import NOTHING, Tally

Counts = Mapping[str, Any]
_BAD = ("late", "failed", "nonfinite")  # those that were rescued are among them


@dataclass(frozen=True, slots=True)
class Shadow(Plain):
    """Rows that the candidate was given unseen; of them the sum of how far it agreed, 0 to 1 each, and those that got
    no answer. `shed` ones were not given to it, under load."""

    rows: int = 0
    agreed: float = 0.0
    failed: int = 0
    shed: int = 0

    def plus(self, other: Shadow) -> Shadow:
        return Shadow(self.rows + other.rows, self.agreed + other.agreed, self.failed + other.failed,
                      self.shed + other.shed)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rivals(Plain):
    """Since the snapshot before. Bad requests are late, failed or not finite, those that were rescued too."""

    SHORT: ClassVar[bool] = True

    version: int  # the candidate's
    ready: int = 0  # replicas that hold it
    refused: str = ""  # why one of them cannot
    requests: Tally = NOTHING
    shadow: Shadow = field(default_factory=Shadow)
    pace: float = 0.0  # how many times as long as the stable version's its passes took; 0 where none was timed
    excess_s: float = 0.0  # by how much longer each


@dataclass(frozen=True, slots=True)
class Heard(Plain):
    """What was found out beside the loop about the rollout of `version`."""

    SHORT: ClassVar[bool] = True

    version: int
    labels: Tally = NOTHING  # right and wrong answers by believed labels since the rollout began: all, not the newest
    attempt: int = 0  # of the promotion that has ended
    trouble: str = ""  # why it has failed


def compared(
    replicas: Sequence[tuple[Counts | None, Counts | None]], stable: int | None, model: tuple[float, float]
) -> Rivals | None:
    """From each replica's `rivals` now and before; None while none of them has a candidate.

    `model` are the seconds of one of the stable version's passes: fixed, and for each row.
    """
    now = [found for found, _ in replicas if found and found.get("candidate")]
    if not now:
        return None
    version = int(now[0]["candidate"]["version"])
    alike = [found["candidate"] for found in now if int(found["candidate"]["version"]) == version]
    refused = [str(one.get("reason") or "it cannot") for one in alike if one.get("state") == "refused"]
    ours = _added((_versions(found, stable), _versions(before, stable)) for found, before in replicas)
    theirs = _added((_versions(found, version), _versions(before, version)) for found, before in replicas)
    shadow = _added(((found or {}).get("shadow"), (before or {}).get("shadow")) for found, before in replicas)
    pace, excess_s = _pace(ours, theirs, model)
    return Rivals(
        version=version,
        ready=sum(one.get("state") == "ready" for one in alike),
        refused=refused[0] if refused else "",
        requests=Tally(*_ended(ours), *_ended(theirs)),
        shadow=Shadow(
            int(shadow.get("rows", 0)),
            round(shadow.get("agreed", 0.0), 4),
            int(shadow.get("failed", 0)),
            int(shadow.get("shed", 0)),
        ),
        pace=pace,
        excess_s=excess_s,
    )


def _versions(found: Counts | None, version: int | None) -> Counts | None:
    return ((found or {}).get("versions") or {}).get(str(version))


def _added(pairs: Iterable[tuple[Counts | None, Counts | None]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for now, before in pairs:
        for name, count in (now or {}).items():
            total[name] = total.get(name, 0.0) + max(float(count) - float((before or {}).get(name, 0)), 0.0)
    return total


def _ended(counts: Mapping[str, float]) -> tuple[int, int]:
    bad = int(sum(counts.get(name, 0.0) for name in _BAD))
    return int(counts.get("in_time", 0.0)) + bad, bad


def _pace(ours: Mapping[str, float], theirs: Mapping[str, float], model: tuple[float, float]) -> tuple[float, float]:
    """Both against what the model says of passes with so many rows; the machine slows both alike."""
    passes = theirs.get("passes", 0.0)
    expected_s = _expected_s(theirs, model)
    if not passes or not expected_s:
        return 0.0, 0.0
    ours_s = _expected_s(ours, model)
    usual = max(ours.get("compute_s", 0.0) / ours_s, 1.0) if ours_s else 1.0
    took_s = theirs.get("compute_s", 0.0)
    return float(f"{took_s / expected_s / usual:.4g}"), float(f"{(took_s - expected_s * usual) / passes:.4g}")


def _expected_s(counts: Mapping[str, float], model: tuple[float, float]) -> float:
    return counts.get("passes", 0.0) * model[0] + counts.get("compute_rows", 0.0) * model[1]
