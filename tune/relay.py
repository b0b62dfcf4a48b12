"""What Ray Tune calls while a search runs, passed on to the one `Watch` of this process.

Ray Tune pickles its callbacks and stoppers with a search, so these hold nothing: a search that goes on after a death
meets a new watch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ray import tune

from tune.watch import Watch

_current: Watch | None = None


@contextlib.contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Inside, this process's `Relay` and `Halt` are those of `watch`."""
    global _current
    before, _current = _current, watch
    try:
        yield
    finally:
        _current = before


class Relay(tune.Callback):
    """What Ray Tune calls back, by keywords."""

    def on_trial_result(self, **info: Any) -> None:
        if _current is not None:
            _current.on_result(info["trials"], info["trial"], info["result"])

    def on_trial_complete(self, **info: Any) -> None:
        if _current is not None:
            _current.on_ended(info["trials"], info["trial"], failed=False)

    def on_trial_error(self, **info: Any) -> None:
        if _current is not None:
            _current.on_ended(info["trials"], info["trial"], failed=True)


class Halt(tune.Stopper):
    """Ends the search when its watch says so; a trial's own end is its own matter."""

    def __call__(self, *_: Any) -> bool:
        return False

    def stop_all(self) -> bool:
        return _current is not None and _current.is_over()
