"""The adaptation actor: one for each endpoint, started, watched and replaced by Serve.

Its loop runs in a thread of its own from the start, because nobody calls an actor that was made anew. Its state is
in the journal; what the loop does is in `serve.adapt.loop`.
"""

from __future__ import annotations

import fcntl
import logging
import time
from functools import cache
from pathlib import Path
from threading import Event, Thread
from typing import IO, Any

from cluster import session
from cluster.config import Adapt
from cluster.errors import ClusterError
from cluster.metrics import Meter
from cluster.session import Session
from cluster.store import Store
from serve.adapt import rounds
from serve.adapt.actuator import Actual, Actuator
from serve.adapt.clerk import ATTEND_EVERY_S, Clerk
from serve.adapt.errands import RayErrands
from serve.adapt.keeper import KEEP_EVERY_S, Keeper, Seen
from serve.adapt.loop import Loop
from serve.adapt.mailbox import place, reach
from serve.adapt.post import WORDS_S, Post
from serve.adapt.sentinel import LOOK_EVERY_S, Sentinel

RETRY_S = 1.0


class Actor:
    """`dashboard` is where Serve's interface is on a cluster that was not started here."""

    def __init__(self, name: str, store: str, deployment: str, dashboard: str) -> None:
        self._name, self._deployment, self._dashboard = name, deployment, dashboard
        self._store = Store.open(store)
        self._loop: Loop | None = None
        self._is_outdone = False
        Thread(target=self._run, name="adapt", daemon=True).start()

    def envelope(self) -> dict[str, Any] | None:
        """What holds now, for a replica that starts; None where nothing was ever set."""
        return self._loop.envelope if self._loop is not None else None

    def _run(self) -> None:
        log = logging.getLogger("serve.adapt")  # not the module's: Serve ships this class by value
        while True:
            try:
                self._go(log)
            except Exception:
                log.exception("the adaptation loop begins anew")
            time.sleep(RETRY_S)

    def _go(self, log: logging.Logger) -> None:
        folder = place(self._store, self._name)
        folder.mkdir(parents=True, exist_ok=True)
        cluster = _cluster(self._dashboard)
        actuator = Actuator(self._name, self._deployment, cluster, self._store)
        with (folder / "lock").open("w") as lock:
            if self._store.local is not None:  # for replicas that start meanwhile
                self._loop = Loop(folder, actuator, Meter(self._name))
            _alone(lock, folder, log)
            post = self._taken_over(folder, log)
            self._loop = Loop(folder, actuator, Meter(self._name))  # with what was recorded until now
            actuator.start()
            ended = Event()
            self._attend(cluster, actuator, self._loop, post, ended)
            try:
                self._loop.run(ended)
                self._is_outdone = True
            finally:
                ended.set()
                actuator.close()

    def _attend(self, cluster: Session, actuator: Actuator, loop: Loop, post: Post | None, ended: Event) -> None:
        """What goes on beside the loop, which goes on without it."""
        sentinel = Sentinel(self._store, self._name)
        clerk = Clerk(self._store, self._name, cluster, loop, actuator)
        errands, mailbox = RayErrands(cluster, self._store), reach(self._store, self._name)
        keeper = cache(lambda: Keeper(self._store, self._name, errands, mailbox, loop.say))  # reads, which may fail

        def watch() -> None:
            if (actual := actuator.actual) is not None:
                for words in sentinel.look(actual.bundle, actual.version):
                    loop.say(words)

        def keep() -> None:
            if (actual := actuator.actual) is not None:
                keeper().step(_seen(actual, loop.envelope, sentinel.drift_since), time.time())

        rounds.start("sentinel", LOOK_EVERY_S, watch, ended)
        rounds.start("keeper", KEEP_EVERY_S, keep, ended)
        rounds.start("clerk", ATTEND_EVERY_S, clerk.look, ended)
        if post is not None:

            def carry() -> None:
                if not post.round(_most_bytes(actuator)):  # another actor has taken over
                    ended.set()

            rounds.start("post", WORDS_S, carry, ended)

    def _taken_over(self, folder: Path, log: logging.Logger) -> Post | None:
        """What brings words from a store that is no folder, once this is the only actor that is at work."""
        if self._store.local is not None:
            return None
        post = Post(self._store, self._name, folder)
        if self._is_outdone:
            log.warning("another actor adapts this endpoint; this one waits until it records no more")
            post.wait_for_silence()
        post.take_over()
        self._is_outdone = False
        return post


def _seen(actual: Actual, envelope: dict[str, Any] | None, drift_since: float | None) -> Seen:
    rolling = int(((envelope or {}).get("candidate") or {}).get("version", 0))
    return Seen(actual.bundle, actual.version, actual.experiment, actual.environment, drift_since, rolling)


def _most_bytes(actuator: Actuator) -> int:
    return (actuator.actual.experiment.adapt if actuator.actual is not None else Adapt()).journal


def _cluster(dashboard: str) -> Session:
    dashboard = dashboard or beside_gcs()
    found = session.find() or session.find(address=dashboard)
    if found is None:
        raise ClusterError("cluster", dashboard, "is not found by the adaptation actor", "set TRIMTAB_ADDRESS there")
    return found


def beside_gcs() -> str:
    """Where a cluster's dashboard is that was started with Ray's own ports, as KubeRay does."""
    import ray

    return f"http://{ray.get_runtime_context().gcs_address.rpartition(':')[0]}:8265"


def _alone(lock: IO[str], folder: Path, log: logging.Logger) -> None:
    """Until the actor before, which an update leaves running for a while, has let go of the record."""
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            log.info("another actor adapts this endpoint, waiting for it: %s", folder)
            time.sleep(RETRY_S)
