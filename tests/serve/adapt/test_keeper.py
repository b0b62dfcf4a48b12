"""Orders from their cause to the rollout, on a made cluster: in their course, and killed at every single step."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster import feedback, history, orders, served
from cluster.config import Experiment
from cluster.experiment import parse
from cluster.files import write_whole
from cluster.orders import Ask, Order, Result
from cluster.store import Store
from cluster.submit import Job
from ladder.bundle import write_bundle
from serve.adapt import mailbox
from serve.adapt.keeper import WHO, Keeper, Seen
from serve.adapt.mailbox import Mailbox
from tasks.task import Encoding

NOW = 1_750_000_000.0
MINUTE = 60.0


def experiment(**retrain: Any) -> Experiment:
    settings = {"cooldown": "0s", "triggers": {"webhook": True, "data": {"path": "/nowhere"}}, **retrain}
    return parse({"name": "digits", "data": {"source": {"kind": "digits"}}, "retrain": settings})


class MadeCluster:
    """Jobs as files in a folder, so that they outlive whoever ordered them; as Ray, it joins a job that runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.submitted = folder / "submitted"

    def tries(self, order: Order) -> list[Job]:
        files = sorted(self._folder.glob(f"{order.job_id}*.json"), key=lambda file: file.stem)
        return [Job(**json.loads(file.read_text())) for file in files]

    def begin(self, order: Order) -> str:
        tries = self.tries(order)
        if tries and tries[-1].status == "RUNNING":
            return tries[-1].submission_id
        name = order.job_id if not tries else f"{order.job_id}-{len(tries) + 1}"
        self.put(Job(name, "RUNNING", started_at=NOW))
        with self.submitted.open("a") as log:
            log.write(f"{name}\n")
        return name

    def stop(self, job: Job) -> None:
        self.put(replace(job, status="STOPPED"))

    def last_words(self, job: Job) -> str:
        return f"the last words of {job.submission_id}"

    def put(self, job: Job) -> None:
        write_whole(self._folder / f"{job.submission_id}.json", json.dumps(vars(job)).encode())

    def names(self) -> list[str]:
        return self.submitted.read_text().split() if self.submitted.exists() else []


class Bench:
    """A keeper with all that is around it, and what it said."""

    def __init__(self, folder: Path, settings: Experiment) -> None:
        self.store, self.box = Store.open(str(folder / "store")), Mailbox(folder / "adapt")
        (folder / "jobs").mkdir(exist_ok=True)
        self.cluster, self.words = MadeCluster(folder / "jobs"), list[str]()
        self.seen, self.now = Seen("b" * 16, 1, settings), NOW
        self.keeper = self.made()

    def made(self) -> Keeper:
        return Keeper(self.store, "digits", self.cluster, self.box, self.words.append)

    def step(self, num: int = 1) -> None:
        for _ in range(num):
            self.keeper.step(self.seen, self.now)
            self.now += 1.0

    def wish(self, name: str = "a") -> None:
        orders.ask(self.store, "digits", Ask(name, self.now, "by client 1"))

    def job(self, status: str, **changes: Any) -> None:
        """The one that runs takes this end."""
        (order,) = self.unfinished()
        self.cluster.put(replace(self.cluster.tries(order)[-1], status=status, **changes))

    def unfinished(self) -> list[Order]:
        return [o for o in orders.orders(self.store, "digits") if orders.result_of(self.store, o) is None]

    def results(self) -> dict[str, Result]:
        found = {o.id: orders.result_of(self.store, o) for o in orders.orders(self.store, "digits")}
        return {name: result for name, result in found.items() if result is not None}

    def commands(self) -> list[tuple[str, dict[str, Any]]]:
        """The files of what was said to the loop."""
        files = sorted((self.store.local or Path()).parent.glob("adapt/commands/*.json"))
        return [(file.stem, json.loads(file.read_text())) for file in files]

    def events(self) -> list[tuple[str, str]]:
        rows = history.ledger(self.store, "digits").read().to_pylist()
        return [(row["event"], row["order"]) for row in rows]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, experiment())


