"""A person and the adaptation of an endpoint: look at it, ask why, replay its record, order something.

All of it works on the record in the store, which is there without an actor too; neither Ray nor the cluster is asked.
"""

from __future__ import annotations

import getpass
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from cluster.config import Adapt, Experiment
from cluster.errors import DeadlineError, NotFoundError, UserError
from serve.adapt import explain as words
from serve.adapt import mailbox, record, replay
from serve.adapt.bounds import Bounds
from serve.adapt.journal import STATE, Entry, Reading, read
from serve.adapt.proposals import FIELDS, Command
from serve.adapt.signals import Snapshot
from trimtab.workspace import Workspace, opened

if TYPE_CHECKING:
    from rich.console import RenderableType

ANSWER_S = 30.0
STALE_S = 5.0
GONE_S = 30.0  # without a line in its record, an actor is no longer waited for: Serve starts a dead one anew in less
STORE_LOOK_S, STORE_STALE_S = 5.0, 20.0  # an object store's copy of the record comes every ten seconds


def recent(experiment: Experiment, workspace: Workspace) -> list[Entry]:
    """The record from its last state on. Raises NotFoundError when nothing has been recorded."""
    found = record.last(workspace.store, experiment.name).entries
    if not any(entry["kind"] == replay.TICK for entry in found):
        mend = "deploy it with adapt.enabled, from the same store, and wait some seconds"
        place = record.where(workspace.store, experiment.name)
        raise NotFoundError(f"no adaptation of {experiment.name} is recorded in {place}; {mend}")
    return found


def explained(experiment: Experiment, workspace: Workspace) -> words.Explanation:
    return words.explain(recent(experiment, workspace))


def order(
    verb: Any, experiment: Experiment, workspace: Workspace, settings: Sequence[str] = (), fields: Sequence[str] = ()
) -> dict[str, Any]:
    """Send a command and return the actor's answer.

    Raises:
        UserError: no setting of a replica, or the actor refuses, with its reason.
        DeadlineError: no actor answers; the command waits for one.
    """
    changes = dict(_setting(text) for text in settings)
    for name in fields:
        _check_field("FIELD", name)
    said = send(verb, experiment, workspace, changes, tuple(fields))
    if said["refused"]:
        raise UserError(verb, " ".join(settings), said["refused"][0], "choose a value inside the bounds")
    return {
        "endpoint": experiment.name,
        "paused": f"by {said['paused']}" if said["paused"] else "no",
        "pinned": list(said["pins"]),
        "envelope": said["envelope"],
    }


