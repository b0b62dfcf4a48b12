"""Rollouts on a real cluster under traffic: a good version is promoted, bad ones are taken back, nobody is failed.

The actor is killed in the middle of the good one.
"""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from benchmarks.lost_actor import place_of
from cluster import history
from cluster.config import Labels, Retrain, Rollout
from cluster.errors import NotFoundError
from cluster.registry import Registry
from cluster.session import Session
from cluster.store import DamagedError, Store
from ladder.bundle import Bundle
from ladder.variants import export_onnx
from serve import deploy as deployment
from serve.adapt.candidacy import State
from serve.adapt.journal import read, read_last
from serve.adapt.mailbox import Mailbox, journal, place
from serve.adapt.proposals import Command
from serve.adapt.replay import recover, replay
from serve.deploy import Endpoint
from serve.promote import main, promote
from tasks.images import Images
from tasks.task import Encoding
from tests.serve.conftest import Clients, until

NAME, ROUTE = "tried", "/tried"
LIGHT = {"instances": [[[[255]] * 6] * 4]}
SECTIONS = {
    "retrain": Retrain(labels=Labels(agreement=1, client_share=1.0)),
    "rollout": Rollout.model_validate({"shadow": 1, "shadow_share": 1.0, "steps": [0.3, 0.6], "least_requests": 30}),
}
Make = Callable[..., Bundle]


