"""Change of one topic's scores at a pace too slow for windows: ADWIN, over a bounded memory that can be written down.

A. Bifet, R. Gavaldà, *Learning from Time-Changing Data with Adaptive Windowing*, 2007, as the package river has it.
It is slow and sure, so it stands behind the tests of windows. Knows no alerts.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from cluster.errors import ConfigError

if TYPE_CHECKING:
    from river.drift import ADWIN

DELTA = 0.002
MOST, KEPT = 4000, 2000  # scores: at most, and after the oldest are let go


class Change:
    """Scores from 0 to 1 in steps of 1/255; the detector's state follows from those kept, and from no others."""

    def __init__(self, kept: bytes = b"") -> None:
        self._kept = bytearray(kept)
        self._adwin = _filled(self._kept)

    def add(self, score: float) -> tuple[float, float, int] | None:
        """The mean before and after a change, and how many scores are after it; None where there is none."""
        level = round(255 * min(1.0, max(0.0, score)))
        self._kept.append(level)
        before = self._adwin.estimation
        self._adwin.update(level / 255)
        found = None
        if self._adwin.drift_detected:
            num = min(len(self._kept), max(1, round(self._adwin.width)))
            found = (before, self._adwin.estimation, num)
            self._forget(num)
        elif len(self._kept) >= MOST:
            self._forget(KEPT)
        return found

    def _forget(self, num: int) -> None:
        """All but the last `num`. The detector is made anew, as it would be after a restart."""
        del self._kept[:-num]
        self._adwin = _filled(self._kept)

    def to_json(self) -> str:
        return base64.b64encode(self._kept).decode()

    @classmethod
    def from_json(cls, text: str) -> Change:
        return cls(base64.b64decode(text))


def _filled(scores: bytearray) -> ADWIN:
    try:
        from river.drift import ADWIN
    except ImportError as error:
        raise ConfigError("alerts", "drift", "needs the package river", "pip install river") from error
    made = ADWIN(delta=DELTA)
    for level in scores:
        made.update(level / 255)
    return made
