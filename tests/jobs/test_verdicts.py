"""The rules by which rows stay, are rejected and are split; see the list in `jobs/verdicts.py`."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import Data
from cluster.errors import DataError
from jobs import verdicts
from tasks.dataset import SPLITS


def index_of(rows: list[dict[str, Any]]) -> verdicts.Index:
    """Rows in source order as {content, label, test, key, reason}."""
    texts = sorted({row["label"] for row in rows})
    return verdicts.Index(
        block=np.zeros(len(rows), np.int64),
        row=np.arange(len(rows)),
        content=np.array([[0, row["content"]] for row in rows], np.uint64).reshape(-1, 2),
        bucket=np.array([bucket(row.get("key") or f"content {row['content']}") for row in rows], np.uint64),
        label=np.array([texts.index(row["label"]) for row in rows], np.int32),
        is_test=np.array([row.get("test", False) for row in rows], bool),
        is_validation=np.array([row.get("validation", False) for row in rows], bool),
        reason=np.array([row.get("reason", "") for row in rows], object),
        texts=tuple(texts),
    )


def bucket(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


def data(key: str | None = None, **changes: Any) -> Data:
    source = {"kind": "csv", "path": "rows.csv", "key": key}
    return Data.model_validate({"source": source, **changes})


def row(content: int, label: str, **more: Any) -> dict[str, Any]:
    return {"content": content, "label": label, **more}


@pytest.mark.parametrize(
    ("rows", "reasons"),
    [
        pytest.param([row(1, "a"), row(2, "b")], ["", ""], id="different rows stay"),
        pytest.param([row(1, "a"), row(1, "a"), row(1, "a")], ["", "duplicate", "duplicate"], id="the first stays"),
        pytest.param(
            [row(1, "a"), row(1, "b"), row(1, "a")],
            ["conflicting_label"] * 3,
            id="rows that contradict each other all go",
        ),
        pytest.param(
            [row(1, "a"), row(1, "b"), row(1, "a", test=True), row(2, "b"), row(3, "a")],
            ["duplicate", "conflicting_label", "", "", ""],
            id="the source's test row wins over training rows",
        ),
        pytest.param(
            [row(1, "a", test=True), row(1, "b", test=True), row(1, "a"), row(2, "b"), row(3, "b", test=True)],
            ["conflicting_label", "conflicting_label", "conflicting_label", "", ""],
            id="test rows that contradict each other go and take training rows with them",
        ),
        pytest.param(
            [row(1, "a", reason="undecodable"), row(1, "a")], ["undecodable", ""], id="a bad row is nobody's duplicate"
        ),
        pytest.param(
            [row(1, "a"), row(2, "b"), row(3, "c", test=True), row(4, "a", test=True)],
            ["", "", "unknown_label", ""],
            id="a test label that training lacks",
        ),
    ],
)
def test_equal_content_and_unknown_labels_are_rejected_by_the_rules(
    rows: list[dict[str, Any]], reasons: list[str]
) -> None:
    judged = verdicts.judge(index_of(rows), data())

    assert judged.reason.tolist() == reasons


def test_a_rejected_row_names_the_row_it_equals() -> None:
    rows = [row(9, "b"), row(1, "a"), row(1, "a"), row(5, "a"), row(5, "b")]

    judged = verdicts.judge(index_of(rows), data())

    assert judged.same_as.tolist() == [-1, -1, 1, 4, 3]


def test_a_key_of_the_test_rows_is_taken_out_of_training() -> None:
    rows = [row(1, "a", key="p1"), row(2, "a", key="p2"), row(3, "a", key="p1", test=True)]

    judged = verdicts.judge(index_of(rows), data(key="patient"))

    assert judged.reason.tolist() == ["key_in_test", "", ""]


@pytest.mark.parametrize(
    ("texts", "ordered"),
    [
        pytest.param(["10", "9", "-1"], ("-1", "9", "10"), id="whole numbers by value"),
        pytest.param(["10", "9", "x"], ("10", "9", "x"), id="others by letters"),
        pytest.param(["b", "a", "b"], ("a", "b"), id="each once"),
        pytest.param([], (), id="none"),
    ],
)
def test_labels_have_one_order(texts: list[str], ordered: tuple[str, ...]) -> None:
    assert verdicts.order_labels(texts) == ordered


@given(
    contents=st.lists(st.integers(0, 40), min_size=1, max_size=80),
    keys=st.lists(st.integers(0, 6), min_size=80, max_size=80),
    order=st.randoms(use_true_random=False),
)
def test_neither_content_nor_key_straddles_splits_whatever_the_order(
    contents: list[int], keys: list[int], order: Any
) -> None:
    rows = [row(content, str(content % 3), key=f"key {keys[content]}") for content in contents]
    shuffled = order.sample(rows, len(rows))

    one, other = (verdicts.judge(index_of(some), data(key="key")) for some in (rows, shuffled))

    kept = [rows[i] for i in np.concatenate([one.splits[split] for split in SPLITS])]
    assert sorted(r["content"] for r in kept) == sorted(set(contents))
    for split in SPLITS:
        here = {rows[i]["key"] for i in one.splits[split]}
        assert not here & {rows[i]["key"] for s in SPLITS if s != split for i in one.splits[s]}
        assert [rows[i]["content"] for i in one.splits[split]] == [shuffled[i]["content"] for i in other.splits[split]]


def test_shares_are_kept_and_the_validation_rows_come_from_training() -> None:
    drawn = [row(i, str(i % 2)) for i in range(20_000)]
    given_test = [{**r, "test": r["content"] < 5000} for r in drawn]

    without = verdicts.judge(index_of(drawn), data(split={"validation": 0.2, "test": 0.1})).splits
    with_test = verdicts.judge(index_of(given_test), data(split={"validation": 0.2})).splits

    assert [round(len(without[split]) / 20_000, 1) for split in SPLITS] == [0.7, 0.2, 0.1]
    assert sorted(with_test["test"]) == list(range(5000))
    assert round(len(with_test["validation"]) / 15_000, 1) == 0.2


MANY = [row(i, "ab"[i % 2]) for i in range(200)]
HELD_OUT = next(i for i in range(1000, 2000) if bucket(f"content {i}") > 0.9 * 2**64)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        pytest.param(
            [*MANY, *(row(i, "a", reason="undecodable") for i in range(50)), row(0, "a")],
            ["data.max_rejected = 0.1", "51 of 251 rows", "undecodable 50, duplicate 1", "cats.csv#3"],
            id="too many rejected",
        ),
        pytest.param([row(i, "a") for i in range(200)], ["all 200 rows have one label only (a)"], id="one label"),
        pytest.param(
            [row(1, "a"), row(2, "b")], ["2 rows are too few: the validation split is empty"], id="too few rows"
        ),
        pytest.param(
            [*MANY, row(HELD_OUT, "rare")],
            ["no row of rare fell into the training split"],
            id="a class without training rows",
        ),
    ],
)
def test_a_dataset_that_cannot_be_trained_on_is_refused_in_one_sentence(
    rows: list[dict[str, Any]], words: list[str]
) -> None:
    index, settings = index_of(rows), data()
    judged = verdicts.judge(index, settings)

    with pytest.raises(DataError) as refusal:
        verdicts.check(index, judged, settings, example="cats.csv#3")

    assert all(word in str(refusal.value) for word in words), str(refusal.value)


def test_test_rows_that_share_no_label_with_training_are_refused() -> None:
    rows = [*MANY, row(1000, "x", test=True), row(1001, "y", test=True)]

    with pytest.raises(DataError, match=r"none of the 2 test rows .*: the test rows say x, y, the training rows a, b"):
        verdicts.judge(index_of(rows), data())
