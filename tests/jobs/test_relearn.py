from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from cluster.config import Experiment
from cluster.store import Store
from jobs import labelled, relearn
from jobs.labelled import Labelled
from tasks.dataset import Dataset, read_dataset

EXPERIMENT = Experiment.model_validate({"name": "digits", "data": {"source": {"kind": "digits"}}})


def found(num: int, first: int = 0) -> Labelled:
    rows = [
        {
            "id": f"a-{i}#0",
            "key": f"{i:08x}",
            "at_ns": i,
            "input": np.full((8, 8, 1), i % 256, np.uint8).tobytes(),
            "target": float(i % 10),
            "part": ("train", "train", "train", "validation", "held_out")[i % 5],
        }
        for i in range(first, first + num)
    ]
    return Labelled(pa.Table.from_pylist(rows, schema=labelled.SCHEMA), {"contradictory": 3})


@pytest.fixture
def base(store: Store, publish_digits: Callable[..., str]) -> Dataset:
    publish_digits(store, EXPERIMENT, "base")
    return read_dataset(store, "base")


def test_a_dataset_has_the_rows_of_its_base_and_those_of_feedback_often_enough_to_count(base: Dataset) -> None:
    made = relearn.publish(base.store, "made", base, found(100, first=5000), {"order": "o"})

    repeats = made.lineage["repeats"]
    assert made.num_rows("train") == base.num_rows("train") + 60 * repeats
    assert 60 * repeats / made.num_rows("train") >= relearn.SHARE
    assert made.num_rows("validation") == base.num_rows("validation") + 20 * repeats
    assert np.array_equal(made.load("test")[0], base.load("test")[0])
    x, y = made.load("train")
    assert np.array_equal(x[: base.num_rows("train")], base.load("train")[0])
    assert (y[-60:] == [i % 10 for i in range(5000, 5100) if i % 5 < 3]).all()
    assert made.encoding == base.encoding


def test_its_lineage_says_what_it_was_made_of(base: Dataset) -> None:
    made = relearn.publish(base.store, "made", base, found(100, first=5000), {"order": "o", "stable_version": 3})

    lineage = {name: value for name, value in made.lineage.items() if name not in ("repeats", "feedback")}
    assert lineage == {
        "order": "o",
        "stable_version": 3,
        "base": "base",
        "learnt": 80,
        "held_out": 20,
        "left_out": {"contradictory": 3},
    }
    kept = relearn.feedback_of(made)
    assert kept is not None
    assert kept.equals(found(100, first=5000).table)
    assert relearn.feedback_of(base) is None


def test_what_is_held_out_is_in_no_split(base: Dataset) -> None:
    made = relearn.publish(base.store, "made", base, found(100, first=5000), {})

    rows, truth = relearn.held_out(made)

    assert (rows.shape, truth.tolist()) == ((20, 8, 8, 1), [i % 10 for i in range(5000, 5100) if i % 5 == 4])
    assert [len(part) for part in relearn.held_out(base)] == [0, 0]


def test_rows_are_known_by_their_inputs_alone(base: Dataset) -> None:
    rows, _ = base.load("test")

    assert relearn.contents(base, "test") == {labelled.key_of(row.tobytes()) for row in rows}


def test_what_is_learnt_lies_in_shards_that_may_be_read_at_once(base: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relearn, "MAX_SHARD_BYTES", 25 * 64)

    made = relearn.publish(base.store, "made", base, found(100, first=5000), {})

    sizes = [entry["rows"] for entry in made.shards["train"] if "feedback" in entry["file"]]
    repeats = made.lineage["repeats"]
    assert sizes == [25] * 2 * repeats + [10] * repeats
    _, y = made.load("train")
    learnt = [i % 10 for i in range(5000, 5100) if i % 5 < 3]
    assert sorted(y[base.num_rows("train") :].tolist()) == sorted(learnt * repeats)


def test_without_labels_it_is_its_base(base: Dataset) -> None:
    made = relearn.publish(base.store, "made", base, found(0), {})

    assert [made.num_rows(split) for split in ("train", "validation", "test")] == [1397, 200, 200]
    assert made.lineage["learnt"] == 0