def test_an_order_becomes_a_job_and_what_it_made_is_handed_on_once(bench: Bench) -> None:
    bench.wish()
    bench.step(3)
    (order,) = bench.unfinished()
    assert bench.cluster.names() == ["digits-retrain-webhook-a"]
    assert parse(json.loads(order.experiment)) == bench.seen.experiment

    bench.job("SUCCEEDED")
    orders.finish(bench.store, order, Result("passed", bench.now, "all checks", "c" * 16, 2))
    bench.step(3)

    ((_, command),) = bench.commands()
    assert (command["verb"], command["who"]) == ("canary", WHO)
    assert command["changes"] == {"bundle": "c" * 16, "version": 2, "order": "webhook-a"}
    assert orders.asked(bench.store, "digits") == []
    assert bench.events() == [("ordered", "webhook-a")]
    assert "a retraining is ordered by webhook: asked for by client 1 (webhook-a)" in bench.words


def test_a_version_waits_for_a_person_where_the_rollout_is_theirs(bench: Bench) -> None:
    settings = bench.seen.experiment.model_copy(
        update={"rollout": bench.seen.experiment.rollout.model_copy(update={"automatic": False})}
    )
    bench.seen = replace(bench.seen, experiment=settings)
    bench.wish()
    bench.step(2)
    orders.finish(bench.store, bench.unfinished()[0], Result("passed", bench.now, "all checks", "c" * 16, 2))

    bench.step(3)

    assert bench.commands() == []
    assert bench.words.count("version 2 has passed the gate and waits for trimtab canary or promote") == 1


@pytest.mark.parametrize(
    ("ends", "submitted", "fate", "words"),
    [
        pytest.param([("FAILED", 1)], 2, None, "tried once more", id="died: once more"),
        pytest.param([("FAILED", 1), ("FAILED", 1)], 2, "failed", "the last words of", id="died twice"),
        pytest.param([("FAILED", 2)], 1, "failed", "the last words of", id="a user's mistake"),
        pytest.param([("SUCCEEDED", 0), ("SUCCEEDED", 0)], 2, "failed", "the last words of", id="without a result"),
        pytest.param([("STOPPED", None)], 1, "stopped", "was stopped", id="stopped by a person"),
    ],
)
def test_what_becomes_of_a_job_without_a_result(
    bench: Bench, ends: list[tuple[str, int | None]], submitted: int, fate: str | None, words: str
) -> None:
    bench.wish()
    bench.step(2)

    for status, exit_code in ends:
        bench.job(status, exit_code=exit_code)
        bench.step()
    bench.step()

    assert len(bench.cluster.names()) == submitted
    assert [result.fate for result in bench.results().values()] == ([fate] if fate else [])
    assert any(words in text for text in bench.words)
    assert (("failed", "webhook-a") in bench.events()) == (fate is not None)
    assert bench.commands() == []


def test_a_retraining_that_takes_too_long_is_stopped_and_the_next_one_begins(bench: Bench) -> None:
    bench.seen = replace(bench.seen, experiment=experiment(most="10m"))
    orders.place(bench.store, Order("person-1", "digits", "person", "by ada", NOW, "{}"))
    orders.place(bench.store, Order("person-2", "digits", "person", "by bob", NOW + 1, "{}"))
    bench.step()
    assert bench.cluster.names() == ["digits-retrain-person-1"]

    bench.now = NOW + 11 * MINUTE
    bench.step()

    assert bench.results()["person-1"].words == "it ran longer than 600 s (retrain.most)"
    assert bench.cluster.names() == ["digits-retrain-person-1", "digits-retrain-person-2"]


