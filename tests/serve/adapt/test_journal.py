from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serve.adapt.journal import CHECKPOINT_ENTRIES, Journal, files, read, read_last

STATE = {"kind": "state", "at": 0.0}


def tick(number: int, size: int = 10) -> dict[str, Any]:
    return {"kind": "tick", "at": float(number), "filling": "x" * size}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal(tmp_path / "journal", 64 * 1024)
    assert made.append(STATE)
    return made


def ticks(entries: list[dict[str, Any]]) -> list[float]:
    return [entry["at"] for entry in entries if entry["kind"] == "tick"]


def test_what_is_written_is_read_in_order(journal: Journal) -> None:
    for number in range(100):
        assert journal.append(tick(number))

    reading = read(journal.folder)

    assert ticks(reading.entries) == list(range(100))
    assert reading.problems == []


def test_it_takes_no_more_room_than_it_may_and_keeps_the_latest(journal: Journal) -> None:
    for number in range(3000):
        if journal.wants_state:
            journal.append(STATE)
        journal.append(tick(number, 100))

    reading = read(journal.folder)
    kept = ticks(reading.entries)

    assert sum(path.stat().st_size for path in files(journal.folder)) <= 64 * 1024
    assert len(files(journal.folder)) > 3
    assert kept == list(range(int(kept[0]), 3000))
    assert reading.entries[0]["kind"] == "state"  # each file can be replayed without those before it


def test_it_asks_for_a_state_at_first_now_and_then_and_after_a_loss(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    at_first = journal.wants_state
    journal.append(STATE)
    after_it = journal.wants_state
    for number in range(CHECKPOINT_ENTRIES):
        journal.append(tick(number))

    assert (at_first, after_it, journal.wants_state) == (True, False, True)


def test_a_line_that_was_cut_off_is_named_and_the_next_writer_begins_a_new_file(journal: Journal) -> None:
    journal.append(tick(1))
    (file,) = files(journal.folder)
    with file.open("ab") as stream:
        stream.write(b'{"kind":"tick","at":2.0,"fil')
    again = Journal(journal.folder)
    again.append(STATE)
    again.append(tick(3))

    reading = read(journal.folder)

    assert ticks(reading.entries) == [1, 3]
    assert reading.problems == ["00000001.jsonl line 3: cut off after 28 bytes"]
    assert [path.name for path in files(journal.folder)] == ["00000001.jsonl", "00000002.jsonl"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        pytest.param(b"{]\n", "line 3: not JSON", id="not JSON"),
        pytest.param(b"\x00\xff\x00\n", "line 3: not JSON", id="bytes"),
        pytest.param(b"[1, 2]\n", "line 3: no entry of a journal", id="no object"),
        pytest.param(b'{"at": 1}\n', "line 3: no entry of a journal", id="no kind"),
    ],
)
def test_a_corrupted_line_is_named_and_left_out(journal: Journal, line: bytes, problem: str) -> None:
    journal.append(tick(1))
    (file,) = files(journal.folder)
    with file.open("ab") as stream:
        stream.write(line)
    with file.open("ab") as stream:
        stream.write(b'{"kind":"tick","at":2.0}\n')

    reading = read(file)

    assert ticks(reading.entries) == [1, 2]
    assert len(reading.problems) == 1
    assert problem in reading.problems[0]


def test_a_restarted_actor_reads_from_the_last_state_on_also_over_several_files(journal: Journal) -> None:
    journal.append(tick(1))
    journal.append({**STATE, "at": 2.0})
    journal.append(tick(3))
    Journal(journal.folder).append(tick(4))  # one that died before it had written a state

    reading = read_last(journal.folder)

    assert [(entry["kind"], entry["at"]) for entry in reading.entries] == [("state", 2.0), ("tick", 3.0), ("tick", 4.0)]


def test_where_there_is_no_journal_there_is_nothing_to_read(tmp_path: Path) -> None:
    assert read_last(tmp_path / "none").entries == []
    assert read(tmp_path / "none").entries == []


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Make the disk full, or not: every write gets three bytes in, as at the end of a file system's last block."""
    write, is_full = os.write, False

    def limited(fd: int, data: bytes) -> int:
        if not is_full or not data.startswith(b'{"kind"'):
            return write(fd, data)
        write(fd, data[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    def switch(full: bool) -> None:
        nonlocal is_full
        is_full = full

    monkeypatch.setattr(os, "write", limited)
    return switch


def test_a_full_disk_costs_entries_and_nothing_else(journal: Journal, full_disk: Callable[[bool], None]) -> None:
    journal.append(tick(1))
    full_disk(True)
    written = [journal.append(tick(number)) for number in (2, 3, 4)]
    trouble, lost, wants_state = journal.trouble, journal.num_lost, journal.wants_state
    full_disk(False)
    journal.append({**STATE, "at": 5.0})
    journal.append(tick(6))

    reading = read(journal.folder)

    assert written == [False] * 3
    assert (lost, wants_state) == (3, True)
    assert "No space left" in str(trouble)
    assert [entry["kind"] for entry in reading.entries] == ["state", "tick", "lost", "state", "tick"]
    assert reading.entries[2]["entries"] == 3
    assert reading.problems == []
    assert journal.trouble is None


def test_a_folder_that_cannot_be_made_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    journal = Journal(tmp_path / "file" / "journal")
    refused = journal.append(STATE)
    (tmp_path / "file").unlink()

    assert not refused
    assert journal.append(STATE)
    assert [entry["kind"] for entry in read(journal.folder).entries] == ["lost", "state"]
