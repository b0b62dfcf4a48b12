"""What an alert shows a person, so that they need not take its word for it. Pure; decides nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from serve.watch import odds
from serve.watch.alert import clock
from serve.watch.windows import Window


def evidence(window: Window, past: Sequence[Window], p: float | None) -> dict[str, Any]:
    """The window, its counts, those of the windows before, the chance `p` of so much, and the most telling texts.

    `trend` is of the share of negatives over all these windows, per hour, with its standard error.
    """
    found = odds.trend([((one.start + one.end) / 2, *one.counts) for one in [*past, window]])
    slope = {"share_per_hour": 3600 * found[0], "error": 3600 * found[1]} if found else None
    return {
        "window": {"start": window.start, "end": window.end, "from": clock(window.start), "to": clock(window.end)},
        "counts": {"events": window.events, "negatives": window.negatives, "share": round(window.share, 4)},
        "labels": dict(window.labels),
        "before": {
            "windows": len(past),
            "events": sum(one.events for one in past),
            "negatives": sum(one.negatives for one in past),
            "share": round(usual(past), 4),
        },
        "p": p,
        "trend": slope,
        "texts": list(window.texts),
    }


def usual(past: Sequence[Window]) -> float:
    """The share of negatives in all of them."""
    events = sum(one.events for one in past)
    return sum(one.negatives for one in past) / events if events else 0.0


def labels(past: Sequence[Window]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for window in past:
        found.update(window.labels)
    return dict(found)
