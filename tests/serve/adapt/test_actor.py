"""The adaptation actor on a real cluster: what a person says, what replicas are told, and what dies meanwhile."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from cluster import history, orders
from cluster.config import Retrain
from cluster.session import Session, rest
from cluster.store import Store
from ladder.bundle import Bundle
from serve import deploy as deployment
from serve.adapt import mailbox
from serve.adapt.actor import beside_gcs
from serve.adapt.explain import explain
from serve.adapt.journal import read, read_last
from serve.adapt.mailbox import Mailbox, place
from serve.adapt.proposals import Command
from serve.adapt.replay import replay
from serve.adapt.signals import Snapshot
from serve.deploy import Endpoint
from tests.serve.conftest import Clients, replicas, until

NAME, ROUTE = "tones", "/tones"
BODY = {"instances": [[[[0]] * 6] * 4]}
Make = Callable[..., Bundle]


@pytest.fixture(scope="module")
def two(make_bundle: Make, cluster: Session, slow_onnx: bytes, onnx: bytes) -> Bundle:
    rungs = {"onnx-fp32": (0.95, slow_onnx), "student-fp32": (0.9, onnx)}
    bounds = {"min": 1, "max": 2}
    made = make_bundle(Store.open(cluster.store), 1, name=NAME, rungs=rungs, route=ROUTE, replicas=bounds)
    asked = Retrain.model_validate({"triggers": {"webhook": True}})
    return replace(made, experiment=made.experiment.model_copy(update={"retrain": asked}))


@pytest.fixture(scope="module")
def endpoint(cluster: Session, two: Bundle) -> Iterator[Endpoint]:
    yield deployment.deploy(cluster, two, 1)
    deployment.undeploy(cluster, NAME)


@pytest.fixture
def folder(cluster: Session, endpoint: Endpoint) -> Path:
    return place(Store.open(cluster.store), NAME)


@pytest.fixture
def say(folder: Path) -> Callable[..., dict[str, Any]]:
    def said(verb: Any, changes: dict[str, Any] | None = None, fields: tuple[str, ...] = ()) -> dict[str, Any]:
        box = Mailbox(folder)
        return box.wait(box.send(Command(verb, "ada", changes or {}, fields)), 60)

    return said


def _last(folder: Path) -> Snapshot:
    """The newest state; what is read of a long record may have none where the loop was slow."""
    return Snapshot.from_json(until(lambda: _ticks(folder))[-1]["snapshot"])


def _seen(folder: Path, num_replicas: int = 1) -> Snapshot:
    """The state as soon as so many replicas answer in one tick."""
    found: Snapshot = until(lambda: (last := _last(folder)).running == num_replicas and last)
    return found


def _ticks(folder: Path) -> list[dict[str, Any]]:
    return [entry for entry in read_last(mailbox.journal(folder)).entries if entry["kind"] == "tick"]


def _actor(cluster: Session) -> int:
    """The process of the actor; 0 while there is none."""
    return _process(cluster, lambda actor: actor["class_name"] == "Actor" and NAME in (actor["name"] or ""))


def _controller(cluster: Session) -> int:
    """The process of Serve's controller; 0 while there is none."""
    return _process(cluster, lambda actor: actor["class_name"] == "ServeController")


def _process(cluster: Session, wanted: Callable[[dict[str, Any]], bool]) -> int:
    query = "/api/v0/actors?detail=1&filter_keys=state&filter_predicates=%3D&filter_values=ALIVE"
    found = rest(cluster, "GET", query)["data"]["result"]["result"]
    pids = [actor["pid"] for actor in found if wanted(actor)]
    return int(pids[0]) if pids else 0


def test_replicas_are_watched_from_the_start(folder: Path) -> None:
    seen = _seen(folder)

    assert (seen.running, seen.target) == (1, 1)
    assert [rung.variant for rung in seen.rungs] == ["onnx-fp32", "student-fp32"]


def test_a_person_sets_an_envelope_and_a_wrong_one_is_refused_with_the_reason(
    folder: Path, say: Callable[..., dict[str, Any]], cluster: Session, endpoint: Endpoint
) -> None:
    held = say("set", {"variants": ["student-fp32"], "max_batch": 4})
    wrong = say("set", {"max_batch": 4096})

    assert held["done"], held
    assert held["envelope"]["epoch"] >= 1
    assert not wrong["done"]
    assert "outside of 1 to 32" in wrong["refused"][0]
    until(lambda: _last(folder).epochs == (held["envelope"]["epoch"],) * 2)
    answer = httpx.post(f"{endpoint.url}/predict", json=BODY, trust_env=False, timeout=30,
                        headers={"authorization": f"Bearer {cluster.api_token}"})  # fmt: skip
    assert answer.json()["variant"] == "student-fp32"


def test_replicas_go_from_1_to_2_and_back_under_load_and_no_request_is_lost(
    folder: Path, say: Callable[..., dict[str, Any]], cluster: Session, endpoint: Endpoint
) -> None:
    with Clients(cluster, endpoint, BODY, 3) as load:
        load.more()
        assert say("pin", {"replicas": 2})["done"]
        seen = _seen(folder, 2)
        # The one that started later holds the envelope as well.
        epoch = seen.envelope["epoch"]
        until(lambda: (found := _last(folder)).epochs == (epoch, epoch) and found.running == 2)
        load.more()
        assert say("pin", {"replicas": 1})["done"]
        until(lambda: _last(folder).running == 1 and len(replicas(cluster, NAME)) == 1)
        load.more()

    assert load.failures == []


