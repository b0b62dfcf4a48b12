"""The training step: drive Ray Train over a dataset and publish the best epoch's weights as a run.

The run's checkpoints lie under its key until it is published, so that a driver that died goes on with the same
key where the last one stopped; a published run is never trained again. What happens on the workers stands in
`jobs.loop`; what becomes of the weights in `jobs.evaluate`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cluster.config import Experiment
from cluster.errors import DataError, StoppedError, StoreError, TrimtabError
from cluster.experiment import fingerprint
from cluster.progress import Progress
from cluster.store import Store
from jobs import checkpoint, fit, room
from jobs.checkpoint import Course
from jobs.follower import Follower, RunLog
from jobs.keys import NOT_IN_THE_RESULT
from tasks.dataset import Dataset, read_dataset
from tasks.task import load_task

if TYPE_CHECKING:
    from cluster.registry import Registry
    from jobs.command import Context

TRIED_ROWS = 64  # by a task of one's own before any worker starts
# Of a training's settings, those with which a checkpoint goes on as well as with those that it was made with.
FREE_SETTINGS = NOT_IN_THE_RESULT | {"workers", "device"}


def body(context: Context) -> dict[str, Any]:
    """The step as `jobs.command` runs it."""
    given = context.experiment, context.store, context.keys.dataset, context.keys.run, context.progress
    return run(*given, context.registry, inline=context.inline, asked_at=context.asked_at)


def run(
    experiment: Experiment,
    store: Store,
    dataset_key: str,
    key: str,
    progress: Progress,
    registry: Registry | None = None,
    max_memory_bytes: int | None = None,
    origin: Mapping[str, Any] = MappingProxyType({}),
    *,
    inline: bool = False,
    asked_at: float | None = None,
    start: str = "",
) -> dict[str, Any]:
    """Train and publish `runs/<key>`; returns its figures. Does nothing but that when it is published already.

    Larger datasets than `max_memory_bytes` (default: a quarter of the free memory) are streamed. `origin` says
    where the settings come from (a search and its trial); the run's manifest and its tags keep it. `inline` trains
    in this process, without Ray Train, where one worker and rows in memory allow it. `asked_at` is when somebody
    asked for the training, in seconds since 1970; the first step is told as seconds after it. `beginning` says with
    which weights it begins.

    Raises:
        ConfigError: more workers or GPUs asked for than the cluster has, or a task of one's own does not do its part.
        CheckpointError: the checkpoints under this key are of another model.
        DataError: fewer training rows than workers.
        NotFoundError: no such dataset.
        StoppedError: this process had a SIGTERM; the next call goes on from the checkpoint that was kept then.
        TrimtabError: the loss became infinite, workers died more often than `train.max_failures`, or the
            store took no more.
    """
    if store.has("runs", key):
        return _figures(store.manifest("runs", key))
    dataset = read_dataset(store, dataset_key)
    _check_rows(experiment, dataset)
    if ":" in experiment.task:
        _try_task(experiment, dataset)
    _look_at_checkpoints(experiment, store, dataset, key, progress)

    def fitted(follower: Follower) -> tuple[Course, str]:
        if inline and experiment.train.workers == 1 and not fit.must_stream(dataset, 1, max_memory_bytes):
            return _fit_here(experiment, store, dataset, key, follower, asked_at, start)
        return _fit(experiment, store, dataset, key, follower, max_memory_bytes, asked_at, start)

    figures = _recorded(experiment, store, dataset, key, progress, registry, origin, fitted)
    checkpoint.discard(store, key)
    return figures


def adopt(
    experiment: Experiment,
    store: Store,
    dataset: Dataset,
    key: str,
    course: Course,
    progress: Progress,
    registry: Registry | None,
    origin: Mapping[str, Any],
) -> dict[str, Any]:
    """Publish a training that was done elsewhere, by a trial of a search, as `runs/<key>`; returns its figures."""
    if store.has("runs", key):
        return _figures(store.manifest("runs", key))
    return _recorded(experiment, store, dataset, key, progress, registry, origin, lambda _: (course, "memory"))


def _recorded(
    experiment: Experiment,
    store: Store,
    dataset: Dataset,
    key: str,
    progress: Progress,
    registry: Registry | None,
    origin: Mapping[str, Any],
    fitted: Callable[[Follower], tuple[Course, str]],
) -> dict[str, Any]:
    """Publish what `fitted` gives, a course and how its rows came, as a run of the registry; returns its figures."""
    follower = Follower(progress, experiment.train.epochs)
    with _registered(registry, experiment, dataset.key, key, origin) as log:
        follower.log = log
        course, feed = fitted(follower)
        more = {"feed": feed, "mlflow_run": log.run_id, "origin": dict(origin)}
        manifest = _publish(experiment, store, dataset, key, course, **more)
        follower.finish(course)
    return _figures(manifest)


def _check_rows(experiment: Experiment, dataset: Dataset) -> None:
    num_rows, workers = dataset.num_rows("train"), experiment.train.max_workers
    if num_rows < workers:
        raise DataError("train.workers", workers, f"there are only {num_rows} training rows", "lower it or add data")
    if dataset.num_rows("validation") == 0:
        share = experiment.data.split.validation
        raise DataError("data.split.validation", share, "no row fell into the validation split", "raise it or add data")


def _try_task(experiment: Experiment, dataset: Dataset) -> None:
    """What a task of one's own does wrong on some rows is said at once: on workers it would come again and again."""
    from tasks.protocol import check_network

    some = replace(dataset, shards={**dataset.shards, "train": dataset.shards["train"][:1]})
    rows, targets = some.load("train")
    check_network(load_task(experiment, dataset.file), dataset.encoding, rows[:TRIED_ROWS], targets[:TRIED_ROWS])


