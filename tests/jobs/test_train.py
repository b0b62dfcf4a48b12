"""Training on a real cluster: two workers that talk to each other, deaths, streams and refusals."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load

from cluster import submit
from cluster.config import Experiment
from cluster.errors import ConfigError, DataError, NotFoundError, TrimtabError
from cluster.experiment import ENVIRONMENT
from cluster.progress import Event, Progress, parse
from cluster.registry import Registry
from cluster.session import Session
from cluster.store import Store
from jobs import checkpoint, train

EPOCHS = 6


def experiment(**recipe: Any) -> Experiment:
    """Two workers, dropout and augmentation: everything that a resumed epoch must draw again as it was."""
    recipe = {"workers": 2, "epochs": EPOCHS, "batch_size": 8, "augment": "shift", "early_stopping": None, **recipe}
    tree = {"name": "digits", "data": {"source": {"kind": "digits"}}, "model": {"dropout": 0.1}, "train": recipe}
    return Experiment.model_validate(tree)


class Told(Progress):
    """Progress that keeps what it is told and may act on it, in the thread that follows the training."""

    def __init__(self, act: Callable[[float], object] = float) -> None:
        super().__init__("train")
        self.said: list[tuple[float, float, dict[str, Any]]] = []
        self._act = act

    def update(self, done: float, total: float = 0, **figures: Any) -> None:
        self.said.append((done, total, figures))
        self._act(done)


def train_workers(cluster: Session) -> list[psutil.Process]:
    """Those of all runs: a process that ends while we look is not one of them."""
    found = []
    for process in psutil.Process(cluster.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "TrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


@contextlib.contextmanager
def suspended(workers: list[psutil.Process]) -> Iterator[None]:
    """They stand still while the block runs and for three seconds."""
    for worker in workers:
        worker.suspend()
    time.sleep(1.0)
    yield
    time.sleep(2.0)
    for worker in workers:
        worker.resume()


class InAnEpoch:
    """Does something to the training workers of the cluster once, in the middle of an epoch after some."""

    def __init__(self, cluster: Session, do: Callable[[list[psutil.Process]], object], after: float = 1) -> None:
        self._cluster, self._do, self._after, self.done_at = cluster, do, after, 0.0

    def __call__(self, done: float) -> None:
        if self.done_at or done < self._after or done == int(done):
            return
        if workers := train_workers(self._cluster):
            self._do(workers)
            self.done_at = done


def history(store: Store, key: str) -> list[dict[str, Any]]:
    return json.loads(store.read("runs", key, store.manifest("runs", key)["files"]["history"]))


def weights(store: Store, key: str) -> dict[str, torch.Tensor]:
    return load(store.read("runs", key, store.manifest("runs", key)["files"]["weights"]))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, publish_digits: Callable[..., str]) -> Store:
    made = Store.open(str(tmp_path_factory.mktemp("train") / "store"))
    publish_digits(made, experiment())
    return made


@pytest.fixture(scope="module")
def undisturbed(shared: Store, ray_cluster: Session) -> tuple[dict[str, Any], Told]:
    """A run of two workers that nothing happens to; the figures and what was said."""
    told = Told()
    return train.run(experiment(), shared, "digits", "undisturbed", told, Registry.open(shared)), told


def test_two_workers_train_together_and_publish_the_best_epoch(shared: Store, undisturbed):
    figures, _ = undisturbed

    entries = history(shared, "undisturbed")
    best = max(entries, key=lambda entry: (entry["validation_accuracy"], -entry["validation_loss"]))
    assert [entry["epoch"] for entry in entries] == list(range(EPOCHS))
    assert {(entry["rows"], entry["world_size"], entry["attempt"]) for entry in entries} == {(1392, 2, 1)}
    assert figures["best_epoch"] == best["epoch"] + 1
    assert figures["validation_accuracy"] == round(best["validation_accuracy"], 4) > 0.9
    assert shared.manifest("runs", "undisturbed")["feed"] == "memory"


def test_what_is_said_reaches_the_driver_while_it_trains(undisturbed):
    _, told = undisturbed

    done = [said[0] for said in told.said]
    assert done == sorted(done)
    assert any(value != int(value) for value in done)  # inside an epoch too
    assert told.said[-1][:2] == (EPOCHS, EPOCHS)
    assert told.said[-1][2].keys() == {"loss", "accuracy", "rows_per_s"}


def test_checkpoints_are_gone_when_the_run_is_published(shared: Store, undisturbed):
    assert not (Path(checkpoint.storage_path(shared)) / "undisturbed").exists()


def test_a_published_run_is_not_trained_again(shared: Store, undisturbed):
    figures, _ = undisturbed
    told = Told()

    again = train.run(experiment(), shared, "digits", "undisturbed", told)

    assert again == figures
    assert told.said == []


def test_the_registry_has_each_epoch(shared: Store, undisturbed):
    run_id = shared.manifest("runs", "undisturbed")["mlflow_run"]

    run = Registry.open(shared)._client().get_run(run_id)

    assert run.info.status == "FINISHED"
    assert run.data.params["train.workers"] == "2"
    curve = Registry.open(shared)._client().get_metric_history(run_id, "validation_accuracy")
    assert [point.step for point in curve] == list(range(EPOCHS))
    entries = history(shared, "undisturbed")
    waited = Registry.open(shared)._client().get_metric_history(run_id, "sync_s")
    assert [point.value for point in waited] == [entry["sync_s"] for entry in entries]
    assert all(point.value > 0 for point in waited)
    assert all(entry["forward_s"] > 0 < entry["peak_memory_bytes"] for entry in entries)


def test_a_worker_killed_in_the_middle_of_an_epoch_changes_nothing_but_the_attempt(
    shared: Store, undisturbed, ray_cluster: Session
):
    kill, made = InAnEpoch(ray_cluster, lambda workers: workers[0].kill()), experiment()
    # A checkpoint at every look, so that it goes on inside the epoch.
    often = made.model_copy(update={"train": made.train.model_copy(update={"checkpoint_every": 0.0})})

    train.run(often, shared, "digits", "one-killed", Told(kill))

    entries = history(shared, "one-killed")
    assert kill.done_at > 1
    assert [entry["epoch"] for entry in entries] == list(range(EPOCHS))
    assert {entry["rows"] for entry in entries} == {1392}
    attempts = [entry["attempt"] for entry in entries]
    assert attempts == sorted(attempts)  # whether the first epoch's checkpoint was known by then is Ray Train's matter
    assert attempts[-1] == 2
    for before, after in zip(history(shared, "undisturbed"), entries, strict=True):
        assert after["train_loss"] == pytest.approx(before["train_loss"])
    # Batch norm's statistics are averaged over the workers with each checkpoint: equal but for rounding.
    torch.testing.assert_close(weights(shared, "one-killed"), weights(shared, "undisturbed"))
    for name, tensor in weights(shared, "one-killed").items():
        assert "running" in name or torch.equal(tensor, weights(shared, "undisturbed")[name])


def reserved() -> set[str]:
    """Placement groups that hold CPUs."""
    from ray.util import placement_group_table

    return {key for key, group in placement_group_table().items() if group["state"] != "REMOVED"}


def test_a_driver_that_died_goes_on_with_the_same_key_from_the_newest_whole_checkpoint(
    shared: Store, undisturbed, ray_cluster: Session
):
    before = reserved()
    code = (
        "import sys; from cluster import experiment, session; from cluster.progress import Progress;"
        "from cluster.store import Store; from jobs import train;"
        "session.connect(); store = Store.open(sys.argv[1]);"
        "train.run(experiment.load('-'), store, 'digits', 'orphan', Progress('train'))"
    )
    env = {**os.environ, ENVIRONMENT: experiment().model_dump_json()}
    command = [sys.executable, "-c", code, shared.uri]
    snapshot = Path(checkpoint.storage_path(shared)) / "orphan" / checkpoint.SNAPSHOT
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as driver:
        while not (snapshot.exists() and len(set(re.findall(rb"epoch-\d+-\w+", snapshot.read_bytes()))) > 1):
            assert driver.poll() is None, driver.communicate()
            time.sleep(0.02)
        # Ray ends a dead driver's workers only after a while, in which these would train to the end.
        workers = train_workers(ray_cluster)
        for worker in workers:
            worker.suspend()
        driver.kill()
    psutil.wait_procs(workers, timeout=60)
    until = time.monotonic() + 120
    while reserved() - before and time.monotonic() < until:
        time.sleep(0.5)  # Ray Train gives back what a dead driver's workers reserved, after a while
    assert not reserved() - before
    listed = json.loads(snapshot.read_text())
    newest = listed["latest_checkpoint_result"]["checkpoint_dir_name"]
    os.truncate(snapshot.parent / newest / checkpoint.STATE, 1000)
    os.truncate(snapshot, 1000)  # Ray Train writes it in place
    told = Told()

    train.run(experiment(), shared, "digits", "orphan", told)

    said = told.said[0][2]["checkpoints"]
    assert re.fullmatch(r"the list of checkpoints was cut off in .* being written; going on from epoch-\S+", said)
    assert newest not in said
    entries = history(shared, "orphan")
    assert [entry["epoch"] for entry in entries] == list(range(EPOCHS))
    assert entries[0]["attempt"] == 1 < entries[-1]["attempt"]
    assert same(weights(shared, "orphan"), weights(shared, "undisturbed"))


def job_of(cluster: Session, made: Experiment, store: Store, key: str) -> str:
    """A job that trains, as `trimtab train` orders it."""
    env = {ENVIRONMENT: made.model_dump_json(), "TRIMTAB_STORE": store.uri}
    return submit.submit(
        cluster, f"python -m jobs.train - --keys digits {key} bundle", submission_id=f"train-{key}", env=env
    )


def followed(cluster: Session, job: str, act: Callable[[Event], object]) -> tuple[submit.JobOutcome, list[Event]]:
    """A job's outcome and events, each of which `act` is told."""
    events: list[Event] = []

    def hear(line: str) -> None:
        if event := parse(line):
            events.append(event)
            act(event)

    return submit.follow(cluster, job, hear), events


