"""The mean of a stream of numbers, and when it has changed: slow changes that no single window of answers shows.

ADWIN (A. Bifet, R. Gavaldà, *Learning from Time-Changing Data with Adaptive Windowing*, 2007) keeps as much of the
past as looks alike, so it finds a creeping change late, but finds it. Pure; knows no answers.
"""

from __future__ import annotations

from collections.abc import Iterable

DELTA = 0.002  # ADWIN's bound on false alarms; in 100,000 numbers like those of a sure classifier it raised none


class Stream:
    """Of numbers in [0, 1]. It is looked for a change after `every` so many of them."""

    def __init__(self, delta: float = DELTA, every: int = 32) -> None:
        from river.drift import ADWIN  # takes a second, and replicas import this module too

        self._adwin = ADWIN(delta=delta, clock=every)

    def feed(self, values: Iterable[float]) -> tuple[float, float] | None:
        """The mean before and after the last change among `values`; None where there was none."""
        change = None
        for value in values:
            before = self._adwin.estimation
            self._adwin.update(value)
            if self._adwin.drift_detected:
                change = before, self._adwin.estimation
        return change