def _look_at_checkpoints(experiment: Experiment, store: Store, dataset: Dataset, key: str, progress: Progress) -> None:
    """Refuse another model's, pass over damaged ones aloud, and note whose they are."""
    decides = experiment.train.model_dump(mode="json", exclude=FREE_SETTINGS)
    mine = fingerprint(experiment.model, experiment.text, decides, experiment.seed, experiment.task, dataset.key)
    if said := checkpoint.pass_over_damaged(store, key):
        progress.update(0, experiment.train.epochs, checkpoints=said)
    checkpoint.claim(store, key, mine)


def _fit(
    experiment: Experiment,
    store: Store,
    dataset: Dataset,
    key: str,
    follower: Follower,
    max_bytes: int | None,
    asked_at: float | None = None,
    start: str = "",
) -> tuple[Course, str]:
    """Run Ray Train to its end; the course of the last checkpoint, and whether rows came by `memory` or `stream`."""
    import ray

    from jobs import notice

    stream = fit.must_stream(dataset, experiment.train.max_workers, max_bytes)
    with notice.calls(lambda: _recall(follower, store, key)):
        needed = room.wait(experiment, follower.progress, ray.cluster_resources, ray.available_resources)
        board = fit.board()
        more = {"stream": stream, "board": board, "needed": needed, "asked_at": asked_at, "start": start}
        try:
            with follower.watch(board):
                result = fit.to_end(
                    lambda: fit.new_trainer(experiment, store, dataset, key, **more), lambda: not follower.is_recalled
                )
        except StoreError as error:  # Ray Train's own list of checkpoints
            raise _failed(str(error), store, key, kept=checkpoint.is_there(store, key)) from error
        finally:
            ray.kill(board)
    ending = result.return_value
    if ending["failure"]:
        raise _failed(ending["failure"], store, key, kept=result.checkpoint is not None)
    if ending["is_left"]:
        raise _stopped(store, key)
    with result.checkpoint.as_directory() as folder:
        return checkpoint.load(Path(folder))[1], "stream" if stream else "memory"


def _recall(follower: Follower, store: Store, key: str) -> None:
    """This process is told to end: so is the training, where it has begun."""
    if not follower.has_begun:
        raise _stopped(store, key)
    follower.is_recalled = True


def _stopped(store: Store, key: str) -> StoppedError:
    if checkpoint.is_there(store, key):
        return StoppedError("training was stopped; the same command goes on from its last checkpoint")
    checkpoint.discard(store, key)
    return StoppedError("training was stopped before its first checkpoint")


