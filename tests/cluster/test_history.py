from __future__ import annotations

import json

from cluster import history
from cluster.store import Store


def test_an_event_that_is_written_twice_counts_once(store: Store) -> None:
    first, again = history.ledger(store, "digits"), history.ledger(store, "digits")
    passed = history.row("gate passed", 5, 2, "all 9 checks", order="person-2", accuracy=0.98)

    first.append([history.row("ordered", 1, 0, "by a person", order="person-2")])
    first.append([passed])
    again.append([{**passed, "at_ns": 7}])

    rows = history.ledger(store, "digits").read().to_pylist()
    assert [(row["event"], row["version"], row["order"]) for row in rows] == [
        ("ordered", 0, "person-2"),
        ("gate passed", 2, "person-2"),
    ]
    assert json.loads(rows[1]["figures"]) == {"accuracy": 0.98}


def test_the_same_words_about_another_version_are_another_event(store: Store) -> None:
    ledger = history.ledger(store, "digits")
    ledger.append([history.row("promoted", 1, version, "by itself") for version in (2, 3)])

    assert ledger.read()["version"].to_pylist() == [2, 3]
