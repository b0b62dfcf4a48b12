from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from cluster import cron
from cluster.errors import ConfigError
from cluster.experiment import parse

BERLIN = "Europe/Berlin"


def times(line: str, zone: str, since: str, num: int) -> list[str]:
    """The next times, with their distance to UTC, after a time of that zone."""
    at, found = datetime.fromisoformat(since).replace(tzinfo=ZoneInfo(zone)).timestamp(), []
    for _ in range(num):
        following = cron.following(line, zone, at)
        assert following is not None
        assert following > at
        at = following
        found.append(datetime.fromtimestamp(at, ZoneInfo(zone)).strftime("%d %H:%M%z"))
    return found


@pytest.mark.parametrize(
    ("line", "zone", "since", "expected"),
    [
        pytest.param(
            "30 2 * * *", BERLIN, "2026-03-28 00:00", ["28 02:30+0100", "29 03:00+0200", "30 02:30+0200"],
            id="in the hour that is not there: at its end",
        ),
        pytest.param(
            "0 * * * *", BERLIN, "2026-03-29 00:30", ["29 01:00+0100", "29 03:00+0200", "29 04:00+0200"],
            id="each hour that is there",
        ),
        pytest.param(
            "*/20 2 * * *", BERLIN, "2026-03-28 12:00", ["29 03:00+0200", "30 02:00+0200"],
            id="several in the hour that is not there: once",
        ),
        pytest.param(
            "30 2 * * *", BERLIN, "2026-10-24 00:00", ["24 02:30+0200", "25 02:30+0200", "26 02:30+0100"],
            id="in the hour that is there twice: once",
        ),
        pytest.param(
            "0 * * * *", BERLIN, "2026-10-25 01:30", ["25 02:00+0200", "25 02:00+0100", "25 03:00+0100"],
            id="of every hour: in both",
        ),
        pytest.param(
            "45 1 * * *", "Australia/Lord_Howe", "2026-04-04 00:00",
            ["04 01:45+1100", "05 01:45+1100", "06 01:45+1030"],
            id="a clock set back by half an hour",
        ),
        pytest.param(
            "15 0 * * *", "Asia/Beirut", "2026-03-28 00:00", ["28 00:15+0200", "29 01:00+0300", "30 00:15+0300"],
            id="a day that begins at one",
        ),
        pytest.param("0 0 29 2 *", "UTC", "2026-01-01 00:00", ["29 00:00+0000"], id="a leap day"),
    ],
)  # fmt: skip
def test_when_it_fires(line: str, zone: str, since: str, expected: list[str]) -> None:
    assert times(line, zone, since, len(expected)) == expected


@pytest.mark.parametrize(
    ("line", "zone", "problem"),
    [
        pytest.param("0 0 30 2 *", "UTC", "never fires: there is no such day", id="never"),
        pytest.param("0 0 31 4,6,9,11 *", "UTC", "never fires", id="never in four months"),
        pytest.param("* * * * * *", "UTC", "is no cron line; write five fields", id="with seconds"),
        pytest.param("61 * * * *", "UTC", "is no cron line", id="no minute"),
        pytest.param("R * * * *", "UTC", "is no cron line", id="drawn"),
        pytest.param("@reboot", "UTC", "is no cron line", id="no time"),
        pytest.param("", "UTC", "is no cron line", id="empty"),
        pytest.param("0 3 * * *", "Mars/Olympus", "timezone 'Mars/Olympus' is unknown", id="no zone"),
        pytest.param("0 3 * * *", "../etc/passwd", "is unknown; write one such as UTC", id="a path"),
    ],
)
def test_what_never_fires_is_a_mistake_in_the_experiment(line: str, zone: str, problem: str) -> None:
    schedule = {"cron": line, "timezone": zone}
    tree = {"name": "digits", "data": {"source": {"kind": "digits"}}, "retrain": {"triggers": {"schedule": schedule}}}

    with pytest.raises(ConfigError, match=r"retrain\.triggers\.schedule") as refused:
        parse(tree)

    assert problem in str(refused.value)
