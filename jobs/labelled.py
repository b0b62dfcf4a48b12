"""What feedback says of answers whose inputs were kept: rows to learn from, and rows to measure with.

Joins believed labels to the sample of what was served. Where a row goes is decided by a hash of its content: the same
input is never learnt from and measured with, however often it is sent and whichever retraining comes. Knows ledgers,
not what a training makes of the rows.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from cluster import feedback, served
from cluster.config import Labels
from cluster.store import Store
from tasks.task import Encoding

Part = Literal["train", "validation", "held_out"]
VALIDATION = 0.2  # of the rows that are learnt from, those that choose the best epoch
SCHEMA = pa.schema(
    {
        "id": pa.string(),  # of the answer: request id and row
        "key": pa.string(),  # of the content
        "at_ns": pa.int64(),  # when it was answered
        "input": pa.binary(),  # the encoded row
        "target": pa.float64(),  # index of the label, or the value
        "part": pa.string(),
        "client": pa.string(),  # the only one who said it, and not trusted; null where more did
    }
)


@dataclass(frozen=True)
class Labelled:
    """Rows of SCHEMA, the newest last, each content once; and how many labels were left out, by reason."""

    table: pa.Table
    left_out: dict[str, int] = field(default_factory=dict)

    def of(self, part: Part) -> pa.Table:
        return self.table.filter(pa.array(self.table["part"].to_numpy() == part))

    def counts(self) -> dict[str, int]:
        parts = Counter(self.table["part"].to_pylist())
        return {"learnt": parts["train"] + parts["validation"], "held_out": parts["held_out"]}


def gather(
    store: Store,
    name: str,
    encoding: Encoding,
    versions: Mapping[int, Encoding],
    rules: Labels,
    until_ns: int,
    earlier: pa.Table | None = None,
    known: Set[str] = frozenset(),
) -> Labelled:
    """The rows that labels until then say something of, for a dataset with this `encoding`.

    `versions` are the encodings of those that answered. `earlier` are rows of a retraining before: those that the
    sample does not hold any more are kept for learning. Of the `known` contents (`key_of`) none is learnt from.
    """
    words, sample = feedback.ledger(store, name).read(), served.ledger(store, name).read()
    words = words.filter(pa.array(words["received_ns"].to_numpy() <= until_ns))
    answers, found = feedback.labelled(sample, words, rules.agreement)
    left_out = Counter(
        {
            "waiting for others to agree": found.waiting,
            "contradictory": found.conflicting,
            "of answers that are not in the sample": found.unknown,
        }
    )
    rows = list(_rows(answers, encoding, versions, left_out))
    if earlier is not None:
        present = set(sample["id"].to_pylist())
        before = (row for row in earlier.to_pylist() if row["id"] not in present and row["part"] != "held_out")
        rows += [{"client": None, **row} for row in before]
    once = [{**row, "part": part_of(bytes(row["input"]), rules.held_out)} for row in _each_once(rows, left_out)]
    fresh = [row for row in once if row["part"] == "held_out" or row["key"] not in known]
    left_out["of inputs that the test split has"] = len(once) - len(fresh)
    table = pa.Table.from_pylist(_bounded(fresh, rules, left_out), schema=SCHEMA)
    return Labelled(table, {reason: num for reason, num in left_out.items() if num})


def key_of(content: bytes) -> str:
    """Of an encoded row: that of the same row in a dataset, unless equal inputs have different targets there."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def part_of(content: bytes, held_out: float) -> Part:
    """Where a row goes, for ever."""
    digest = hashlib.blake2b(content, digest_size=8, person=b"held-out").digest()
    place = int.from_bytes(digest, "little") / 2.0**64
    if place < held_out:
        return "held_out"
    return "validation" if (place - held_out) / (1.0 - held_out) < VALIDATION else "train"


def arrays(table: pa.Table, encoding: Encoding) -> tuple[np.ndarray, np.ndarray]:
    """Encoded rows [n, *shape] and their targets, int64 [n] or float32 [n] for values."""
    whole = b"".join(table["input"].to_pylist())
    x = np.frombuffer(whole, encoding.dtype).reshape(-1, *encoding.shape)
    return x, table["target"].to_numpy().astype(np.int64 if encoding.labels else np.float32)


def _rows(
    answers: list[dict[str, Any]],
    encoding: Encoding,
    versions: Mapping[int, Encoding],
    left_out: Counter[str],
) -> Iterator[dict[str, Any]]:
    known = {label: float(i) for i, label in enumerate(encoding.labels)}
    for answer in answers:
        made_for, content, label = versions.get(answer["version"]), answer["input"], answer["label"]
        if content is None:
            left_out["without their input"] += 1
        elif made_for is None or (made_for.shape, made_for.dtype) != (encoding.shape, encoding.dtype):
            left_out["of inputs of another form"] += 1
        elif encoding.labels and label not in known:
            left_out["that no row of the dataset has"] += 1
        else:
            target = known[label] if encoding.labels else float(label)
            same = {name: answer[name] for name in ("id", "at_ns", "input", "client")}
            yield {**same, "key": key_of(content), "target": target}


def _each_once(rows: list[dict[str, Any]], left_out: Counter[str]) -> list[dict[str, Any]]:
    """The oldest first; of equal contents the newest, whose label holds now."""
    newest = {row["key"]: row for row in sorted(rows, key=_age)}
    left_out["of an input that came again"] += len(rows) - len(newest)
    return sorted(newest.values(), key=_age)


def _bounded(rows: list[dict[str, Any]], rules: Labels, left_out: Counter[str]) -> list[dict[str, Any]]:
    """The newest of the rows; of each part one client has no more than its share.

    First of all rows, or a flood would drive out the others' older ones; and in the end of each part, as a client may
    send what falls into one.
    """
    shared = feedback.within_share(rows, rules.client_share)
    newest = shared[-rules.max_rows :]
    parts = defaultdict[Part, list[dict[str, Any]]](list)
    for row in newest:
        parts[row["part"]].append(row)
    kept = [row for part in parts.values() for row in feedback.within_share(part, rules.client_share)]
    left_out["beyond one client's share"] += len(rows) - len(shared) + len(newest) - len(kept)
    return sorted(kept, key=_age)


def _age(row: Mapping[str, Any]) -> tuple[int, str]:
    return row["at_ns"], row["id"]
