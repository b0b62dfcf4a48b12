"""When a cron line fires, in the clock of a time zone: `croniter` with checks that name the mend. Pure.

Where a clock is set forward, what would have been in the hour that is not there fires at its end; where it is set
back, what is in the hour that is there twice fires once, unless the line is for every hour (as Vixie's cron has it).
"""

from __future__ import annotations

import re
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

YEARS = 5  # a line that does not fire within them never does: every leap day comes once in four
_DRAWN = re.compile(r"(?<![A-Za-z])[RHrh](?![A-Za-z])")  # croniter's own words for a time that is drawn or hashed


def check(line: str, timezone: str) -> None:
    """Raises ValueError in a sentence: no cron line, one that never fires, or an unknown time zone."""
    from croniter import croniter

    try:
        ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"timezone {timezone!r} is unknown; write one such as UTC or Europe/Berlin") from None
    if len(line.split()) not in (1, 5) or _DRAWN.search(line) or not croniter.is_valid(line):
        raise ValueError(f"cron {line!r} is no cron line; write five fields, for example `0 3 * * 1-5`")
    if following(line, timezone, 0.0) is None:
        raise ValueError(f"cron {line!r} never fires: there is no such day; mend day of month or month")


def following(line: str, timezone: str, after: float) -> float | None:
    """The first time after `after` at which it fires, both in unix seconds; None where there is none in years."""
    from croniter import CroniterBadDateError, croniter

    start = datetime.fromtimestamp(after, ZoneInfo(timezone))
    times = croniter(line, start, max_years_between_matches=YEARS)
    try:
        found: datetime = times.get_next(datetime)
        while found.fold and not _is_for_every_hour(line):
            found = times.get_next(datetime)
    except CroniterBadDateError:
        return None
    return found.timestamp()


def _is_for_every_hour(line: str) -> bool:
    fields = line.split()
    return fields[1].startswith("*") if len(fields) == 5 else fields[0] == "@hourly"
