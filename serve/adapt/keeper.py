"""Orders retrainings, follows their jobs and hands on what they made: one after the other, each once, whatever dies.

What is to be done is written down before it is done, and what is done can be seen: an order is a file in the store, its
job is on the cluster, its end is a file again. So each step may be repeated by whoever goes on after a death. Beside
the actor's loop, because it asks the store and the cluster and takes its time. When one is due stands in
`serve.adapt.triggers`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cluster import history, orders
from cluster.config import Experiment
from cluster.errors import TrimtabError
from cluster.orders import Order, Result
from cluster.store import Store
from cluster.submit import ENDED, Job
from serve.adapt import triggers
from serve.adapt.errands import MOST_TRIES, Errands
from serve.adapt.evidence import files_at
from serve.adapt.listener import Listener, Subject
from serve.adapt.mailbox import Mailbox, StoreMailbox
from serve.adapt.mistakes import Watch
from serve.adapt.plain import Plain
from serve.adapt.proposals import Command
from serve.adapt.triggers import Facts, Files, Memory

WHO = "retraining"  # in the record, as the one whose word a rollout is
USERS_MISTAKES = (2, 3, 4, 5)  # exit codes of what is the same the next time
KEEP_EVERY_S = 2.0


@dataclass(frozen=True)
class Seen:
    """What the actor knows of the endpoint: the version that answers, the experiment as it is served today, since when
    its answers drift (unix seconds), and the version that is being rolled out, if any.
    """

    bundle: str
    version: int
    experiment: Experiment
    environment: dict[str, str] = field(default_factory=dict)  # of replicas: where the code of one's own task is
    drift_since: float | None = None
    rolling: int = 0


@dataclass(frozen=True)
class State(Plain):
    """What is kept in the store: written whole, before what it says is done."""

    memory: Memory = field(default_factory=Memory)
    intent: Order | None = None  # to be placed
    handed: tuple[str, ...] = ()  # orders whose version has been given to the rollout
    watch: Watch = field(default_factory=Watch)  # over the stable version's errors


class Keeper:
    """Of one endpoint; call `step` from one thread."""

    def __init__(
        self,
        store: Store,
        name: str,
        errands: Errands,
        mailbox: Mailbox | StoreMailbox,
        say: Callable[[str], None],
    ) -> None:
        """Takes up what the store says. `say` puts a sentence into the record."""
        self._store, self._name, self._errands, self._mailbox, self._say = store, name, errands, mailbox, say
        self._orders: dict[str, Order] = {}
        self._results: dict[str, Result] = {}
        self._history = history.ledger(store, name)
        self._told = {row["order"] for row in self._history.read().to_pylist() if row["event"] == "ordered"}
        self._looked_at = float("-inf")  # at the data's path
        self._until: dict[str, float] = {}  # when what an order has learnt from had come
        self._refresh()
        self._state = self._recovered()
        self._listener = Listener(store, name, self._state.watch, say)

    def step(self, seen: Seen, now: float) -> None:
        """One round, `now` in unix seconds. Raises TrimtabError where store or cluster fail: the next one goes on."""
        self._place()
        self._refresh()
        self._tell(now)
        running = self._followed(seen.experiment.retrain.most, now)
        handed = self._hand_on(seen.experiment.rollout.automatic)
        facts = self._facts(replace(seen, rolling=seen.rolling or handed), running, now)
        decision = triggers.due(seen.experiment.retrain, self._state.memory, facts, now)
        for words in decision.words:
            self._say(words)
        intent = None
        if due := decision.due:
            text, environment = seen.experiment.model_dump_json(), dict(seen.environment)
            intent = Order(due.id, self._name, due.cause, due.words, now, text, environment)
        self._keep(replace(self._state, memory=decision.memory, intent=intent, watch=self._listener.watch))
        self._place()
        for wish in facts.asks:
            if wish.id in decision.memory.taken:
                orders.taken_up(self._store, self._name, wish.id)

    # What is to be done, before it is done

    @property
    def _path(self) -> str:
        return f"orders/{self._name}/keeper/state.json"

    def _recovered(self) -> State:
        data = self._store.get(self._path)
        try:
            if data is not None:
                return State.from_json(json.loads(data))
        except ValueError:
            self._say("what the triggers remembered cannot be read: they begin anew")
        return State(handed=tuple(self._results))  # who has no memory rolls out nothing of before it

    def _keep(self, state: State) -> None:
        if state != self._state:
            self._store.put(self._path, json.dumps(state.to_json()).encode())
            self._state = state

    def _place(self) -> None:
        if (intent := self._state.intent) is not None:
            orders.place(self._store, intent)
            self._orders[intent.id] = intent
            self._keep(replace(self._state, intent=None))

    # What there is

    def _refresh(self) -> None:
        for name in orders.ids(self._store, self._name):
            if name not in self._orders and (order := orders.order_of(self._store, self._name, name)) is not None:
                self._orders[name] = order
        for name, order in self._orders.items():
            if name not in self._results and (result := orders.result_of(self._store, order)) is not None:
                self._results[name] = result

    def _in_line(self) -> list[Order]:
        """Orders that have not ended, the oldest first."""
        waiting = [order for name, order in self._orders.items() if name not in self._results]
        return sorted(waiting, key=lambda order: (order.at, order.id))

    def _tell(self, now: float) -> None:
        """A person's orders are seen here for the first time."""
        for order in self._in_line():
            if order.id not in self._told:
                words = f"{order.cause}: {order.words}"
                self._say(f"a retraining is ordered by {words} ({order.id})")
                row = history.row("ordered", int(now * 1e9), 0, words, order=order.id, cause=order.cause)
                self._history.append([row])
                self._told.add(order.id)

    # The job

    def _followed(self, most_s: float, now: float) -> str:
        """Begins and follows the first in line; returns the id of the one that has not ended, or nothing."""
        while line := self._in_line():
            order, tries = line[0], self._errands.tries(line[0])
            if not tries:
                self._errands.begin(order)
                return order.id
            job = tries[-1]
            if job.status not in ENDED:
                if job.started_at is None or now <= job.started_at + most_s:
                    return order.id
                self._errands.stop(job)
                self._end(order, "stopped", f"it ran longer than {most_s:g} s (retrain.most)", now)
            elif (result := orders.result_of(self._store, order)) is not None:
                self._results[order.id] = result  # its last deed, which an earlier look could not see
            elif job.status == "STOPPED":
                self._end(order, "stopped", f"its job {job.submission_id} was stopped", now)
            elif len(tries) < MOST_TRIES and job.exit_code not in USERS_MISTAKES:
                self._say(f"the retraining {order.id} died and is tried once more: {self._why(job)}")
                self._errands.begin(order)
                return order.id
            else:
                self._end(order, "failed", self._why(job), now)
        return ""

    def _why(self, job: Job) -> str:
        try:
            return self._errands.last_words(job)
        except TrimtabError as error:
            return f"{job.message or 'it ended without a word'} (its log cannot be read: {error})"

    def _end(self, order: Order, fate: orders.Fate, words: str, now: float) -> None:
        self._say(f"the retraining {order.id} has {fate}: {words}")
        self._history.append([history.row("failed", int(now * 1e9), 0, words, order=order.id, fate=fate)])
        orders.finish(self._store, order, Result(fate, now, words))
        found = orders.result_of(self._store, order)
        self._results[order.id] = found or Result(fate, now, words)

    # What it made

    def _hand_on(self, automatic: bool) -> int:
        """The version that begins to be rolled out, or 0."""
        version = 0
        for name, result in list(self._results.items()):
            if name in self._state.handed:
                continue
            if result.fate == "passed" and automatic:
                changes = {"bundle": result.bundle, "version": result.version, "order": name}
                # A name of its own: sent once more it is the same word, which is obeyed once.
                self._mailbox.send(Command("canary", WHO, changes), name=f"{int(result.at * 1e9):020d}-{name}")
                version = result.version
            elif result.fate == "passed":
                self._say(f"version {result.version} has passed the gate and waits for trimtab canary or promote")
            self._keep(replace(self._state, handed=(*self._state.handed, name)))
        return version

    # What the triggers are told

    def _facts(self, seen: Seen, running: str, now: float) -> Facts:
        self._listener.listen(
            Subject(seen.bundle, seen.version, self._learnt_at()), seen.experiment, seen.drift_since, now
        )
        return Facts(
            version=seen.version,
            accuracy=self._listener.accuracy,
            running=running,
            rolling=seen.rolling,
            ended_at=max((result.at for result in self._results.values()), default=None),
            ordered=tuple(order.at for order in self._orders.values() if order.cause != "person"),
            files=self._files(seen, now),
            labels=self._listener.labels,
            drift=self._listener.drift,
            asks=tuple(orders.asked(self._store, self._name)),
        )

    def _files(self, seen: Seen, now: float) -> Files | None:
        """A look at the data's path when it is time for one."""
        data, memory = seen.experiment.retrain.triggers.data, self._state.memory
        if data is None:
            return None
        every_s = data.every if memory.seen == memory.learnt else min(data.every, data.settle)
        if now < self._looked_at + every_s:
            return None
        self._looked_at = now
        return files_at(data.path)

    def _learnt_at(self) -> float:
        """When the last retraining was ordered that has learnt from labels, or is about to."""
        ends = {name: result.fate for name, result in self._results.items()}
        made = [name for name, fate in ends.items() if fate in ("passed", "refused")]
        if not self._until.keys() >= set(made):
            known = history.learnt_until(self._history.read().to_pylist())
            self._until = {name: known.get(name, self._orders[name].at) for name in made}
        running = (order.at for name, order in self._orders.items() if name not in ends)
        return max((*self._until.values(), *running), default=0.0)
