"""The search algorithms behind Ray Tune's `Searcher`: random points, or Optuna's tree-structured Parzen estimator.

Ray's own adapter takes neither a conditional space together with trials that were evaluated before, nor leaves out
points that were drawn already; this one is a few lines around the same `ask` and `tell`. Knows points and values,
nothing of training.
"""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from ray.tune.search import Searcher

from tune.space import Dimension, Space

FIRST_AT_RANDOM = 8
MOST_DRAWS = 50  # of points that were drawn already, before the space is taken for exhausted


class Study(Searcher):
    """Gives points of a space and learns from the best value that each trial reports.

    `names` are the reported figures, `modes` "max" or "min" for each. `known` are points with their values, from
    earlier trials. The same seed gives the same points where trials report in the same order. TPE is after
    J. Bergstra et al., Algorithms for Hyper-Parameter Optimization, 2011; with several aims after Y. Ozaki et al.,
    Multiobjective Tree-Structured Parzen Estimator, 2022.
    """

    def __init__(
        self,
        space: Space,
        names: Sequence[str],
        modes: Sequence[str],
        seed: int,
        *,
        is_random: bool = False,
        known: Sequence[tuple[Mapping[str, Any], Sequence[float]]] = (),
    ) -> None:
        super().__init__(metric=names[0], mode=modes[0])
        self._space, self._names, self._modes = space, tuple(names), tuple(modes)
        self._asked: dict[str, Any] = {}  # by Tune's name of a trial
        self._best: dict[str, list[float]] = {}
        self._drawn: set[tuple[Any, ...]] = set()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        directions = ["maximize" if mode == "max" else "minimize" for mode in modes]
        self._study = optuna.create_study(directions=directions, sampler=_sampler(seed, is_random))
        for point, values in known:
            distributions = {d.name: distribution(d) for d in space.dimensions if d.name in point}
            trial = optuna.trial.create_trial(params=dict(point), distributions=distributions, values=list(values))
            self._study.add_trial(trial)
            self._drawn.add(_identity(point))

    def suggest(self, trial_id: str) -> Any:
        """The next point, or FINISHED when the space has no more that were not drawn."""
        for _ in range(MOST_DRAWS):
            trial = self._study.ask()
            point = self._space.draw(trial)
            if _identity(point) not in self._drawn:
                self._drawn.add(_identity(point))
                self._asked[trial_id] = trial
                return point
            self._study.tell(trial, state=TrialState.FAIL)  # leaves no trace in what is learned
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        values = [result.get(name, math.nan) for name in self._names]
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
            return
        before = self._best.get(trial_id)
        if before is None or self._is_better(values[0], before[0]):
            self._best[trial_id] = values

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        trial = self._asked.pop(trial_id, None)
        if trial is None:  # a search that was killed and goes on may not know its last trials
            return
        if result:
            self.on_trial_result(trial_id, result)
        values = self._best.pop(trial_id, None)
        if result and result.get("failure"):
            values = self._worst()
        state = TrialState.FAIL if error or values is None else TrialState.COMPLETE
        self._study.tell(trial, values if state == TrialState.COMPLETE else None, state=state)

    def save(self, checkpoint_path: str) -> None:
        kept = {name: value for name, value in vars(self).items() if name.startswith("_")}
        Path(checkpoint_path).write_bytes(pickle.dumps(kept))

    def restore(self, checkpoint_path: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.__dict__.update(pickle.loads(Path(checkpoint_path).read_bytes()))  # noqa: S301 - written by `save`

    def _is_better(self, one: float, other: float) -> bool:
        return one > other if self._modes[0] == "max" else one < other

    def _worst(self) -> list[float] | None:
        """What a trial whose loss became infinite counts as, so that its neighbourhood is left alone."""
        seen = [trial.values for trial in self._study.trials if trial.state == TrialState.COMPLETE]
        if not seen:
            return None
        columns = zip(self._modes, zip(*seen, strict=True), strict=True)
        return [(min if mode == "max" else max)(values) for mode, values in columns]


def distribution(dimension: Dimension) -> BaseDistribution:
    """As Optuna names it."""
    if dimension.kind == "choice":
        return CategoricalDistribution(dimension.values)
    low, high = dimension.bounds
    if dimension.kind == "int":
        return IntDistribution(int(low), int(high))
    return FloatDistribution(low, high, log=dimension.kind == "log")


def _sampler(seed: int, is_random: bool) -> optuna.samplers.BaseSampler:
    if is_random:
        return optuna.samplers.RandomSampler(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of options it calls experimental
        # All settings together, a group for each branch of a conditional space; trials that still run count as bad,
        # so that those beside them look elsewhere.
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=FIRST_AT_RANDOM, multivariate=True, group=True, constant_liar=True
        )


def _identity(point: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(sorted((name, repr(value)) for name, value in point.items()))
