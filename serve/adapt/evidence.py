"""What the triggers look at: the files at a path, and the labels that came back for what was served.

Each look is cheap where nothing has changed. Knows the store and pyarrow's file systems; what follows from what is
seen stands in `serve.adapt.triggers`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import fs

from cluster import feedback, served
from cluster.config import Labels as LabelRules
from cluster.errors import NotFoundError, first_line
from cluster.feedback import Rules
from cluster.ledger import Ledger
from cluster.store import Store
from ladder.bundle import Bundle, read_bundle
from serve.adapt.triggers import Files, Judged, Labels, floor
from tasks.dataset import read_dataset
from tasks.task import Encoding, Task, load_task, marks

OVERLAP_NS = 60 * 10**9  # writers' clocks differ, and a part may be merged away while it is read

Answer = tuple[str, int]  # request id and row


def files_at(path: str) -> Files:
    """Names, sizes and times of what lies there, as a hash; or why nothing can be seen."""
    try:
        local = "://" not in path
        system, root = (fs.LocalFileSystem(), str(Path(path).expanduser())) if local else fs.FileSystem.from_uri(path)
        found = system.get_file_info(root)
        if found.type == fs.FileType.NotFound:
            return Files("", "there is nothing at this path")
        if found.type == fs.FileType.Directory:
            listed = system.get_file_info(fs.FileSelector(root, recursive=True))
        else:
            listed = [found]
    except (OSError, ValueError) as error:  # pyarrow's own are among them
        return Files("", f"cannot be looked at ({first_line(error)})")
    states = sorted((info.path, info.size, str(info.mtime_ns)) for info in listed if info.type == fs.FileType.File)
    if not states:
        return Files("", "there is no file in it")
    return Files(hashlib.sha256(repr(states).encode()).hexdigest()[:16])


class Growing:
    """The rows of a ledger as they come; call it from one thread."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._parts: list[str] = []
        self._ids: set[str] = set()

    def fresh(self) -> list[dict[str, Any]]:
        """Those that were not there before, but for a column `input`: `has_input` says whether there is one."""
        parts = self._ledger.parts()
        if parts == self._parts:
            return []
        newest_ns = int(self._parts[-1].partition("-")[0]) if self._parts else 0
        table, self._parts = self._ledger.read(max(0, newest_ns - OVERLAP_NS)), parts
        if "input" in table.column_names:
            has_input = table["input"].is_valid()
            table = table.drop_columns(["input"]).append_column("has_input", has_input)
        rows = [row for row in table.to_pylist() if row["id"] not in self._ids]
        self._ids.update(row["id"] for row in rows)
        return rows


@dataclass(frozen=True)
class _Stable:
    """The version that answers, and how right it should be."""

    version: int
    task: Task
    encoding: Encoding
    accuracy: float
    rungs: Mapping[str, float]

    def expected(self, variants: Iterable[str]) -> float:
        """Of answers that these rungs gave: less than the test split's where they are not the most accurate one."""
        best = max(self.rungs.values(), default=0.0)
        losses = [best - self.rungs.get(variant, best) for variant in variants]
        return self.accuracy - (float(np.mean(losses)) if losses else 0.0)


class Hearing:
    """Labels that can be believed, with the answers they are about; call it from one thread."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._served, self._said = Growing(served.ledger(store, name)), Growing(feedback.ledger(store, name))
        self._answers: dict[Answer, dict[str, Any]] = {}
        self._words: list[dict[str, Any]] = []
        self._heard_ns: dict[Answer, int] = {}
        self._labels: dict[Answer, str] = {}
        self._stable: tuple[tuple[str, int], _Stable] | None = None

    def listen(self, rules: LabelRules) -> None:
        """Take in what has come since. Raises TrimtabError when the store cannot be read."""
        rows, words = self._served.fresh(), self._said.fresh()
        if not rows and not words:
            return
        self._answers |= {(row["request_id"], row["row"]): row for row in rows}
        self._words += words
        for word in words:
            answer = word["request_id"], word["row"]
            self._heard_ns[answer] = max(word["received_ns"], self._heard_ns.get(answer, 0))
        believed = feedback.believed(self._words, self._answers, Rules(rules.agreement, rules.client_share))
        self._labels = believed.labels

    def labels(self, bundle: str, version: int, heard_since: float, since: float = 0.0) -> tuple[Labels, float]:
        """Believed labels that came after `heard_since`, of answers given after `since`, both in unix seconds; and how
        right the version should be by what it has shown. Raises NotFoundError, DamagedError.
        """
        stable = self._of(bundle, version)
        chosen = {
            answer: label
            for answer, label in self._labels.items()
            if self._heard_ns[answer] > heard_since * 1e9 and self._answers[answer]["at_ns"] >= since * 1e9
        }
        rows = [(self._answers[answer], label) for answer, label in chosen.items()]
        num = sum(row["has_input"] for row, _ in rows)
        mine = [(row, label) for row, label in rows if row["version"] == version and row["outputs"] is not None]
        expected = stable.expected(row["variant"] for row, _ in mine)
        return Labels(num, _judged(stable, mine)), expected

    def _of(self, bundle: str, version: int) -> _Stable:
        if self._stable is None or self._stable[0] != (bundle, version):
            self._stable = (bundle, version), _stable(read_bundle(self._store, bundle), version)
        return self._stable[1]


def _stable(bundle: Bundle, version: int) -> _Stable:
    try:
        num_rows = read_dataset(bundle.store, bundle.dataset).num_rows("test")
    except NotFoundError:  # a bundle that was brought here alone
        num_rows = 0
    table = (bundle.ladder or {}).get("rungs", ())
    rungs = {entry["variant"]: float(entry["accuracy"]) for entry in table}
    task = load_task(bundle.experiment, bundle.file)
    accuracy = floor(float(bundle.metrics["accuracy"]), num_rows)
    return _Stable(version, task, bundle.encoding, accuracy, rungs)


def _judged(stable: _Stable, rows: list[tuple[dict[str, Any], str]]) -> Judged:
    if not rows:
        return Judged(0.0, 0)
    outputs, said = [row["outputs"] for row, _ in rows], [label for _, label in rows]
    return Judged(round(float(marks(stable.task, stable.encoding, outputs, said).sum()), 3), len(rows))