def graph(make: Any) -> bytes:
    """A model that answers rows of one grey level with what `make` does of it."""
    import torch

    class Told(torch.nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            level = (rows.float().mean(dim=(1, 2, 3)) - 127.5) / 50
            found: torch.Tensor = make(level)
            return found

    labels = ("dark-1", "light-1")
    encoding = Encoding(labels, (4, 6, 1), "uint8", {"mean": [127.0], "std": [50.0]})
    from cluster import experiment as experiments

    made = experiments.parse({"name": NAME, "data": {"source": {"kind": "digits"}}})
    return export_onnx(Told(), encoding, Images(made))


def not_finite_where_all_is_light(level: Any) -> Any:
    import torch

    return torch.stack([-level, level + 0.0 * torch.sqrt(2.4 - level)], dim=1)


def the_wrong_way_round(level: Any) -> Any:
    import torch

    return torch.stack([level, -level], dim=1)


@pytest.fixture(scope="module")
def store(cluster: Session) -> Store:
    return Store.open(cluster.store)


@pytest.fixture(scope="module")
def versions(make_bundle: Make, store: Store, slow_onnx: bytes) -> dict[str, Bundle]:
    """By what is wrong with them; registered in this order, from 1 on."""
    data: dict[str, dict[str, bytes]] = {
        "nothing": {},
        "nan": {"data": graph(not_finite_where_all_is_light)},
        "slow": {"data": slow_onnx},
        "order": {"data": graph(the_wrong_way_round)},
        "better": {},
    }
    registry, made = Registry.open(store), dict[str, Bundle]()
    for number, (kind, more) in enumerate(data.items(), 1):
        bundle = make_bundle(store, 1, name=NAME, route=ROUTE, record={"rate": 1.0}, **more)
        as_today = bundle.experiment.model_copy(update=SECTIONS)
        made[kind] = dataclasses.replace(bundle, experiment=as_today)
        assert registry.register(NAME, bundle.key, None, {}).version == number
    registry.set_stable(NAME, 1)
    return made


@pytest.fixture(scope="module")
def endpoint(cluster: Session, versions: dict[str, Bundle]) -> Iterator[Endpoint]:
    yield deployment.deploy(cluster, versions["nothing"], 1)
    deployment.undeploy(cluster, NAME)


@pytest.fixture(scope="module")
def say(store: Store, endpoint: Endpoint) -> Callable[..., dict[str, Any]]:
    def said(verb: Any, bundle: Bundle | None = None, version: int = 0) -> dict[str, Any]:
        box, changes = Mailbox(place(store, NAME)), {"bundle": bundle.key, "version": version} if bundle else {}
        return box.wait(box.send(Command(verb, "ada", changes)), 60)

    return said


def _state(store: Store) -> State:
    mind = recover(read_last(journal(place(store, NAME))).entries)
    return mind.rollout if mind else State()


def test_bad_versions_are_taken_back_a_good_one_is_promoted_and_nobody_is_failed(
    cluster: Session,
    endpoint: Endpoint,
    store: Store,
    versions: dict[str, Bundle],
    say: Callable[..., dict[str, Any]],
) -> None:
    with Clients(cluster, endpoint, LIGHT, 2, label="light-1", pause_s=0.01) as traffic:
        ended: dict[str, State] = {}
        for number, (kind, bundle) in enumerate(versions.items(), 1):
            if kind == "nothing":
                continue
            assert say("canary", bundle, number)["done"]
            if kind == "better":
                until(lambda: _state(store).phase == "canary")
                assert say("rollback")["envelope"]["candidate"] is None
                assert say("canary", bundle, number)["done"]
                until(lambda: _state(store).phase == "canary")
                os.kill(killed := place_of(cluster, NAME)[1], signal.SIGKILL)
            ended[kind] = until(lambda: (state := _state(store)).phase in ("promoted", "taken back") and state)
        until(lambda: traffic.by_version.get(5, 0) > 50)
    phases = {kind: (state.phase, state.events[-1].words) for kind, state in ended.items()}

    assert traffic.failures == []
    assert place_of(cluster, NAME)[1] not in (0, killed)
    assert phases["better"][0] == "promoted", phases
    assert {phases[kind][0] for kind in ("nan", "slow", "order")} == {"taken back"}, phases
    assert "failed, was late" in phases["nan"][1]
    assert "by labels it was wrong" in phases["order"][1]
    assert traffic.by_version[2] == 0  # its answers were no numbers, so another version's were sent
    (stable,) = [one for one in Registry.open(store).versions(NAME) if "stable" in one.aliases]
    assert (stable.version, stable.bundle) == (5, versions["better"].key)
    assert until(lambda: (say("resume")["envelope"] or {}).get("candidate", 0) is None)
    rows = until(lambda: (found := _history(store)) and found[-1]["event"] == "promoted" and found)
    ends = [(row["version"], row["event"]) for row in rows if row["event"] in ("promoted", "taken back")]
    assert ends == [(2, "taken back"), (3, "taken back"), (4, "taken back"), (5, "taken back"), (5, "promoted")]
    again = replay(read(journal(place(store, NAME))).entries)
    assert (again.differences, again.problems) == ([], [])


def _history(store: Store) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = history.ledger(store, NAME).read().sort_by("at_ns").to_pylist()
    return found


def test_what_no_endpoint_serves_is_not_promoted(cluster: Session, store: Store, make_bundle: Make) -> None:
    bundle = make_bundle(store, 1, name="nowhere")

    with pytest.raises(NotFoundError, match="no endpoint 'nowhere'"):
        promote(cluster, store, "nowhere", bundle.key, 9)


def test_what_a_configuration_from_outside_serves_is_called_stable_once(
    cluster: Session, store: Store, make_bundle: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIMTAB_STORE", cluster.store)
    bundle, registry = make_bundle(store, 1, name="outside"), Registry.open(store)
    version = registry.register("outside", bundle.key, None, {}).version

    assert [main(["outside", bundle.key, str(version), "--called"]) for _ in range(2)] == [0, 0]

    assert registry.version("outside", "stable").version == version
    assert history.ledger(store, "outside").read()["event"].to_pylist() == ["deployed"]


def test_a_version_whose_files_were_altered_is_not_promoted(cluster: Session, store: Store, make_bundle: Make) -> None:
    bundle = make_bundle(store, 1, name=NAME, route=ROUTE)
    path = next(iter((store.local or store).glob(f"bundles/{bundle.key}/*.onnx")))  # type: ignore[union-attr]
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    data[-1] ^= 1
    path.write_bytes(data.tobytes())

    with pytest.raises(DamagedError, match="does not match its sha256"):
        promote(cluster, store, NAME, bundle.key, 9)
