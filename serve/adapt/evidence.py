"""What the triggers look at: the files at a path, and the labels that came back for what was served.

Each look is cheap where nothing has changed. Knows the store and pyarrow's file systems; what follows from what is
seen stands in `serve.adapt.triggers`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import fs

from cluster import feedback, served
from cluster.config import Labels as LabelRules
from cluster.config import Record
from cluster.errors import NotFoundError, first_line
from cluster.feedback import within_share
from cluster.ledger import OVERLAP_NS, Follower, each_once
from cluster.store import Store
from ladder.bundle import Bundle, read_bundle
from serve.adapt.mistakes import Errors
from serve.adapt.triggers import Files, Judged, Labels, floor
from tasks.dataset import read_dataset
from tasks.task import Encoding, Task, load_task, marks

LEAST_REMEMBERED = 20_000  # answers and words, before any is forgotten


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


@dataclass(frozen=True)
class _Stable:
    """The version that answers, and how right it should be."""

    version: int
    task: Task
    encoding: Encoding
    accuracy: float
    rungs: Mapping[str, float]

    def loss(self, variant: str) -> float:
        """How much less accurate a rung is than the most accurate one, by the test split."""
        best = max(self.rungs.values(), default=0.0)
        return best - self.rungs.get(variant, best)

    def expected(self, variants: Iterable[str]) -> float:
        """Of answers that these rungs gave."""
        losses = [self.loss(variant) for variant in variants]
        return self.accuracy - (float(np.mean(losses)) if losses else 0.0)


class Hearing:
    """Labels that can be believed, with the answers they are about; call it from one thread.

    It remembers about what the sample itself keeps.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._served = Follower(served.ledger(store, name), "at_ns")
        self._said = Follower(feedback.ledger(store, name), "received_ns")
        self._answers, self._words = _light(served.SCHEMA.empty_table()), feedback.SCHEMA.empty_table()
        self._most = LEAST_REMEMBERED
        self._labelled: list[dict[str, Any]] = []
        self._share = 1.0  # of what is counted, that may rest on one client
        self._stable: tuple[tuple[str, int], _Stable] | None = None

    def listen(self, rules: LabelRules, record: Record, now: float) -> bool:
        """Take in what has come since, and say whether anything has; `now` in unix seconds.

        Raises TrimtabError when the store cannot be read.
        """
        since_ns = int((now - record.keep) * 1e9)
        words = self._said.fresh(since_ns)
        if not len(self._words) and not len(words):
            return False  # without a word the sample need not be looked at
        answers = self._served.fresh(since_ns)
        if not len(words) and not len(answers):
            return False
        self._words = each_once(pa.concat_tables([self._words, words]))
        self._answers = each_once(pa.concat_tables([self._answers, _light(answers)]))
        if len(self._answers) + len(self._words) > self._most:
            self._forget(record.max_rows, since_ns)
        self._labelled, _ = feedback.labelled(self._answers, self._words, rules.agreement)
        self._share = rules.client_share
        return True

    def labels(self, bundle: str, version: int, heard_since: float, since: float = 0.0) -> tuple[Labels, float]:
        """Believed labels that came after `heard_since`, of answers given after `since`, both in unix seconds; and how
        right the version should be by what it has shown. Raises NotFoundError, DamagedError.
        """
        stable = self._of(bundle, version)
        rows = [row for row in self._labelled if row["heard_ns"] > heard_since * 1e9 and row["at_ns"] >= since * 1e9]
        mine = self._judgeable(rows, version)
        right = round(float(marked(stable.task, stable.encoding, mine).sum()), 3)
        num = len(within_share([row for row in rows if row["has_input"]], self._share))
        return Labels(num, Judged(right, len(mine))), stable.expected(row["variant"] for row in mine)

    def errors(self, bundle: str, version: int) -> Errors:
        """Of a version's labelled answers. Raises NotFoundError, DamagedError."""
        mine = self._judgeable(self._labelled, version)
        if not mine:
            return Errors(np.empty(0, np.int64), np.empty(0), np.empty(0))
        stable = self._of(bundle, version)
        mine.sort(key=lambda row: (row["at_ns"], row["id"]))
        return Errors(
            np.array([row["at_ns"] for row in mine], np.int64),
            1.0 - marked(stable.task, stable.encoding, mine),
            np.array([stable.loss(row["variant"]) for row in mine]),
        )

    def _judgeable(self, rows: Iterable[dict[str, Any]], version: int) -> list[dict[str, Any]]:
        """Those of a version whose outputs were kept."""
        mine = [row for row in rows if row["version"] == version and row["outputs"] is not None]
        return within_share(mine, self._share)

    def _forget(self, max_rows: int, since_ns: int) -> None:
        """What the sample does not keep, and what was said of answers that are not in it and will not be."""
        self._answers = served.kept(self._answers, max_rows, since_ns)
        known = set(self._answers["request_id"].to_pylist())
        received_ns = self._words["received_ns"].to_numpy()
        is_kept = received_ns > received_ns.max(initial=0) - OVERLAP_NS
        is_kept |= np.array([name in known for name in self._words["request_id"].to_pylist()], bool)
        self._words = self._words.filter(pa.array(is_kept))
        self._most = max(LEAST_REMEMBERED, 2 * (len(self._answers) + len(self._words)))

    def _of(self, bundle: str, version: int) -> _Stable:
        if self._stable is None or self._stable[0] != (bundle, version):
            self._stable = (bundle, version), _stable(read_bundle(self._store, bundle), version)
        return self._stable[1]


def marked(task: Task, encoding: Encoding, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """How right labelled answers were (`cluster.feedback.labelled`), float64 [n] from 0 to 1."""
    if not rows:
        return np.empty(0)
    return marks(task, encoding, [row["outputs"] for row in rows], [row["label"] for row in rows])


def _light(table: pa.Table) -> pa.Table:
    """Rows of the sample with `has_input` in the place of the input itself."""
    return table.drop_columns(["input"]).append_column("has_input", table["input"].is_valid())


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
