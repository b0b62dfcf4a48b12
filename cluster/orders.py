"""Orders for a retraining and what became of them: files in the store, so that none is lost or done twice.

An order has an id that its cause gives, so ordering the same twice is ordering it once; its job has the id that
`job_id` says, which Ray re-joins while it runs. Knows neither who orders nor how a retraining goes.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

from cluster.store import Store

Cause = Literal["schedule", "data", "drift", "feedback", "webhook", "person"]
Fate = Literal["passed", "refused", "failed", "stopped"]
ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Order:
    """`id` has letters, digits and hyphens; `at` is in unix seconds; `experiment` is the experiment's JSON."""

    id: str
    name: str  # of the endpoint
    cause: Cause
    words: str
    at: float
    experiment: str
    environment: dict[str, str] = field(default_factory=dict)  # what its job needs beside: the code of one's own task

    def __post_init__(self) -> None:
        """Raises ValueError for another id: it becomes the name of a file and of a job."""
        if not ID.fullmatch(self.id):
            raise ValueError(f"{self.id!r} cannot be an order's id")

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


@dataclass(frozen=True)
class Ask:
    """Somebody's wish that a retraining be ordered when one may be; of a client of the endpoint."""

    id: str
    at: float  # unix seconds
    words: str

    def __post_init__(self) -> None:
        """Raises ValueError as an order does."""
        if not ID.fullmatch(self.id):
            raise ValueError(f"{self.id!r} cannot be an order's id")


def ask(store: Store, name: str, wish: Ask) -> None:
    """Keep a wish until it is taken up; the same one again is the same. Raises StoreError."""
    store.put(f"{_asks(name)}/{wish.id}.json", json.dumps(asdict(wish)).encode())


def asked(store: Store, name: str) -> list[Ask]:
    """The wishes that wait, the oldest first."""
    files = store.names(_asks(name))
    found = [wish for file in files if (wish := _read(store, f"{_asks(name)}/{file}", Ask)) is not None]
    return sorted(found, key=lambda wish: (wish.at, wish.id))


def taken_up(store: Store, name: str, wish: str) -> None:
    """Remove it."""
    store.remove(f"{_asks(name)}/{wish}.json")


def place(store: Store, order: Order) -> bool:
    """Keep an order; False where one of its id is there already. Raises StoreError."""
    return store.put_new(_path(order.name, order.id), json.dumps(asdict(order)).encode())


def orders(store: Store, name: str) -> list[Order]:
    """All of an endpoint, the oldest first; files that mean nothing are left out."""
    found = [order for stem in ids(store, name) if (order := order_of(store, name, stem)) is not None]
    return sorted(found, key=lambda order: (order.at, order.id))


def ids(store: Store, name: str) -> list[str]:
    """Of all orders of an endpoint."""
    return [stem for stem, _, kind in (file.partition(".") for file in store.names(f"orders/{name}")) if kind == "json"]


def order_of(store: Store, name: str, identifier: str) -> Order | None:
    """None where there is none, or what is there means nothing."""
    return _read(store, _path(name, identifier), Order)


def finish(store: Store, order: Order, result: Result) -> None:
    """Keep what an order came to; the first word counts. Raises StoreError."""
    store.put_new(_path(order.name, f"{order.id}.result"), json.dumps(asdict(result)).encode())


def result_of(store: Store, order: Order) -> Result | None:
    """None while it waits or runs."""
    return _read(store, _path(order.name, f"{order.id}.result"), Result)


def _asks(name: str) -> str:
    return f"orders/{name}/asked"


def _path(name: str, stem: str) -> str:
    return f"orders/{name}/{stem}.json"


def _read(store: Store, path: str, kind: type[Kind]) -> Kind | None:
    data = store.get(path)
    if data is None:
        return None
    try:
        return kind(**json.loads(data))
    except (ValueError, TypeError):
        return None