def test_whoever_is_told_to_end_keeps_a_checkpoint_at_once_and_no_row_comes_twice(
    shared: Store, undisturbed, ray_cluster: Session
):
    told_at: list[float] = []

    def stop(event: Event) -> None:
        if event.done > 1 and not told_at:
            told_at.append(event.done)
            stopper = threading.Thread(target=submit.stop, args=(ray_cluster, job))
            with suspended(train_workers(ray_cluster)):  # so that they do not get to the end before they hear of it
                stopper.start()
            stopper.join()

    job = job_of(ray_cluster, experiment(), shared, "told")
    outcome, events = followed(ray_cluster, job, stop)

    assert outcome.status == "STOPPED"
    assert events[-1].error == "StoppedError"
    assert "goes on from its last checkpoint" in events[-1].text
    assert not shared.has("runs", "told")

    # It goes on, and a worker is told: the others leave with it, and new ones go on.
    terminate = InAnEpoch(ray_cluster, lambda workers: workers[-1].terminate(), after=2.2)
    train.run(experiment(max_failures=0), shared, "digits", "told", Told(terminate))

    entries = history(shared, "told")
    assert terminate.done_at > 2.2
    assert [entry["epoch"] for entry in entries] == list(range(EPOCHS))
    assert {entry["rows"] for entry in entries} == {1392}
    assert entries[-1]["attempt"] == 3
    for before, after in zip(history(shared, "undisturbed"), entries, strict=True):
        assert after["train_loss"] == pytest.approx(before["train_loss"])
    torch.testing.assert_close(weights(shared, "told"), weights(shared, "undisturbed"))