def _fit_here(
    experiment: Experiment,
    store: Store,
    dataset: Dataset,
    key: str,
    follower: Follower,
    asked_at: float | None,
    start: str,
) -> tuple[Course, str]:
    """The same in this process, as the only rank."""
    from jobs import alone, notice
    from jobs.loop import Work

    work = Work(experiment, store, dataset.key, stream=False, board=None, asked_at=asked_at, start=start)
    with notice.calls(lambda: _recall(follower, store, key)):
        course, ending = alone.train(work, key, follower)
    if ending.failure:
        raise _failed(ending.failure, store, key, kept=bool(course.history))
    if ending.is_left:
        raise _stopped(store, key)
    return course, "memory"


def _failed(failure: str, store: Store, key: str, *, kept: bool) -> TrimtabError:
    """The last good checkpoint stays; what was begun without one goes."""
    if not kept:
        checkpoint.discard(store, key)
        return TrimtabError(failure)
    return TrimtabError(f"{failure}; the last checkpoint before it stays in {checkpoint.storage_path(store, key)}")


def _publish(
    experiment: Experiment, store: Store, dataset: Dataset, key: str, course: Course, **more: Any
) -> dict[str, Any]:
    from safetensors.torch import save

    best = course.history[course.best_epoch]
    weights = save({name: tensor.contiguous() for name, tensor in course.best_weights.items()})
    history = json.dumps(course.history, indent=1).encode()
    with store.stage("runs", key) as staging:
        return staging.publish(
            {
                "experiment": experiment.model_dump(mode="json"),
                "dataset": dataset.key,
                "encoding": dataset.encoding.to_json(),
                "best_epoch": best["epoch"],
                "epochs": len(course.history),
                "over": course.over or "all epochs done",
                "metrics": {name: best[name] for name in ("train_loss", "validation_loss", "validation_accuracy")},
                "seconds": sum(entry["seconds"] for entry in course.history),
                "cpu_s": sum(entry["cpu_s"] for entry in course.history),
                "rows": sum(entry["rows"] for entry in course.history),
                "first_step_s": course.history[0].get("first_step_s"),
                **more,
                "files": {
                    "weights": staging.write("weights.safetensors", weights),
                    "history": staging.write("history.json", history),
                },
            }
        )


def _figures(manifest: dict[str, Any]) -> dict[str, Any]:
    metrics = manifest["metrics"]
    return {
        "epochs": manifest["epochs"],
        "best_epoch": manifest["best_epoch"] + 1,
        "validation_accuracy": round(metrics["validation_accuracy"], 4),
        "validation_loss": round(metrics["validation_loss"], 4),
        "rows_per_s": round(manifest["rows"] / max(manifest["seconds"], 1e-9)),
        "first_step_s": None if (first := manifest["first_step_s"]) is None else round(first, 1),
        "stopped": manifest["over"],
    }


@contextlib.contextmanager
def _registered(
    registry: Registry | None, experiment: Experiment, dataset: str, key: str, origin: Mapping[str, Any]
) -> Iterator[RunLog]:
    """A run in the registry that ends as the block does."""
    if registry is None:
        yield RunLog(None, None)
        return
    sections = {"model": experiment.model.model_dump(mode="json"), "train": experiment.train.model_dump(mode="json")}
    params = {f"{section}.{name}": value for section, tree in sections.items() for name, value in tree.items()}
    params["seed"] = experiment.seed
    tags = {"dataset": dataset, **{f"trimtab.{name}": origin[name] for name in ("search", "trial") if name in origin}}
    run_id = registry.start_run(experiment.name, key, params, tags, parent=origin.get("mlflow_run"))
    try:
        yield RunLog(registry, run_id)
    except (KeyboardInterrupt, StoppedError):
        registry.end_run(run_id, "KILLED")
        raise
    except Exception:
        registry.end_run(run_id, "FAILED")
        raise
    registry.end_run(run_id, "FINISHED")


if __name__ == "__main__":
    from jobs import command

    raise SystemExit(command.main("train", body))
