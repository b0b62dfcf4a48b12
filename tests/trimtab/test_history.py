"""A version's life and the loop on the screen, from rows written here as its parts write them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster import history
from cluster.errors import NotFoundError
from cluster.store import Store
from serve.adapt import mailbox
from serve.adapt.bounds import Bounds
from serve.adapt.journal import Journal
from serve.adapt.proposals import Expectation, Proposal, Verdict
from serve.adapt.replay import Mind, note_entry, state_entry
from trimtab import history as past
from trimtab.cli import app
from trimtab.screen import Screen
from trimtab.workspace import Workspace

S = 10**9


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Version 1 by a run, 2 promoted, 3 refused by the gate, 4 taken back, and an order that failed."""
    made = Workspace(Screen(), store_uri=str(tmp_path_factory.mktemp("history") / "store"))
    for number in range(1, 5):
        made.registry.register("digits", f"{number}" * 16, None, {"accuracy": 0.9 + number / 100})
    made.registry.set_stable("digits", 1)
    made.registry.set_stable("digits", 2)
    ledger, row = history.ledger(made.store, "digits"), history.row
    ledger.append([row("deployed", S, 1, "by ada")])
    for number, order in ((2, "drift-1"), (3, "data-2"), (4, "person-3")):
        at = number * 100 * S
        ledger.append([row("ordered", at, 0, f"{order[:-2]}: so it is", order=order)])
        ledger.append([row("started", at + S, 0, "on 2,000 labels", order=order)])
        ledger.append([row("registered", at + 2 * S, number, f"{number},000 rows", order=order)])
    passed = "9 of 9 checks"
    ledger.append(
        [row("gate passed", 210 * S, 2, passed, order="drift-1", checks=[{"name": "accuracy", "value": 0.92}])]
    )
    ledger.append([row("canary", 220 * S + step, 2, f"{step} %", order="drift-1") for step in (1, 50)])
    ledger.append([row("promoted", 230 * S, 2, "by itself", order="drift-1")])
    ledger.append([row("gate refused", 310 * S, 3, "accuracy falls by 0.05", order="data-2")])
    ledger.append([row("gate passed", 410 * S, 4, passed, order="person-3")])
    ledger.append([row("taken back", 420 * S, 4, "11 of 40 answers fail", order="person-3")])
    ledger.append([row("ordered", 500 * S, 0, "by schedule", order="schedule-5")])
    ledger.append([row("failed", 510 * S, 0, "the data is gone", order="schedule-5")])
    return made


def test_each_version_has_one_line_and_an_order_without_one_too(workspace: Workspace) -> None:
    lives = {life["version"]: life for life in past.lives("digits", workspace)}

    assert {number: life["fate"] for number, life in lives.items()} == {
        1: "deployed (previous)",
        2: "promoted (stable)",
        3: "gate refused: accuracy falls by 0.05",
        4: "taken back: 11 of 40 answers fail",
        None: "failed: the data is gone",
    }
    second = {
        name: lives[2][name] for name in ("ordered by", "order", "trained on", "gate", "rollout", "test accuracy")
    }
    assert second == {
        "ordered by": "drift: so it is", "order": "drift-1", "trained on": "2,000 rows", "gate": "9 of 9 checks",
        "rollout": "50 %", "test accuracy": 0.92,
    }  # fmt: skip
    assert lives[1]["ordered by"] == "trimtab run"


def test_the_verb_shows_a_table_or_every_figure(workspace: Workspace) -> None:
    run, store = CliRunner(), ["--store", str(workspace.store_uri)]

    shown = run.invoke(app, ["history", "digits", *store], env={"COLUMNS": "250"})
    as_json = json.loads(run.invoke(app, ["history", "digits", "--json", *store]).stdout)
    unknown = run.invoke(app, ["history", "letters", *store])

    assert "taken back: 11 of 40 answers fail" in shown.stdout
    (life,) = (life for life in as_json if life["version"] == 2)
    assert [event["event"] for event in life["events"]] == [
        "ordered", "started", "registered", "gate passed", "canary", "canary", "promoted",
    ]  # fmt: skip
    assert life["events"][3]["figures"] == {"checks": [{"name": "accuracy", "value": 0.92}]}
    assert isinstance(unknown.exception, NotFoundError)
    assert "models there are: digits" in str(unknown.exception)


def test_what_the_loop_does_is_said_once_as_it_comes(tmp_path: Path, experiment_file: Callable[..., Path]) -> None:
    from cluster import experiment as experiments

    store = Store.open(str(tmp_path / "store"))
    workspace = Workspace(Screen(), store_uri=store.uri)
    tail, ledger = past.Tail("digits", workspace, time.time()), history.ledger(store, "digits")
    before = tail.fresh()

    now, journal = time.time(), Journal(mailbox.journal(mailbox.place(store, "digits")))
    journal.append(state_entry(Mind.fresh(Bounds.of(experiments.load(experiment_file()))), now, "start"))
    journal.append(note_entry("a retraining is ordered", now))
    changes = {"variants": ["large", "small"], "max_batch": None}
    wanted = Proposal("mix", "envelope", changes, "3 rows/s come", Expectation("epoch", ">=", 1.0, 1.0), {})
    verdicts = [Verdict(wanted, True, number=1).to_json(), Verdict(wanted, False, "cooling down").to_json()]
    journal.append({"kind": "tick", "at": now, "verdicts": verdicts})
    ledger.append([history.row("ordered", time.time_ns(), 0, "by a person", order="person-1")])
    ledger.append([history.row("canary", time.time_ns(), 2, "1 %", order="person-1")])
    seen, again = tail.fresh(), tail.fresh()
    journal.close()

    assert [event["words"] for event in seen] == [
        "a retraining is ordered",
        "mix: variants large,small, max_batch default (3 rows/s come)",
        "version 2: canary: 1 %",
    ]
    assert before == again == []
