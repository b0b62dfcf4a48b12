"""When a new training is due: pure rules over what is known of schedule, data, drift, labels and clients' wishes.

At most one is due at a time. What several triggers want at once is one retraining, which takes in what all of them
saw; what may not be ordered yet (one runs, cooldown, the day's budget) is wanted on and ordered later. What the rules
must remember is in `Memory`, so that they can be asked again and again, by whoever goes on after a death.

Labels come one by one and are looked at often, so that a fixed test would alarm in the end whatever the truth is:
`chance` is valid at all looks together (the mixture of likelihood ratios of H. Robbins, *Statistical Methods Related
to the Law of the Iterated Logarithm*, 1970, with J. Ville's inequality).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import datetime
from zoneinfo import ZoneInfo

from cluster import cron
from cluster.config import DataTrigger, FeedbackTrigger, Retrain, Schedule
from cluster.orders import Ask, Cause
from serve.adapt.plain import Plain

ALPHA = 0.01  # chance that labels of a version as right as it should be ever order a retraining
ENOUGH = 20  # labels after which it is worth saying that they show nothing
DAY_S = 86400.0
MOST_MISSED = 1000  # times of a schedule that are counted


@dataclass(frozen=True)
class Files:
    """What lies at the data's path: `fingerprint` changes when it does; `problem` says why it cannot be seen."""

    fingerprint: str
    problem: str = ""


@dataclass(frozen=True)
class Judged:
    """How right some answers were by their labels: `right` of `num`, fractions where a task knows them."""

    right: float
    num: int

    def __str__(self) -> str:
        return f"{self.right:g} of {self.num} labelled answers are right"


@dataclass(frozen=True)
class Labels:
    """Believed labels that no training has learnt from: all of them, and of the stable version's answers."""

    num: int
    judged: Judged


@dataclass(frozen=True)
class Drift:
    """Of the stable version's answers `since` (unix seconds), with the labels that came for them."""

    since: float
    judged: Judged
    rise: str = ""  # of its errors, in words: what labels say by themselves that no training has learnt from


@dataclass(frozen=True)
class Facts:
    """What is known now; None where it was not looked at this time, or is not there."""

    version: int  # the stable one
    accuracy: float = 1.0  # that it has shown: on the test split, less what chance explains
    running: str = ""  # id of the order that has not ended
    rolling: int = 0  # version that is being rolled out
    ended_at: float | None = None  # of the last retraining, unix seconds
    ordered: tuple[float, ...] = ()  # when triggers have ordered one, unix seconds
    files: Files | None = None
    labels: Labels | None = None
    drift: Drift | None = None
    asks: tuple[Ask, ...] = ()


@dataclass(frozen=True)
class Memory(Plain):
    """From one time to the next; its JSON is kept. Times are unix seconds."""

    line: str = ""  # the schedule that it is about
    followed: float = 0.0  # up to when the schedule has been followed
    due: float = 0.0  # time of the schedule that has not been ordered yet, or 0
    missed: int = 0  # earlier times that are caught up with it
    path: str = ""  # of the data
    learnt: str = ""  # fingerprint of what was there at the last order
    seen: str = ""  # at the last look
    seen_at: float = 0.0  # since when it is that
    taken: tuple[str, ...] = ()  # wishes that an order has met, and whose files may still be there
    said: dict[str, str] = field(default_factory=dict)  # the last word about a trigger, so that it is said once


@dataclass(frozen=True)
class Due:
    """A retraining to order; `id` is that of the order."""

    cause: Cause
    id: str
    words: str


@dataclass(frozen=True)
class Decision:
    """`words` are sentences about what changed."""

    due: Due | None
    memory: Memory
    words: tuple[str, ...]


