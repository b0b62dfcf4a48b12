"""A whole rollout by loop and clerk whose process is killed again and again: nothing is lost, nothing done twice."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import history
from cluster.store import Store
from serve.adapt import clerk
from serve.adapt.candidacy import State
from serve.adapt.journal import read
from serve.adapt.mailbox import Mailbox, journal
from serve.adapt.proposals import Command
from serve.adapt.replay import recover, replay

ROOT = Path(__file__).parents[3]
PROMOTED = State(phase="promoted", bundle="b3", version=3)

PROGRAM = """
import json, os, random, signal, sys
from pathlib import Path
from types import SimpleNamespace

from cluster import experiment as experiments, history
from cluster.errors import NotFoundError
from cluster.ledger import Ledger
from cluster.store import Store
from serve.adapt import clerk as clerks
from serve.adapt.actuator import Actual
from serve.adapt.clerk import Clerk
from serve.adapt.journal import Journal
from serve.adapt.loop import Loop
from serve.adapt.mailbox import Mailbox
from serve.adapt.proposals import Command

FOLDER, SEED, IS_BAD = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "bad"
NOW = 1_000_000.0
ROLLOUT = {"steps": [0.1, 0.5], "shadow": 20, "least_requests": 20, "least_time": "0.4s"}
TREE = {"name": "shades", "data": {"source": {"kind": "digits"}}, "rollout": ROLLOUT}
WORLD = FOLDER / "world.json"
BLANK = {"envelope": {"epoch": 0}, "version": 1, "ticks": 0, "jobs": {}, "held": [], "counts": {}, "shadow": [0, 0]}


class World:
    # Replicas, Serve and jobs: they live on when the actor dies, so they are in a file

    def __init__(self):
        self.tree = json.loads(WORLD.read_text()) if WORLD.exists() else json.loads(json.dumps(BLANK))
        made = experiments.parse(TREE)
        self.actual = Actual(1, frozenset(["a"]), made, "b1", self.tree["version"])
        self.target = 1

    def keep(self):
        WORLD.with_suffix(".new").write_text(json.dumps(self.tree))
        os.replace(WORLD.with_suffix(".new"), WORLD)

    def broadcast(self, method, *arguments, timeout_s):
        tree = self.tree
        if method == "apply":
            if arguments[0]["epoch"] > tree["envelope"]["epoch"]:
                tree["envelope"] = arguments[0]
                tree["held"].append([arguments[0].get("canary") or 0.0, arguments[0].get("candidate") is not None])
                self.keep()
            return [{"replica": "a", "epoch": tree["envelope"]["epoch"], "refused": None, "pending": False}]
        envelope, counts = tree["envelope"], tree["counts"]
        candidate = envelope.get("candidate")
        theirs = round(20 * (envelope.get("canary") or 0.0)) if candidate else 0
        for version, num, is_bad in ((1, 20 - theirs, False), (2, theirs, IS_BAD)):
            one = counts.setdefault(str(version), {"requests": 0, "in_time": 0, "late": 0})
            one["requests"] += num
            one["late" if is_bad else "in_time"] += num
        if candidate and envelope.get("shadow"):
            tree["shadow"] = [tree["shadow"][0] + 4, tree["shadow"][1] + 4]
        self.keep()
        rung = {"batches": 0, "rows": 0, "in_time_rows": 0, "seconds": 0.0, "fixed_s": 0.001, "per_row_s": 0.001,
                "spread": 0.1, "accuracy": 0.9}
        counts = json.loads(json.dumps(counts))
        rivals = {"candidate": candidate and {**candidate, "state": "ready", "reason": None}, "versions": counts,
                  "shadow": {"rows": tree["shadow"][0], "agreed": tree["shadow"][1]}}
        return [{"replica": "a", "pid": 1, "started": NOW - 100, "at": 100.0 + tree["ticks"] / 5,
                 "epoch": envelope["epoch"], "version": tree["version"], "rungs": {"onnx-fp32": rung},
                 "rivals": rivals}]

    def job(self, session, name):
        if name not in self.tree["jobs"]:
            raise NotFoundError(name)
        self.tree["version"] = 2
        self.keep()
        return SimpleNamespace(status="SUCCEEDED", submission_id=name, message="")

    def submit(self, session, entrypoint, *, submission_id, env, metadata):
        self.tree["jobs"].setdefault(submission_id, []).append(entrypoint)
        self.keep()
        return submission_id


