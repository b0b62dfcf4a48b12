from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from cluster import served
from cluster.ledger import Ledger
from cluster.store import Store


def row(number: int, version: int = 1, at_ns: int = 1000) -> dict[str, object]:
    name = f"request {number}"
    return {"id": f"{name}#0", "request_id": name, "row": 0, "at_ns": at_ns, "version": version, "variant": "onnx-fp32",
            "input": bytes([number % 256]), "outputs": np.array([0.5, 0.5], np.float32)}  # fmt: skip


def written(store: Store, rows: list[dict[str, object]]) -> Ledger:
    ledger = served.ledger(store, "digits")
    for start in range(0, len(rows), 100):
        ledger.append(rows[start : start + 100])
    return ledger


def test_a_share_of_the_requests_is_in_the_sample() -> None:
    places = np.array([served.place(f"request {i}") for i in range(20_000)])

    assert abs((places < 0.1).mean() - 0.1) < 0.01
    assert served.place("request 7") == served.place("request 7")


def test_so_many_of_each_version_are_kept_from_its_whole_time(store: Store) -> None:
    ledger = written(store, [row(i, version=1 + (i >= 600)) for i in range(1000)])

    left = served.prune(ledger, max_rows=200, since_ns=0)

    table = ledger.read()
    assert left == table.num_rows == 400
    numbers = np.array([int(name.split()[1]) for name in table["request_id"].to_pylist()])
    early, late = (numbers < 300).sum(), ((numbers >= 300) & (numbers < 600)).sum()
    assert early + late == 200
    assert 60 < early < 140  # as many of the first half as of the second, but for chance
    assert len(ledger.parts()) == 1


def test_what_is_too_old_is_removed(store: Store) -> None:
    ledger = written(store, [row(i, at_ns=i) for i in range(300)])

    assert served.prune(ledger, max_rows=1000, since_ns=250) == 50
    assert served.prune(ledger, max_rows=1000, since_ns=1000) == 0
    assert ledger.read().num_rows == 0


def test_a_sample_is_pruned_in_little_memory_however_large_its_inputs_are(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "PART_BYTES", 2**20)
    ledger, noise = served.ledger(store, "digits"), np.random.default_rng(0)
    for part in range(16):
        rows = [row(number) | {"input": noise.bytes(2**14)} for number in range(100 * part, 100 * part + 100)]
        ledger.append(rows)
    pool, before = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        left = served.prune(ledger, max_rows=800, since_ns=0)
    finally:
        pa.set_memory_pool(before)

    assert 800 * 2**14 > 12 * 2**20 > pool.max_memory()
    table = ledger.read()
    assert left == table.num_rows == 800
    assert table["id"].to_pylist() == sorted(table["id"].to_pylist(), key=lambda name: int(name[8:-2]))
    assert 8 <= len(ledger.parts()) <= 16


def test_a_row_that_is_there_twice_is_kept_once(store: Store) -> None:
    ledger = written(store, [row(i) for i in (*range(100), *range(50, 100), *range(50, 100))])

    assert served.prune(ledger, max_rows=1000, since_ns=0) == 100
    (part,) = ledger.parts()
    assert sum(len(rows) for rows in ledger.pieces(part)) == 100
    assert served.prune(ledger, max_rows=1000, since_ns=0) == 100
    assert ledger.parts() == [part]  # nothing is written anew where nothing goes


def test_a_row_that_was_trimmed_gets_its_zeros_back() -> None:
    whole = served.row_of(np.array([5, 6], np.int32).tobytes(), (4,), "int32")

    assert whole.tolist() == [5, 6, 0, 0]


@pytest.mark.parametrize(
    ("num", "shape"), [pytest.param(5, (4,), id="too long"), pytest.param(3, (2, 2), id="no row of free length")]
)
def test_bytes_that_are_no_such_row_are_refused(num: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"{num} values"):
        served.row_of(bytes(num), shape, "uint8")
