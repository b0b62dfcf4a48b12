"""A person's verbs for the adaptation, on a record made here: no cluster is needed to look, ask or replay."""

from __future__ import annotations

import gzip
import json
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.errors import DeadlineError, NotFoundError, StoreError, UserError
from cluster.experiment import parse
from cluster.store import Store
from serve.adapt import mailbox
from serve.adapt.bounds import Bounds
from serve.adapt.journal import Journal
from serve.adapt.mailbox import Mailbox
from serve.adapt.replay import Mind, state_entry, tick_entry, ticked
from serve.adapt.signals import RungSeen, Snapshot
from trimtab import adaptation
from trimtab.cli import app
from trimtab.history import Tail
from trimtab.screen import Screen
from trimtab.workspace import Workspace, opened

NOW = 1_000_000.0
EXPERIMENT = parse({"name": "digits", "data": {"source": {"kind": "digits"}}, "serve": {"replicas": {"max": 4}}})


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(Screen(), store_uri=str(tmp_path / "store"))


@pytest.fixture
def recorded(workspace: Workspace) -> Path:
    """A minute under so much load that replicas are asked for."""
    place = mailbox.journal(mailbox.place(Store.open(str(workspace.store_uri)), "digits"))
    journal, mind = Journal(place), Mind.fresh(Bounds.of(EXPERIMENT))
    journal.append(state_entry(mind, NOW, "start"))
    rungs = (RungSeen("onnx-fp32", 0.95, 0.001, 0.004, 0.1, 0.4), RungSeen("student-fp32", 0.9, 0.001, 0.001, 0.1, 0.6))
    for i in range(300):
        now = NOW + i / 5
        seen = Snapshot(now, 0.2, 900.0, 900.0, 900.0, 180, 175, 5, accuracy=0.92, utilisation=0.99, rungs=rungs,
                        running=mind.replicas, target=mind.replicas, envelope=mind.envelope or None)  # fmt: skip
        done, after = ticked(mind, seen, now)
        journal.append(tick_entry(seen, done, now))
        mind = after
    journal.close()
    return place


def test_the_record_is_watched_explained_and_replayed_without_a_cluster(
    recorded: Path, workspace: Workspace, experiment_file: Callable[..., Path]
) -> None:
    file, store, run = str(experiment_file()), ["--store", str(workspace.store_uri)], CliRunner()

    watched = run.invoke(app, ["watch", file, "--once", "--json", *store])
    explained = run.invoke(app, ["explain", file, *store])
    replayed = run.invoke(app, ["replay", str(recorded), "--json"])

    seen = json.loads(watched.stdout)
    assert (seen["rungs"], seen["replicas"]["running"]) == ({"onnx-fp32": 0.4, "student-fp32": 0.6}, 4)
    assert "4 run, 4 are wanted, 1 to 4 allowed" in explained.stdout
    assert "last decisions:" in explained.stdout
    found = json.loads(replayed.stdout)
    assert (found["ticks"], found["same"], found["problems"]) == (300, True, [])


def test_the_record_in_an_object_store_is_looked_at_from_anywhere(
    recorded: Path, experiment_file: Callable[..., Path]
) -> None:
    file, uri, run = str(experiment_file()), f"fsspec+memory://{uuid.uuid4().hex}/at", CliRunner()
    lines, store = next(recorded.glob("*.jsonl")).read_bytes(), Store.open(uri)
    store.put("adapt/digits/journal/00000001.jsonl.gz", gzip.compress(lines))

    watched = run.invoke(app, ["watch", file, "--once", "--json", "--store", uri])
    explained = run.invoke(app, ["explain", file, "--store", uri])
    replayed = [
        json.loads(run.invoke(app, ["replay", f"{uri}/adapt/digits/journal{part}", "--json"]).stdout)
        for part in ("", "/00000001.jsonl.gz")
    ]
    missing = run.invoke(app, ["replay", f"{uri}/adapt/cats/journal"])

    assert json.loads(watched.stdout)["replicas"]["running"] == 4
    assert "4 run, 4 are wanted, 1 to 4 allowed" in explained.stdout
    assert [(found["ticks"], found["same"], found["problems"]) for found in replayed] == [(300, True, [])] * 2
    assert isinstance(missing.exception, NotFoundError)
    assert any(event["event"] == "action" for event in Tail("digits", Workspace(Screen(), store_uri=uri), 0.0).fresh())


@pytest.mark.usefixtures("recorded")
def test_watching_ends_with_a_sentence_when_no_actor_writes_the_record(
    workspace: Workspace, experiment_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adaptation, "GONE_S", 0.1)

    done = CliRunner().invoke(
        app, ["watch", str(experiment_file()), "--json", "--every", "0.1", "--store", str(workspace.store_uri)]
    )

    assert len(done.stdout.splitlines()) == 1  # what was recorded last is shown, once
    assert isinstance(done.exception, DeadlineError)
    assert "the adaptation of digits has recorded nothing since 1970-01-12" in str(done.exception)


