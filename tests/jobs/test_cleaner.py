"""Rows into blocks without a cluster: verdicts are columns, and a task that breaks its word is told so."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cluster.errors import ConfigError
from cluster.experiment import parse
from jobs.cleaner import Cleaner
from jobs.source_rows import TEST, array_tables, tensor

IMAGES = np.arange(6 * 16, dtype=np.uint8).reshape(6, 4, 4, 1)


def cleaner(seed: int = 0, **more: object) -> Cleaner:
    tree = {"name": "x", "seed": seed, "data": {"source": {"kind": "digits"}}, **more}
    return Cleaner(parse(tree), (4, 4, 1), "uint8")


def rows(labels: Iterable[str] = "ababab") -> pa.Table:
    [table] = array_tables(IMAGES, labels, "file", TEST, 3)
    return table


def test_good_rows_keep_their_pixels_and_get_their_hashes() -> None:
    [block] = cleaner(seed=5).tables(rows())

    content = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in IMAGES]
    bucket = hashlib.blake2b(f"5:{content[0].hex()}".encode(), digest_size=8).digest()
    assert np.array_equal(tensor(block["x"].combine_chunks()), IMAGES)
    assert block["content"].to_pylist() == content
    assert block["bucket"][0].as_py() == int.from_bytes(bucket, "big")
    assert block["position"].to_pylist() == [(3 << 32) + i for i in range(6)]
    assert set(block["reason"].to_pylist()) == {""}
    assert all(block["is_test"].to_pylist())


def test_a_bad_row_stays_in_its_block_with_its_reason_and_raw_bytes() -> None:
    [block] = cleaner().tables(rows(labels=["a", "", "b", "a", "b", "a"]))

    assert block["reason"].to_pylist() == ["", "missing_label", "", "", "", ""]
    assert block["raw"].to_pylist() == [None, IMAGES[1].tobytes(), None, None, None, None]


def test_blocks_are_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.cleaner.MAX_CLEAN_BYTES", 40)

    assert [block.num_rows for block in cleaner().tables(rows())] == [2, 2, 2]


def test_a_task_that_returns_another_dtype_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from tasks.images import Images\nclass Odd(Images):\n    def clean(self, value, shape):\n"
    (tmp_path / "odd_task.py").write_text(f"{code}        return value.astype('float32')\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ConfigError, match=r"task = 'odd_task:Odd': its clean\(\) made float32 \(4, 4, 1\)"):
        list(cleaner(task="odd_task:Odd").tables(rows()))
