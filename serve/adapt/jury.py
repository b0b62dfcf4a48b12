"""How often two versions were right in what they answered since a time, by the labels that can be believed.

Knows the store, not what follows from it.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from cluster import feedback, served
from cluster.config import Labels
from cluster.store import Store
from ladder.bundle import Bundle, read_bundle
from serve.adapt.evidence import marked
from serve.adapt.sequential import Tally
from tasks.task import Task, load_task

MARGIN_NS = 60 * 10**9  # replicas write their rows down some time after the answer
LEAST_RIGHT = 0.5  # of an answer that is partly right


class Jury:
    """Of one endpoint; call it from one thread."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._served, self._said = served.ledger(store, name), feedback.ledger(store, name)
        self._seen: tuple[Any, ...] = ()
        self._tally = Tally()
        self._opened: dict[str, tuple[Bundle, Task]] = {}

    def look(self, stable: tuple[str, int], candidate: tuple[str, int], since: float, rules: Labels) -> Tally:
        """Labelled and wrong answers of each version, by bundle and number, since then (unix seconds): all of them.

        Raises TrimtabError where the store cannot be read.
        """
        since_ns = int(since * 1e9)
        parts = self._said.parts(since_ns), self._served.parts(since_ns), stable, candidate
        if parts == self._seen:
            return self._tally
        labels = self._labels(since_ns, rules.agreement)
        self._tally = Tally(
            *(num for which in (stable, candidate) for num in self._judged(*which, labels, rules.client_share))
        )
        self._opened = {key: self._opened[key] for key in (stable[0], candidate[0]) if key in self._opened}
        self._seen = parts
        return self._tally

    def _labels(self, since_ns: int, agreement: int) -> list[dict[str, Any]]:
        """Answers given since then, with their labels."""
        words = self._said.read(since_ns)
        if not len(words):
            return []
        table = self._served.read(max(since_ns - MARGIN_NS, 0), served.LIGHT)
        is_meant = (table["at_ns"].to_numpy() >= since_ns) & table["outputs"].is_valid().to_numpy()
        return feedback.labelled(table.filter(pa.array(is_meant)), words, agreement)[0]

    def _judged(self, key: str, version: int, labels: list[dict[str, Any]], share: float) -> tuple[int, int]:
        mine = feedback.within_share([row for row in labels if row["version"] == version], share)
        if not mine:
            return 0, 0
        if key not in self._opened:
            bundle = read_bundle(self._store, key)
            self._opened[key] = bundle, load_task(bundle.experiment, bundle.file)
        bundle, task = self._opened[key]
        return len(mine), int((marked(task, bundle.encoding, mine) < LEAST_RIGHT).sum())
