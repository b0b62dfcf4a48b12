"""A search space: settings of an experiment to draw values for, and how a drawn point is put into the experiment.

Pure: no Ray, no torch, no files, no clock. Who draws is any object with Optuna's three `suggest_...` methods, so
that this module knows nothing of how a search chooses. How a space is read from a file stands in `tune.spec`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import ValidationError

from cluster.config import Experiment, Section
from cluster.errors import ConfigError

Value = float | int | str | bool
Kind = Literal["log", "uniform", "int", "choice"]


class Chooser(Protocol):
    """What `Space.draw` asks; Optuna's `Trial` is one."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_int(self, name: str, low: int, high: int) -> int: ...

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any: ...


@dataclass(frozen=True)
class Dimension:
    """One setting that is searched over, by its dotted name such as `train.learning_rate`."""

    name: str
    kind: Kind
    values: tuple[Value, ...]  # both bounds, or the choices
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)  # it exists only where these have such values

    def draw(self, chooser: Chooser) -> Value:
        if self.kind == "choice":
            chosen: Value = chooser.suggest_categorical(self.name, list(self.values))
            return chosen
        low, high = self.bounds
        if self.kind == "int":
            return chooser.suggest_int(self.name, int(low), int(high))
        return chooser.suggest_float(self.name, low, high, log=self.kind == "log")

    def exists(self, point: Mapping[str, Any]) -> bool:
        """Whether its `when` holds at a point."""
        return all(other in point and point[other] in values for other, values in self.when.items())

    @property
    def bounds(self) -> tuple[float, float]:
        low, high = self.values
        return float(low), float(high)

    def holds(self, value: Any) -> bool:
        """Whether `value` lies in it; how an earlier trial is known to belong to this space."""
        if self.kind == "choice":
            return any(value == choice and type(value) is type(choice) for choice in self.values)
        low, high = self.bounds
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and low <= value <= high and (self.kind != "int" or value == int(value))

    def clamped(self, value: Any) -> Value:
        """The nearest value inside; a choice that is none becomes the first."""
        if self.kind == "choice":
            return value if self.holds(value) else self.values[0]
        low, high = self.bounds
        inside = min(max(float(value), low), high)
        return round(inside) if self.kind == "int" else inside

    @property
    def size(self) -> float:
        """Number of different values; infinite for real numbers."""
        if self.kind == "choice":
            return len(self.values)
        low, high = self.bounds
        return high - low + 1 if self.kind == "int" else math.inf


@dataclass(frozen=True)
class Space:
    """Dimensions in an order in which each comes after those its `when` names."""

    dimensions: tuple[Dimension, ...]

    def draw(self, chooser: Chooser) -> dict[str, Value]:
        """One point: values by dotted name, of the dimensions that exist there."""
        drawn: dict[str, Value] = {}
        for dimension in self.dimensions:
            if dimension.exists(drawn):
                drawn[dimension.name] = dimension.draw(chooser)
        return drawn

    def holds(self, point: Mapping[str, Any]) -> bool:
        """Whether `draw` could give this point."""
        there = [dimension for dimension in self.dimensions if dimension.exists(point)]
        return {d.name for d in there} == set(point) and all(d.holds(point[d.name]) for d in there)

    def mended(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """A point brought back inside, after its values were changed by a factor."""
        known = {dimension.name: dimension for dimension in self.dimensions}
        return {name: known[name].clamped(value) for name, value in point.items()}

    @property
    def size(self) -> float:
        """An upper bound of the number of points."""
        return math.prod(dimension.size for dimension in self.dimensions)


def applied(experiment: Experiment, point: Mapping[str, Any], **train: Any) -> Experiment:
    """The experiment with a point's values in place, more changes to `train`, and no search of its own.

    Raises ConfigError when the values are not allowed together.
    """
    changed: dict[str, dict[str, Any]] = {"train": dict(train), "model": {}}
    for name, value in point.items():
        section, _, setting = name.partition(".")
        changed[section].setdefault(setting, value)
    made = {name: replaced(getattr(experiment, name), values, dict(point)) for name, values in changed.items()}
    return experiment.model_copy(update={**made, "tune": None})


def settings(point: Mapping[str, Any]) -> dict[str, Any]:
    """A point as people write it: without the section's name, floats cut to four digits."""
    return {
        name.partition(".")[2]: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in point.items()
    }


def replaced(section: Section, values: Mapping[str, Any], point: Mapping[str, Any]) -> Section:
    """The section with other values; `point` is what a ConfigError shows when they are not allowed."""
    try:
        return type(section).model_validate(section.model_dump(mode="json") | dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        said = str(first.get("ctx", {}).get("error", "")) or first["msg"][0].lower() + first["msg"][1:]
        problem, _, mend = said.partition("; ")
        raise ConfigError("tune.space", point, f"not allowed: {problem}", mend or "change the range") from None