def due(settings: Retrain, memory: Memory, facts: Facts, now: float) -> Decision:
    """What is due at `now` (unix seconds), and what to remember. Begins to watch where the memory knows nothing."""
    triggers = settings.triggers
    said: dict[str, str] = {}
    memory = _scheduled(triggers.schedule, memory, facts, now, said)
    memory = _watched(triggers.data, memory, facts.files, now, said)
    asks = [wish for wish in facts.asks if wish.id not in memory.taken]
    memory = replace(memory, taken=tuple(wish.id for wish in facts.asks if wish.id in memory.taken))
    wanted = [
        *_asked(asks if triggers.webhook else ()),
        *_timely(triggers.schedule, memory),
        *(_fresh(triggers.data, memory, now) if "data" not in said else ()),
        *(_costly(facts, now, said) if triggers.drift else ()),
        *_fed(triggers.feedback, facts, now),
    ]
    if asks and not triggers.webhook:
        said["webhook"] = "what was asked for is left out: retrain.triggers.webhook is off"
        memory = replace(memory, taken=(*memory.taken, *(wish.id for wish in asks)))
    if wanted and (why := _held(settings, facts, now)):
        said["waits"] = f"a retraining for {' and '.join(one.cause for one in wanted)} {why}"
        wanted = []
    words = tuple(text for topic, text in said.items() if memory.said.get(topic) != text)
    memory = replace(memory, said=said)
    if not wanted:
        return Decision(None, memory, words)
    first, *others = wanted
    whole = replace(first, words="; ".join([first.words, *(other.words for other in others)]))
    return Decision(whole, _met(memory, {one.cause for one in wanted}, asks), words)


def chance(judged: Judged, accuracy: float) -> float:
    """At most the chance that so few are right, at this or any earlier look, where `accuracy` of all would be.

    The bound is 1 / M by Ville's inequality, M being the likelihood ratio against `accuracy`, mixed evenly over all
    accuracies below it. An answer that is right in part counts in part: the ratio's logarithm is linear in it, so M
    stays a supermartingale.
    """
    from scipy import special

    p0 = min(accuracy, 0.999)  # one wrong answer is no proof, however good the test split looked
    right, wrong = judged.right, judged.num - judged.right
    if not p0 > 0.0 or judged.num == 0:
        return 1.0
    below = float(special.betainc(1.0 + right, 1.0 + wrong, p0))
    if below <= 0.0:
        return 1.0
    mixed = float(special.betaln(1.0 + right, 1.0 + wrong)) + math.log(below) - math.log(p0)
    ratio = mixed - right * math.log(p0) - wrong * math.log1p(-p0)
    return math.exp(-max(0.0, ratio))


def floor(accuracy: float, num_rows: int, z: float = 1.645) -> float:
    """The least accuracy that so many test rows leave likely: E. Wilson's lower bound, by default of 95 %."""
    if num_rows <= 0:
        return accuracy
    middle = accuracy + z * z / (2 * num_rows)
    spread = z * math.sqrt(accuracy * (1 - accuracy) / num_rows + z * z / (4 * num_rows**2))
    return (middle - spread) / (1 + z * z / num_rows)


def _held(settings: Retrain, facts: Facts, now: float) -> str:
    """Why none may be ordered now; nothing where one may."""
    if facts.running:
        return f"waits for the retraining {facts.running}"
    if facts.rolling:
        return f"waits until version {facts.rolling} is promoted or taken back"
    if facts.ended_at is not None and now < facts.ended_at + settings.cooldown:
        return f"waits until {settings.cooldown:g} s after the last retraining (retrain.cooldown)"
    if sum(at > now - DAY_S for at in facts.ordered) >= settings.per_day:
        return f"waits: {settings.per_day} were ordered within 24 hours (retrain.per_day)"
    return ""


def _met(memory: Memory, causes: set[Cause], asks: list[Ask]) -> Memory:
    """After an order that has these causes."""
    if "schedule" in causes:
        memory = replace(memory, due=0.0, missed=0)
    if "data" in causes:
        memory = replace(memory, learnt=memory.seen)
    if "webhook" in causes:
        memory = replace(memory, taken=(*memory.taken, *(wish.id for wish in asks)))
    return memory


def _scheduled(schedule: Schedule | None, memory: Memory, facts: Facts, now: float, said: dict[str, str]) -> Memory:
    """With the times since the last look: however many, one is due."""
    line = f"{schedule.cron} {schedule.timezone}" if schedule else ""
    if schedule is None or line != memory.line:
        return replace(memory, line=line, followed=now, due=0.0, missed=0)
    at, last, num = memory.followed, 0.0, 0
    while num < MOST_MISSED and (found := cron.following(schedule.cron, schedule.timezone, at)) is not None:
        if found > now:
            break
        at, last, num = found, found, num + 1
    if not num:
        return _kept(memory, said, "schedule")
    memory = replace(memory, followed=now if num == MOST_MISSED else at)
    if facts.running and schedule.overlap == "skip":
        clock = _clock(last, schedule.timezone)
        said["schedule"] = f"the schedule's time {clock} is left out: the retraining {facts.running} still runs"
        return memory
    return replace(memory, due=last, missed=memory.missed + num - (0 if memory.due else 1))


