"""The candidate that a replica holds beside its stable version: which one it is, who gets it, and what it may cost.

It computes in a batcher of its own: one that is slow, or hangs, holds up the requests meant for it and no others, and
what it takes is in nothing that the stable version is adapted by. Loading is the replica's, and what is done when the
candidate fails is in `serve.canary`.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from serve.batcher import Batcher
from serve.canary import Canary
from serve.envelope import Candidate
from serve.limits import Limits
from serve.model import Answer, Meant, Model, Question, read_alike
from serve.queues import Batched
from serve.shadow import Rows, Shadow
from serve.tally import Tally, place

if TYPE_CHECKING:
    from serve.core import Core

CANARY, SHADOW = b"canary", b"shadow"  # a share of its own each
# What the stable version gets in the place of the candidate, in times of what it is predicted to need: an answer that
# is late is better than none, and a client that sets a limit of its own does not wait longer.
GRACE, LEAST_GRACE_S = 3.0, 0.5


class Rivals:
    """Call it from one event loop."""

    def __init__(self, core: Core, stable: Batcher, limits: Limits) -> None:
        self.tally = Tally()
        self.wanted: Candidate | None = None
        self.candidate: Model | None = None  # ready to answer
        self.is_alike, self.width = False, 0  # whether it reads requests as the stable version does; of its answers
        self._reason: str | None = None  # why it cannot be loaded
        self._core, self._stable, self._limits = core, stable, limits
        self._own = Batcher(limits)
        self._meant: Meant | None = None  # for nearly every request, and so made once
        self._canary, self._shadow = Canary(core, self), Shadow(self.tally.shadow)

    # Which one it is

    def want(self, wanted: Candidate | None) -> None:
        """Another candidate, or none: from now on no request is meant for the one before."""
        if wanted != self.wanted:
            self.wanted, self.candidate, self._reason = wanted, None, None

    def hold(self, wanted: Candidate, model: Model) -> None:
        """It is loaded, unless another one is wanted by now."""
        if wanted == self.wanted:
            self.candidate, self.width = model, model.width
            self._own = Batcher(self._limits)  # in the one before a pass may hang
            self.tally.meet(model.version, model.ladder.spent)
            self.match()

    def refuse(self, wanted: Candidate, reason: str) -> None:
        """It cannot be loaded, and all goes on without it."""
        if wanted == self.wanted:
            self._reason = reason

    def match(self) -> None:
        """The stable version is another one, or has other limits; it may be the candidate itself."""
        stable = self._core.stable
        if self.candidate is None or stable is None:
            return
        if is_it(self.wanted, stable):
            self.candidate = None
            return
        self.candidate = self.candidate.renewed(self._core.serve)
        self.is_alike = read_alike(stable.bundle, self.candidate.bundle)
        self.tally.meet(stable.version, stable.ladder.spent)

    def configure(self, limits: Limits) -> None:
        self._limits = limits
        self._own.configure(limits)

    @property
    def state(self) -> str | None:
        """`loading`, `ready` (as it is too when it has become the stable version) or `refused`; None without one."""
        if self.wanted is None:
            return None
        if self.candidate is not None or is_it(self.wanted, self._core.stable):
            return "ready"
        return "loading" if self._reason is None else "refused"

    # Who gets it

    def meant(self, stable: Model, request_id: str) -> Meant:
        """By the request's id."""
        candidate = self.candidate
        if candidate is not None:
            share = self._core.envelope.canary
            if share > 0.0 and place(request_id, candidate.version, CANARY) < share:
                return Meant(candidate, False)
        if self._meant is None or self._meant.model is not stable:
            self._meant = Meant(stable, False)
        return self._meant

    async def answer(self, meant: Meant, question: Question) -> Any:
        """Of the version that it is meant for, if that is still there, else of the stable one."""
        candidate, stable = self.candidate, self._core.model(self._core.name)
        if candidate is None or (meant.is_exact and meant.model.ladder is not candidate.ladder):
            return await self._canary.uncounted(meant.model if meant.is_exact else stable, question)
        if meant.is_exact:
            return await self._canary.exactly(candidate, question)
        if meant.model.ladder is candidate.ladder:
            return await self._canary.by_candidate(candidate, question)
        return await self._canary.by_stable(stable, candidate, question)

    def submit(self, candidate: Model, rows: np.ndarray, question: Question) -> asyncio.Future[Batched]:
        """To the candidate's own batcher. Raises as `Batcher.submit`."""
        return self._own.submit(candidate.ladder, rows, question.deadline, question.received)

    def save(self, stable: Model, rows: np.ndarray, question: Question) -> asyncio.Future[Batched]:
        """To the stable version, in the place of the candidate. Raises as `Batcher.submit`.

        What the candidate has used up of the time is not held against the request.
        """
        grace_s = max(GRACE * self._stable.needs_s(stable.ladder, len(rows)), LEAST_GRACE_S)
        deadline = max(question.deadline, time.monotonic() + grace_s)
        return self._stable.submit(stable.ladder, rows, deadline, question.received, is_counted=False)

    def need_s(self, candidate: Model, num_rows: int) -> tuple[float, float]:
        """How long rows that came now would take the candidate, and the stable version, as predicted."""
        stable = self._core.model(self._core.name)
        return self._own.needs_s(candidate.ladder, num_rows), self._stable.needs_s(stable.ladder, num_rows)

    def mirror(self, candidate: Model, request_id: str, rows: Rows, answer: Answer) -> None:
        """Have the candidate answer what the stable version has answered, if that is among the share."""
        share = self._core.envelope.shadow
        if share <= 0.0 or place(request_id, candidate.version, SHADOW) >= share or candidate is not self.candidate:
            return
        is_busy = self._stable.is_waited_for or self._own.is_waited_for or len(answer.outputs) > self._limits.max_batch
        self._shadow.offer(candidate, self._own, rows, answer, is_busy)

    # What is known of it

    @property
    def load(self) -> tuple[int, int, float]:
        """Requests and rows that wait for the candidate, and how long it has computed."""
        return self._own.num_waiting, self._own.num_waiting_rows, self._own.counters.busy_s

    def to_json(self) -> dict[str, Any]:
        candidate = None
        if self.wanted is not None:
            candidate = {**self.wanted.model_dump(), "state": self.state, "reason": self._reason}
        return {"candidate": candidate, **self.tally.to_json()}

    def close(self) -> None:
        self._own.close()


def is_it(wanted: Candidate | None, model: Model | None) -> bool:
    """Whether a loaded version is the one that is wanted."""
    return (
        wanted is not None
        and model is not None
        and (model.bundle.key, model.version)
        == (
            wanted.bundle,
            wanted.version,
        )
    )
