"""Whether a cluster has room for a training's workers, what each of them reserves, and waiting for nodes to come.

A cluster that is too small is refused at once, unless `train.wait` says how long to wait for a larger one. One that is
large enough and busy is waited for by Ray Train itself; that is said, so that nobody takes it for a hang.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from cluster.config import Experiment, Workers
from cluster.errors import ConfigError
from cluster.progress import Progress

CPU_SHARE = 0.75  # of the cluster's, for the workers: serving replicas and Ray Data's tasks need some too
LOOK_EVERY_S = 1.0

Resources = Callable[[], dict[str, float]]


def wait(
    experiment: Experiment,
    progress: Progress,
    cluster: Resources,
    free: Resources,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """What each worker reserves, as soon as the cluster is large enough; `cluster` and `free` say what it has.

    Raises ConfigError when it is too small and `train.wait` is over.
    """
    recipe, began = experiment.train, clock()
    while True:
        try:
            needed = resources(experiment, cluster())
            break
        except ConfigError as error:
            if clock() - began >= recipe.wait:
                after = f" after {recipe.wait:g} s of waiting" if recipe.wait else ""
                raise ConfigError(error.field, error.value, error.problem + after, error.mend) from None
            progress.update(0, recipe.epochs, waiting=f"{error.problem}, {recipe.min_workers} workers need more")
        sleep(LOOK_EVERY_S)
    for kind, share in needed["resources_per_worker"].items():
        left, wanted = free().get(kind, 0.0), share * recipe.min_workers
        if left < wanted:
            said = f"{left:g} of the cluster's {cluster()[kind]:g} {kind}s are free, {wanted:g} are needed"
            progress.update(0, recipe.epochs, waiting=said)
    return needed


def resources(experiment: Experiment, cluster: dict[str, float]) -> dict[str, Any]:
    """What each worker reserves. Raises ConfigError when the cluster cannot have that much."""
    recipe, cpus, gpus = experiment.train, cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
    least = recipe.min_workers
    if recipe.device == "cuda" and gpus < least:
        problem = f"the cluster has {gpus:g} GPUs for {least} workers"
        mend = "lower train.workers, use device: auto, or wait for nodes with train.wait: 10m"
        raise ConfigError("train.device", recipe.device, problem, mend)
    if cpus < least:
        mend = "lower it, start the cluster with more CPUs, or wait for nodes with train.wait: 10m"
        raise ConfigError("train.workers", least, f"the cluster has {cpus:g} CPUs", mend)
    # Elastic workers take a whole CPU each: Ray counts how many there is room for in whole ones.
    elastic = isinstance(recipe.workers, Workers)
    share = 1.0 if elastic else min(1.0, int(100 * CPU_SHARE * cpus / least) / 100)
    use_gpu = recipe.device != "cpu" and gpus >= least
    return {"use_gpu": use_gpu, "resources_per_worker": {"CPU": share, **({"GPU": 1} if use_gpu else {})}}
