"""Population based training: trials that lag take over a better one's weights and go on with its settings, changed.

M. Jaderberg et al., Population Based Training of Neural Networks, 2017. Ray Tune does it; this module says which
settings may change on the way and keeps them inside the space.
"""

from __future__ import annotations

from typing import Any

from cluster.errors import ConfigError
from tune.space import Dimension, Space

SHAPING = ("model.network", "model.width")  # another network could not take over the weights
INTERVALS = 5  # changes in a whole training, at most


def check(space: Space, refit: str) -> None:
    """Raises ConfigError for what this algorithm cannot do."""
    if refit != "train":
        problem = "population based training keeps the best trial's weights and trains nothing again"
        raise ConfigError("tune.refit", refit, problem, "leave it away, or use algorithm: tpe")
    for dimension in space.dimensions:
        if dimension.when:
            problem = f"{dimension.name} hangs on another setting, which population based training may change"
            raise ConfigError("tune.algorithm", "pbt", problem, "take `when` away, or use algorithm: tpe")
    if not _changing(space):
        names = ", ".join(dimension.name for dimension in space.dimensions)
        problem = f"none of {names} can change in the middle of a training"
        raise ConfigError("tune.algorithm", "pbt", problem, "search over train.learning_rate too, or use tpe")


def scheduler(space: Space, metric: str, mode: str, epochs: int) -> Any:
    """Ray Tune's scheduler over the settings of `space` that may change."""
    from ray.tune.schedulers import PopulationBasedTraining

    return PopulationBasedTraining(
        time_attr="training_iteration",
        metric=metric,
        mode=mode,
        perturbation_interval=max(1, epochs // INTERVALS),
        hyperparam_mutations={dimension.name: _mutation(dimension) for dimension in _changing(space)},
        custom_explore_fn=space.mended,
        log_config=False,
    )


def first_points(space: Space) -> dict[str, Any]:
    """Ray Tune's `param_space`: where the population begins."""
    from ray import tune

    return {
        dimension.name: tune.choice(list(dimension.values)) if dimension.kind == "choice" else _mutation(dimension)
        for dimension in space.dimensions
    }


def _changing(space: Space) -> list[Dimension]:
    return [dimension for dimension in space.dimensions if dimension.name not in SHAPING]


def _mutation(dimension: Dimension) -> Any:
    from ray import tune

    if dimension.kind == "choice":
        return list(dimension.values)
    low, high = dimension.bounds
    if dimension.kind == "int":
        return tune.randint(int(low), int(high) + 1)
    return tune.loguniform(low, high) if dimension.kind == "log" else tune.uniform(low, high)