def mortal(owner, name, deeds):
    # Killed just before or just after it
    real = getattr(owner, name)

    def done(*arguments, **words):
        for part in ("before", "after"):
            deeds[0] -= 1
            if deeds[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            if part == "before":
                found = real(*arguments, **words)
        return found

    setattr(owner, name, done)


def live(num_deeds):
    world, deeds = World(), [num_deeds]
    clerks.submit.job, clerks.submit.submit = world.job, world.submit
    mortal(Journal, "append", deeds)
    mortal(Mailbox, "answer", deeds)
    mortal(Ledger, "append", deeds)
    mortal(clerks.submit, "submit", deeds)
    mortal(world, "keep", deeds)
    loop = Loop(FOLDER, world, SimpleNamespace(saw=lambda *_: None, ticked=lambda _: None))
    clerk = Clerk(Store.open(str(FOLDER / "store")), "shades", SimpleNamespace(pid=1), loop, world)
    while world.tree["ticks"] < 400:
        world.tree["ticks"] += 1
        loop.tick(NOW + world.tree["ticks"] / 5)
        clerk.look()
        if loop.rollout.phase in ("promoted", "taken back") and not world.tree["envelope"].get("candidate"):
            clerk.look()
            os._exit(0)
    os._exit(1)


(FOLDER / "warm").mkdir()  # what a process makes once is made before there are many of them
for _ in range(2):
    warm = Loop(FOLDER / "warm", World(), SimpleNamespace(saw=lambda *_: None, ticked=lambda _: None))
    Mailbox(FOLDER / "warm").send(Command("set", "ada", {"max_batch": 4}))
    warm.tick(NOW)
WORLD.unlink()
chance, deaths = random.Random(SEED), 0
while True:
    child = os.fork()
    if child == 0:
        live(chance.randrange(3, 40) if deaths < 30 else 10**9)
    _, status = os.waitpid(child, 0)
    chance.random()
    if not os.WIFSIGNALED(status):
        print(json.dumps({"deaths": deaths, "exit": os.WEXITSTATUS(status)}))
        break
    deaths += 1
"""


@pytest.mark.parametrize(
    ("kind", "held", "events"),
    [
        pytest.param(
            "good",
            [[0.0, True], [0.1, True], [0.5, True], [1.0, True], [0.0, False]],
            ["shadow", "canary", "canary", "promoting", "promoted"],
            id="a good version",
        ),
        pytest.param(
            "bad",
            [[0.0, True], [0.1, True], [0.0, False]],
            ["shadow", "canary", "taken back"],
            id="a bad version",
        ),
    ],
)
def test_an_actor_that_is_killed_at_any_step_goes_on_as_if_nothing_were(
    tmp_path: Path, kind: str, held: list[Any], events: list[str]
) -> None:
    Mailbox(tmp_path).send(Command("canary", "ada", {"bundle": "b2", "version": 2, "order": "o1"}))

    said = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), "1", kind], cwd=ROOT, capture_output=True, text=True
    )

    assert said.returncode == 0, said.stderr
    found, world = json.loads(said.stdout), json.loads((tmp_path / "world.json").read_text())
    assert found["exit"] == 0
    assert found["deaths"] >= 5
    assert [share for share, _ in groupby(world["held"])] == held
    assert [len(orders) for orders in world["jobs"].values()] == ([1] if kind == "good" else [])
    rows = history.ledger(Store.open(str(tmp_path / "store")), "shades").read().sort_by("at_ns").to_pylist()
    assert [row["event"] for row in rows] == events
    assert {(row["version"], row["order"]) for row in rows} == {(2, "o1")}
    entries = read(journal(tmp_path)).entries
    again, mind = replay(entries), recover(entries)
    assert (again.differences, again.problems) == ([], [])
    assert mind is not None
    assert mind.rollout.phase == events[-1]


@pytest.mark.parametrize(("pid", "expected"), [(None, [1, 2, 1]), (7, [])], ids=["configured from outside", "ours"])
def test_the_registry_is_told_what_a_configuration_from_outside_serves(
    store: Store, monkeypatch: pytest.MonkeyPatch, pid: int | None, expected: list[int]
) -> None:
    begun, desk, eyes = list[str](), SimpleNamespace(rollout=State()), SimpleNamespace(actual=None)
    monkeypatch.setattr(clerk.submit, "submit", lambda _, entrypoint, **__: begun.append(entrypoint))
    session = SimpleNamespace(pid=pid, dashboard_url="http://there")
    hand = clerk.Clerk(store, "shades", session, desk, eyes)  # type: ignore[arg-type]

    for version, state in ((None, State()), (1, State()), (1, State()), (2, State()), (3, PROMOTED), (1, State())):
        eyes.actual = version and SimpleNamespace(bundle=f"b{version}", version=version)
        desk.rollout = state
        hand.look()

    assert begun == [f"python -m serve.promote shades b{version} {version} --called" for version in expected]
