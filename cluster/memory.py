"""How much memory is free for us, on a machine or in a container."""

from __future__ import annotations

from pathlib import Path

import psutil

GROUP = Path("/sys/fs/cgroup")  # this process's own, as a container sees it


def available_bytes(group: Path = GROUP) -> int:
    """The machine's, or less where a container has a limit."""
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no limit ("max"), or no such control group
        return free
    return max(0, min(free, limit - used + int(stat.get("inactive_file", 0))))  # files in memory give way