def test_an_actor_that_is_killed_comes_back_with_its_epoch_its_pins_and_its_pause_and_does_nothing_twice(
    folder: Path, say: Callable[..., dict[str, Any]], cluster: Session, endpoint: Endpoint
) -> None:
    say("pin", {"max_batch": 3})
    say("pause")
    before = _seen(folder)
    running, actor = replicas(cluster, NAME), until(lambda: _actor(cluster))
    with Clients(cluster, endpoint, BODY, 3) as load:
        load.more()
        os.kill(actor, signal.SIGKILL)
        killed = time.time()
        load.more()
        said = say("resume")
        load.more()

    assert load.failures == []
    assert _actor(cluster) not in (0, actor)
    assert replicas(cluster, NAME) == running
    assert said["pins"]["max_batch"] == "ada"
    assert said["envelope"] == {**before.envelope, "max_batch": 3, "epoch": said["envelope"]["epoch"]}
    later = [entry for entry in read(mailbox.journal(folder)).entries if entry.get("at", 0.0) > killed]
    assert not [v for entry in later for v in entry.get("verdicts", []) if v["accepted"]]
    assert next(entry for entry in later if entry["kind"] == "state")["guard"]["paused"] == "ada"


def test_a_replica_that_is_killed_under_load_is_replaced_and_told_the_envelope(
    folder: Path, say: Callable[..., dict[str, Any]], cluster: Session, endpoint: Endpoint
) -> None:
    say("set", {"caution": 3.0})
    epoch = _seen(folder).envelope["epoch"]
    (pid,) = replicas(cluster, NAME)
    with Clients(cluster, endpoint, BODY, 3) as load:
        load.more()
        os.kill(pid, signal.SIGKILL)
        until(lambda: replicas(cluster, NAME) not in ([], [pid]))
        load.more()

    until(lambda: (found := _last(folder)).running == 1 and found.epochs[0] >= epoch)
    assert not psutil.pid_exists(pid)


def test_a_controller_that_is_killed_costs_no_request_and_the_actor_goes_on(
    folder: Path, say: Callable[..., dict[str, Any]], cluster: Session, endpoint: Endpoint
) -> None:
    before, controller = replicas(cluster, NAME), _controller(cluster)
    with Clients(cluster, endpoint, BODY, 3) as load:
        load.more()
        os.kill(controller, signal.SIGKILL)
        until(lambda: _controller(cluster) not in (0, controller))
        load.more()
        held = say("set", {"max_batch": 5})
        until(lambda: (found := _last(folder)).running == 1 and found.epochs[0] >= held["envelope"]["epoch"])
        load.more()

    assert load.failures == []
    assert held["done"], held
    assert replicas(cluster, NAME) == before


def test_the_record_is_replayed_to_the_same_decisions_and_explained(folder: Path) -> None:
    entries = read(mailbox.journal(folder)).entries

    again = replay(entries)
    words = explain(read_last(mailbox.journal(folder)).entries)

    assert (again.differences, again.problems) == ([], [])
    assert again.ticks > 20
    assert again.commands >= 7
    assert "1 to 2 allowed" in words.replicas


def test_another_version_keeps_the_number_of_replicas(
    say: Callable[..., dict[str, Any]], cluster: Session, two: Bundle, endpoint: Endpoint
) -> None:
    say("pin", {"replicas": 2})
    until(lambda: len(replicas(cluster, NAME)) == 2)
    before = replicas(cluster, NAME)

    served = deployment.deploy(cluster, two, 2)

    assert served.in_place
    assert replicas(cluster, NAME) == before
    say("unpin")


def test_the_dashboard_of_a_cluster_that_others_started_is_looked_for_beside_its_gcs(ray_cluster: Session) -> None:
    assert beside_gcs() == f"http://{ray_cluster.address.rpartition(':')[0]}:8265"


def test_what_a_client_asks_for_becomes_a_job_and_its_end_is_in_the_history(
    cluster: Session, endpoint: Endpoint, folder: Path
) -> None:
    """The version was made here without a dataset, so there is nothing to train on: the job ends at once."""
    store, headers = Store.open(cluster.store), {"authorization": f"Bearer {cluster.api_token}"}

    answer = httpx.post(f"{endpoint.url}/retrain", headers=headers, timeout=30.0, trust_env=False)
    (order,) = until(lambda: orders.orders(store, NAME))
    result = until(lambda: orders.result_of(store, order), 240.0)

    assert (answer.status_code, order.cause, order.id) == (202, "webhook", f"webhook-{answer.json()['accepted']}")
    assert result.fate == "failed"
    rows = history.ledger(store, NAME).read().to_pylist()
    events = [row["event"] for row in rows if row["order"] == order.id]
    assert (events[0], events[-1]) == ("ordered", "failed")
    notes = [entry["words"] for entry in read(mailbox.journal(folder)).entries if entry["kind"] == "note"]
    assert any(words.startswith("a retraining is ordered by webhook: asked for by client") for words in notes)
    assert orders.asked(store, NAME) == []
