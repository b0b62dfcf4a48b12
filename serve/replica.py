"""One replica of an endpoint: a `Core` with HTTP and gRPC in front, told by Serve which version and limits to hold.

A plain class, so that it can be made and called without Serve; `serve.app` wraps it. A new version is a new
`user_config`, loaded beside the old one and swapped in: the replica is never restarted for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from typing import Any

from cluster import feedback, served
from cluster.config import Adapt, Retrain, Serve
from cluster.errors import TrimtabError, UserError, first_line
from cluster.store import Store
from ladder.bundle import read_bundle
from serve import presence, standing
from serve.auth import VARIABLE, Tokens
from serve.core import Core
from serve.counters import LagMeter
from serve.envelope import Candidate, read
from serve.feedback import Intake
from serve.hook import Hook
from serve.limits import limits_of
from serve.model import Model
from serve.recorder import Recorder
from serve.rpc import Rpc
from serve.web import Web

ENVELOPE_S = 2.0  # a replica waits at most so long at its start for the actor's word
HANGS_S = 20.0  # one forward pass, of at most max_batch rows
_log = logging.getLogger(__name__)


class Replica(Rpc):
    """Serve calls the methods of `Rpc` on it by their names.

    `user_config` is `{"bundle": key, "version": number, "serve": the experiment's section}`; see also `serve.standing`.
    """

    def __init__(self, name: str, store: str) -> None:
        """Raises ClusterError without a token, StoreError when the store cannot be opened."""
        self._store = Store.open(store)
        intake, hook = Intake(feedback.ledger(self._store, name)), Hook(self._store, name)
        super().__init__(Core(name, Serve()), Tokens.read(os.environ.get(VARIABLE)), intake, hook)
        self._hook: Hook = hook
        self._core.recorder = Recorder(served.ledger(self._store, name), Serve().record)
        self._holds: tuple[str, int] | None = None
        self._latest = Serve()
        self._change: asyncio.Task[None] | None = None  # the latest, kept so that it is not collected
        self._threading: asyncio.Task[None] | None = None
        self._trying: tuple[Candidate, asyncio.Task[None]] | None = None  # the candidate that was loaded last
        self._loading = 0
        self._polled_at = time.monotonic()
        self._lag: LagMeter | None = None

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """The first version is waited for, a later one is loaded while the replica goes on answering.

        Serve takes a replica out of routing until this returns, and ends one in which it raises, so it
        returns at once and never raises when there is a version to go on with. Raises TrimtabError else.
        Limits hold at once, below the envelope; such as allow no rung of the version that answers are refused, unless
        a version comes with them that has some.
        """
        serve = Serve.model_validate(user_config["serve"])
        self._latest = serve
        self._hook.closed = _why_closed(user_config)
        with contextlib.suppress(UserError):  # said in `_swap`, when the version that was meant is there
            self._core.configure(serve)
        if not self._core.is_ready:
            await self._begin(await self._meant(user_config), serve)
        else:
            self._change = asyncio.get_running_loop().create_task(self._swap(user_config, serve, self._change))

    async def _meant(self, user_config: dict[str, Any]) -> tuple[str, int]:
        """Bundle and version."""
        return await asyncio.to_thread(standing.meant, self._store, self._core.name, user_config)

    async def _begin(self, wanted: tuple[str, int], serve: Serve) -> None:
        self._lag = LagMeter(self._core.counters.loop_lag)
        self._lag.start()
        present = await presence.present_envelope(ENVELOPE_S)
        self._core.use(await self._loaded(wanted, serve, (present or {}).get("threads")))
        self._holds = wanted
        presence.settle()
        if present is not None and (refused := (await self.apply(present))["refused"]):
            _log.warning("the present envelope is refused, what the experiment says holds: %s", refused)

    async def _swap(self, user_config: dict[str, Any], serve: Serve, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await before  # the last word wins, however long the ones before it take to load
        self._core.refused = None
        version = int(user_config["version"])
        try:
            wanted = await self._meant(user_config)
            version = wanted[1]
            if wanted != self._holds:
                self._core.use(await self._tried(wanted) or await self._loaded(wanted, serve))
                self._holds = wanted
            self._core.configure(self._latest)
            self._match_threads()
            self._match_candidate()
        except Exception as error:
            _log.exception("version %d with its limits is refused, what was before goes on", version)
            self._core.refused = {"version": version, "reason": _reason(error)}

    async def _tried(self, wanted: tuple[str, int]) -> Model | None:
        """The candidate, if that is the one: it is loaded, or will be in a moment, and its times are known."""
        if self._trying is not None and (self._trying[0].bundle, self._trying[0].version) == wanted:
            await self._trying[1]
        candidate = self._core.rivals.candidate
        if candidate is None or (candidate.bundle.key, candidate.version) != wanted:
            return None
        candidate.ladder.check(limits_of(self._latest))
        return candidate

    async def _loaded(self, wanted: tuple[str, int], serve: Serve, threads: int | None = None) -> Model:
        self._loading += 1
        try:
            bundle = await asyncio.to_thread(read_bundle, self._store, wanted[0])
            threads = threads or self._core.envelope.threads
            return await asyncio.to_thread(self._core.load, bundle, wanted[1], serve, threads)
        finally:
            self._loading -= 1

    # What the adaptation actor calls, by broadcast

    async def apply(self, envelope: dict[str, Any]) -> dict[str, Any]:
        """Hold this envelope (`serve.envelope.LiveEnvelope`) from now on; never raises.

        Says the epoch that holds now, and why if that is not the one given. New threads are begun, and a candidate is
        loaded, beside those that answer, which takes longer: then `pending` is true, and statistics are of the old
        ones for a while. A candidate that cannot be loaded is `refused` in statistics' `rivals`, the envelope is not.
        """
        refused = None
        try:
            self._core.apply(read(envelope))
            self._match_threads()
            self._match_candidate()
        except TrimtabError as error:
            refused = str(error)
        except Exception as error:  # an envelope is never worth a replica
            _log.exception("an envelope could not be applied")
            refused = f"it could not be applied ({first_line(error)})"
        pending = not self._core.has_threads or self._core.rivals.state == "loading"
        return {"replica": presence.replica_id(), "epoch": self._core.envelope.epoch, "refused": refused,
                "pending": pending}  # fmt: skip

    async def stats(self) -> dict[str, Any]:
        """All that is counted here, cumulative since the start; never raises."""
        now = time.monotonic()
        actor_age_s, self._polled_at = now - self._polled_at, now
        return {
            "replica": presence.replica_id(),
            "pid": os.getpid(),
            "at": now,
            "loading": self._loading > 0,
            "actor_age_s": actor_age_s,
            **self._core.statistics(),
        }

    def _match_threads(self) -> None:
        if self._threading is None or self._threading.done():
            self._threading = asyncio.get_running_loop().create_task(self._rethread())

    async def _rethread(self) -> None:
        try:
            await self._core.thread()
        except Exception:  # those that answer go on
            _log.exception("forward passes could not be begun with %d threads", self._core.threads)

    def _match_candidate(self) -> None:
        """See to it that the wanted candidate is loaded, or being loaded."""
        wanted, trying = self._core.rivals.wanted, self._trying
        if wanted is None or self._core.rivals.state != "loading":
            return
        if trying is None or trying[0] != wanted or trying[1].done():
            self._trying = wanted, asyncio.get_running_loop().create_task(self._try(wanted))

    async def _try(self, wanted: Candidate) -> None:
        rivals = self._core.rivals
        try:
            rivals.hold(wanted, await self._loaded((wanted.bundle, wanted.version), self._latest))
        except Exception as error:  # what answers now goes on, whatever is wrong with another version
            _log.exception("version %d cannot be tried", wanted.version)
            rivals.refuse(wanted, _reason(error))
        else:
            self._match_threads()

    async def check_health(self) -> None:
        """Called by Serve on the loop that answers requests, and not on a thread as a plain function would be.

        So to be called at all is most of the check.

        Raises TrimtabError without a version, and when a forward pass hangs: only a new process mends that.
        """
        if not self._core.is_ready:
            raise TrimtabError("no model version is loaded")
        if (forward_s := self._core.forward_s) > HANGS_S:
            raise TrimtabError(f"a forward pass has not come back for {forward_s:.0f} s")

    def __serve_build_asgi_app__(self) -> Web:
        kind = "haproxy" if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1" else "proxy"
        return Web(self._core, self._tokens, {"ingress": kind}, sends_request_id=False, intake=self._intake,
                   hook=self._hook)  # fmt: skip


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, TrimtabError) else "the replica's log says why"


def _why_closed(user_config: dict[str, Any]) -> str:
    """Why nobody would take up a wish for a retraining; nothing where somebody does."""
    if not Retrain.model_validate(user_config.get("retrain", {})).triggers.webhook:
        return "retrain.triggers.webhook is off"
    return "" if Adapt.model_validate(user_config.get("adapt", {})).enabled else "adapt.enabled is off"
