"""Whether what an endpoint answers has drifted away from what its model was tested on, by the sample in the store."""

from __future__ import annotations

import time
from typing import Any

from cluster import served
from cluster.config import Experiment
from cluster.errors import NotFoundError
from ladder.bundle import read_bundle
from serve.adapt import drift, mistakes
from serve.adapt.evidence import Hearing
from serve.adapt.mistakes import Watch
from serve.adapt.sentinel import embedding_of, reference_of
from trimtab.workspace import Workspace


def look(experiment: Experiment, workspace: Workspace, window: int) -> dict[str, Any]:
    """Windows of the stable version's answers, oldest first, each against the reference in its bundle.

    Raises NotFoundError: no version, a bundle without a reference, or fewer answers in the sample than a window.
    """
    version = workspace.registry.version(experiment.name, "stable")
    bundle = read_bundle(workspace.store, version.bundle)
    known, embed = reference_of(bundle), embedding_of(bundle)
    if known is None:
        raise NotFoundError(f"version {version.version} of {experiment.name} has no reference; train and evaluate anew")
    sample = served.ledger(workspace.store, experiment.name).read()
    rows = [r for r in sample.to_pylist() if r["version"] == version.version and r["outputs"] is not None]
    if len(rows) < window:
        mend = "wait for more requests, raise serve.record.rate, or lower --window"
        raise NotFoundError(
            f"{len(rows)} answers of version {version.version} are in the sample, {window} needed; {mend}"
        )
    rows.sort(key=lambda row: row["at_ns"])
    verdicts: list[drift.Verdict] = []
    for start in range(0, len(rows) - window + 1, window):
        part = rows[start : start + window]
        findings = known.judge(*drift.columns(part))
        if embed is not None and all(row["input"] is not None for row in part):
            findings += known.judge_inputs(embed(part))
        if findings:
            verdicts.append(drift.follow(verdicts[-1] if verdicts else None, findings))
    hearing, now = Hearing(workspace.store, experiment.name), time.time()
    hearing.listen(experiment.retrain.labels, experiment.serve.record, now)
    errors = hearing.errors(version.bundle, version.version)
    _, changes = mistakes.follow(Watch(), errors, now)
    num = len(errors.wrong)
    return _said(experiment, version.version, window, verdicts) | {
        "wrong by labels": f"{errors.wrong.mean():.3f} of {num} labelled answers" if num else "no believed label yet",
        "changes of that share": [str(change) for change in changes],
    }


def _said(experiment: Experiment, version: int, window: int, verdicts: list[drift.Verdict]) -> dict[str, Any]:
    last = verdicts[-1] if verdicts else None
    findings = [finding for verdict in verdicts for finding in verdict.findings]
    return {
        "endpoint": experiment.name,
        "version": version,
        "windows": len(verdicts),
        "answers in a window": window,
        "drift now": list(last.drift) if last else [],
        "windows with drift": sum(bool(verdict.drift) for verdict in verdicts),
        "severity": round(last.severity, 1) if last else 0.0,
        "tests": [
            {
                "test": test,
                "windows that alarm": sum(found.alarms for found in findings if found.test == test),
                "p of the last": [found.p for found in findings if found.test == test][-1],
            }
            for test in dict.fromkeys(found.test for found in findings)
        ],
    }