def test_new_files_order_one_and_a_path_that_vanishes_is_said(bench: Bench, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.csv").write_text("1")
    watched = {"data": {"path": str(data), "every": "1s", "settle": "5s"}}
    bench.seen = replace(bench.seen, experiment=experiment(triggers=watched))
    bench.step(10)
    assert bench.unfinished() == []

    (data / "b.csv").write_text("2")
    bench.step(10)
    (order,) = bench.unfinished()
    orders.finish(bench.store, order, Result("refused", bench.now, "it is worse", "c" * 16, 2))
    bench.step(10)
    data.rename(tmp_path / "elsewhere")
    bench.step(10)

    assert (order.cause, order.words) == ("data", f"other files at {data}")
    assert len(orders.orders(bench.store, "digits")) == 1
    said = (
        f"retrain.triggers.data.path = {str(data)!r}: there is nothing at this path; no retraining until it is mended"
    )
    assert bench.words.count(said) == 1


@pytest.fixture
def labelled(bench: Bench) -> Bench:
    """Version 1 has answered `a` 30 times, and three clients agree."""
    encoding = Encoding(("a", "b"), (4, 4, 1), "uint8", {"mean": [1.0], "std": [1.0]})
    write_bundle(bench.store, "b" * 16, experiment=experiment(), encoding=encoding, dataset="d", run="r",
                 metrics={"accuracy": 0.9}, files={"onnx-fp32": ("m.onnx", b"m")}, variants=("onnx-fp32",))  # fmt: skip
    at_ns = int((NOW - 100) * 1e9)
    answers = [{"id": f"{i}#0", "request_id": str(i), "row": 0, "at_ns": at_ns, "version": 1, "variant": "onnx-fp32",
                "input": b"0", "outputs": [1.0, 0.0]} for i in range(30)]  # fmt: skip
    served.ledger(bench.store, "digits").append(answers)
    say(bench, "a", NOW - 60)
    return bench


def say(bench: Bench, label: str, at: float) -> None:
    words = [feedback.word(str(i), 0, "label", label, client, int(at * 1e9)) for i in range(30) for client in "xyz"]
    feedback.ledger(bench.store, "digits").append(words)


def test_labels_that_a_retraining_learns_from_order_no_other_one(labelled: Bench) -> None:
    """Not while it runs, nor after it, also those that came before it took them; where it fails they count again."""
    bench = labelled
    wanted = {"feedback": {"labels": 20, "every": "1s"}}
    bench.seen = replace(bench.seen, experiment=experiment(triggers=wanted, labels={"client_share": 1.0}))

    bench.step(4)
    (order,) = bench.unfinished()
    bench.step(5)
    waits = [text for text in bench.words if "waits" in text]
    bench.job("FAILED", exit_code=2)
    bench.step(4)
    (second,) = bench.unfinished()
    say(bench, "b", bench.now)
    learnt = history.row("registered", 1, 2, "60 labels", order=second.id, until_ns=int((bench.now + 1) * 1e9))
    history.ledger(bench.store, "digits").append([learnt])
    orders.finish(bench.store, second, Result("refused", bench.now, "it is worse", "c" * 16, 2))
    bench.step(5)

    assert (order.cause, order.words) == ("feedback", "30 believed labels that no training has learnt from")
    assert waits == []
    assert second.words == order.words
    assert bench.unfinished() == []


def test_drift_orders_one_once_labels_say_that_it_costs_accuracy(labelled: Bench) -> None:
    bench, settings = labelled, experiment(triggers={"drift": True}, labels={"client_share": 1.0})
    bench.seen = replace(bench.seen, experiment=settings, drift_since=NOW - 200)

    bench.step(2)
    right = bench.unfinished()
    say(bench, "b", bench.now)  # thought better of
    bench.now += 20.0
    bench.step(2)

    assert right == []
    assert any("20 labels and more do not show that it costs accuracy" in text for text in bench.words)
    (order,) = bench.unfinished()
    assert order.words.startswith("drift costs version 1 accuracy: 0 of 30 labelled answers are right, 0.900")


def test_errors_that_rise_order_one_by_themselves_and_once(labelled: Bench) -> None:
    """Said once, ordered once, and neither again by an actor that goes on."""
    bench, rules = labelled, {"agreement": 1, "client_share": 1.0}
    bench.seen = replace(bench.seen, experiment=experiment(triggers={"drift": True}, labels=rules))
    bench.step(2)  # it watches from now on
    answered(bench, 0, "a", 400)
    bench.now += 500.0
    bench.step(2)
    quiet = bench.unfinished()

    answered(bench, 400, "b", 60)
    bench.now += 100.0
    bench.step(2)
    (order,) = bench.unfinished()
    bench.keeper = bench.made()
    bench.now += 100.0
    bench.step(2)
    learnt = history.row("registered", 1, 2, "60 labels", order=order.id, until_ns=int(bench.now * 1e9))
    history.ledger(bench.store, "digits").append([learnt])
    orders.finish(bench.store, order, Result("refused", bench.now, "it is worse", "c" * 16, 2))
    bench.now += 100.0
    bench.step(2)

    assert quiet == []
    assert order.words.startswith("drift costs version 1 accuracy: 0 % of 400 labelled answers were wrong until 2025-")
    assert sum("labels show that version 1 is wrong more often than it was: 0 %" in text for text in bench.words) == 1
    assert [one.id for one in orders.orders(bench.store, "digits")] == [order.id]


def answered(bench: Bench, first: int, label: str, num: int) -> None:
    """One answer a second from now on, each `a`, and a label for each."""
    names = [f"later-{i}" for i in range(first, first + num)]
    at_ns = [int((bench.now + i) * 1e9) for i in range(num)]
    rows = [{"id": f"{name}#0", "request_id": name, "row": 0, "at_ns": at, "version": 1, "variant": "onnx-fp32",
             "input": b"0", "outputs": [1.0, 0.0]} for name, at in zip(names, at_ns, strict=True)]  # fmt: skip
    served.ledger(bench.store, "digits").append(rows)
    words = [feedback.word(name, 0, "label", label, "x", at) for name, at in zip(names, at_ns, strict=True)]
    feedback.ledger(bench.store, "digits").append(words)


def test_a_memory_that_is_lost_or_damaged_rolls_out_nothing_old(bench: Bench) -> None:
    bench.wish()
    bench.step(2)
    orders.finish(bench.store, bench.unfinished()[0], Result("passed", bench.now, "", "c" * 16, 2))
    bench.step()
    assert len(bench.commands()) == 1
    for file in (bench.store.local or Path()).parent.glob("adapt/commands/*"):
        file.unlink()

    bench.store.put("orders/digits/keeper/state.json", b'{"memory": ')
    bench.keeper = bench.made()
    bench.step(3)

    assert bench.commands() == []
    assert "what the triggers remembered cannot be read: they begin anew" in bench.words


# Killed at every step


def live(folder: str, killed_at: int) -> None:
    """A life of the keeper that is killed at its n-th deed, before it is done: the one before has been done."""
    deeds = itertools.count(1)

    def deadly(deed: Callable[..., Any]) -> Callable[..., Any]:
        def done(*arguments: Any, **more: Any) -> Any:
            if next(deeds) == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return deed(*arguments, **more)

        return done

    bench = Bench(Path(folder), experiment())
    Store.put = deadly(Store.put)  # type: ignore[method-assign]
    Store.remove = deadly(Store.remove)  # type: ignore[method-assign]
    mailbox.write_whole = deadly(mailbox.write_whole)  # type: ignore[attr-defined]
    MadeCluster.begin = deadly(MadeCluster.begin)  # type: ignore[method-assign]
    bench.step(3)


def finish_job(folder: Path) -> None:
    """The job's part: its result, then its end."""
    bench = Bench(folder, experiment())
    for order in bench.unfinished():
        orders.finish(bench.store, order, Result("passed", NOW + 5, "all checks", "c" * 16, 2))
        bench.cluster.put(Job(order.job_id, "SUCCEEDED"))


def test_no_order_is_lost_or_doubled_whichever_deed_it_is_killed_at(tmp_path: Path) -> None:
    """Deeds are all writes to the store, the submitting of the job and the word to the loop."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "cluster.experiment", "cluster.cron", "serve.adapt.keeper"])
    killed: list[tuple[int, str]] = []
    for killed_at in itertools.count(1):
        folder = tmp_path / str(killed_at)
        folder.mkdir()
        Bench(folder, experiment()).wish()
        survived = 0
        for part in ("ordering", "handing on"):
            process = context.Process(target=live, args=(str(folder), killed_at))
            process.start()
            process.join(60)
            killed += [(killed_at, part)] if process.exitcode == -signal.SIGKILL else []
            survived += process.exitcode == 0
            Bench(folder, experiment()).step(3)  # who goes on
            if part == "ordering":
                finish_job(folder)

        bench = Bench(folder, experiment())
        assert [(name, result.fate) for name, result in bench.results().items()] == [("webhook-a", "passed")]
        assert bench.cluster.names() == ["digits-retrain-webhook-a"]
        assert len(bench.commands()) == 1
        assert bench.events() == [("ordered", "webhook-a")]
        assert orders.asked(bench.store, "digits") == []
        if survived == 2:
            break
    assert len(killed) >= 8, killed
