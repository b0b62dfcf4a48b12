"""A training as a Ray Train run: built, and run until it is over, whatever takes its workers away.

Knows what Ray Train must be told; what happens on the workers stands in `jobs.loop`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cluster.config import Experiment
from cluster.errors import TrimtabError
from cluster.memory import available_bytes
from cluster.store import FULL, Store, not_writable
from jobs import checkpoint
from jobs.follower import Board
from tasks.dataset import Dataset

MEMORY_SHARE = 0.25  # of what is free, for the rows of all workers together
RESIZE_EVERY_S = 30.0  # between two looks at whether an elastic training has room for more workers


def board() -> Any:
    """An actor on this process's node, so that it is lost with no other."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote()


def to_end(new_trainer: Callable[[], Any], goes_on: Callable[[], bool]) -> Any:
    """Ray Train's result, its `return_value` the fields of an `Ending`.

    Workers that were told to leave (`jobs.notice`) are replaced by new ones, as long as `goes_on()`.

    Raises TrimtabError when workers died too often.
    """
    from ray.train import TrainingFailedError

    while True:
        trainer = new_trainer()
        try:
            result = trainer.fit()
        except TrainingFailedError as error:
            raise _sentence(error, trainer.run_config) from error
        ending = result.return_value
        if ending["failure"] or not ending["is_left"] or not goes_on():
            return result


def new_trainer(
    experiment: Experiment,
    store: Store,
    dataset: Dataset,
    key: str,
    *,
    stream: bool,
    board: Any,
    needed: dict[str, Any],
    callbacks: Sequence[Any] = (),
    asked_at: float | None = None,
    start: str = "",
) -> Any:
    """Ray Train's trainer, not started; `needed` is what `resources` says, `callbacks` are told of each epoch.

    Its return value has the fields of `jobs.loop.Ending`.
    """
    from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from jobs import notice
    from jobs.loop import Work, loop

    recipe = experiment.train
    if recipe.rows == "train_and_validation":
        dataset = dataset.learning_from_validation()
    return TorchTrainer(
        loop,
        train_loop_config={"work": Work(experiment, store, dataset.key, stream, board, asked_at, start)},
        torch_config=notice.Config(timeout_s=max(1, round(recipe.collective_timeout))),
        scaling_config=ScalingConfig(
            num_workers=recipe.workers if isinstance(recipe.workers, int) else (recipe.min_workers, recipe.max_workers),
            elastic_resize_monitor_interval_s=RESIZE_EVERY_S,
            **needed,
        ),
        datasets={"train": _ray_dataset(store, dataset)} if stream else None,
        run_config=RunConfig(
            name=key,
            storage_path=checkpoint.storage_path(store),
            logging_config=LoggingConfig(log_level="CRITICAL"),
            failure_config=FailureConfig(max_failures=recipe.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=recipe.keep_checkpoints),
            callbacks=list(callbacks),
        ),
    )


def must_stream(dataset: Dataset, workers: int, max_bytes: int | None = None) -> bool:
    """Whether a copy of the rows on each worker would take more memory than it may."""
    row_bytes = math.prod(dataset.encoding.shape) * np.dtype(dataset.encoding.dtype).itemsize
    num_rows = dataset.num_rows("train") + dataset.num_rows("validation")
    bound = max_bytes if max_bytes is not None else int(available_bytes() * MEMORY_SHARE)
    return num_rows * row_bytes * workers > bound


def _ray_dataset(store: Store, dataset: Dataset) -> Any:
    import ray.data

    places = [store.path_of("datasets", dataset.key, entry) for entry in dataset.shards["train"] if entry["rows"]]
    system, _ = store.within("")
    paths = [store.within(place)[1] for place in places]
    return ray.data.read_parquet(paths, filesystem=system).select_columns(["x", "y"])


def _sentence(error: Any, config: Any) -> TrimtabError:
    """What went wrong, from Ray's account of every rank: our own errors as they were, others in one line."""
    causes = list(getattr(error, "worker_failures", {}).values()) or [getattr(error, "controller_failure", error)]
    for cause in causes:
        inner: BaseException | None = cause
        while inner is not None:
            if isinstance(inner, TrimtabError):
                return inner
            if isinstance(inner, OSError) and inner.errno in FULL:  # Ray Train's own list of checkpoints
                return not_writable(config.storage_path, inner)
            inner = getattr(inner, "cause", None) or inner.__cause__
    lines = [line for cause in causes for line in str(cause).strip().splitlines()[-1:]]
    reason, most = lines[0] if lines else type(error).__name__, config.failure_config.max_failures
    return TrimtabError(f"training failed and was not started again (train.max_failures = {most}): {reason}")
