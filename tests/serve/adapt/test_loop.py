"""The live loop with hands that remember: what it writes before it acts, takes up, takes back, and never doubles."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from cluster import experiment as experiments
from cluster.errors import TrimtabError
from serve.adapt.actuator import Actual
from serve.adapt.journal import read
from serve.adapt.loop import Loop
from serve.adapt.mailbox import Mailbox, journal
from serve.adapt.proposals import Command
from serve.adapt.replay import replay

NOW = 1_000_000.0


class NoMeter:
    def saw(self, *_: Any) -> None: ...
    def ticked(self, _: float) -> None: ...


class Hands:
    """Replicas by name with the epoch that each holds, and Serve's number of them."""

    def __init__(self, replicas: dict[str, int], most: int = 3) -> None:
        serve = {"replicas": {"min": 1, "max": most}, "objective": {"latency_ms": 100.0}}
        made = experiments.parse({"name": "shades", "data": {"source": {"kind": "digits"}}, "serve": serve})
        self.replicas, self.target, self.orders, self.told = replicas, len(replicas), list[int](), list[int]()
        self.silent, self.refusing, self.broken = set[str](), "", False
        self.actual: Actual | None = Actual(self.target, frozenset(replicas), made)

    def broadcast(self, method: str, *arguments: Any, timeout_s: float) -> list[dict[str, Any]]:
        there = [name for name in self.replicas if name not in self.silent]
        if method == "stats":
            return [_stats(name, self.replicas[name]) for name in there]
        (envelope,) = arguments
        self.told.append(envelope["epoch"])
        if self.refusing and self.refusing in envelope:
            return [{"replica": n, "epoch": self.replicas[n], "refused": "it cannot", "pending": False} for n in there]
        for name in there:
            self.replicas[name] = max(self.replicas[name], envelope["epoch"])
        return [{"replica": n, "epoch": self.replicas[n], "refused": None, "pending": False} for n in there]

    def scale(self, num_replicas: int) -> Future[None]:
        self.orders.append(num_replicas)
        order: Future[None] = Future()
        if self.broken:
            order.set_exception(TrimtabError("Serve is not there"))
        else:
            self.target = num_replicas
            order.set_result(None)
        return order


def _stats(name: str, epoch: int) -> dict[str, Any]:
    rung = {"batches": 0, "rows": 0, "in_time_rows": 0, "seconds": 0.0, "fixed_s": 0.001, "per_row_s": 0.001,
            "spread": 0.1, "accuracy": 0.9}  # fmt: skip
    return {"replica": name, "pid": 1, "started": NOW - 100, "at": 100.0, "epoch": epoch, "version": 1,
            "rungs": {"onnx-fp32": rung}}  # fmt: skip


@pytest.fixture
def begin(tmp_path: Path) -> Callable[[Hands], Loop]:
    return lambda hands: Loop(tmp_path, hands, NoMeter())  # type: ignore[arg-type]


@pytest.fixture
def say(tmp_path: Path) -> Callable[..., str]:
    return lambda verb, changes=None: Mailbox(tmp_path).send(Command(verb, "ada", changes or {}))


def entries(tmp_path: Path, kind: str) -> list[dict[str, Any]]:
    return [entry for entry in read(journal(tmp_path)).entries if entry["kind"] == kind]


def test_nothing_is_done_before_serve_has_said_what_there_is(tmp_path: Path, begin: Callable[[Hands], Loop]) -> None:
    hands = Hands({"a": 0})
    hands.actual = None

    begin(hands).tick(NOW)

    assert not journal(tmp_path).exists()


