"""Observe, decide, act, record: the live loop around the pure half of the adaptation.

Every tick compares what is with what should be, and may be repeated. What was decided is written down before it is
done, so that an actor that dies between the two is followed by one that completes it, once. Knows no Ray.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any, Protocol

from cluster.config import Experiment
from cluster.errors import TrimtabError, first_line
from cluster.metrics import Meter
from serve.adapt import replay
from serve.adapt.actuator import Actual
from serve.adapt.bounds import Bounds
from serve.adapt.candidacy import State as Course
from serve.adapt.candidacy import told
from serve.adapt.guard import enacted
from serve.adapt.journal import STATE, Entry, Journal, read_last
from serve.adapt.mailbox import Mailbox, journal
from serve.adapt.proposals import REPLICAS, Verdict
from serve.adapt.replay import Mind
from serve.adapt.rivals import Heard
from serve.adapt.signals import Sample, Snapshot, carried, observe

LEAST_TIMEOUT_S = 0.25  # of a poll; a busy machine needs more than a tick now and then
MOST_SAID = 100  # sentences that wait for a tick
MOST_OBEYED = 64  # words that are known again where the answer was lost with an actor
APPLY_S = 0.5  # who needs longer is seen at the next ticks to hold it, or told again
_log = logging.getLogger(__name__)


class Hands(Protocol):
    actual: Actual | None

    @property
    def target(self) -> int: ...

    def broadcast(self, method: str, *arguments: Any, timeout_s: float) -> list[dict[str, Any]]: ...

    def scale(self, num_replicas: int) -> Future[None]: ...


class Loop:
    def __init__(self, folder: Path, hands: Hands, meter: Meter) -> None:
        """Takes up what the journal in `folder` says."""
        self._folder, self._hands, self._meter = folder, hands, meter
        self._mailbox = Mailbox(folder)
        self._journal: Journal | None = None
        entries = _entries(folder)
        self._mind = replay.recover(entries)
        self._obeyed: deque[str] = deque(_obeyed(entries), maxlen=MOST_OBEYED)
        self._unfinished = _unfinished(entries)
        self._previous: dict[str, Sample] = {}
        self._scaling: tuple[int, Future[None]] | None = None
        self._experiment: Experiment | None = None
        self._why = "start"  # of the next `state` entry
        self._said: deque[str] = deque(maxlen=MOST_SAID)
        self._heard: deque[Heard] = deque(maxlen=MOST_SAID)

    @property
    def envelope(self) -> dict[str, Any] | None:
        return dict(self._mind.envelope) if self._mind is not None and self._mind.envelope else None

    def say(self, words: str) -> None:
        """Put a sentence into the record at the next tick; from any thread."""
        self._said.append(words)

    @property
    def rollout(self) -> Course:
        """How far a candidate has come."""
        return self._mind.rollout if self._mind is not None else Course()

    def hear(self, heard: Heard) -> None:
        """Something about a rollout that was found out beside the loop; from any thread."""
        self._heard.append(heard)

    def run(self, ended: Event) -> None:
        while not ended.is_set():
            started = time.monotonic()
            try:
                self.tick(time.time())
            except Exception:  # one tick less; what replicas hold goes on to hold
                _log.exception("a tick failed")
            took_s = time.monotonic() - started
            self._meter.ticked(took_s)
            tick_s = self._experiment.adapt.tick_ms / 1000 if self._experiment else LEAST_TIMEOUT_S
            time.sleep(max(tick_s - took_s, tick_s / 10))

    def tick(self, now: float) -> None:
        """`now` in unix seconds."""
        now, actual = round(now, 3), self._hands.actual
        if actual is None:
            return
        mind = self._mind = self._settled(actual, now)
        self._collect(now)
        for name, command in self._mailbox.waiting():
            try:
                self._obey(name, command, now)
            except Exception as error:  # a word that waited on would end every tick to come
                _log.exception("the command %s cannot be obeyed", name)
                self._answer(name, [f"it cannot be obeyed ({first_line(error)})"])
        snapshot = self._observe(actual, now)
        self._adopt(snapshot)
        heard = self._heard.popleft() if self._heard else None
        snapshot = replace(snapshot, envelope=dict(self._mind.envelope) or None, heard=heard)
        before = replace(self._mind, replicas=snapshot.target)
        self._checkpoint(before, now)
        done, mind = replay.ticked(before, snapshot, now)
        self._write(replay.tick_entry(snapshot, done, now))
        self._mind = mind
        while self._said:
            self._write(replay.note_entry(self._said.popleft(), now))
        self._carry_out(done.verdicts, before, now)
        self._catch_up(snapshot, now)
        self._meter.saw(snapshot, self._mind, done.verdicts)

    # What is

    def _settled(self, actual: Actual, now: float) -> Mind:
        """The mind inside the bounds that the experiment sets today."""
        if self._mind is not None and actual.experiment is self._experiment:
            return self._mind
        self._experiment = actual.experiment
        bounds = Bounds.of(actual.experiment)
        if self._journal is None:
            self._journal = Journal(journal(self._folder), actual.experiment.adapt.journal)
        mind = self._mind or replace(Mind.fresh(bounds), replicas=actual.target)
        if mind.state.bounds != bounds:
            mind = mind.within(bounds)
        if self._why != "start":
            self._write(self._state(mind, now, "settings"))
        elif (ordered := self._unfinished) is not None and bounds.min_replicas <= ordered[1] <= bounds.max_replicas:
            self._scaling = ordered[0], self._hands.scale(ordered[1])
        return mind

    def _observe(self, actual: Actual, now: float) -> Snapshot:
        assert self._mind is not None
        bounds = self._mind.state.bounds
        samples = {}
        for answer in self._hands.broadcast("stats", timeout_s=max(bounds.tick_s, LEAST_TIMEOUT_S)):
            try:
                sample = Sample.parse(answer)
            except ValueError as error:
                _log.warning("statistics that mean nothing: %s", error)
                continue
            samples[sample.replica] = sample
        missing = sorted(actual.running - set(samples))
        envelope = self._mind.envelope or None
        snapshot = observe(self._previous, samples, now=now, target=self._hands.target, envelope=envelope,
                           missing=missing, concurrency=bounds.concurrency)  # fmt: skip
        self._previous = carried(self._previous, samples, missing)
        return snapshot

    def _adopt(self, snapshot: Snapshot) -> None:
        """Replicas may hold an envelope that the record has lost: what is known here is said anew, as the newest."""
        assert self._mind is not None
        if snapshot.epochs[1] > int(self._mind.envelope.get("epoch", 0)):
            self._mind = replace(self._mind, envelope={**self._mind.envelope, "epoch": snapshot.epochs[1] + 1})

    # What is done

    def _obey(self, name: str, command: Any, now: float) -> None:
        assert self._mind is not None
        if command is None or name in self._obeyed:
            self._answer(name, [] if command else ["no command"])
            return
        before = replace(self._mind, replicas=self._hands.target)
        verdicts, mind = replay.obeyed(before, command, now)
        self._checkpoint(before, now)
        if not self._write({**replay.command_entry(command, verdicts, before, now), "id": name}):
            return  # a word that cannot be kept is not taken: it waits
        self._obeyed.append(name)
        self._mind = mind
        self._carry_out(verdicts, before, now)
        self._answer(name, [verdict.reason for verdict in verdicts if not verdict.accepted])

    def _answer(self, name: str, refused: list[str]) -> None:
        assert self._mind is not None
        mind = self._mind
        self._mailbox.answer(name, {"done": not refused, "refused": refused, "paused": mind.guard.paused,
                                    "pins": dict(mind.guard.pins), "envelope": mind.envelope,
                                    "rollout": told(mind.rollout, mind.state.bounds.rollout)})  # fmt: skip

    def _carry_out(self, verdicts: Sequence[Verdict], before: Mind, now: float) -> None:
        assert self._mind is not None
        accepted = [verdict for verdict in verdicts if verdict.accepted]
        envelope, _ = enacted(accepted, before.envelope, before.replicas)
        numbers = [verdict.number for verdict in accepted if verdict.proposal.kind == "envelope"]
        if numbers and envelope != before.envelope:
            self._apply(numbers, before, now)
        for verdict in accepted:
            if verdict.proposal.kind == "replicas":
                self._scaling = verdict.number, self._hands.scale(int(verdict.proposal.changes[REPLICAS]))

    def _apply(self, numbers: list[int], before: Mind, now: float) -> None:
        assert self._mind is not None
        if reason := self._tell():
            for number in numbers:
                self._fail(number, reason, now)
            self._mind = replace(self._mind, envelope={**before.envelope, "epoch": self._mind.envelope["epoch"] + 1})
            self._tell()
            self._write(self._state(self._mind, now, "failure"))
        else:
            self._write(replay.applied_entry(numbers, self._mind.envelope["epoch"], self._mind.replicas, now))

    def _tell(self) -> str:
        """Why a replica cannot hold the envelope, or nothing. One that is silent is told again at the next tick."""
        assert self._mind is not None
        epoch = int(self._mind.envelope.get("epoch", 0))
        answers = self._hands.broadcast("apply", self._mind.envelope, timeout_s=APPLY_S)
        refusals = [str(answer["refused"]) for answer in answers if answer["refused"] and answer["epoch"] < epoch]
        return refusals[0] if refusals else ""

    def _catch_up(self, snapshot: Snapshot, now: float) -> None:
        """Tell those that hold an older envelope: they have started since, or did not hear."""
        assert self._mind is not None
        wanted = int((snapshot.envelope or {}).get("epoch", 0))
        if not snapshot.running or snapshot.epochs[0] >= wanted or wanted != self._mind.envelope.get("epoch", 0):
            return
        if reason := self._tell():
            self._mind = replace(self._mind, envelope={"epoch": wanted + 1})
            self._tell()
            self._write(replay.note_entry(f"the envelope is taken back, what the experiment says holds: {reason}", now))
            self._write(self._state(self._mind, now, "failure"))

    def _collect(self, now: float) -> None:
        """What became of the last order for another number of replicas."""
        assert self._mind is not None
        if self._scaling is None or not self._scaling[1].done():
            return
        number, order = self._scaling
        self._scaling = None
        try:
            order.result()
        except TrimtabError as error:
            self._fail(number, str(error), now)
            self._write(self._state(self._mind, now, "failure"))
            return
        epoch = int(self._mind.envelope.get("epoch", 0))
        self._write(replay.applied_entry([number], epoch, self._hands.target, now))

    def _fail(self, number: int, why: str, now: float) -> None:
        assert self._mind is not None
        _log.warning("action %d could not be applied: %s", number, why)
        self._mind = replay.not_applied(self._mind, number, now, why)
        self._write(replay.failed_entry(number, why, now))

    # What is written

    def _checkpoint(self, mind: Mind, now: float) -> None:
        assert self._journal is not None
        if self._journal.wants_state:
            self._journal.append(self._state(mind, now, self._why))
            self._mailbox.tidy()
            self._why = "checkpoint"

    def _state(self, mind: Mind, now: float, why: str) -> Entry:
        return {**replay.state_entry(mind, now, why), "obeyed": list(self._obeyed)}

    def _write(self, entry: Entry) -> bool:
        assert self._journal is not None
        return self._journal.append(entry)


def _entries(folder: Path) -> list[Entry]:
    try:
        found = read_last(journal(folder))
    except OSError as error:
        _log.warning("the record cannot be read, adaptation begins anew: %s", error)
        return []
    for problem in found.problems:
        _log.warning("the record: %s", problem)
    return found.entries


def _obeyed(entries: Sequence[Entry]) -> list[str]:
    """Ids of a person's last words, the oldest first."""
    found: list[str] = []
    for entry in entries:
        found += [str(name) for name in entry.get("obeyed", ())] if entry["kind"] == STATE else []
        found += [str(entry["id"])] if "id" in entry else []
    return found


def _unfinished(entries: Sequence[Entry]) -> tuple[int, int] | None:
    """Number of the last action on the replicas, and how many it ordered, if nothing says that it was done."""
    ordered: tuple[int, int] | None = None
    for entry in entries:
        for data in entry.get("verdicts", ()):
            verdict = Verdict.from_json(data)
            if verdict.accepted and verdict.proposal.kind == "replicas":
                ordered = verdict.number, int(verdict.proposal.changes[REPLICAS])
        if ordered and (ordered[0] in entry.get("numbers", ()) or entry.get("number") == ordered[0]):
            ordered = None
    return ordered
