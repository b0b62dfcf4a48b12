"""The whole run, aloud: bring up a cluster, do each step or skip it, deploy, and sum up.

Knows what a person should hear and in which order; the steps themselves are in `trimtab.pipeline`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster.config import Experiment
from cluster.progress import Event
from cluster.session import Session
from jobs.keys import Keys
from ladder.bundle import read_bundle
from tasks.dataset import SPLITS, read_dataset
from trimtab import endpoint, outlook, pipeline
from trimtab.workspace import Workspace
from tune import results

if TYPE_CHECKING:
    from cluster.registry import ModelVersion


@dataclass
class Outcome:
    """What a run came to; figures fill in as the steps do."""

    experiment: Experiment
    figures: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)  # of each step; 0.0 when it was skipped
    endpoint: str | None = None
    sample: str | None = None
    cluster: Session | None = None

    def table(self) -> dict[str, Any]:
        where = {"endpoint": self.endpoint} if self.endpoint else {}
        return {"experiment": self.experiment.name, **self.figures, "seconds": self.seconds, **where}

    def curl(self) -> str:
        assert self.cluster is not None
        assert self.endpoint is not None
        return endpoint.curl(self.endpoint, self.cluster, self.sample)


def run(experiment: Experiment, workspace: Workspace, last: str, inline: bool) -> Outcome:
    """Do every step up to `last` (preprocess, tune, train, evaluate or deploy) whose result is not there yet.

    Raises:
        TrimtabError: the step that failed, in words; what earlier steps made stays and is not made again.
    """
    outcome = Outcome(experiment)
    say = workspace.screen.word
    planned = pipeline.plan(experiment, workspace.store)
    keys = pipeline.keys_of(planned)
    steps = _up_to(last, planned)
    deploys = last == "deploy"
    if deploys or not all(step.skip for step in steps):
        outlook.check(experiment, steps, workspace.cluster_or_new(), deploys=deploys)
    for step in steps:
        if step.skip:
            say(step.step, f"skipped, {step.why}")
            outcome.seconds[step.step] = 0.0
            continue
        runner = _runner(experiment, keys, workspace, inline)
        started = time.monotonic()
        said = runner.run(step)
        outcome.seconds[step.step] = round(time.monotonic() - started, 1)
        workspace.screen.finished(step.step)
        first = f", its first step after {said['first_step_s']} s" if said.get("first_step_s") else ""
        say(step.step, f"done in {outcome.seconds[step.step]} s{first}")
    outcome.figures, version = _figures(workspace, steps)
    if deploys and version is not None:
        _deploy(outcome, workspace, version)
    return outcome


def _up_to(last: str, steps: list[pipeline.Planned]) -> list[pipeline.Planned]:
    names = [step.step for step in steps]
    return steps[: names.index(last) + 1] if last in names else steps


def _runner(experiment: Experiment, keys: Keys, workspace: Workspace, inline: bool) -> pipeline.Runner:
    screen = workspace.screen

    def listener(event: Event) -> None:
        if event.kind == "progress":
            screen.progress(event.step, event.done, event.total, event.figures)

    return pipeline.Runner(
        experiment, keys, workspace.cluster_or_new(), workspace.store, inline, listener, on_job=screen.following
    )


def _figures(workspace: Workspace, steps: list[pipeline.Planned]) -> tuple[dict[str, Any], ModelVersion | None]:
    """What the store says of the results, so that a skipped step is summed up like one that ran; and the version."""
    version = None
    keys = {step.step: step.key for step in steps}
    dataset = read_dataset(workspace.store, keys["preprocess"])
    figures: dict[str, Any] = {
        "rows in": dataset.rows_in,
        "rejected": {"total": dataset.rejected["total"], **dataset.rejected["reasons"]},
        "rows": {split: dataset.num_rows(split) for split in SPLITS},
        "shards": sum(len(entries) for entries in dataset.shards.values()),
    }
    if "tune" in keys:
        found = results.figures(workspace.store.manifest("searches", keys["tune"]))
        figures |= {f"search {name.replace('_', ' ')}": value for name, value in found.items()}
    if "train" in keys:
        trained = workspace.store.manifest("runs", keys["train"])
        figures["validation accuracy"] = trained["metrics"]["validation_accuracy"]
    if "evaluate" in keys:
        bundle = read_bundle(workspace.store, keys["evaluate"])
        figures["test accuracy"] = bundle.metrics["accuracy"]
        version = workspace.registry.register(bundle.name, bundle.key, None, {})
        figures["model version"] = version.version
    return figures, version


def _deploy(outcome: Outcome, workspace: Workspace, version: ModelVersion) -> None:
    outcome.cluster = workspace.cluster_or_new()
    started = time.monotonic()
    outcome.endpoint = endpoint.deploy(outcome.experiment, version, workspace, outcome.cluster)
    outcome.seconds["deploy"] = round(time.monotonic() - started, 1)
    outcome.sample = endpoint.sample(workspace.store, version.bundle)