def test_the_place_of_a_record_may_have_parameters(recorded: Path, tmp_path: Path) -> None:
    segment = tmp_path / "journal" / "00000001.jsonl.gz"
    segment.parent.mkdir()
    segment.write_bytes(gzip.compress(next(recorded.glob("*.jsonl")).read_bytes()))

    found = adaptation.replayed(f"file://{tmp_path}/journal?endpoint_override=localhost:9000", [])

    assert found["ticks"] == 300


def test_other_settings_are_held_against_the_recorded_ones(recorded: Path) -> None:
    with pytest.raises(UserError, match=r"^--set = 'adapt.cooldown=9s adapt.dwell=8s': cooldown 9.0s is above dwell"):
        adaptation.replayed(str(recorded), ["adapt.cooldown=9s", "adapt.dwell=8s"])


def test_other_settings_say_what_would_differ(recorded: Path) -> None:
    found = adaptation.replayed(str(recorded), ["adapt.cooldown=5s"])

    assert not found["same"]
    assert found["actions replayed"] < found["actions recorded"]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        pytest.param("adapt.dwel=3s", "no setting that a replay can change", id="unknown"),
        pytest.param("serve.max_batch=3", "no setting that a replay can change", id="not of adapt"),
        pytest.param("adapt.dwell=3", "not a duration", id="no unit"),
    ],
)
def test_a_replay_with_no_such_setting_is_refused(recorded: Path, override: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        adaptation.replayed(str(recorded), [override])


def test_the_live_view_is_drawn_and_an_old_record_is_named(recorded: Path, workspace: Workspace) -> None:
    from rich.console import Console

    found = adaptation.figures(adaptation.recent(EXPERIMENT, workspace), NOW + 100)
    console = Console(record=True, width=120)
    console.print(adaptation.view(found))
    text = console.export_text()

    assert "no actor writes it just now" in text
    assert "onnx-fp32 40 %" in text
    assert "replicas 4/4" in adaptation.line(found)


def test_an_endpoint_without_a_record_is_not_found(workspace: Workspace) -> None:
    with pytest.raises(NotFoundError, match="no adaptation of digits is recorded"):
        adaptation.recent(EXPERIMENT, workspace)
    with pytest.raises(NotFoundError):
        adaptation.order("pause", EXPERIMENT, workspace)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        pytest.param(["max_bach=3"], "cannot be changed; known are max_batch", id="unknown"),
        pytest.param(["max_batch"], "is no NAME=VALUE", id="no value"),
    ],
)
def test_a_setting_that_is_none_is_a_users_mistake(workspace: Workspace, settings: list[str], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        adaptation.order("set", EXPERIMENT, workspace, settings)


def test_an_order_goes_to_the_actor_and_its_refusal_comes_back(recorded: Path, workspace: Workspace) -> None:
    box, seen = Mailbox(recorded.parent), list[Any]()

    def actor() -> None:
        for refused in ([], ["paused by bob"]):
            while not (waiting := box.waiting()):
                pass
            name, command = waiting[0]
            seen.append(command)
            box.answer(name, {"refused": refused, "paused": None, "pins": {"variants": "a"}, "envelope": {"epoch": 2}})

    answering = threading.Thread(target=actor)
    answering.start()

    said = adaptation.order("pin", EXPERIMENT, workspace, ["variants=student-fp32", "max_batch=4", "caution=2.5"])
    with pytest.raises(UserError, match="paused by bob"):
        adaptation.order("set", EXPERIMENT, workspace, ["replicas=2"])
    answering.join()

    assert seen[0].changes == {"variants": ["student-fp32"], "max_batch": 4, "caution": 2.5}
    assert said == {"endpoint": "digits", "paused": "no", "pinned": ["variants"], "envelope": {"epoch": 2}}


@pytest.mark.parametrize("text", ["replicas=2020-13-45", "replicas=[", "max_batch='"])
def test_a_value_that_is_none_is_said_before_anything_is_sent(workspace: Workspace, text: str) -> None:
    with pytest.raises(UserError, match=r"SETTING = .*: has a value that is none"):
        adaptation.order("set", EXPERIMENT, workspace, [text])


def test_a_place_without_a_bucket_is_no_store() -> None:
    with pytest.raises(StoreError, match="store = 's3://': names no bucket; write it as s3://bucket/prefix"):
        opened("s3://")
    with pytest.raises(StoreError, match="nobody's home"):
        opened("~nobody-here/x")