def test_a_job_that_waits_for_more_than_there_is_says_so_and_leaves_nothing_when_it_is_stopped(
    shared: Store, ray_cluster: Session
):
    before, stopping = reserved(), threading.Event()
    made = experiment(workers=64, batch_size=64, wait="10m")

    def stop(event: Event) -> None:
        if "waiting" in event.figures and not stopping.is_set():
            stopping.set()
            threading.Thread(target=submit.stop, args=(ray_cluster, job)).start()

    job = job_of(ray_cluster, made, shared, "waits")
    outcome, events = followed(ray_cluster, job, stop)

    assert outcome.status == "STOPPED"
    assert events[0].figures["waiting"] == "the cluster has 6 CPUs, 64 workers need more"
    assert events[-1].text == "training was stopped before its first checkpoint"
    assert not (Path(checkpoint.storage_path(shared)) / "waits").exists()
    assert reserved() == before
    run = next(run for run in Registry.open(shared)._client().search_runs(["1"]) if run.info.run_name == "waits")
    assert run.info.status == "KILLED"


def test_a_store_that_takes_no_more_ends_it_in_one_sentence_with_whole_checkpoints_alone(
    small_disk: Path, fill: Callable[[Path], None], ray_cluster: Session, publish_digits: Callable[..., str]
):
    class Blind(Store):  # inside, so that it travels by value: workers cannot import a test
        def check_room(self, num_bytes: int) -> None:
            """Sees no bound, so that it is met in the middle of a write."""

    store = Blind(str(small_disk), small_disk)
    publish_digits(store, experiment())

    def fill_up(workers: list[psutil.Process]) -> None:
        with suspended(workers):  # Ray Train is through with its list of checkpoints then
            fill(small_disk)

    with pytest.raises(TrimtabError, match=r"store = .*: the disk is full; .*; the last checkpoint before it stays in"):
        train.run(experiment(), store, "digits", "full", Told(InAnEpoch(ray_cluster, fill_up)))

    folder = Path(checkpoint.storage_path(store)) / "full"
    whole = {path.name: checkpoint.load(path) for path in folder.iterdir() if path.is_dir()}  # none is a half
    (small_disk / "filler").unlink()
    assert "damaged" not in checkpoint.pass_over_damaged(store, "full")  # Ray Train's own list may be a half
    listed = json.loads((folder / checkpoint.SNAPSHOT).read_text())["checkpoint_results"]
    names = {result["checkpoint_dir_name"] for result in listed}
    assert names
    assert names <= set(whole)
    assert {entry["attempt"] for entry in checkpoint.load(folder / max(names))[1].history} == {1}  # not tried again


