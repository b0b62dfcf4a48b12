"""What became of the requests of each version while two are held side by side, and which request is meant for which.

Counts only grow, from the replica's start, and are one addition for each request. Pure: knows neither how a version
computes nor who judges it by these numbers.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from serve.ladder import Spent

Fate = Literal["in_time", "late", "failed", "nonfinite"]
MAX_VERSIONS = 8  # whose counts are kept: the two that are held, and some that were


def place(request_id: str, version: int, person: bytes) -> float:
    """Where in [0, 1) a request is for `version`: a share takes those below it, so it keeps all it had as it grows.

    The same in every replica and at every try; another one for another version, so that it is not always the same
    clients who meet what is new. `person` keeps the shares of different uses apart.
    """
    digest = hashlib.blake2b(f"{version}:{request_id}".encode(), digest_size=8, person=person).digest()
    return int.from_bytes(digest, "little") / 2.0**64


@dataclass(slots=True)
class VersionCount:
    """`requests` that were meant for a version and have ended, each with one `Fate`.

    `late` also has those that were never begun for want of time. `rescued` are those of `late`, `failed` and
    `nonfinite` that another version answered.
    """

    requests: int = 0
    rows: int = 0
    in_time: int = 0
    late: int = 0
    failed: int = 0
    nonfinite: int = 0
    rescued: int = 0
    spent: list[Spent] = field(default_factory=list)  # one for each time that it was loaded

    def end(self, fate: Fate, num_rows: int) -> None:
        self.requests += 1
        self.rows += num_rows
        setattr(self, fate, getattr(self, fate) + 1)

    def to_json(self) -> dict[str, Any]:
        counts = asdict(self)
        spent = counts.pop("spent")
        return {
            **counts,
            "compute_s": sum(part["seconds"] for part in spent),
            "compute_rows": sum(part["rows"] for part in spent),
            "passes": sum(part["passes"] for part in spent),
        }


@dataclass(slots=True)
class ShadowCount:
    """Rows that the candidate answered beside the stable version.

    `failed` of them got nothing that could be compared. `agreed` is the sum of the others' agreement, 0 to 1 each, and
    `difference` of their mean absolute differences. `shed` rows were to be answered too, and were not, under load.
    """

    rows: int = 0
    agreed: float = 0.0
    failed: int = 0
    shed: int = 0
    difference: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Tally:
    """All counts of one replica."""

    def __init__(self) -> None:
        self.shadow = ShadowCount()
        self._versions: dict[int, VersionCount] = {}

    def of(self, version: int) -> VersionCount:
        found = self._versions.get(version)
        if found is None:
            found = self._versions[version] = VersionCount()
        return found

    def meet(self, version: int, spent: Spent) -> None:
        """A version that was loaded counts what it spends; the ones met longest ago are forgotten."""
        count = self._versions.pop(version, None) or VersionCount()
        self._versions[version] = count
        if not any(part is spent for part in count.spent):
            count.spent.append(spent)
        while len(self._versions) > MAX_VERSIONS:
            del self._versions[next(iter(self._versions))]

    def to_json(self) -> dict[str, Any]:
        return {
            "versions": {str(version): count.to_json() for version, count in self._versions.items()},
            "shadow": self.shadow.to_json(),
        }
