"""Progress, results and errors of a step, carried over the border between a job and its follower.

A step may run in the calling process or in a job whose only way out is its log. Either way it makes
the same calls; in a job they become one-line markers on stdout, which the follower turns back into
events. Knows nothing of Ray, of terminals, or of what the figures mean.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard

from cluster import errors
from cluster.errors import TrimtabError, UserError

MARK = "@trimtab "
MIN_INTERVAL_S = 0.2
_KINDS = ("progress", "result", "error")


@dataclass(frozen=True)
class Event:
    """What a step says: how far it is, what came out of it, or why it failed.

    `step`, `done` and `total` belong to progress (`total` 0: not known); `figures` are JSON values;
    `error`, `text`, `exit_code` and the `parts` of a UserError belong to an error.
    """

    kind: Literal["progress", "result", "error"]
    step: str = ""
    done: float = 0
    total: float = 0
    figures: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    text: str = ""
    exit_code: int = 1
    parts: dict[str, str] = field(default_factory=dict)

    def exception(self) -> TrimtabError:
        """The error as the job raised it: same text, same exit code, same class when it is one of ours."""
        known = getattr(errors, self.error, None)
        cls = known if isinstance(known, type) and issubclass(known, TrimtabError) else TrimtabError
        made: TrimtabError = cls.__new__(cls, self.text)  # __init__ would put quotes round the value again
        made.__dict__.update(self.parts, exit_code=self.exit_code)
        return made


class Progress:
    """Says how far one step is, at most five times a second; the last update is always said."""

    def __init__(self, step: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.step, self._clock = step, clock
        self._said_at = -math.inf

    def update(self, done: float, total: float = 0, **figures: Any) -> None:
        """`done` of `total` units (rows, epochs, trials), with figures such as `loss=0.1`."""
        now = self._clock()
        if now - self._said_at < MIN_INTERVAL_S and done != total:
            return
        self._said_at = now
        _say(Event("progress", step=self.step, done=done, total=total, figures=figures))


def result(**figures: Any) -> None:
    """A step's final figures, such as `version="digits-3"` or `accuracy=0.98`."""
    _say(Event("result", figures=figures))


def error(failure: TrimtabError) -> None:
    """Why the step failed, in the words a person will see."""
    parts = {}
    if isinstance(failure, UserError):
        parts = {name: str(getattr(failure, name)) for name in ("field", "value", "problem", "mend")}
    name, text = type(failure).__name__, str(failure)
    _say(Event("error", error=name, text=text, exit_code=failure.exit_code, parts=parts))


def parse(line: str) -> Event | None:
    """The event in a line of a job's log, or None for any other line."""
    # Something before it may have left its line open, so the mark need not come first.
    _, mark, text = line.rpartition(MARK)
    if not mark:
        return None
    try:
        fields = json.loads(text)
    except ValueError:
        return None
    return Event(**fields) if _is_event(fields) else None


@contextlib.contextmanager
def listening(listener: Callable[[Event], None]) -> Iterator[None]:
    """Inside, this process's events go to `listener` and not to stdout: for a step that runs inline."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


def _is_event(fields: object) -> TypeGuard[dict[str, Any]]:
    if not isinstance(fields, dict) or fields.get("kind") not in _KINDS:
        return False
    blank = vars(Event("progress"))
    return all(
        name in blank and isinstance(value, (int, float) if isinstance(blank[name], int) else type(blank[name]))
        for name, value in fields.items()
    )


def _say(event: Event) -> None:
    _listener(event)


def _to_stdout(event: Event) -> None:
    blank = vars(Event(event.kind))
    fields = {"kind": event.kind} | {k: _plain(v) for k, v in vars(event).items() if v != blank[k]}
    # One write, so that lines of other threads and processes do not fall into it.
    sys.stdout.write(f"{MARK}{json.dumps(fields)}\n")
    sys.stdout.flush()


def _plain(value: Any) -> Any:
    """JSON has no NaN and no numpy or torch scalars."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, str | bool | int | None):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return _plain(value.tolist()) if hasattr(value, "tolist") else str(value)


_listener: Callable[[Event], None] = _to_stdout
