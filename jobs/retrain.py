"""A retraining: what was ordered, learnt from the experiment's rows and from feedback, and judged by the gate.

    labelled rows -> dataset -> train, from the stable version's weights -> evaluate, register -> gate -> result

Each step's result has a key that follows from the order, so a job that died goes on where it was and does nothing
twice; the result is written once and everything else that is said follows from it. Knows neither who ordered it nor
what becomes of a version that passed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster import history, orders, served
from cluster.config import Experiment
from cluster.errors import DataError, NotFoundError, StoppedError, TrimtabError
from cluster.experiment import fingerprint
from cluster.orders import Order, Result
from cluster.progress import Progress
from cluster.registry import STABLE, Registry
from cluster.store import Store
from jobs import evaluate, gate, keys, labelled, relearn, train
from jobs.keys import Keys
from ladder.bundle import Bundle, read_bundle
from ladder.gate import reasons
from tasks.dataset import Dataset, read_dataset
from tasks.task import Encoding

if TYPE_CHECKING:
    from jobs.command import Context

STEPS = 2  # of which this module says how far they are; training and evaluation say so themselves


def body(context: Context) -> dict[str, Any]:
    """The step as `jobs.command` runs it."""
    import os

    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
    order = find(context.store, context.experiment.name, context.order)
    return run(context.experiment, context.store, context.registry, order, context.progress)


def find(store: Store, name: str, identifier: str) -> Order:
    """Raises NotFoundError when nobody ordered that."""
    found = next((order for order in orders.orders(store, name) if order.id == identifier), None)
    if found is None:
        raise NotFoundError(f"no order {identifier!r} for a retraining of {name} in the store {store.uri}")
    return found


def run(experiment: Experiment, store: Store, registry: Registry, order: Order, progress: Progress) -> dict[str, Any]:
    """Do what was ordered, or the rest of it; returns figures for a person.

    Raises TrimtabError, which is the order's result then, as each step raises it: there is no stable version, the data
    cannot be read, the training went wrong; StoppedError, which leaves the order as it is, when it was told to end.
    """
    work = Retraining(experiment, store, registry, order, progress)
    failure: TrimtabError | None = None
    result = orders.result_of(store, order)
    if result is None:
        try:
            result = work.done()
        except StoppedError:
            raise  # the order stands: its next job goes on from what was kept
        except TrimtabError as error:
            failure, result = error, Result("failed", time.time(), str(error))
        orders.finish(store, order, result)
        result = orders.result_of(store, order) or result  # the first word counts
    work.announce(result)
    if failure is not None:
        raise failure
    return {"order": order.id, "fate": result.fate, "version": result.version, "bundle": result.bundle}


@dataclass(frozen=True)
class Retraining:
    experiment: Experiment
    store: Store
    registry: Registry
    order: Order
    progress: Progress

    def done(self) -> Result:
        """From the order to its result; what is there already is not made again."""
        self._say("started", 0, f"ordered by {self.order.cause}: {self.order.words}")
        dataset = self.dataset()
        self.progress.update(1, STEPS, **{name: dataset.lineage[name] for name in ("learnt", "held_out")})
        stable = read_bundle(self.store, dataset.lineage["stable"])
        recipe = self._recipe(stable.experiment)
        start = stable.key if self.experiment.retrain.warm_start else ""
        made = keys.of_retraining(recipe, dataset.key, start)
        self.train(recipe, dataset, made.run, start)
        version = self.evaluate(recipe, dataset, made)
        return self.judge(stable, dataset, made.bundle, version)

    def judge(self, stable: Bundle, dataset: Dataset, key: str, version: int) -> Result:
        """What the gate says of the new version."""
        self.progress.update(2, STEPS, version=version)
        checks = gate.measure(stable, read_bundle(self.store, key), dataset, relearn.held_out(dataset))
        why, figures = reasons(checks), [check.to_json() for check in checks]
        words = why or f"nowhere worse than version {dataset.lineage['stable_version']} than it may be"
        return Result("refused" if why else "passed", time.time(), words, key, version, figures)

    def announce(self, result: Result) -> None:
        """Say what it came to, in the registry and in the history; saying it again changes nothing."""
        if result.fate == "refused":
            self.registry.refuse(self.order.name, result.version, result.words)
        event: dict[str, history.Event] = {"passed": "gate passed", "refused": "gate refused"}
        self._say(event.get(result.fate, "failed"), result.version, result.words, checks=result.figures)

    def dataset(self) -> Dataset:
        """What is learnt from; the first to make it decides what labels there were and which version is stable."""
        key = fingerprint("retraining", self.order.name, self.order.id, self.order.at)
        if not self.store.has("datasets", key):
            stable = self.registry.version(self.order.name, STABLE)
            bundle = read_bundle(self.store, stable.bundle)
            base = self._base(bundle.dataset)
            before = read_dataset(self.store, bundle.dataset) if self.store.has("datasets", bundle.dataset) else None
            until_ns = time.time_ns()
            found = labelled.gather(
                self.store,
                self.order.name,
                base.encoding,
                self._versions(),
                self.experiment.retrain.labels,
                until_ns,
                None if before is None or not _alike(before, base) else relearn.feedback_of(before),
                relearn.contents(base, "test"),
            )
            lineage = {"order": self.order.id, "until_ns": until_ns, "stable": bundle.key}
            relearn.publish(self.store, key, base, found, {**lineage, "stable_version": stable.version})
        return read_dataset(self.store, key)

    def train(self, recipe: Experiment, dataset: Dataset, key: str, start: str) -> None:
        train.run(
            recipe,
            self.store,
            dataset.key,
            key,
            Progress("train"),
            self.registry,
            inline=True,
            start=start,
        )

    def evaluate(self, recipe: Experiment, dataset: Dataset, made: Keys) -> int:
        """Make and register the version; returns its number."""
        figures = evaluate.run(
            recipe, self.store, dataset.key, made.run, made.bundle, self.registry, Progress("evaluate")
        )
        version = int(figures["version"])
        names = ("learnt", "held_out", "left_out", "repeats", "until_ns", "base", "stable_version")
        lineage = {name: dataset.lineage[name] for name in names}
        self._say("registered", version, _learnt(dataset), dataset=dataset.key, bundle=made.bundle, **lineage)
        return version

    def _base(self, stable: str) -> Dataset:
        """The experiment's rows as they are now; where they cannot be read, those the stable version was made with."""
        from jobs import preprocess

        try:
            key = keys.of(self.experiment).dataset
            if not self.store.has("datasets", key):
                preprocess.run(self.experiment, self.store, key, self.progress.update)
            return read_dataset(self.store, key)
        except DataError as error:
            if self.order.cause == "data" or not self.store.has("datasets", stable):
                raise
            before = read_dataset(self.store, stable)
            self.progress.update(0, STEPS, data=f"{error}; the stable version's rows are used")
            return read_dataset(self.store, before.lineage.get("base", before.key))

    def _recipe(self, stable: Experiment) -> Experiment:
        """The experiment's settings, or those that a search has found for the stable version."""
        model, recipe = self.experiment.model, self.experiment.train
        if self.experiment.tune is not None:
            model, recipe = stable.model, stable.train
        if (epochs := self.experiment.retrain.epochs) is not None:
            recipe = recipe.model_copy(update={"epochs": epochs})
        return self.experiment.model_copy(update={"model": model, "train": recipe, "tune": None})

    def _versions(self) -> dict[int, Encoding]:
        """The encodings of the versions that answers in the sample are of, as far as they are still there."""
        seen = set(served.ledger(self.store, self.order.name).read(columns=("id", "version"))["version"].to_pylist())
        found = [one for one in self.registry.versions(self.order.name) if one.version in seen]
        return {
            one.version: read_bundle(self.store, one.bundle).encoding
            for one in found
            if self.store.has("bundles", one.bundle)
        }

    def _say(self, event: history.Event, version: int, words: str, **figures: Any) -> None:
        row = history.row(event, time.time_ns(), version, words, order=self.order.id, **figures)
        history.ledger(self.store, self.order.name).append([row])


def _alike(before: Dataset, base: Dataset) -> bool:
    """Whether encoded rows and targets of the one mean the same in the other."""
    ours, theirs = before.encoding, base.encoding
    return (ours.labels, ours.shape, ours.dtype) == (theirs.labels, theirs.shape, theirs.dtype)


def _learnt(dataset: Dataset) -> str:
    lineage = dataset.lineage
    return (
        f"learnt {lineage['learnt']:,} labels of feedback beside the experiment's rows, from version "
        f"{lineage['stable_version']} on; {lineage['held_out']:,} held out"
    )


if __name__ == "__main__":
    from jobs import command

    raise SystemExit(command.main("retrain", body))
