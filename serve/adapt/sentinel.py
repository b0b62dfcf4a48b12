"""Looks at the sample of what an endpoint answers, as it grows, and says when it begins to drift and when that ends.

Beside the actor's loop, because it reads files and takes its time. Knows the store; the tests stand in
`serve.adapt.drift`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cluster import served
from cluster.ledger import Follower
from cluster.store import Store
from ladder import reference
from ladder.bundle import Bundle, read_bundle
from ladder.embedding import Embedder
from ladder.profile import batched
from ladder.variants import REFERENCE
from serve.adapt import drift
from serve.adapt.drift import Reference, Verdict
from serve.adapt.streams import Stream
from tasks.task import load_task

LOOK_EVERY_S = 15.0


class Sentinel:
    """Of one endpoint; call it from one thread."""

    def __init__(self, store: Store, name: str, window: int = drift.WINDOW) -> None:
        self._store, self._window = store, window
        self._sample = Follower(served.ledger(store, name), "at_ns")
        self._of: tuple[str, int] | None = None  # bundle and version
        self._known: Reference | None = None
        self._waiting: list[dict[str, Any]] = []
        self._verdict: Verdict | None = None
        self._seen_inputs: Verdict | None = None
        self._embed: Embedding | None = None
        self._surety: dict[str, Stream] = {}  # of each rung: they differ in it
        self.drift_since: float | None = None  # unix seconds of the first answer that drifts; None without drift
        self._before_ns = 0  # when the window before the last one begins

    def look(self, bundle: str, version: int) -> list[str]:
        """Sentences about what has changed since the last look. Raises TrimtabError when the store cannot be read."""
        if self._of != (bundle, version):
            self._begin(bundle, version)
        if self._known is None:
            return []
        rows = self._sample.fresh().to_pylist()
        fresh = [row for row in rows if row["version"] == version and row["outputs"] is not None]
        words = self._creeping(fresh, version) if self._known.has_classes else []
        self._waiting += fresh
        latest: list[dict[str, Any]] = []
        while len(self._waiting) >= self._window:
            part, self._waiting = self._waiting[: self._window], self._waiting[self._window :]
            latest = part
            findings = self._known.judge(*drift.columns(part))
            if not findings:
                continue
            before, self._verdict = self._verdict, drift.follow(self._verdict, findings)
            words += _said(before, self._verdict, f"the answers of version {version}")
            if not self._verdict.drift:
                self.drift_since = None
            elif self.drift_since is None:
                self.drift_since = (self._before_ns or part[0]["at_ns"]) / 1e9  # two windows in a row are drift
            self._before_ns = part[0]["at_ns"]
        return words + self._inputs(latest, version)

    def _inputs(self, rows: Sequence[dict[str, Any]], version: int) -> list[str]:
        """Of the newest window alone: the trained network has to look at each of its rows."""
        assert self._known is not None
        if self._embed is None or not rows or any(row["input"] is None for row in rows):
            return []
        before = self._seen_inputs
        self._seen_inputs = drift.follow(before, self._known.judge_inputs(self._embed(rows)))
        return _said(before, self._seen_inputs, f"the inputs of version {version}")

    def _begin(self, bundle: str, version: int) -> None:
        read = read_bundle(self._store, bundle)
        self._known, self._embed, self._seen_inputs = reference_of(read), embedding_of(read), None
        self._of, self._waiting, self._verdict = (bundle, version), [], None
        self.drift_since, self._before_ns = None, 0
        self._surety = {}

    def _creeping(self, rows: Sequence[dict[str, Any]], version: int) -> list[str]:
        """Changes of how sure the answers are, rung by rung: the largest output of each."""
        words = []
        for variant in sorted({row["variant"] for row in rows}):
            outputs = np.array([row["outputs"] for row in rows if row["variant"] == variant])
            stream = self._surety.setdefault(variant, Stream())
            if change := stream.feed(outputs.max(axis=1).clip(0.0, 1.0).tolist()):
                mean = "the mean confidence of version {} with {} went from {:.3f} to {:.3f}, found by ADWIN"
                words.append(mean.format(version, variant, *change))
        return words


def reference_of(bundle: Bundle) -> Reference | None:
    """What the answers of a version are compared with; None for a bundle of an earlier Trimtab, which has none.

    Raises NotFoundError, DamagedError.
    """
    if "reference" not in bundle.files:
        return None
    has_classes = load_task(bundle.experiment, bundle.file).targets == "label"
    data = bundle.read("reference")
    return Reference(reference.unpack(data), has_classes=has_classes, embeddings=reference.embeddings(data))


Embedding = Callable[[Sequence[Mapping[str, Any]]], np.ndarray]


def embedding_of(bundle: Bundle) -> Embedding | None:
    """What makes embeddings float32 [n, e] of the inputs of n rows of the sample; None for a bundle that has no others.

    Raises NotFoundError, DamagedError.
    """
    if "reference" not in bundle.files or reference.embeddings(bundle.read("reference")) is None:
        return None
    encoding, embed = bundle.encoding, Embedder(bundle.read(REFERENCE))

    def embedded(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return batched(embed, np.stack([served.row_of(row["input"], encoding.shape, encoding.dtype) for row in rows]))

    return embedded


def _said(before: Verdict | None, now: Verdict, what: str) -> list[str]:
    if now.drift and not (before and before.drift):
        tests = "; ".join(f"{f.test} (p {f.p:.1g})" for f in now.findings if f.test in now.drift)
        return [
            f"{what} drift, severity {now.severity:.1f}, found by {tests}: "
            "see what their labels say with trimtab feedback"
        ]
    if before and before.drift and not now.drift:
        return [f"{what} drift no more"]
    return []
