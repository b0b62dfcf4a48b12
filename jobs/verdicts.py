"""Which cleaned rows stay, in which split and in which order: a pure function of their hashes and labels.

Nothing here depends on how the rows were cut into blocks or on who read them, so the same rows and seed always
give the same dataset. Knows no Ray, no files and no pixels.

1. Rows of equal content are one row. The first in source order stays, the others are `duplicate`.
2. Rows of equal content whose labels differ contradict each other: nobody can say which is right, so all of
   them are `conflicting_label`.
3. A test row that the source itself brings wins over training rows of equal content, which are then
   `duplicate` or `conflicting_label`; so does its key over theirs (`key_in_test`).
4. Labels are those of the training rows; a test row with another is `unknown_label`.
5. A row's place in [0, 1), the hash of seed and key, decides its split, and with its content its order.
6. A label that the task calls no class is none of them. Its rows are for measuring, so those that would be training
   rows are validation rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from cluster.config import Data
from cluster.errors import DataError
from tasks.dataset import SPLITS

DEFAULT_TEST_SHARE = 0.1
NUM_NAMED = 10  # labels named in an error at most


@dataclass(frozen=True)
class Index:
    """One entry per row that came in, ordered by position in the source; arrays of equal length n."""

    block: np.ndarray  # int64 [n]: where the row's pixels are
    row: np.ndarray  # int64 [n]: and which of that block's rows
    content: np.ndarray  # uint64 [n, 2]: hash of the encoded row
    bucket: np.ndarray  # uint64 [n]: hash of seed and key
    label: np.ndarray  # int32 [n]: index into `texts`
    is_test: np.ndarray  # bool [n]: the source calls it a test row
    is_validation: np.ndarray  # bool [n]: the source calls it a validation row
    reason: np.ndarray  # object [n]: "" for a row that could be cleaned
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Rules:
    """What the source and the task say about targets. `labels` are all there can be, in the source's own order."""

    labels: tuple[str, ...] | None = None
    has_values: bool = False  # targets are numbers
    ambiguous: bool = False  # equal inputs may have different targets, of which `content` then knows
    outside: str | None = None  # a label that is no class; its target is the number of labels


@dataclass(frozen=True)
class Verdicts:
    reason: np.ndarray  # object [n]: "" for a row that stays
    same_as: np.ndarray  # int64 [n]: the row of equal content or -1
    labels: tuple[str, ...]
    target: np.ndarray  # int32 [n]: index into `labels` or -1; float32 [n] where targets are values
    splits: dict[str, np.ndarray]  # split -> int64 [rows]: its rows in the order they are stored

    def counts(self) -> dict[str, int]:
        """Rejected rows by reason."""
        reasons, counts = np.unique(self.reason[self.reason != ""].astype(str), return_counts=True)
        return dict(zip(reasons.tolist(), counts.tolist(), strict=True))


def judge(index: Index, data: Data, rules: Rules = Rules()) -> Verdicts:
    """Raises DataError when the source's test rows have none of the training rows' labels."""
    reason = index.reason.copy()
    same_as = _reject_equal_content(index, reason)
    if data.source.kind in ("parquet", "csv", "jsonl") and data.source.key is not None:
        in_test = np.isin(index.bucket, index.bucket[index.is_test & (reason == "")])
        reason[in_test & ~index.is_test & (reason == "")] = "key_in_test"
    if rules.has_values:
        values = np.array([float(text or "nan") for text in index.texts] or [np.nan], np.float32)
        return Verdicts(reason, same_as, (), values[index.label], _splits(index, reason, data))
    found = rules.labels or order_labels(_texts(index, ~index.is_test & ~index.is_validation & (reason == "")))
    labels = tuple(label for label in found if label != rules.outside)
    number = {text: i for i, text in enumerate(labels)}
    if rules.outside is not None:
        number[rules.outside] = len(labels)
    target = np.array([number.get(text, -1) for text in index.texts] or [-1], np.int32)[index.label]
    _reject_unknown_labels(index, reason, target, labels, data.source.kind)
    return Verdicts(reason, same_as, labels, target, _splits(index, reason, data, target == len(labels)))


