"""`trimtab monitor`: a stream's events, the endpoint's answers to them, and the alerts that come of both.

Read, ask, step, publish: a batch at a time, and the next is read when this one is done. Knows no statistics.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.config import Experiment
from cluster.errors import TrimtabError
from serve import deploy as deployment
from serve.watch import ledger
from serve.watch.alert import Alert, clock
from serve.watch.events import BadLine, Event, parse, seen
from serve.watch.ledger import Ledger
from serve.watch.monitor import Monitor
from serve.watch.outbox import Outbox
from serve.watch.topics import Topics
from trimtab.asker import Asker
from trimtab.lines import Line, Lines
from trimtab.screen import Screen
from trimtab.watching import topics_of, webhook_of, with_topics
from trimtab.workspace import Workspace

BATCH, LINGER_S, IDLE_S = 32, 0.2, 1.0
COMMIT_S = 1.0  # what a killed monitor asks once more
MOST_SAID = 3  # lines left out for the same reason that are told one by one


@dataclass
class Watched:
    """One run: what was left out, and where in the stream it is."""

    screen: Screen
    lines: Lines
    monitor: Monitor
    topics: Topics
    asker: Asker
    book: Ledger
    left_out: Counter[str] = field(default_factory=Counter)
    num_lines: int = 0
    end: int = 0  # of the last line that was counted
    is_whole: bool = True  # no batch is half counted
    alerts: list[Alert] = field(default_factory=list)  # not yet published
    num_alerts: int = 0
    heard: tuple[float, float] | None = None  # the stream's time, and ours then

    def run(self) -> None:
        """To the end of the stream. Raises what the asker raises; what was counted is published in any case."""
        published = time.monotonic()
        try:
            while True:
                batch = self.lines.take(BATCH, LINGER_S, IDLE_S)
                if batch:
                    self._count(batch)
                elif self.lines.ended:
                    return
                else:
                    self._idle()
                if self.alerts or time.monotonic() - published >= COMMIT_S:
                    self.publish()
                    published = time.monotonic()
        finally:
            if self.is_whole:
                self.publish()

    def _count(self, batch: list[Line]) -> None:
        events = self._events(batch)
        answers = self.asker.ask([event.asks for event in events])
        named = self.topics.of(events)
        self.is_whole = False
        for event, answer, topic in zip(events, answers, named, strict=True):
            try:
                if isinstance(answer, BadLine):
                    raise answer
                self.alerts += self.monitor.step(event, seen(answer, self.negative), topic)
            except BadLine as error:
                self._leave_out(error, f"event of {clock(event.time)}")
        self.end = batch[-1].end
        self.is_whole = True
        if self.monitor.newest is not None:
            self.heard = self.monitor.newest, time.monotonic()

    @property
    def negative(self) -> list[str]:
        return self.monitor.rules.negative

    def _events(self, batch: list[Line]) -> list[Event]:
        found = []
        for line in batch:
            self.num_lines += 1
            if line.data is not None and not line.data.strip():
                continue
            try:
                if line.data is None:
                    raise BadLine("long", "is longer than 256 KiB")
                found.append(parse(line.data, time.time()))
            except BadLine as error:
                self._leave_out(error, f"line {self.num_lines}")
        return found

    def _leave_out(self, error: BadLine, which: str) -> None:
        self.left_out[error.reason] += 1
        if self.left_out[error.reason] <= MOST_SAID:
            more = "; further ones are counted" if self.left_out[error.reason] == MOST_SAID else ""
            self.screen.word("left out", f"{which} {error}{more}")

    def _idle(self) -> None:
        """Nothing comes: the stream's time goes on as ours does."""
        if self.lines.is_live and self.heard is not None:
            newest, then = self.heard
            self.alerts += self.monitor.tick(newest + time.monotonic() - then)

    def publish(self) -> None:
        state = {"monitor": self.monitor.to_json(), "position": self.lines.position(self.end)}
        try:
            self.book.commit(state, self.alerts, self.monitor.newest or 0.0)
        except OSError as error:
            self.screen.word("monitor", f"nothing can be kept just now ({error.strerror}); it is tried again")
            return  # the book has the alerts
        finally:
            for alert in self.alerts:
                _show(alert, self.screen)
            self.num_alerts += len(self.alerts)
            self.alerts = []

    def summary(self) -> dict[str, Any]:
        return {
            "lines": self.num_lines,
            **{f"events {name}": number for name, number in sorted(self.monitor.counts.items())},
            **{f"left out, {reason}": number for reason, number in sorted(self.left_out.items())},
            "topics": len(self.monitor.courses),
            "alerts": self.num_alerts,
        }


