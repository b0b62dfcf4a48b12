from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from cluster import ledger as ledgers
from cluster.ledger import OVERLAP_NS, Follower, Ledger
from cluster.store import Store

SCHEMA = pa.schema({"id": pa.string(), "value": pa.int64()})
ROOT = Path(__file__).resolve().parents[2]


def rows(*numbers: int) -> list[dict[str, object]]:
    return [{"id": f"row {number}", "value": number} for number in numbers]


def values(ledger: Ledger, since_ns: int = 0) -> list[int]:
    found: list[int] = ledger.read(since_ns)["value"].to_pylist()
    return found


@pytest.fixture
def ledger(store: Store) -> Ledger:
    return Ledger(store, "words/digits", SCHEMA)


def test_rows_of_all_writers_are_read_in_the_order_they_came(ledger: Ledger, store: Store) -> None:
    other = Ledger(store, "words/digits", SCHEMA)

    ledger.append(rows(1, 2))
    other.append(rows(3))
    ledger.append(rows(4))

    assert values(ledger) == values(other) == [1, 2, 3, 4]


def test_where_nothing_was_written_there_are_no_rows(ledger: Ledger) -> None:
    assert ledger.read().schema == SCHEMA
    assert values(ledger) == []


def test_a_row_that_comes_again_counts_once(ledger: Ledger) -> None:
    ledger.append(rows(1, 2))
    ledger.append(rows(2, 3))

    assert values(ledger) == [1, 2, 3]


def test_small_parts_become_one_and_no_row_is_lost(ledger: Ledger) -> None:
    num = 3 * ledgers.MERGED_PARTS

    for number in range(num):
        ledger.append(rows(number))

    assert values(ledger) == list(range(num))
    assert len(ledger.parts()) <= ledgers.MERGED_PARTS


def test_a_reader_misses_nothing_while_parts_are_merged(ledger: Ledger, store: Store) -> None:
    done, seen = threading.Event(), list[int]()

    def read() -> None:
        reader = Ledger(store, "words/digits", SCHEMA)
        while not done.is_set():
            seen.append(len(values(reader)))

    reading = threading.Thread(target=read)
    reading.start()
    for number in range(4 * ledgers.MERGED_PARTS):
        ledger.append(rows(number))
    done.set()
    reading.join()

    assert seen == sorted(seen)
    assert len(values(ledger)) == 4 * ledgers.MERGED_PARTS


def test_a_listing_that_lacks_merged_parts_and_what_they_became_is_not_taken_for_whole(
    ledger: Ledger, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        ledger.append(rows(number))
    reader, whole = Ledger(store, "words/digits", SCHEMA), Store.names

    def torn(self: Store, folder: str) -> list[str]:
        """What a folder's reader sees that had passed the place of the new part, and not yet those of the old ones."""
        monkeypatch.setattr(Store, "names", whole)
        *merged, last = self.names(folder)
        ledger.replace(merged, pa.Table.from_pylist(rows(0, 1), SCHEMA))
        return [last]

    monkeypatch.setattr(Store, "names", torn)

    assert values(reader) == [0, 1, 2]


@pytest.mark.parametrize("point", ["put", "remove"])
def test_a_writer_that_dies_in_a_merge_loses_and_doubles_nothing(store: Store, ledger: Ledger, point: str) -> None:
    program = f"""
import os, signal
from cluster.ledger import Ledger, MERGED_PARTS
from cluster.store import Store
import pyarrow as pa
ledger = Ledger(Store.open({store.uri!r}), "words/digits", pa.schema({{"id": pa.string(), "value": pa.int64()}}))
for number in range(MERGED_PARTS - 1):
    ledger.append([{{"id": f"row {{number}}", "value": number}}])
calls, whole = [], getattr(Store, {point!r})
def dies(self, *arguments):
    calls.append(arguments)
    if {point!r} == "put" and len(calls) == 2 or {point!r} == "remove" and len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, *arguments)
setattr(Store, {point!r}, dies)
ledger.append([{{"id": f"row {{MERGED_PARTS - 1}}", "value": MERGED_PARTS - 1}}])
"""

    died = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)

    assert died.returncode == -9, died.stderr
    assert sorted(values(ledger)) == list(range(ledgers.MERGED_PARTS))


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(lambda data: data[:-20], id="cut off"),
        pytest.param(lambda data: data[:4] + bytes(200) + data[204:], id="overwritten"),
    ],
)
def test_a_damaged_part_costs_its_own_rows_alone(
    ledger: Ledger, store: Store, damaged: Callable[[bytes], bytes]
) -> None:
    ledger.append(rows(1))
    name = ledger.append(rows(2))
    ledger.append(rows(3))
    assert store.local is not None
    path = store.local / "words/digits" / name
    path.write_bytes(damaged(path.read_bytes()))

    assert values(ledger) == [1, 3]
    assert list(ledger.pieces(name)) == []


def test_a_part_is_read_in_pieces_with_the_columns_that_it_had_not_yet(
    store: Store, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "PIECE_ROWS", 2)
    name = ledger.append(rows(*range(5)))
    wider = Ledger(store, "words/digits", SCHEMA.append(pa.field("role", pa.string())))

    pieces = list(wider.pieces(name))

    assert [piece["value"].to_pylist() for piece in pieces] == [[0, 1], [2, 3], [4]]
    assert {piece.schema for piece in pieces} == {wider.schema}
    assert list(wider.pieces("gone")) == []


def test_old_parts_are_removed(ledger: Ledger) -> None:
    ledger.append(rows(1))
    second = ledger.append(rows(2))

    removed = ledger.remove_before(int(second.partition("-")[0]))

    assert removed == 1
    assert values(ledger) == [2]


def test_a_follower_sees_each_row_once_also_when_parts_are_merged(ledger: Ledger, store: Store) -> None:
    follower, seen = Follower(Ledger(store, "words/digits", SCHEMA), "value"), list[int]()

    for number in range(2 * ledgers.MERGED_PARTS + 6):
        ledger.append(rows(number))
        if number % 3 == 0:
            seen += follower.fresh()["value"].to_pylist()
    seen += follower.fresh()["value"].to_pylist()

    assert seen == list(range(2 * ledgers.MERGED_PARTS + 6))
    assert len(follower.fresh()) == 0


def test_a_follower_remembers_the_newest_rows_alone_and_sees_those_that_come_a_little_late(ledger: Ledger) -> None:
    follower = Follower(ledger, "value")
    ledger.append(rows(1, OVERLAP_NS, 3 * OVERLAP_NS))
    first = follower.fresh()["value"].to_pylist()

    ledger.append(rows(2 * OVERLAP_NS + 1, 2, 3 * OVERLAP_NS + 1))
    ledger.replace(ledger.parts(), ledger.read())
    later = follower.fresh()["value"].to_pylist()

    assert first == [1, OVERLAP_NS, 3 * OVERLAP_NS]
    assert later == [2 * OVERLAP_NS + 1, 3 * OVERLAP_NS + 1]
    assert len(follower._seen) == 3


def test_a_row_from_a_clock_that_runs_ahead_hides_no_other(ledger: Ledger) -> None:
    follower, now = Follower(ledger, "value"), time.time_ns()
    ledger.append(rows(now + 100 * OVERLAP_NS))
    follower.fresh()

    ledger.append(rows(now))

    assert follower.fresh()["value"].to_pylist() == [now]
    assert len(follower.fresh()) == 0
