"""The record of everything that was seen and decided: one JSON object a line, in numbered files of a folder.

Only ever appended to. Files are closed at an eighth of what the record may take, and the oldest removed. Each begins
with a `state` entry, so that it can be replayed without those before it. Writing never raises: on a full disk
entries are counted as lost, and when there is room again the record says so and goes on with a `state`.
Lines are not flushed to the disk one by one: what the machine itself takes with it when it dies is a few seconds.

Knows what a line is, not what it means: that is `serve.adapt.replay`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NUM_FILES = 8
STATE, LOST = "state", "lost"
CHECKPOINT_ENTRIES = 300  # a minute of ticks: how much a restarted actor has to replay at most
Entry = dict[str, Any]


@dataclass
class Reading:
    """`problems` name the lines that could not be read; the others are in `entries`, in order."""

    entries: list[Entry] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Journal:
    """The writing end. One writer a file: each process that opens the folder begins a new one."""

    def __init__(self, folder: Path, max_bytes: int = 256 * 1024**2) -> None:
        self.folder = folder
        self.trouble: str | None = None  # why entries are being lost just now
        self.num_lost = 0  # since it was opened
        self._max_bytes, self._unsaid = max_bytes, 0
        self._fd: int | None = None
        self._size = self._since_state = 0
        self.wants_state = True

    def append(self, entry: Mapping[str, Any]) -> bool:
        """Whether it was written. Begins a new file with a `state` entry when the present one is full.

        When `wants_state` is set the next entry should be a `state`.
        """
        is_state = entry.get("kind") == STATE
        try:
            if self._fd is None or (is_state and self._size >= self._max_bytes // NUM_FILES):
                self._open_next()
            if self._unsaid:
                self._write({"kind": LOST, "entries": self._unsaid, "why": self.trouble})
                self._unsaid, self.trouble = 0, None
            self._write(entry)
        except OSError as error:
            self.trouble = str(error)
            self.num_lost += 1
            self._unsaid += 1
            self.wants_state = True
            return False
        self._since_state = 0 if is_state else self._since_state + 1
        is_full = self._size >= self._max_bytes // NUM_FILES
        self.wants_state = (self.wants_state and not is_state) or is_full or self._since_state >= CHECKPOINT_ENTRIES
        return True

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _write(self, entry: Mapping[str, Any]) -> None:
        """All of the line or nothing."""
        assert self._fd is not None
        line = json.dumps(entry, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        try:
            if (written := os.write(self._fd, line)) < len(line):
                raise OSError(f"only {written} of {len(line)} bytes could be written")
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(line)

    def _open_next(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.close()
        numbers = [int(path.stem) for path in files(self.folder)]
        path = self.folder / f"{max(numbers, default=0) + 1:08d}.jsonl"
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._size = 0
        self._tidy(path)

    def _tidy(self, current: Path) -> None:
        """Remove the oldest until there is room for one more file."""
        sizes = {path: path.stat().st_size for path in files(self.folder) if path != current}
        spare = self._max_bytes - self._max_bytes // NUM_FILES
        for path, size in list(sizes.items()):
            if sum(sizes.values()) <= spare:
                return
            path.unlink(missing_ok=True)
            sizes[path] -= size


def files(folder: Path) -> list[Path]:
    """The journal's files, oldest first; none where there is no folder."""
    found = folder.glob("*.jsonl") if folder.is_dir() else iter(())
    return sorted((path for path in found if path.stem.isdigit()), key=lambda path: int(path.stem))


def read(path: Path) -> Reading:
    """A whole journal, or one file of it. What cannot be read is named and left out. Raises OSError."""
    reading = Reading()
    for file in [path] if path.is_file() else files(path):
        _read_into(reading, file)
    return reading


def read_last(folder: Path) -> Reading:
    """From the last `state` entry on: what a restarted actor needs. Empty where there is none. Raises OSError."""
    return since_state(map(read, reversed(files(folder))))


def since_state(parts: Iterable[Reading]) -> Reading:
    """From the last `state` on, of parts that come newest first: no more of them are taken than that needs."""
    later = Reading()
    for part in parts:
        later = Reading(part.entries + later.entries, part.problems + later.problems)
        if states := [i for i, entry in enumerate(later.entries) if entry["kind"] == STATE]:
            return Reading(later.entries[states[-1] :], later.problems)
    return Reading([], later.problems)


def read_lines(reading: Reading, name: str, lines: Iterable[bytes]) -> None:
    """Add what the lines of the file `name` say."""
    for number, line, is_whole in _numbered(lines):
        where = f"{name} line {number}"
        if not is_whole:
            reading.problems.append(f"{where}: cut off after {len(line)} bytes")
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            reading.problems.append(f"{where}: not JSON ({error})")
            continue
        if not isinstance(entry, dict) or not isinstance(entry.get("kind"), str):
            reading.problems.append(f"{where}: no entry of a journal")
            continue
        reading.entries.append(entry)


def _read_into(reading: Reading, file: Path) -> None:
    with file.open("rb") as stream:
        read_lines(reading, file.name, stream)


def _numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes, bool]]:
    """Number, bytes without the line's end, and whether it has one."""
    for number, line in enumerate(lines, start=1):
        yield number, line.rstrip(b"\n"), line.endswith(b"\n")
