"""How a file gathers its rows from blocks; what the files hold is tested with the step, `test_preprocess.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.store import Store
from jobs import shards


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 50)), max_size=60))
def test_every_row_is_gathered_into_its_place(wanted: list[tuple[int, int]]) -> None:
    block, row = (np.array([pair[i] for pair in wanted], np.int64) for i in range(2))

    made = shards.gather("abcde", block, row)

    found = {
        int(place): (ref, int(r))
        for ref, rows, places in zip(made.blocks, made.rows, made.places, strict=True)
        for r, place in zip(rows, places, strict=True)
    }
    assert found == {i: ("abcde"[b], r) for i, (b, r) in enumerate(wanted)}
    assert len(set(made.blocks)) == len(made.blocks)


def test_raw_bytes_of_rejected_rows_are_bounded_but_no_row_is_dropped(
    tmp_path: Path, ray_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(shards, "MAX_RAW_TOTAL_BYTES", 250)
    raw = [b"r" * 100] * 4
    columns = {"origin": list("wxyz"), "detail": [""] * 4, "label": ["a"] * 4, "raw": raw}
    rows = shards.gather([ray.put(pa.table(columns))], np.zeros(4, np.int64), np.arange(4))
    nobody = shards.gather([], np.array([], np.int64), np.array([], np.int64))
    rejects = shards.Rejects(rows, np.array(["bad"] * 4, object), nobody, np.full(4, -1))

    with Store.open(str(tmp_path)).stage("datasets", "d") as staging:
        entry = shards.write_rejected(staging, rejects)
        table = pq.read_table(tmp_path / staging.folder / "rejected.parquet")

    assert entry["rows"] == 4
    assert table["origin"].to_pylist() == list("wxyz")
    assert [len(r or b"") for r in table["raw"].to_pylist()] == [100, 100, 0, 0]
