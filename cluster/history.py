"""The life of an endpoint's versions: who ordered each, what the gate and the canary measured, and what became of it.

Rows of an append-only ledger in the store, written by whoever does the thing. Knows nothing of how things are done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import pyarrow as pa

from cluster.ledger import Ledger
from cluster.store import Store

Event = Literal[
    "ordered", "started", "registered", "gate passed", "gate refused", "failed", "shadow", "canary", "promoting",
    "promoted", "taken back", "deployed", "rolled back",
]  # fmt: skip
SCHEMA = pa.schema(
    {
        "id": pa.string(),  # the same for the same event: written twice it counts once
        "at_ns": pa.int64(),
        "version": pa.int32(),  # 0 where there is none yet
        "event": pa.string(),
        "order": pa.string(),  # id of the order that led to it, or empty
        "words": pa.string(),
        "figures": pa.string(),  # JSON
    }
)


def ledger(store: Store, name: str) -> Ledger:
    """Of the endpoint `name`."""
    return Ledger(store, f"history/{name}", SCHEMA)


def learnt_until(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Of each order that has come to a version: until when labels were taken for it, in unix seconds."""
    registered = (row for row in rows if row["event"] == "registered")
    found = {row["order"]: json.loads(row["figures"]).get("until_ns") for row in registered}
    return {order: until_ns / 1e9 for order, until_ns in found.items() if until_ns}


def row(event: Event, at_ns: int, version: int, words: str, *, order: str = "", **figures: Any) -> dict[str, Any]:
    """A row of the ledger. `figures` are JSON values."""
    said = "\0".join((event, str(version), order, words))
    identifier = hashlib.blake2b(said.encode(), digest_size=16).hexdigest()
    values = (identifier, at_ns, version, event, order, words, json.dumps(figures))
    return dict(zip(SCHEMA.names, values, strict=True))