def _watched(data: DataTrigger | None, memory: Memory, files: Files | None, now: float, said: dict[str, str]) -> Memory:
    if data is None:
        return replace(memory, path="", learnt="", seen="", seen_at=0.0)
    if files is None:
        return _kept(memory, said, "data")
    if files.problem:
        said["data"] = f"retrain.triggers.data.path = {data.path!r}: {files.problem}; no retraining until it is mended"
        return memory if data.path == memory.path else replace(memory, path=data.path, learnt="", seen="", seen_at=now)
    if data.path != memory.path:
        return replace(memory, path=data.path, learnt=files.fingerprint, seen=files.fingerprint, seen_at=now)
    if files.fingerprint != memory.seen:
        return replace(memory, seen=files.fingerprint, seen_at=now)
    return memory


def _kept(memory: Memory, said: dict[str, str], topic: str) -> Memory:
    """What was said of it holds on."""
    if topic in memory.said:
        said[topic] = memory.said[topic]
    return memory


def _asked(asks: list[Ask] | tuple[()]) -> list[Due]:
    if not asks:
        return []
    more = f" and {len(asks) - 1} more" if len(asks) > 1 else ""
    return [Due("webhook", f"webhook-{asks[0].id}", f"asked for {asks[0].words}{more}")]


def _timely(schedule: Schedule | None, memory: Memory) -> list[Due]:
    if schedule is None or not memory.due:
        return []
    missed = f", which catches up {memory.missed} earlier" if memory.missed else ""
    words = f"the schedule's time {_clock(memory.due, schedule.timezone)}{missed}"
    return [Due("schedule", f"schedule-{int(memory.due)}", words)]


def _fresh(data: DataTrigger | None, memory: Memory, now: float) -> list[Due]:
    if data is None or memory.seen == memory.learnt or now < memory.seen_at + data.settle:
        return []
    return [Due("data", f"data-{int(memory.seen_at)}-{memory.seen[:8]}", f"other files at {data.path}")]


def _costly(facts: Facts, now: float, said: dict[str, str]) -> list[Due]:
    """Drift is a reason to look at labels; only what they say is one to train."""
    if facts.drift is None:
        return []
    if facts.drift.rise:
        words = f"drift costs version {facts.version} accuracy: {facts.drift.rise}"
        return [Due("drift", f"drift-{int(now)}", words)]
    judged, should = facts.drift.judged, f"{facts.accuracy:.3f} are to be expected by its test split"
    if (p := chance(judged, facts.accuracy)) <= ALPHA:
        words = f"drift costs version {facts.version} accuracy: {judged}, {should} (p {p:.1g})"
        return [Due("drift", f"drift-{int(now)}", words)]
    begun = f"drift of version {facts.version}'s answers orders no retraining yet"
    if judged.num == 0:
        said["drift"] = f"{begun}: no label of what drifted has come"
    elif judged.num >= ENOUGH:
        num = ENOUGH * 2 ** int(math.log2(judged.num / ENOUGH))  # twice as many before it is said again
        said["drift"] = f"{begun}: {num} labels and more do not show that it costs accuracy"
    return []


def _fed(feedback: FeedbackTrigger | None, facts: Facts, now: float) -> list[Due]:
    labels = facts.labels
    if feedback is None or labels is None:
        return []
    words = []
    if feedback.labels is not None and labels.num >= feedback.labels:
        words.append(f"{labels.num} believed labels that no training has learnt from")
    least = feedback.accuracy_below
    if least is not None and (p := chance(labels.judged, least)) <= ALPHA:
        words.append(f"{labels.judged} of version {facts.version}, below {least:g} (p {p:.1g})")
    return [Due("feedback", f"feedback-{int(now)}", "; ".join(words))] if words else []


def _clock(at: float, timezone: str) -> str:
    return datetime.fromtimestamp(at, ZoneInfo(timezone)).strftime("%Y-%m-%d %H:%M %Z")