def send(
    verb: Any, experiment: Experiment, workspace: Workspace, changes: dict[str, Any], fields: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The actor's answer to a word. Raises DeadlineError, and NotFoundError where nothing is adapted."""
    if not record.is_there(workspace.store, experiment.name):
        recent(experiment, workspace)  # says what is missing
    box = mailbox.reach(workspace.store, experiment.name)
    return box.wait(box.send(Command(verb, getpass.getuser(), changes, fields)), ANSWER_S)


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError("SETTING", text, "is no NAME=VALUE", "write it as max_batch=16")
    _check_field("SETTING", name)
    found = _value("SETTING", text, value)
    return name, [found] if name == "variants" and isinstance(found, str) else found


def _value(field: str, text: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: what only looks like a date
        raise UserError(field, text, "has a value that is none", "write a number, a word or a list: [a, b]") from None


def _check_field(field: str, name: str) -> None:
    if name not in FIELDS:
        raise UserError(field, name, "cannot be changed", f"known are {', '.join(FIELDS)}")


def replayed(place: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The decisions of a journal made once more, and what differs. Raises NotFoundError, UserError."""
    reading = _reading(place)
    bounds = _bounds(reading.entries, overrides) if overrides else None
    found = replay.replay(reading.entries, bounds)
    return {
        "ticks": found.ticks,
        "commands": found.commands,
        "actions recorded": found.actions,
        "actions replayed": found.replayed_actions,
        "gaps": found.gaps,
        "same": not found.differences,
        "differences": [{"at": d.at, "recorded": d.recorded, "replayed": d.replayed} for d in found.differences],
        "problems": [*reading.problems, *found.problems],
    }


def _reading(place: str) -> Reading:
    """Of a path, or of a folder or segment in an object store."""
    if "://" in place:
        base, mark, parameters = place.partition("?")
        parent, _, last = base.rstrip("/").rpartition("/")
        reading = record.whole(opened(f"{parent}{mark}{parameters}"), last)
        is_there = bool(reading.entries or reading.problems)
    elif is_there := (path := Path(place)).exists():
        reading = read(path)
    if not is_there:
        raise NotFoundError(f"no journal {place}; give a folder of a journal, or one of its files")
    return reading


def _bounds(entries: Sequence[Entry], overrides: Sequence[str]) -> Bounds:
    """The recorded ones with `adapt.NAME=VALUE` on top."""
    state = next((entry for entry in entries if entry["kind"] == STATE), None)
    if state is None:
        raise NotFoundError("the journal holds no state to begin with")
    recorded = Bounds.from_json(state["state"]["bounds"])
    names = {"cooldown": "cooldown_s", "dwell": "dwell_s", "replica_cooldown": "replica_cooldown_s",
             "patience": "patience_s", "actions_per_minute": "actions_per_minute"}  # fmt: skip
    tree = recorded.to_json()
    section = Adapt.model_construct(**{name: tree[bound] for name, bound in names.items()}).model_dump(mode="json")
    for text in overrides:
        key, equals, value = text.partition("=")
        name = key.removeprefix("adapt.")
        if not equals or not key.startswith("adapt.") or name not in names:
            known = ", ".join(f"adapt.{name}" for name in names)
            raise UserError("--set", text, "is no setting that a replay can change", f"known are {known}")
        section[name] = _value("--set", text, value)
    try:
        found = Adapt.model_validate(section)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise UserError("--set", " ".join(overrides), problem, "mend it") from None
    return Bounds.from_json(tree | {bound: getattr(found, name) for name, bound in names.items()})


# The live view


def watch(experiment: Experiment, workspace: Workspace, *, once: bool, every_s: float) -> None:
    """Until it is interrupted: a view that renews itself on a terminal, a line (JSON with --json) elsewhere.

    Raises NotFoundError where nothing is recorded, DeadlineError when nothing has been for a while.
    """
    screen = workspace.screen
    shown, shown_at, is_near = 0.0, time.monotonic(), workspace.store.local is not None
    with screen.live() as show:
        while True:
            entries = recent(experiment, workspace)
            found = figures(entries, time.time())
            is_fresh = found["at"] != shown
            if screen.is_terminal and not (screen.as_json or once):
                show(view(found, STALE_S if is_near else STORE_STALE_S))
            elif is_fresh and screen.as_json:
                screen.line(found)
            elif is_fresh:
                screen.text(line(found))
            if once:
                return
            if is_fresh:
                shown, shown_at = found["at"], time.monotonic()
            elif time.monotonic() - shown_at > (GONE_S if is_near else GONE_S + STORE_STALE_S):
                raise _gone(experiment, found)
            time.sleep(every_s if is_near else max(every_s, STORE_LOOK_S))


def _gone(experiment: Experiment, found: Mapping[str, Any]) -> DeadlineError:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found["at"]))
    mend = "see trimtab status, or serve it again: trimtab deploy"
    return DeadlineError(f"the adaptation of {experiment.name} has recorded nothing since {since}; {mend}")


def figures(entries: Sequence[Entry], now: float) -> dict[str, Any]:
    """What the view shows, as plain values."""
    tick = next(entry for entry in reversed(entries) if entry["kind"] == replay.TICK)
    seen, mind = Snapshot.from_json(tick["snapshot"]), replay.recover(entries)
    why, guard = words.explain(entries, mind=mind), mind.guard if mind else None
    return {
        "at": tick["at"],
        "age_s": round(now - tick["at"], 1),
        "target": why.target,
        "rows_per_s": seen.arrivals_per_s,
        "requests_per_s": seen.requests_per_s,
        "in_time": seen.share_in_time,
        "queue_delay_ms": {"p50": _ms(seen.queue_delay_p50_s), "p99": _ms(seen.queue_delay_p99_s)},
        "latency_ms": {"p50": _ms(seen.latency_p50_s), "p99": _ms(seen.latency_p99_s)},
        "rungs": {rung.variant: rung.share for rung in seen.rungs},
        "effective_accuracy": seen.effective_accuracy,
        "refused": seen.refused or {},
        "waiting_rows": seen.waiting_rows,
        "utilisation": seen.utilisation,
        "replicas": {"running": seen.running, "wanted": seen.target, "silent": list(seen.missing)},
        "envelope": seen.envelope or {},
        "paused": guard.paused if guard else None,
        "pins": dict(guard.pins) if guard else {},
        "rollout": why.rollout,
        "decisions": list(why.decisions),
    }


def line(found: Mapping[str, Any]) -> str:
    """One line for a log."""
    rungs = " ".join(f"{variant} {100 * share:.0f}%" for variant, share in found["rungs"].items() if share) or "idle"
    replicas, clock = found["replicas"], time.strftime("%H:%M:%S", time.localtime(found["at"]))
    silent = f", {len(replicas['silent'])} silent" if replicas["silent"] else ""
    rollout = f"  {found['rollout']}" if found["rollout"] else ""
    last = f"{rollout}  last: {found['decisions'][0]}" if found["decisions"] else rollout
    return (
        f"{clock}  {found['rows_per_s']:.3g} rows/s  in time {100 * found['in_time']:.4g}%  "
        f"p99 {found['latency_ms']['p99']:.3g} ms  {rungs}  replicas {replicas['running']}/{replicas['wanted']}"
        f"{silent}{last}"
    )


def view(found: Mapping[str, Any], stale_s: float = STALE_S) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    replicas, silent = found["replicas"], ", ".join(found["replicas"]["silent"]) or "none"
    pins = ", ".join(f"{name} pinned by {who}" for name, who in found["pins"].items())
    person = [f"paused by {found['paused']}" if found["paused"] else "", pins]
    for name, value in (
        ("arrivals", f"{found['rows_per_s']:.4g} rows/s, {found['requests_per_s']:.4g} requests/s"),
        ("in time", f"{100 * found['in_time']:.4g} %, effective accuracy {found['effective_accuracy']:.4f}"),
        ("latency", "p50 {p50:.3g} ms, p99 {p99:.3g} ms".format(**found["latency_ms"])),
        ("queue", "p50 {p50:.3g} ms, p99 {p99:.3g} ms".format(**found["queue_delay_ms"])),
        ("rungs", ", ".join(f"{variant} {100 * share:.0f} %" for variant, share in found["rungs"].items())),
        ("refused", ", ".join(f"{kind} {number}" for kind, number in found["refused"].items()) or "none"),
        ("replicas", f"{replicas['running']} run, {replicas['wanted']} wanted, silent: {silent}"),
        ("envelope", ", ".join(f"{k} {v}" for k, v in found["envelope"].items()) or "as the experiment says"),
        ("rollout", found["rollout"] or "none"),
        ("person", "; ".join(filter(None, person)) or "nothing ordered"),
    ):
        table.add_row(name, Text(value))
    parts: list[RenderableType] = [Text(found["target"], style="bold")]
    if found["age_s"] > stale_s:
        parts.append(Text(f"the record is {found['age_s']:.0f} s old: no actor writes it just now", style="yellow"))
    decisions = [Text(f"  {text}") for text in found["decisions"]] or [Text("  none yet")]
    return Group(*parts, table, Text("last decisions", style="bold"), *decisions)


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
