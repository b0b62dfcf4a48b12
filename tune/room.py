"""How many trials a cluster has room for at a time, and what each of them reserves.

Pure. A trial that is a Ray Train run holds next to nothing itself: its workers hold their CPUs together, all or none,
so that trials never wait for each other's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.config import Experiment
from cluster.errors import ConfigError

CPU_SHARE = 0.75  # of the cluster's, for trials: serving replicas and the like need some too
WAITING_CPUS = 0.01  # of a trial that only waits for its workers; none at all is refused by Ray


@dataclass(frozen=True)
class Room:
    parallel: int  # trials at a time
    reserved: Mapping[str, float]  # by a trial's own process, in Tune's words
    needed: Mapping[str, Any] | None  # by each worker, in Ray Train's words; None without such workers


def room(experiment: Experiment, cluster: Mapping[str, float], num_cores: int | None, own_process: bool) -> Room:
    """`num_cores` are the machine's own where the cluster is that one machine: its logical CPUs may be more.

    Raises:
        ConfigError: more workers, GPUs or trials at a time than there is room for.
    """
    section = experiment.tune
    assert section is not None
    cpus, gpus, workers = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0), section.workers
    if workers > cpus:
        problem = f"the cluster has {cpus:g} CPUs"
        raise ConfigError("tune.workers", workers, problem, "lower it, or start the cluster with more CPUs")
    if experiment.train.device == "cuda" and gpus < workers:
        problem = f"the cluster has {gpus:g} GPUs for {workers} workers of a trial"
        raise ConfigError("train.device", "cuda", problem, "lower tune.workers or use device: auto")
    use_gpu = experiment.train.device != "cpu" and gpus >= workers
    most = math.floor(gpus / workers) if use_gpu else math.floor(cpus / workers)
    if section.parallel is not None and section.parallel > most:
        problem = f"the cluster has room for {most} trials at a time ({cpus:g} CPUs, {gpus:g} GPUs)"
        raise ConfigError("tune.parallel", section.parallel, problem, "lower it, or start the cluster with more CPUs")
    parallel = section.parallel or _default(most, cpus, workers, num_cores, use_gpu)
    if section.num_trials is not None:
        parallel = min(parallel, section.num_trials)
    share = math.floor(100 * CPU_SHARE * cpus / (parallel * workers)) / 100
    if section.algorithm != "pbt":
        share = min(1.0, share)  # else what a trial reserves is all that bounds their number
    gpu: dict[str, float] = {"GPU": 1} if use_gpu else {}
    if own_process:
        return Room(parallel, {"cpu": share, **({"gpu": 1} if use_gpu else {})}, None)
    return Room(
        parallel, {"cpu": WAITING_CPUS}, {"use_gpu": use_gpu, "resources_per_worker": {"CPU": min(1.0, share), **gpu}}
    )


def _default(most: int, cpus: float, workers: int, num_cores: int | None, use_gpu: bool) -> int:
    if use_gpu:
        return most
    usable = cpus * CPU_SHARE if num_cores is None else min(cpus * CPU_SHARE, num_cores)
    return max(1, math.floor(usable / workers))
