"""What people said of an endpoint's answers: send it from a file, and see what it comes to.

Sending goes through the endpoint like any client's word; the sums are made of what lies in the store.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster import feedback, served
from cluster.config import Experiment
from cluster.errors import UserError
from cluster.feedback import KINDS
from cluster.session import Session
from serve import deploy as deployment
from trimtab.workspace import Workspace

BATCH = 500  # words of one request


def send(experiment: Experiment, path: Path, cluster: Session) -> dict[str, Any]:
    """Send the words in a file of JSON lines or CSV; sending them again changes nothing.

    Raises:
        UserError: a line that is none, before anything is sent; or a word that the endpoint refuses, after those in
            front of it were sent.
        UnauthorisedError, NotFoundError, DeadlineError, ClusterError, TrimtabError: as `serve.deploy.predict`.
    """
    words = list(_words(path))
    url = deployment.url(cluster, experiment)
    for start in range(0, len(words), BATCH):
        body = json.dumps({"feedback": words[start : start + BATCH]}).encode()
        deployment.feedback(url, cluster.api_token, body)
    return {"endpoint": experiment.name, "accepted": len(words)}


def _words(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("WORDS", str(path), f"cannot be read ({error})", "name a file of JSON lines or CSV") from error
    found = _csv(text) if path.suffix.lower() == ".csv" else _json_lines(text, path)
    number = 0
    for number, word in found:
        if not word.get("request_id") or not any(kind in word for kind in KINDS):
            mend = f"give each line request_id and one of {', '.join(KINDS)}"
            raise UserError("WORDS", f"{path}, line {number}", "is no word of feedback", mend)
        yield word
    if number == 0:
        raise UserError("WORDS", str(path), "holds no line", 'write lines like {"request_id": "...", "label": "..."}')


def _json_lines(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            tree = json.loads(line)
        except (ValueError, RecursionError):
            tree = None
        if not isinstance(tree, dict):
            raise UserError("WORDS", f"{path}, line {number}", "is no JSON object", "write one object per line")
        yield number, tree


def _csv(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Empty cells are left out; ratings and rows are numbers where they look like it, else the endpoint says so."""
    csv.field_size_limit(sys.maxsize)
    lines = csv.DictReader(io.StringIO(text))
    names = list(lines.fieldnames or ())
    if (twice := next((name for name in names if names.count(name) > 1), None)) is not None:
        raise UserError("WORDS", ",".join(names), f"has two columns of the name {twice!r}", "remove one of them")
    for number, record in enumerate(lines, 2):
        word: dict[str, Any] = {name: value for name, value in record.items() if name and value}
        for name, kind in (("row", int), ("rating", float)):
            if name in word:
                try:
                    word[name] = kind(word[name])
                except ValueError:
                    continue
        yield number, word


def summary(experiment: Experiment, workspace: Workspace) -> dict[str, Any]:
    """How much feedback there is, what of it can be believed, and how right the answers were by it, per version."""
    said = feedback.ledger(workspace.store, experiment.name).read()
    sample = served.ledger(workspace.store, experiment.name).read(columns=served.LIGHT)
    labelled, found = feedback.labelled(sample, said, agreement=1)
    words = said.group_by(["request_id", "row", "kind", "value", "client"]).aggregate([])  # sent again, it is the same
    kinds = words["kind"].to_pylist()
    ratings = [float(v) for v, kind in zip(words["value"].to_pylist(), kinds, strict=True) if kind == "rating"]
    return {
        "endpoint": experiment.name,
        "words": {kind: kinds.count(kind) for kind in KINDS},
        "clients": len(set(said["client"].to_pylist())),
        "mean rating": round(float(np.mean(ratings)), 4) if ratings else None,
        "labels": {
            "of answers in the sample": len(found.labels),
            "of others": found.unknown,
            "contradictory": found.conflicting,
        },
        "versions": _by_version(experiment, workspace, Counter(sample["version"].to_pylist()), labelled),
    }


def _by_version(
    experiment: Experiment, workspace: Workspace, answers: Mapping[int, int], labelled: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Of each version its answers in the sample, those with a label, and the share of these that was right."""
    from ladder.bundle import read_bundle
    from serve.adapt.evidence import marked
    from tasks.task import load_task

    made = []
    bundles = {one.version: one.bundle for one in workspace.registry.versions(experiment.name)} if answers else {}
    for version, num in sorted(answers.items()):
        rows = [row for row in labelled if row["version"] == version and row["outputs"] is not None]
        entry: dict[str, Any] = {"version": version, "answers": num, "labelled": len(rows), "right": None}
        if rows and version in bundles:
            bundle = read_bundle(workspace.store, bundles[version])
            task = load_task(bundle.experiment, bundle.file)
            entry["right"] = round(float(marked(task, bundle.encoding, rows).mean()), 4)
        made.append(entry)
    return made