def check(index: Index, verdicts: Verdicts, data: Data, example: str, rules: Rules = Rules()) -> None:
    """Raises DataError when too much was rejected, or what is left cannot be trained on.

    `example` describes the first rejected row.
    """
    counts, num_rows = verdicts.counts(), len(index.row)
    num_rejected = sum(counts.values())
    if num_rejected > data.max_rejected * num_rows:
        reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(counts.items(), key=lambda c: (-c[1], c[0])))
        problem = f"{num_rejected} of {num_rows} rows were rejected ({reasons}; the first: {example})"
        raise DataError("data.max_rejected", data.max_rejected, problem, "mend the data or raise this share")
    kind = data.source.kind
    if verdicts.target.dtype == np.float32:
        return _check_splits(verdicts, kind, num_rows - num_rejected)
    if len(verdicts.labels) < 2:
        problem = f"all {num_rows - num_rejected} rows have one label only ({', '.join(verdicts.labels)})"
        raise DataError("data.source", kind, problem, "give rows of at least two classes")
    _check_splits(verdicts, kind, num_rows - num_rejected)
    if rules.labels is not None:  # a source that names its labels knows why some have no row yet
        return
    trained = set(np.unique(verdicts.target[verdicts.splits["train"]]).tolist())
    if missing := [text for i, text in enumerate(verdicts.labels) if i not in trained]:
        problem = f"no row of {_named(missing)} fell into the training split"
        raise DataError("data.source", kind, problem, "give those classes more rows or change data.split or seed")


def _check_splits(verdicts: Verdicts, kind: str, num_good: int) -> None:
    for split in SPLITS:
        if len(verdicts.splits[split]) == 0:
            problem = f"{num_good} rows are too few: the {split} split is empty"
            raise DataError("data.source", kind, problem, "give more rows or change data.split")


def order_labels(texts: Iterable[str]) -> tuple[str, ...]:
    """Distinct labels: by value when all are whole numbers, else alphabetically."""
    distinct = sorted(set(texts))
    if all(re.fullmatch(r"[+-]?[0-9]+", text) for text in distinct):
        distinct.sort(key=int)
    return tuple(distinct)


def _reject_equal_content(index: Index, reason: np.ndarray) -> np.ndarray:
    """Rules 1 to 3, written into `reason`; returns which row each rejected one equals, -1 for others."""
    same_as = np.full(len(reason), -1)
    good = np.flatnonzero(reason == "")
    if len(good) == 0:
        return same_as
    content = index.content[good]
    # Equal contents side by side, the source's test rows first, then in source order (lexsort is stable).
    order = np.lexsort((~index.is_test[good], content[:, 1], content[:, 0]))
    rows, content = good[order], content[order]
    is_first = np.concatenate([[True], (content[1:] != content[:-1]).any(axis=1)])
    group = np.cumsum(is_first) - 1
    first = rows[is_first][group]
    rivals = index.is_test[rows] == index.is_test[first]
    differs = index.label[rows] != index.label[first]
    contradicts = np.bincount(group, weights=rivals & differs)[group] > 0
    reason[rows[~is_first]] = "duplicate"
    reason[rows[(differs & ~is_first) | contradicts]] = "conflicting_label"
    same_as[rows[~is_first]] = first[~is_first]
    leads = np.flatnonzero(is_first & contradicts)
    same_as[rows[leads]] = rows[leads + 1]
    return same_as


def _reject_unknown_labels(
    index: Index, reason: np.ndarray, target: np.ndarray, labels: tuple[str, ...], kind: str
) -> None:
    tested = (index.is_test | index.is_validation) & (reason == "")
    unknown = tested & (target < 0)
    if unknown.any() and unknown.sum() == tested.sum():
        found = order_labels(_texts(index, unknown))
        problem = f"none of the {tested.sum()} test rows has a label of the training rows"
        mend = f"give both the same labels: the test rows say {_named(found)}, the training rows {_named(labels)}"
        raise DataError("data.source", kind, problem, mend)
    reason[unknown] = "unknown_label"


def _splits(
    index: Index, reason: np.ndarray, data: Data, is_outside: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    good = np.flatnonzero(reason == "")
    order = np.lexsort((index.content[good, 1], index.content[good, 0], index.bucket[good]))
    rows = good[order]
    place = index.bucket[rows] / 2.0**64
    is_test = index.is_test[rows]
    test_share = 0.0
    if not index.is_test.any():
        test_share = data.split.test if data.split.test is not None else DEFAULT_TEST_SHARE
        is_test = place >= 1.0 - test_share
    is_validation = index.is_validation[rows] & ~is_test
    if not index.is_validation.any():
        is_validation = ~is_test & (place >= 1.0 - test_share - data.split.validation)
    if is_outside is not None:
        is_validation |= is_outside[rows] & ~is_test
    return {"train": rows[~is_test & ~is_validation], "validation": rows[is_validation], "test": rows[is_test]}


def _texts(index: Index, chosen: np.ndarray) -> list[str]:
    return [index.texts[i] for i in np.unique(index.label[chosen])]


def _named(labels: Iterable[str]) -> str:
    names = list(labels)
    more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
    return ", ".join(names[:NUM_NAMED]) + more
