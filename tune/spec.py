"""Read `tune.space` of an experiment file and check it: each mistake is one sentence before anything starts.

Pure: no Ray, no torch, no files, no clock. What a right space can do stands in `tune.space`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from typing import Any, cast, get_args

from cluster.config import Experiment, Model, Section, Train, Tune
from cluster.errors import ConfigError
from jobs.keys import NOT_IN_THE_RESULT
from tune import population
from tune.space import Dimension, Kind, Space, Value, replaced

KINDS = get_args(Kind)
# Settings that say where and how long to train: not what makes one model better than another.
REFUSED = {
    "workers": "set tune.workers instead",
    "epochs": "it is a trial's budget; set train.epochs instead",
    "early_stopping": "it is a section; set train.early_stopping instead",
    "rows": "set tune.refit instead",
    **dict.fromkeys(("device", *sorted(NOT_IN_THE_RESULT)), "leave it away"),
}
_SECTIONS: dict[str, type[Section]] = {"train": Train, "model": Model}


def space_of(experiment: Experiment) -> Space:
    """The space of `experiment.tune`, which must be there.

    Raises:
        ConfigError: a setting that is unknown or cannot be searched over, a kind that is unknown, bounds or choices
            that are empty, in the wrong order or not allowed for the setting, a `when` that can never hold.
    """
    assert experiment.tune is not None
    named: dict[str, Dimension] = {}
    for key, spec in experiment.tune.space.items():
        dimension = _dimension(key, spec, experiment)
        if dimension.name in named:
            raise ConfigError(f"tune.space.{key}", spec, f"{dimension.name} stands there twice", "take one away")
        named[dimension.name] = dimension
    space = Space(tuple(_ordered(named, experiment.tune)))
    if experiment.tune.algorithm == "pbt":
        population.check(space, experiment.tune.refit)
    return space


def _dimension(key: str, spec: dict[str, Any], experiment: Experiment) -> Dimension:
    field_name, name = f"tune.space.{key}", _full_name(key)
    kinds = [word for word in spec if word != "when"]
    for word in kinds:
        if word not in KINDS:
            mend = _nearest(word, (*KINDS, "when"))
            raise ConfigError(f"{field_name}.{word}", spec[word], "unknown kind of range", mend)
    if len(kinds) != 1:
        problem = f"has {len(kinds)} ranges" if kinds else "has no range"
        raise ConfigError(field_name, spec, problem, f"give exactly one of {', '.join(KINDS)}")
    kind = cast(Kind, kinds[0])
    values = _values(field_name, kind, spec[kind])
    _check_allowed(field_name, name, values, experiment)
    when = {_full_name(other, field_name): _as_tuple(value) for other, value in _when(field_name, spec).items()}
    return Dimension(name, kind, values, when)


def _full_name(key: str, said_at: str | None = None) -> str:
    """`learning_rate` and `train.learning_rate` are the same setting."""
    said_at = said_at or f"tune.space.{key}"
    section, dot, setting = key.rpartition(".")
    homes = [section] if dot else [name for name, model in _SECTIONS.items() if key in model.model_fields]
    if not homes or homes[0] not in _SECTIONS or setting not in _SECTIONS[homes[0]].model_fields:
        known = [name for model in _SECTIONS.values() for name in model.model_fields if name not in REFUSED]
        raise ConfigError(said_at, key, "no setting of train or model", _nearest(setting, known))
    if setting in REFUSED:
        raise ConfigError(said_at, key, "cannot be searched over", REFUSED[setting])
    return f"{homes[0]}.{setting}"


def _values(field_name: str, kind: str, given: Any) -> tuple[Value, ...]:
    where = f"{field_name}.{kind}"
    if not isinstance(given, list) or not given:
        raise ConfigError(where, given, "is not a list of values", "write them in brackets: [a, b]")
    if kind == "choice":
        if any(value is None or isinstance(value, list | dict) for value in given):
            raise ConfigError(
                where, given, "has a choice that is no single value", "give numbers, words or true, false"
            )
        if len({(type(value), value) for value in given}) < len(given):
            raise ConfigError(where, given, "has the same choice twice", "take one away")
        return tuple(given)
    for value in given:
        if isinstance(value, str):
            raise ConfigError(where, value, "is text, not a number", "YAML wants a dot before the e: 1.0e-4")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(where, value, "is not a finite number", "give two numbers: [low, high]")
    if len(given) != 2:
        raise ConfigError(where, given, f"has {len(given)} bounds", "give two: [low, high]")
    low, high = given
    if not low < high:
        raise ConfigError(where, given, "is empty: the first bound is not below the second", "put the lower one first")
    if kind == "log" and low <= 0:
        raise ConfigError(where, given, "a logarithmic range begins above 0", "raise the lower bound, or use uniform")
    if kind == "int" and not all(isinstance(value, int) for value in given):
        raise ConfigError(where, given, "has bounds that are not whole", "give whole numbers, or use uniform")
    return (low, high) if kind == "int" else (float(low), float(high))


def _check_allowed(field_name: str, name: str, values: tuple[Value, ...], experiment: Experiment) -> None:
    """Each bound and choice alone, on top of the file's settings."""
    section, _, setting = name.partition(".")
    for value in values:
        try:
            replaced(getattr(experiment, section), {setting: value}, {name: value})
        except ConfigError as error:
            raise ConfigError(field_name, value, error.problem, error.mend) from None


def _when(field_name: str, spec: dict[str, Any]) -> dict[str, Any]:
    when = spec.get("when", {})
    if not isinstance(when, dict):
        raise ConfigError(f"{field_name}.when", when, "is not a condition", "write when: {other_setting: value}")
    return when


def _ordered(named: dict[str, Dimension], section: Tune) -> Iterator[Dimension]:
    """Conditions before what hangs on them, otherwise as in the file."""
    keys = {_full_name(key): key for key in section.space}
    done: set[str] = set()
    for dimension in named.values():
        for other, values in dimension.when.items():
            field_name = f"tune.space.{keys[dimension.name]}.when"
            if other not in named:
                mend = "search over that one too, or take `when` away"
                raise ConfigError(field_name, other, "is not searched over", mend)
            never = [value for value in values if not named[other].holds(value)]
            if never:
                raise ConfigError(field_name, never[0], f"{other} never has this value", "name one of its values")
    while len(done) < len(named):
        ready = [d for d in named.values() if d.name not in done and set(d.when) <= done]
        if not ready:
            stuck = [keys[name] for name in named if name not in done]
            raise ConfigError("tune.space", stuck, "each waits for the other by `when`", "take one `when` away")
        done.add(ready[0].name)
        yield ready[0]


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list) else (value,)


def _nearest(word: str, known: tuple[str, ...] | list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`?" if close else f"known are: {', '.join(known)}"
