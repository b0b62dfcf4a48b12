"""A retraining by hand: ordered in the store like any other, done by the adaptation actor of the endpoint.

Knows what a person must hear before and after; what an order is stands in `cluster.orders`.
"""

from __future__ import annotations

import getpass
import time
import uuid
from typing import Any

from cluster import history, orders
from cluster.config import Experiment
from cluster.errors import GateError, NotFoundError, TrimtabError, UserError
from cluster.orders import Order, Result
from jobs import sources
from serve.adapt.evidence import Hearing
from serve.adapt.replay import TICK
from tasks import own
from trimtab import adaptation
from trimtab.workspace import Workspace

ALIVE_S = 30.0  # without a line in its record, an actor is taken for gone
PATIENCE_S = 10.0  # that one who waits has with an actor that is gone, or has just been started
POLL_S, LOOK_S = 0.2, 2.0


def outlook(experiment: Experiment, workspace: Workspace) -> dict[str, Any]:
    """What an order would come to, without ordering. Raises as `order`."""
    stable = _checked(experiment, workspace)
    hearing = Hearing(workspace.store, experiment.name)
    hearing.listen(experiment.retrain.labels, experiment.serve.record, time.time())
    found, expected = hearing.labels(stable.bundle, stable.version, _learnt_at(experiment, workspace))
    return {
        "would retrain": experiment.name,
        "beginning with": f"version {stable.version}",
        "believed labels not learnt from": found.num,
        "of its own answers": f"{found.judged}, {expected:.3f} are to be expected" if found.judged.num else "none",
        "by": "the adaptation actor" if _is_attended(experiment, workspace) else "nobody yet: no adaptation actor runs",
    }


def order(experiment: Experiment, workspace: Workspace) -> Order:
    """Order one; it begins within seconds where an actor runs.

    Raises:
        NotFoundError: there is no stable version to begin with.
        DataError: the data cannot be found.
        UserError: another retraining has not ended.
    """
    _checked(experiment, workspace)
    name = f"person-{int(time.time())}-{uuid.uuid4().hex[:4]}"
    environment = own.ship(experiment, workspace.store)
    words, text = f"by {getpass.getuser()}", experiment.model_dump_json()
    made = Order(name, experiment.name, "person", words, time.time(), text, environment)
    orders.place(workspace.store, made)
    if not _is_attended(experiment, workspace):
        mend = f"no adaptation actor of {experiment.name} runs: the order waits for one (adapt.enabled, trimtab deploy)"
        workspace.screen.word("retrain", mend)
    return made


def wait(made: Order, experiment: Experiment, workspace: Workspace) -> Result:
    """Until it has ended.

    Raises:
        GateError: the gate refused what it made.
        TrimtabError: it failed or was stopped, or there is no adaptation actor to do it.
    """
    workspace.screen.following(made.job_id)
    attended_at = looked_at = time.monotonic()
    while (result := orders.result_of(workspace.store, made)) is None:
        time.sleep(POLL_S)
        if (now := time.monotonic()) - looked_at >= LOOK_S:
            looked_at = now
            attended_at = now if _is_attended(experiment, workspace) else attended_at
        if now - attended_at > PATIENCE_S:
            workspace.screen.finished("retrain")
            mend = "deploy it with adapt.enabled, and it is taken up; see trimtab status and trimtab history"
            raise TrimtabError(f"no adaptation actor of {made.name} runs, so the order {made.id} waits; {mend}")
    workspace.screen.finished("retrain")
    if result.fate == "refused":
        raise GateError(f"version {result.version} of {made.name} was refused by the gate: {result.words}")
    if result.fate != "passed":
        raise TrimtabError(f"the retraining {made.id} has {result.fate}: {result.words}")
    return result


def _checked(experiment: Experiment, workspace: Workspace) -> Any:
    """The stable version, where one may be ordered."""
    stable = workspace.registry.version(experiment.name, "stable")
    sources.preflight(experiment)
    for one in orders.orders(workspace.store, experiment.name):
        if orders.result_of(workspace.store, one) is None:
            problem = f"the retraining {one.id} ({one.cause}) has not ended, and there is one at a time"
            mend = f"wait for it, or stop it: trimtab stop {one.job_id}"
            raise UserError("retrain", experiment.name, problem, mend)
    return stable


def _learnt_at(experiment: Experiment, workspace: Workspace) -> float:
    """Until when labels were taken for the last retraining that came to a version."""
    found = history.learnt_until(history.ledger(workspace.store, experiment.name).read().to_pylist())
    return max(found.values(), default=0.0)


def _is_attended(experiment: Experiment, workspace: Workspace) -> bool:
    try:
        entries = adaptation.recent(experiment, workspace)
    except NotFoundError:
        return False
    return any(entry["kind"] == TICK and entry["at"] > time.time() - ALIVE_S for entry in entries)
