"""Orders for a retraining and what became of them: files in the store, so that none is lost or done twice.

An order has an id that its cause gives, so ordering the same twice is ordering it once; its job has the id that
`job_id` says, which Ray re-joins while it runs. Knows neither who orders nor how a retraining goes.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cluster.store import Store

Cause = Literal["schedule", "data", "drift", "feedback", "webhook", "person"]
Fate = Literal["passed", "refused", "failed", "stopped"]
ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


@dataclass(frozen=True)
class Order:
    """`id` has letters, digits and hyphens; `at` is in unix seconds; `experiment` is the experiment's JSON."""

    id: str
    name: str  # of the endpoint
    cause: Cause
    words: str
    at: float
    experiment: str

    @property
    def job_id(self) -> str:
        """Of the Ray Job that does it."""
        return f"{self.name}-retrain-{self.id}"


@dataclass(frozen=True)
class Result:
    """What an order came to. `passed` and `refused` have a registered version; `figures` are the gate's checks."""

    fate: Fate
    at: float
    words: str
    bundle: str = ""
    version: int = 0
    figures: list[dict[str, Any]] = field(default_factory=list)


def place(store: Store, order: Order) -> bool:
    """Keep an order; False where one of its id is there already. Raises StoreError."""
    if store.get(_path(order.name, order.id)) is not None:
        return False
    store.put(_path(order.name, order.id), json.dumps(asdict(order)).encode())
    return True


def orders(store: Store, name: str) -> list[Order]:
    """All of an endpoint, the oldest first; files that mean nothing are left out."""
    found = []
    for file in store.names(f"orders/{name}"):
        stem, _, kind = file.partition(".")
        if kind == "json" and (tree := _read(store, _path(name, stem))) is not None:
            found.append(Order(**tree))
    return sorted(found, key=lambda order: (order.at, order.id))


def finish(store: Store, order: Order, result: Result) -> None:
    """Keep what an order came to; the first word counts. Raises StoreError."""
    if result_of(store, order) is None:
        store.put(_path(order.name, f"{order.id}.result"), json.dumps(asdict(result)).encode())


def result_of(store: Store, order: Order) -> Result | None:
    """None while it waits or runs."""
    tree = _read(store, _path(order.name, f"{order.id}.result"))
    return None if tree is None else Result(**tree)


def _path(name: str, stem: str) -> str:
    return f"orders/{name}/{stem}.json"


def _read(store: Store, path: str) -> dict[str, Any] | None:
    data = store.get(path)
    if data is None:
        return None
    try:
        found: dict[str, Any] = json.loads(data)
    except ValueError:
        return None
    return found