def watch(
    experiment: Experiment,
    stream: str,
    workspace: Workspace,
    *,
    topics: Path | None,
    follow: bool,
    fresh: bool,
    patience_s: float,
    drain_s: float,
) -> None:
    """Until the stream ends. Raises UserError and what the endpoint's refusals are."""
    if topics is not None:
        experiment = with_topics(experiment, topics)
    screen, folder = workspace.screen, ledger.place(workspace.store, experiment.name)
    webhook = webhook_of(experiment)
    named = topics_of(experiment)
    outbox = Outbox(folder / "outbox") if webhook else None
    cluster = workspace.cluster()
    url = deployment.url(cluster, experiment)

    def say(text: str) -> None:
        screen.word("monitor", text)

    with (
        Lines(stream, follow=follow, on_word=say) as lines,
        Ledger(folder, outbox, say) as book,
        Asker(url, cluster.api_token, patience_s, say) as asker,
    ):
        if fresh:
            (folder / "state.json").unlink(missing_ok=True)
        monitor, end = _resumed(experiment, book, lines, screen)
        if outbox is not None and webhook is not None:
            outbox.start(webhook, say)
        made = Watched(screen, lines, monitor, named, asker, book, end=end)
        try:
            made.run()
        finally:
            left = outbox.stop(drain_s) if outbox else 0
    if left:
        say(f"{left} are not delivered yet: the next monitor goes on with them; see trimtab alerts --undelivered")
    _end(made, screen)


def _resumed(experiment: Experiment, book: Ledger, lines: Lines, screen: Screen) -> tuple[Monitor, int]:
    """The monitor as it was, and where in the file it was."""
    tree = book.resume()
    if tree is None:
        return Monitor(experiment.alerts), 0
    try:
        monitor = Monitor.from_json(experiment.alerts, tree["monitor"])
    except (KeyError, TypeError, ValueError) as error:
        words = f"the state of the last run cannot be used ({error}); begin anew: trimtab monitor --fresh"
        raise TrimtabError(words) from None
    if lines.go_on(tree["position"]):
        end = int(tree["position"]["offset"])
        screen.word("monitor", f"goes on at byte {end} of {tree['position']['path']}")
        return monitor, end
    monitor.was_away()
    screen.word("monitor", "goes on with what it knew, at the beginning of this stream")
    return monitor, 0


def line(entry: dict[str, Any]) -> str:
    """One alert for a log; of a message that cannot be read, what it is called."""
    if "state" not in entry:
        return f"{entry['key']}: {entry['words']}"
    end = "" if entry["state"] == "raised" else " ended"
    return f"{clock(entry['at'])}  {entry['rule']}{end}  {entry['topic']}: {entry['words']}"


def _show(alert: Alert, screen: Screen) -> None:
    if screen.as_json:
        screen.line({"kind": ledger.ALERT, **alert.to_json()})
        return
    screen.text(line(alert.to_json()))
    for one in alert.evidence.get("texts", []) if alert.state == "raised" else []:
        screen.text(f"    {one['score']:.2f}  {one['text']}")


def _end(made: Watched, screen: Screen) -> None:
    if screen.as_json:
        screen.line({"kind": "end", **made.summary()})
    else:
        screen.word("monitor", ", ".join(f"{name} {number}" for name, number in made.summary().items()))
