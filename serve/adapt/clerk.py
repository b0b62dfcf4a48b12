"""What a rollout needs beside the loop: its history written down, its labels read, its promotion done as a Ray Job.

All of it follows from how far the rollout has come and may be repeated: a row of the history has an id of its own, a
promotion's job has the id that its rollout and attempt give. So whoever goes on after a death loses and doubles
nothing. Knows the store and the cluster; when what is done is for the loop's pure half.
"""

from __future__ import annotations

import shlex
import time
from typing import Any, Protocol

from cluster import history, submit
from cluster.errors import NotFoundError, TrimtabError, first_line
from cluster.session import Session
from cluster.store import Store
from serve.adapt import candidacy
from serve.adapt.actuator import Actual
from serve.adapt.candidacy import State
from serve.adapt.errands import last_words
from serve.adapt.jury import Jury
from serve.adapt.rivals import Heard

ATTEND_EVERY_S = 1.0
JUDGE_EVERY = 5  # looks


class Desk(Protocol):
    """The loop, as far as the clerk has to do with it."""

    @property
    def rollout(self) -> State: ...

    def hear(self, heard: Heard) -> None: ...


class Eyes(Protocol):
    actual: Actual | None


class Clerk:
    """Of one endpoint; call it from one thread."""

    def __init__(self, store: Store, name: str, session: Session, desk: Desk, eyes: Eyes) -> None:
        self._store, self._name, self._session, self._desk, self._eyes = store, name, session, desk, eyes
        self._history, self._jury = history.ledger(store, name), Jury(store, name)
        self._written: set[str] | None = None  # ids of rows
        self._looks = 0
        self._called: tuple[str, int] | None = None  # bundle and version that the registry was told are served

    def look(self) -> None:
        """One round. Raises TrimtabError where the store or the cluster fails."""
        state = self._desk.rollout
        self._write(state)
        if state.phase == "promoting":
            self._promote(state)
        elif state.is_running and self._looks % JUDGE_EVERY == 0:
            self._judge(state)
        if state.phase != "promoting" and not self._session.pid:
            self._call_stable(state)
        self._looks += 1

    def _write(self, state: State) -> None:
        if not state.events:
            return
        rows = [_row(event) for event in state.events]
        if self._written is None:
            self._written = set(self._history.read()["id"].to_pylist())
        if fresh := [row for row in rows if row["id"] not in self._written]:
            self._history.append(fresh)
            self._written.update(row["id"] for row in fresh)

    def _judge(self, state: State) -> None:
        actual = self._eyes.actual
        if actual is None or actual.version != state.stable:
            return
        stable, candidate = (actual.bundle, actual.version), (state.bundle, state.version)
        tally = self._jury.look(stable, candidate, state.begun, actual.experiment.retrain.labels)
        if tally != state.labels.total:
            self._desk.hear(Heard(state.version, tally))

    def _promote(self, state: State) -> None:
        name = f"{self._name}-promote-{state.version}-{state.begun:.0f}-{state.attempt}"
        try:
            job = submit.job(self._session, name)
        except NotFoundError:
            self._begin(name, self._name, state.bundle, str(state.version))
            return
        if job.status == "SUCCEEDED":
            self._desk.hear(Heard(state.version, attempt=state.attempt))
        elif job.status in submit.ENDED:
            self._desk.hear(Heard(state.version, attempt=state.attempt, trouble=self._last_words(job)))

    def _call_stable(self, state: State) -> None:
        """On a cluster that is configured from outside nobody else tells the registry which version is served."""
        actual = self._eyes.actual
        if actual is None or (served := (actual.bundle, actual.version)) == self._called:
            return
        if state.phase != "promoted" or state.version != actual.version:  # else the promotion has
            self._begin(
                f"{self._name}-stable-{actual.version}-{time.time():.0f}", self._name, *map(str, served), "--called"
            )
        self._called = served

    def _begin(self, name: str, *words: str) -> None:
        submit.submit(
            self._session,
            f"python -m {shlex.join(('serve.promote', *words))}",
            submission_id=name,
            env=self._environment(),
            metadata={"step": "promote", "key": name},
        )

    def _last_words(self, job: submit.Job) -> str:
        try:
            return last_words(self._session, job)
        except TrimtabError as error:
            return f"its log cannot be read ({first_line(error)})"

    def _environment(self) -> dict[str, str]:
        elsewhere = {} if self._session.pid else {"TRIMTAB_ADDRESS": self._session.dashboard_url}
        return {"TRIMTAB_STORE": self._store.uri, **elsewhere}


def _row(event: candidacy.Event) -> dict[str, Any]:
    """Of the same version the same may happen more than once: the time is part of the row's id."""
    row = history.row(event.kind, int(event.at * 1e9), event.version, event.words, order=event.order, **event.figures)
    return row | {"id": f"{row['id']}-{event.at:.3f}"}
