"""The replicas of a simulation: started and stopped, routed to, given an envelope; who is lost with one that dies.

Time is an argument, and nothing happens by itself: `serve.adapt.simulator.run` calls in the order of time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from ladder.choose import Envelope, Rung
from serve.adapt.bounds import Bounds
from serve.adapt.simulator.replica import Replica, Request


class Fleet:
    """`running` answer requests, `starting` do not yet, `draining` not any more but for those they have."""

    def __init__(
        self,
        kind: type[Replica],
        ladder: Sequence[Rung],
        defaults: Envelope,
        max_queue: int,
        bounds: Bounds,
        rng: Random,
    ) -> None:
        self._kind, self._ladder, self._defaults, self._max_queue = kind, ladder, defaults, max_queue
        self._bounds, self._rng = bounds, rng
        self.running: list[Replica] = []
        self.starting: list[Replica] = []
        self.draining: list[Replica] = []
        self.dead: list[Replica] = []  # not noticed yet
        self.envelope: dict[str, Any] = {}
        self._num_started = 0
        self._ended_s = 0.0  # replica-seconds of those that are gone

    @property
    def num(self) -> int:
        """That count towards the target."""
        return len(self.running) + len(self.starting) + len(self.dead)

    def start(self, now: float) -> Replica:
        """One more, which is `starting` until it is `ready`."""
        self._num_started += 1
        made = self._kind(self._num_started, now, self._ladder, self._defaults, self._max_queue)
        self.starting.append(made)
        return made

    def ready(self, replica: Replica) -> None:
        """It has asked the actor for the envelope; nothing happens when it was stopped meanwhile."""
        if replica in self.starting:
            self.starting.remove(replica)
            self.running.append(replica)
            self._tell(replica)

    def stop_one(self, now: float) -> None:
        """The youngest goes, one that is still starting first."""
        if self.starting:
            self._ended(self.starting.pop(), now)
            return
        going = self.running.pop()
        if going.ongoing:
            self.draining.append(going)
        else:
            self._ended(going, now)

    def drained(self, replica: Replica, now: float) -> None:
        """Ends a draining replica that has nothing left to do."""
        if replica in self.draining and not replica.ongoing:
            self.draining.remove(replica)
            self._ended(replica, now)

    def kill(self, place: int) -> list[Request]:
        """One running replica dies with its requests, which are returned; it is noticed later."""
        replica = self.running.pop(place % len(self.running))
        lost = list(replica.queue) + [request for batch in replica.running for request in batch.requests]
        replica.queue.clear()
        replica.running.clear()
        replica.ongoing = 0
        self.dead.append(replica)
        return lost

    def bury(self, now: float) -> None:
        """Those that died are noticed."""
        for replica in self.dead:
            self._ended(replica, now)
        self.dead.clear()

    def tell(self, envelope: Mapping[str, Any]) -> None:
        """Broadcast; one that is starting asks when it is ready."""
        self.envelope = dict(envelope)
        for replica in (*self.running, *self.draining):
            self._tell(replica)

    def route(self) -> Replica | None:
        """Of two at random the one with fewer requests (M. Mitzenmacher, 2001), as Ray Serve does; None without any."""
        running = self.running
        num = len(running)
        if num < 2:
            return running[0] if num else None
        one = int(self._rng.random() * num)
        other = int(self._rng.random() * (num - 1))
        a, b = running[one], running[other + (other >= one)]
        return a if a.ongoing <= b.ongoing else b

    def replica_s(self, now: float) -> float:
        """Seconds of all replicas there were, from the order of each."""
        alive = (*self.running, *self.starting, *self.draining, *self.dead)
        return self._ended_s + sum(now - replica.started for replica in alive)

    def _tell(self, replica: Replica) -> None:
        replica.apply(self.envelope, self._bounds.max_wait_s, self._bounds.threads)

    def _ended(self, replica: Replica, now: float) -> None:
        self._ended_s += now - replica.started
