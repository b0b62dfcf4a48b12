"""An adaptation actor whose node is lost: bring it there beforehand, and see afterwards what its successor knows.

Ray puts an actor that asks for no CPU on any node, so it is ended until it is started on the right one. Knows nothing
of how a node is lost.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from cluster import session as sessions
from cluster.session import Session
from ladder.bundle import Bundle
from serve.adapt.journal import read, read_last
from serve.adapt.mailbox import Mailbox, journal, place
from serve.adapt.proposals import Command
from serve.adapt.replay import COMMAND, TICK, replay

PINNED, MOST_MOVES, ANSWER_S = 8, 20, 120.0
Until = Callable[[Callable[[], Any]], None]


class Watched:
    """The actor of `bundle`'s endpoint, which has two replicas; `until` waits for something."""

    def __init__(self, cluster: Session, bundle: Bundle, until: Until) -> None:
        self._cluster, self._name, self._until = cluster, bundle.name, until
        folder = place(bundle.store, bundle.name)
        self._box, self._journal = Mailbox(folder), journal(folder)

    def bring_to(self, node: str) -> int:
        """Have a person pin something, then the actor on `node`; returns the epoch of the envelope that replicas hold.

        Raises RuntimeError where the actor is never started there.
        """
        epoch = int(self._said({"max_batch": PINNED})["envelope"]["epoch"])
        for _ in range(MOST_MOVES):
            self._until(lambda: self._place()[1])
            where, pid = self._place()
            if where == node:
                self._until(lambda: self._held() == [epoch, epoch])
                return epoch
            os.kill(pid, signal.SIGKILL)
            self._until(lambda pid=pid: self._place()[1] not in (0, pid))  # type: ignore[misc]
        raise RuntimeError(f"the actor is never started on {node}")

    def back_at(self, since: float) -> float | None:
        """Unix seconds of its successor's first tick; None where there was none yet."""
        ticks = [float(entry["at"]) for entry in self._ticks() if entry["at"] > since]
        return min(ticks, default=None)

    def is_whole(self) -> bool:
        """Whether it knows what was pinned, obeys, and the record has each word once and comes to the same again."""
        said = self._said({"caution": 2.0})
        entries = read(self._journal).entries
        words = [entry["id"] for entry in entries if entry["kind"] == COMMAND]
        knows = said["envelope"]["max_batch"] == PINNED and set(said["pins"]) == {"max_batch", "caution"}
        return bool(knows and len(words) == len(set(words)) == 2 and not replay(entries).differences)

    def _said(self, changes: dict[str, Any]) -> dict[str, Any]:
        return self._box.wait(self._box.send(Command("pin", "ada", changes)), ANSWER_S)

    def _ticks(self) -> list[dict[str, Any]]:
        return [entry for entry in read_last(self._journal).entries if entry["kind"] == TICK]

    def _held(self) -> list[int]:
        """Least and greatest epoch of both replicas, as the actor has seen them last."""
        seen = ticks[-1]["snapshot"] if (ticks := self._ticks()) else {}
        return list(seen["epochs"]) if seen.get("running") == 2 else []

    def _place(self) -> tuple[str, int]:
        return place_of(self._cluster, self._name)


def place_of(cluster: Session, name: str) -> tuple[str, int]:
    """Node and process of the adaptation actor of the endpoint `name`; an empty id and 0 while there is none."""
    query = "/api/v0/actors?detail=1&filter_keys=state&filter_predicates=%3D&filter_values=ALIVE"
    found = sessions.rest(cluster, "GET", query)["data"]["result"]["result"]
    ours = [one for one in found if one["class_name"] == "Actor" and name in (one["name"] or "")]
    return (str(ours[0]["node_id"]), int(ours[0]["pid"])) if ours else ("", 0)
