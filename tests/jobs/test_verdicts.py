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


VALUES = verdicts.Rules(has_values=True)


def test_values_become_float32_targets_without_labels() -> None:
    judged = verdicts.judge(index_of([row(i, text) for i, text in enumerate(["1.5", "-2.0", "1e-30"])]), data(), VALUES)

    assert judged.labels == ()
    assert judged.target.dtype == np.float32
    assert judged.target.tolist() == pytest.approx([1.5, -2.0, 1e-30])
    assert sorted(np.concatenate(list(judged.splits.values())).tolist()) == [0, 1, 2]


def test_equal_rows_with_different_values_contradict_each_other_unless_the_task_expects_them() -> None:
    rows = [row(1, "1.0"), row(1, "2.0"), row(2, "3.0"), row(2, "3.0"), row(3, "4.0")]
    # The content of an ambiguous task's rows knows their target: see jobs/cleaner.py.
    told_apart = [row(11, "1.0"), row(12, "2.0"), row(21, "3.0"), row(21, "3.0"), row(31, "4.0")]

    strict = verdicts.judge(index_of(rows), data(), VALUES)
    lenient = verdicts.judge(index_of(told_apart), data(), verdicts.Rules(has_values=True, ambiguous=True))

    assert strict.reason.tolist() == ["conflicting_label", "conflicting_label", "", "duplicate", ""]
    assert lenient.reason.tolist() == ["", "", "", "duplicate", ""]


def test_a_row_without_a_value_is_rejected_and_harms_no_other() -> None:
    judged = verdicts.judge(index_of([row(1, "", reason="missing_label"), row(2, "3.0")]), data(), VALUES)

    assert judged.reason.tolist() == ["missing_label", ""]
    assert judged.target[1] == 3.0


def test_values_need_no_two_classes_but_rows_in_every_split() -> None:
    index = index_of([row(i, "1.0") for i in range(60)])

    verdicts.check(index, verdicts.judge(index, data(), VALUES), data(), "", VALUES)
    one = index_of([row(1, "1.0")])
    with pytest.raises(DataError, match="split is empty"):
        verdicts.check(one, verdicts.judge(one, data(), VALUES), data(), "", VALUES)


def test_rows_that_the_source_calls_validation_are_that_split() -> None:
    rows = [row(i, "ab"[i % 2], validation=i < 6, test=6 <= i < 10) for i in range(40)]

    splits = verdicts.judge(index_of(rows), data()).splits

    assert sorted(splits["validation"].tolist()) == [0, 1, 2, 3, 4, 5]
    assert sorted(splits["test"].tolist()) == [6, 7, 8, 9]
    assert len(splits["train"]) == 30


def test_a_label_that_only_validation_rows_have_is_unknown() -> None:
    rows = [row(1, "a"), row(2, "b"), row(3, "c", validation=True), row(4, "a", validation=True)]

    assert verdicts.judge(index_of(rows), data()).reason.tolist() == ["", "", "unknown_label", ""]


def test_labels_that_the_source_names_are_all_there_can_be_in_its_order() -> None:
    rules = verdicts.Rules(labels=("z", "b", "a"))
    index = index_of([row(i, "ab"[i % 2]) for i in range(60)] + [row(99, "c", test=True), row(98, "a", test=True)])

    judged = verdicts.judge(index, data(), rules)

    assert judged.labels == ("z", "b", "a")
    assert judged.target[:2].tolist() == [2, 1]
    assert judged.reason[60] == "unknown_label"
    verdicts.check(index, judged, data(), "", rules)  # that nothing is a `z` yet is no mistake


def test_rows_of_a_label_that_is_no_class_train_nothing_and_have_a_target_of_their_own() -> None:
    rows = [row(i, "oos" if i % 3 == 0 else "ab"[i % 2], test=i >= 50) for i in range(60)]
    index = index_of(rows)

    judged = verdicts.judge(index, data(), verdicts.Rules(outside="oos"))

    is_outside = np.array([each["label"] == "oos" for each in rows])
    assert judged.labels == ("a", "b")
    assert set(judged.target[is_outside]) == {2}
    assert not is_outside[judged.splits["train"]].any()
    assert set(judged.splits["validation"]) >= set(np.flatnonzero(is_outside & ~index.is_test))
    assert sum(map(len, judged.splits.values())) == 60
    verdicts.check(index, judged, data(), "", verdicts.Rules(outside="oos"))