def test_rows_that_do_not_fit_are_streamed_and_every_rank_stops_together(
    tmp_path: Path, publish_digits: Callable[..., str], ray_cluster: Session
):
    """Out of a store that is reached by a URI with parameters, as MinIO's has them."""
    store = Store(f"file://{tmp_path}/bucket?endpoint_override=localhost:9000")
    made = experiment(epochs=20, early_stopping={"target": 0.6}, batch_size=16)
    publish_digits(store, made, "digits")

    figures = train.run(made, store, "digits", "streamed", Told(), max_memory_bytes=1000)

    entries = history(store, "streamed")
    assert figures["stopped"] == "validation accuracy reached 0.6"
    assert len(entries) < 20
    assert {entry["rows"] for entry in entries} == {1392}
    assert store.manifest("runs", "streamed")["feed"] == "stream"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bucket"]
    assert sorted(path.name for path in (tmp_path / "bucket").iterdir()) == ["checkpoints", "datasets", "runs"]


def test_an_infinite_loss_is_one_sentence_and_is_not_tried_again(
    shared: Store, ray_cluster: Session, publish_digits: Callable[..., str], digits_splits
):
    made = experiment(workers=1, max_failures=5)
    manifest = json.loads(json.dumps(shared.manifest("datasets", "digits")))
    manifest["encoding"]["statistics"]["mean"] = [float("nan")]
    publish_digits(shared, made, key="spoilt")
    (Path(shared.uri) / "datasets" / "spoilt" / "manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(TrimtabError, match=r"the loss is not finite in epoch 1 at step 1, before anything was learned"):
        train.run(made, shared, "spoilt", "infinite", Told())

    assert not shared.has("runs", "infinite")
    assert not (Path(checkpoint.storage_path(shared)) / "infinite").exists()


def test_an_error_of_ours_on_a_worker_arrives_as_it_was(
    shared: Store, ray_cluster: Session, publish_digits: Callable[..., str]
):
    made = experiment(workers=1, max_failures=0)
    publish_digits(shared, made, key="damaged")
    shard = shared.manifest("datasets", "damaged")["splits"]["train"][0]["file"]
    (Path(shared.uri) / "datasets" / "damaged" / shard).write_bytes(b"PAR1")

    with pytest.raises(TrimtabError, match="does not match its sha256"):
        train.run(made, shared, "damaged", "broken", Told())


@pytest.mark.parametrize(
    ("recipe", "field"),
    [
        pytest.param({"workers": 64, "batch_size": 64}, "train.workers", id="more workers than CPUs"),
        pytest.param({"device": "cuda", "workers": 2}, "train.device", id="no GPU"),
    ],
)
def test_more_than_the_cluster_has_is_refused(shared: Store, ray_cluster: Session, recipe: dict[str, Any], field: str):
    with pytest.raises(ConfigError, match=field):
        train.run(experiment(**recipe), shared, "digits", "too-much", Told())


def test_a_dataset_that_is_not_there_is_not_found(store: Store):
    with pytest.raises(NotFoundError, match="no dataset nowhere"):
        train.run(experiment(), store, "nowhere", "key", Told())


@pytest.mark.parametrize(
    ("split", "num_rows", "field"),
    [
        pytest.param("train", 1, "train.workers", id="fewer rows than workers"),
        pytest.param("validation", 0, "data.split.validation", id="no validation rows"),
    ],
)
def test_a_split_too_small_to_train_with_is_refused(
    store: Store, publish_digits: Callable[..., str], split: str, num_rows: int, field: str
):
    publish_digits(store, experiment(), **{split: (np.zeros((num_rows, 8, 8, 1), np.uint8), np.zeros(num_rows, int))})

    with pytest.raises(DataError, match=field):
        train.run(experiment(), store, "digits", "key", Told())


def test_a_task_of_ones_own_that_cannot_train_is_told_so_before_any_worker_starts(shared: Store, tmp_path: Path):
    (tmp_path / "bad_images.py").write_text(
        "from tasks.images import Images\nclass Bad(Images):\n"
        "    def loss(self, logits, targets):\n        return 1 / 0\n"
    )
    made = experiment().model_copy(update={"task": "bad_images:Bad"}).lying_in(str(tmp_path))

    # No cluster is asked for: on its workers the same would come again, as often as they may die.
    with pytest.raises(ConfigError, match=r"its loss\(\) raised ZeroDivisionError: .* at bad_images.py, line 4"):
        train.run(made, shared, "digits", "bad", Told())

    assert not shared.has("runs", "bad")
