"""One request where two versions are held: asked of the one it is meant for, and of the stable one if that fails.

What becomes of it is counted once for the version it was meant for; the replica's own counts have it as one request,
whoever answered. Knows no protocol: a question brings its own words.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cluster.errors import RequestError, first_line
from serve.model import Answer, Model, Question
from serve.queues import Batched, NotFiniteError
from serve.tally import Fate, VersionCount

if TYPE_CHECKING:
    from serve.core import Core
    from serve.rivals import Rivals

HEADROOM, HEADROOM_S = 1.5, 0.005  # of a predicted time, and for the event loop, before something is done about it
HANGS, HANGS_S = 10.0, 1.0  # so many times its predicted time and so much more: it will not come
_log = logging.getLogger(__name__)


class Trial:
    """What became of a request that was meant for the candidate: counted once, as soon as it is known."""

    def __init__(self, count: VersionCount) -> None:
        self.num_rows = 0  # until they are read
        self._count = count
        self._fate: Fate | None = None
        self._is_rescued = False

    def ends(self, fate: Fate) -> None:
        if self._fate is None:
            self._fate = fate
            self._count.end(fate, self.num_rows)
            self._count_rescue()

    def rescued(self) -> None:
        """The stable version has answered; the candidate may still come in time, if it was not waited for."""
        self._is_rescued = True
        self._count_rescue()

    def _count_rescue(self) -> None:
        if self._is_rescued and self._fate not in (None, "in_time"):
            self._count.rescued += 1


class Failure(NamedTuple):
    """Why the candidate gives no answer; there is no `fate` while that is not known."""

    fate: Fate | None
    error: Exception | None = None


class Canary:
    """Answers questions while there is a candidate. Call it from one event loop."""

    def __init__(self, core: Core, rivals: Rivals) -> None:
        self._core, self._rivals = core, rivals
        self._told: set[tuple[int, Fate | None]] = set()  # versions and kinds of failure that the log has

    # Meant for the stable version

    async def uncounted(self, model: Model, question: Question) -> Any:
        """As where there is no candidate. Raises as `Core.answer` does."""
        rows, about = await question.read(model)
        self._core.arrive(len(rows))
        compute = self._core.compute(model, rows, question.deadline, question.id, question.received)
        return question.say(await compute, about)

    async def by_stable(self, stable: Model, candidate: Model, question: Question) -> Any:
        """As ever, but counted, and some of it is given to the candidate too. Raises as `Core.answer` does."""
        rows, about = await question.read(stable)
        num_rows, count = len(rows), self._rivals.tally.of(stable.version)
        self._core.arrive(num_rows)
        try:
            answer = await self._core.compute(stable, rows, question.deadline, question.id, question.received)
        except asyncio.CancelledError:
            if time.monotonic() >= question.deadline:
                count.end("late", num_rows)
            raise
        except Exception as error:
            count.end(_fate_of(error), num_rows)
            raise
        count.end(_fate(question.deadline), num_rows)
        said = question.say(answer, about)
        self._rivals.mirror(candidate, question.id, partial(self._rows_for, candidate, rows, question), answer)
        return said

    async def _rows_for(self, candidate: Model, rows: np.ndarray, question: Question) -> np.ndarray:
        return rows if self._rivals.is_alike else (await question.read(candidate))[0]

    # Meant for the candidate

    async def exactly(self, candidate: Model, question: Question) -> Any:
        """Of the candidate and no other, as it was asked by its number: a test, counted for no version."""
        rows, about = await question.read(candidate)
        self._core.arrive(len(rows))
        try:
            batched = await self._rivals.submit(candidate, rows, question)
        except asyncio.CancelledError:
            self._core.left(len(rows), question.deadline)
            raise
        except RequestError as error:
            self._core.counters.refuse("late" if error.status == 504 else "overloaded", len(rows))
            raise
        except Exception:
            self._core.counters.failed += 1
            raise
        return question.say(self._answered(candidate, rows, batched, question, is_test=True), about)

    async def by_candidate(self, candidate: Model, question: Question) -> Any:
        """Of the candidate, and of the stable version where it fails. Raises as `Core.answer` does."""
        trial = Trial(self._rivals.tally.of(candidate.version))
        try:
            return await self._by_candidate(trial, candidate, question)
        except asyncio.CancelledError:
            if trial.num_rows:
                self._core.left(trial.num_rows, question.deadline)
                if time.monotonic() >= question.deadline:
                    trial.ends("late")
            raise

    async def _by_candidate(self, trial: Trial, candidate: Model, question: Question) -> Any:
        try:
            rows, about = await question.read(candidate)
        except Exception as error:
            return await self._rescue(trial, Failure("failed", error), candidate, question, None)
        trial.num_rows = len(rows)
        self._core.arrive(trial.num_rows)
        found = await self._tried(trial, candidate, rows, question)
        if isinstance(found, Batched):
            fate = _fate(question.deadline)
            try:
                said = question.say(self._answer(candidate, found), about)
            except Exception as error:
                found = Failure("failed", error)
            else:
                trial.ends(fate)
                self._answered(candidate, rows, found, question)
                return said
        return await self._rescue(trial, found, candidate, question, (rows, about))

    async def _tried(self, trial: Trial, candidate: Model, rows: np.ndarray, question: Question) -> Batched | Failure:
        """What the candidate computes, if it does so in good time."""
        patience_s = self._patience_s(candidate, len(rows), question.deadline)
        try:
            future = self._rivals.submit(candidate, rows, question)
            await asyncio.wait((future,), timeout=patience_s)
        except asyncio.CancelledError:
            future.cancel()
            raise
        except RequestError as error:
            return Failure("late", error)
        if future.done():
            return self._judged(future, len(rows))
        self._watch(trial, future, question.deadline)
        return Failure(None)

    def _patience_s(self, candidate: Model, num_rows: int, deadline: float) -> float:
        """How long to wait for the candidate: until the stable version would just come in time, or it seems to hang."""
        predicted_s, stable_s = self._rivals.need_s(candidate, num_rows)
        left_s = deadline - time.monotonic() - HEADROOM * stable_s - HEADROOM_S
        return max(HEADROOM * predicted_s, min(left_s, HANGS * predicted_s + HANGS_S))

    def _judged(self, future: asyncio.Future[Batched], num_rows: int) -> Batched | Failure:
        """What a future that is done brings, if it can be an answer."""
        if (error := future.exception()) is not None:
            return Failure(_fate_of(error), error if isinstance(error, Exception) else None)
        batched = future.result()
        if batched.outputs.shape != (num_rows, self._rivals.width):
            return Failure("failed", ValueError(f"outputs {batched.outputs.shape} for {num_rows} rows"))
        return batched

    def _watch(self, trial: Trial, future: asyncio.Future[Batched], deadline: float) -> None:
        """Nobody waits any more, but until its deadline the candidate may show that it would have answered."""

        def ends() -> None:
            trial.ends("late")
            future.cancel()

        def came(_: asyncio.Future[Batched]) -> None:
            timer.cancel()
            if not future.cancelled():
                found = self._judged(future, trial.num_rows)
                trial.ends(_fate(deadline) if isinstance(found, Batched) else found.fate or "failed")

        timer = asyncio.get_running_loop().call_later(max(deadline - time.monotonic(), 0.0), ends)
        future.add_done_callback(came)

    # Rescue

    async def _rescue(
        self, trial: Trial, failure: Failure, candidate: Model, question: Question, read: tuple[np.ndarray, Any] | None
    ) -> Any:
        """The stable version's answer. A request that it refuses too, in the same way, is not the candidate's fault."""
        self._tell(candidate, failure, question.id)
        stable = self._core.model(self._core.name)
        try:
            rows, about = read if read and self._rivals.is_alike else await question.read(stable)
            if not trial.num_rows:
                trial.num_rows = len(rows)
                self._core.arrive(trial.num_rows)
            batched = await self._rivals.save(stable, rows, question)
            said = question.say(self._answer(stable, batched), about)
        except Exception as error:
            if failure.fate is not None and not (_is_clients(error) and _is_clients(failure.error)):
                trial.ends(failure.fate)
            raise
        if failure.fate is not None:
            trial.ends(failure.fate)
        trial.rescued()
        self._answered(stable, rows, batched, question)
        return said

    def _tell(self, candidate: Model, failure: Failure, request_id: str) -> None:
        """Once for each kind: there may be thousands, and they are counted."""
        kind = candidate.version, failure.fate
        if _is_clients(failure.error) or kind in self._told:
            return
        self._told.add(kind)
        why = "is not back in good time" if failure.fate is None else f"ended {failure.fate}"
        reason = f" ({first_line(failure.error)})" if failure.error is not None else ""
        words = "version %d: request %s %s%s, and so the stable version is asked; more of the kind are counted only"
        trace = None if isinstance(failure.error, RequestError) else failure.error
        _log.warning(words, candidate.version, request_id, why, reason, exc_info=trace)

    # What is counted for the replica

    def _answer(self, model: Model, batched: Batched) -> Answer:
        queue_ms, compute_ms = batched.queue_s * 1000, batched.compute_s * 1000
        return Answer(batched.outputs, model, batched.variant, queue_ms, compute_ms, self._core.envelope.epoch)

    def _answered(
        self, model: Model, rows: np.ndarray, batched: Batched, question: Question, *, is_test: bool = False
    ) -> Answer:
        """`is_test` was asked of a version by its number: other rows than traffic, so no evidence by their labels."""
        now, answer = time.monotonic(), self._answer(model, batched)
        latency_s = now - (question.received or now)
        self._core.counters.answer(len(rows), now <= question.deadline, batched.queue_s, latency_s)
        if self._core.recorder is not None and not is_test:
            whole = model is not self._core.stable  # it answers few, by whose labels it is to be judged
            self._core.recorder.offer(question.id, model.version, batched.variant, rows, batched.outputs, whole=whole)
        return answer


def _fate(deadline: float) -> Fate:
    """Of an answer that has just come."""
    return "in_time" if time.monotonic() <= deadline else "late"


def _fate_of(error: BaseException) -> Fate:
    """Of a request that was refused or failed: the batcher refuses only for want of time."""
    if isinstance(error, NotFiniteError):
        return "nonfinite"
    return "late" if isinstance(error, RequestError) else "failed"


def _is_clients(error: BaseException | None) -> bool:
    """Whether it says that the request is at fault."""
    return isinstance(error, RequestError) and 400 <= error.status < 500 and error.status != 429
