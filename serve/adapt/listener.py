"""What labels say of the version that answers, as they come: to the triggers, and to the record where errors change.

Knows the store; what follows from labels stands in `serve.adapt.triggers`, when errors have changed in
`serve.adapt.mistakes`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from cluster.config import Experiment
from cluster.store import Store
from serve.adapt import mistakes
from serve.adapt.evidence import Hearing
from serve.adapt.mistakes import Watch
from serve.adapt.triggers import Drift, Labels

LISTEN_EVERY_S = 15.0  # where no trigger says otherwise


class Subject(NamedTuple):
    """The version that answers, and until when (unix seconds) the labels of its answers have been learnt from."""

    bundle: str
    version: int
    learnt_at: float


class Listener:
    """Of one endpoint; call it from one thread. `watch` is to be kept, and given to the one that goes on."""

    def __init__(self, store: Store, name: str, watch: Watch, say: Callable[[str], None]) -> None:
        self._hearing, self._say = Hearing(store, name), say
        self.watch = watch
        self.labels: Labels | None = None
        self.drift: Drift | None = None
        self.accuracy = 1.0
        self._subject = Subject("", 0, 0.0)
        self._listened_at = float("-inf")

    def listen(self, subject: Subject, experiment: Experiment, drift_since: float | None, now: float) -> None:
        """When it is time. `drift_since` says since when its answers look otherwise; both times in unix seconds.

        For the triggers those labels count that no training has learnt from. Raises TrimtabError where the store or the
        bundle cannot be read.
        """
        triggers = experiment.retrain.triggers
        if self._subject != subject:
            self._subject, self.labels, self.drift, self._listened_at = subject, None, None, float("-inf")
        is_time = now >= self._listened_at + (triggers.feedback.every if triggers.feedback else LISTEN_EVERY_S)
        if is_time:
            self._listened_at = now
            self._look_for_mistakes(experiment, now)
        since = self._drifts_since(drift_since) if triggers.drift else None
        if since is None:
            self.drift = None
        if not is_time or (triggers.feedback is None and since is None):
            return
        self.labels, self.accuracy = self._hearing.labels(*subject)
        if since is not None:
            found, self.accuracy = self._hearing.labels(*subject, since)
            rise = self.watch.rise
            is_news = rise is not None and rise.at > subject.learnt_at
            self.drift = Drift(since, found.judged, str(rise) if is_news else "")

    def _look_for_mistakes(self, experiment: Experiment, now: float) -> None:
        bundle, version, _ = self._subject
        if (self.watch.bundle, self.watch.version) != (bundle, version):
            self.watch = Watch(bundle, version, int(now * 1e9))
        if not self._hearing.listen(experiment.retrain.labels, experiment.serve.record, now):
            return
        self.watch, found = mistakes.follow(self.watch, self._hearing.errors(bundle, version), now)
        for change in found:
            how = "more" if change.is_rise else "less"
            self._say(f"labels show that version {version} is wrong {how} often than it was: {change}")

    def _drifts_since(self, drift_since: float | None) -> float | None:
        """By what the answers look like, or by what labels say of them, whichever began first."""
        rise = self.watch.rise
        begun = [drift_since, rise.since if rise else None]
        return min((at for at in begun if at is not None), default=None)
