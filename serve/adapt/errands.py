"""Retrainings as Ray Jobs: begin one, see what became of it, stop it. Knows the cluster, not when one is due."""

from __future__ import annotations

import shlex
from typing import Protocol

from cluster import experiment as experiments
from cluster import progress, submit
from cluster.errors import NotFoundError
from cluster.orders import Order
from cluster.session import Session
from cluster.store import Store
from cluster.submit import Job

ENTRYPOINT = "python -m jobs.behind jobs.retrain - --order {order}"
SETUP = "jobs.behind.give_way"  # in the job's workers too, Ray Data's and Ray Train's alike
MOST_TRIES = 2
MOST_WORDS = 300  # characters of what a job said last


class Errands(Protocol):
    def tries(self, order: Order) -> list[Job]:
        """The jobs of an order, the first one first. Raises TrimtabError where the cluster does not say."""

    def begin(self, order: Order) -> str:
        """Start a job, or join the one that runs; returns its id. Raises TrimtabError."""

    def stop(self, job: Job) -> None:
        """Raises TrimtabError."""

    def last_words(self, job: Job) -> str:
        """Why it ended, in a sentence as far as one is known."""


class RayErrands:
    """`entrypoint` is the job's shell command, with `{order}` in the place of the order's id."""

    def __init__(self, session: Session, store: Store, entrypoint: str = ENTRYPOINT) -> None:
        self._session, self._store, self._entrypoint = session, store, entrypoint

    def tries(self, order: Order) -> list[Job]:
        found: list[Job] = []
        for number in range(1, MOST_TRIES + 1):
            name = order.job_id if number == 1 else f"{order.job_id}-{number}"  # as `submit` names a second one
            try:
                found.append(submit.job(self._session, name))
            except NotFoundError:
                break
        return found

    def begin(self, order: Order) -> str:
        return submit.submit(
            self._session,
            self._entrypoint.format(order=shlex.quote(order.id)),
            submission_id=order.job_id,
            env={
                **order.environment,
                experiments.ENVIRONMENT: order.experiment,
                "TRIMTAB_STORE": self._store.uri,
                experiments.ASKED_AT: str(order.at),
            },
            metadata={"step": "retrain", "key": order.id},
            setup=SETUP,
        )

    def stop(self, job: Job) -> None:
        submit.stop(self._session, job.submission_id)

    def last_words(self, job: Job) -> str:
        return last_words(self._session, job)


def last_words(session: Session, job: Job) -> str:
    """Why a job of ours ended, in a sentence as far as one is known. Raises TrimtabError without its log."""
    lines = submit.logs(session, job.submission_id).splitlines()
    said = [event.text for line in lines if (event := progress.parse(line)) and event.kind == "error"]
    plain = [line.strip() for line in lines if line.strip() and progress.parse(line) is None]
    words = (said or plain or [job.message or "it said nothing"])[-1]
    return words[:MOST_WORDS]