def test_an_order_is_written_obeyed_and_answered(tmp_path: Path, begin: Callable[[Hands], Loop], say: Any) -> None:
    hands = Hands({"a": 0, "b": 0})
    loop = begin(hands)
    name = say("set", {"max_batch": 4})

    loop.tick(NOW)

    assert loop.envelope == {"max_batch": 4, "epoch": 1}
    assert hands.replicas == {"a": 1, "b": 1}
    assert Mailbox(tmp_path).wait(name, 1)["done"]
    assert entries(tmp_path, "applied")[0]["epoch"] == 1


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"replicas": "abc"}, id="a word for a number"),
        pytest.param({"replicas": None}, id="no number of replicas"),
        pytest.param({"variants": [{}]}, id="a rung that is no name"),
    ],
)
def test_a_word_that_means_nothing_is_answered_and_ends_no_tick(
    begin: Callable[[Hands], Loop], say: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    loop = begin(Hands({"a": 0}))
    loop.tick(NOW)
    name = say("set", changes)
    loop.tick(NOW + 0.2)

    answer = Mailbox(tmp_path).wait(name, 1.0)
    assert not answer["done"]
    assert answer["refused"]
    loop.tick(NOW + 0.4)
    assert len(entries(tmp_path, "tick")) == 3


def test_a_replica_that_did_not_hear_or_starts_later_is_told_at_the_next_tick(
    begin: Callable[[Hands], Loop], say: Any
) -> None:
    hands = Hands({"a": 0, "b": 0})
    loop = begin(hands)
    hands.silent = {"b"}
    say("set", {"max_batch": 4})
    loop.tick(NOW)
    assert hands.replicas == {"a": 1, "b": 0}

    hands.silent = set()
    hands.replicas["c"] = 0
    loop.tick(NOW + 0.2)
    loop.tick(NOW + 0.4)

    assert hands.replicas == {"a": 1, "b": 1, "c": 1}
    assert hands.told == [1, 1]


def test_silent_replicas_are_listed(tmp_path: Path, begin: Callable[[Hands], Loop]) -> None:
    hands = Hands({"a": 0, "b": 0})
    hands.silent = {"b"}

    begin(hands).tick(NOW)

    assert entries(tmp_path, "tick")[0]["snapshot"]["missing"] == ["b"]


def test_an_envelope_that_a_replica_refuses_is_taken_back_everywhere(
    tmp_path: Path, begin: Callable[[Hands], Loop], say: Any
) -> None:
    hands = Hands({"a": 0})
    loop = begin(hands)
    say("set", {"max_batch": 4})
    loop.tick(NOW)
    hands.refusing = "threads"
    say("set", {"threads": 1})

    loop.tick(NOW + 0.2)

    assert loop.envelope == {"max_batch": 4, "epoch": 3}
    assert hands.replicas == {"a": 3}
    assert entries(tmp_path, "failed")[0]["why"] == "it cannot"


def test_a_new_actor_takes_up_epoch_pins_and_pause_and_does_nothing_twice(
    tmp_path: Path, begin: Callable[[Hands], Loop], say: Any
) -> None:
    hands = Hands({"a": 0})
    loop = begin(hands)
    say("pin", {"replicas": 2, "max_batch": 4})
    say("pause")
    for i in range(3):
        loop.tick(NOW + i / 5)

    again = begin(hands)
    again.tick(NOW + 60)

    assert again.envelope == loop.envelope
    assert (hands.orders, hands.told) == ([2], [1])
    guard = entries(tmp_path, "state")[-1]["guard"]
    assert (guard["paused"], sorted(guard["pins"])) == ("ada", ["max_batch", "replicas"])
    found = replay(read(journal(tmp_path)).entries)
    assert (found.differences, found.problems) == ([], [])


def test_an_order_that_was_written_but_not_carried_out_is_completed_by_the_next_actor(
    begin: Callable[[Hands], Loop], say: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hands = Hands({"a": 0})
    loop = begin(hands)
    say("pin", {"replicas": 2})
    monkeypatch.setattr(hands, "scale", _dies)
    with pytest.raises(SystemExit):
        loop.tick(NOW)
    monkeypatch.undo()

    again = begin(hands)
    for i in range(3):
        again.tick(NOW + 10 + i)

    assert hands.orders == [2]


def _dies(_: int) -> Future[None]:
    raise SystemExit


def test_an_order_that_was_obeyed_but_not_answered_is_not_obeyed_again(
    tmp_path: Path, begin: Callable[[Hands], Loop], say: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hands = Hands({"a": 0})
    name = say("set", {"max_batch": 4})
    with monkeypatch.context() as dying:
        dying.setattr(Mailbox, "answer", lambda *_: _dies(0))
        with pytest.raises(SystemExit):
            begin(hands).tick(NOW)

    again = begin(hands)
    again.tick(NOW + 0.4)

    assert again.envelope == {"max_batch": 4, "epoch": 1}
    assert hands.told == [1]
    assert len(entries(tmp_path, "command")) == 1
    assert Mailbox(tmp_path).wait(name, 1)["done"]


def test_replicas_with_a_newer_envelope_than_the_record_are_told_what_is_known_here(
    begin: Callable[[Hands], Loop],
) -> None:
    hands = Hands({"a": 7})
    loop = begin(hands)

    loop.tick(NOW)

    assert loop.envelope == {"epoch": 8}
    assert hands.replicas == {"a": 8}


def test_serve_that_takes_no_order_is_a_failure_and_the_number_stays(
    tmp_path: Path, begin: Callable[[Hands], Loop], say: Any
) -> None:
    hands = Hands({"a": 0})
    hands.broken = True
    loop = begin(hands)
    say("set", {"replicas": 2})

    loop.tick(NOW)
    loop.tick(NOW + 0.2)

    assert entries(tmp_path, "failed")[0]["why"] == "Serve is not there"
    assert entries(tmp_path, "tick")[-1]["snapshot"]["target"] == 1


def test_new_bounds_hold_from_the_next_tick(tmp_path: Path, begin: Callable[[Hands], Loop], say: Any) -> None:
    hands = Hands({"a": 0})
    loop = begin(hands)
    loop.tick(NOW)

    hands.actual = Hands({"a": 0}, most=9).actual
    name = say("set", {"replicas": 9})
    loop.tick(NOW + 0.2)

    assert Mailbox(tmp_path).wait(name, 1)["done"]
    assert entries(tmp_path, "state")[-1]["why"] == "settings"


def test_a_candidate_that_a_replica_cannot_hear_of_is_taken_back(
    tmp_path: Path, begin: Callable[[Hands], Loop], say: Any
) -> None:
    hands = Hands({"a": 0})
    hands.refusing = "candidate"
    loop = begin(hands)
    loop.tick(NOW)
    say("canary", {"bundle": "b2", "version": 2})

    for i in range(1, 4):
        loop.tick(NOW + i / 5)

    assert (loop.rollout.phase, loop.rollout.events[-1].words) == ("taken back", "it cannot")
    assert len(entries(tmp_path, "failed")) == 1
    found = replay(read(journal(tmp_path)).entries)
    assert (found.differences, found.problems) == ([], [])
