"""The loop in one process, without a cluster; here it can be stopped at exactly one step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster import store as stores
from cluster.config import Experiment
from cluster.errors import StoreError
from cluster.progress import Progress
from cluster.store import Store
from jobs import alone, checkpoint, pace
from jobs.checkpoint import Course
from jobs.follower import Follower
from jobs.loop import Ending, Work


class Stopped(Exception):
    """Stands for a death: nothing is cleaned up after it."""


class Told(Follower):
    """A follower that keeps what it hears."""

    def __init__(self) -> None:
        super().__init__(Progress("train"), 3)
        self.heard: list[tuple[float, bool]] = []

    def hear(self, done: float, figures: dict[str, Any], finished: bool) -> None:
        self.heard.append((done, finished))


@pytest.fixture(autouse=True)
def at_every_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(pace, "LOOK_EVERY_S", 0.0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def prepared(store: Store, publish_digits: Callable[..., str]) -> Store:
    publish_digits(store, experiment())
    return store


def experiment(**train: Any) -> Experiment:
    """Everything that draws or remembers: dropout, augmentation, an average, parts of batches."""
    recipe = {"epochs": 3, "precision": "fp32", "batch_size": 100, "augment": "shift", "ema": 0.9, "accumulate": 2}
    tree = {"name": "digits", "data": {"source": {"kind": "digits"}}, "model": {"dropout": 0.2}}
    return Experiment.model_validate({**tree, "train": {**recipe, **train}})


def work(store: Store, checkpoint_every: float = 300.0, **train: Any) -> Work:
    made = experiment(**train)
    often = made.train.model_copy(update={"checkpoint_every": checkpoint_every})
    return Work(made.model_copy(update={"train": often}), store, "digits", stream=False, board=None, asked_at=0.0)


def weights_hash(course: Course) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(course.best_weights.items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def stop_after(monkeypatch: pytest.MonkeyPatch, num_reports: int) -> None:
    """Die when the checkpoint with this number is written."""
    keep, num_kept = checkpoint.keep, 0

    def keep_some(*parts: Any) -> None:
        nonlocal num_kept
        keep(*parts)
        num_kept += 1
        if num_kept == num_reports:
            raise Stopped

    monkeypatch.setattr(checkpoint, "keep", keep_some)


def train_in_two_halves(prepared: Store, monkeypatch: pytest.MonkeyPatch, num_reports: int) -> Course:
    with monkeypatch.context() as patch:
        stop_after(patch, num_reports)
        with pytest.raises(Stopped):
            alone.train(work(prepared, checkpoint_every=0.0), "killed", Told())
    return alone.train(work(prepared, checkpoint_every=0.0), "killed", Told())[0]


def test_equal_seeds_give_equal_weights(prepared: Store) -> None:
    once, again = (alone.train(work(prepared), key, Told())[0] for key in ("once", "again"))

    assert weights_hash(once) == weights_hash(again)


@pytest.mark.parametrize(
    ("num_checkpoints", "epochs_before"),
    [
        pytest.param(5, 0, id="in the first epoch"),
        pytest.param(13, 1, id="at the end of an epoch"),
        pytest.param(20, 1, id="in the second epoch"),
    ],
)
def test_a_training_that_died_in_any_step_ends_with_the_weights_it_would_have_had(
    prepared: Store, monkeypatch: pytest.MonkeyPatch, num_checkpoints: int, epochs_before: int
) -> None:
    undisturbed, _ = alone.train(work(prepared), "undisturbed", Told())

    resumed = train_in_two_halves(prepared, monkeypatch, num_checkpoints)

    assert weights_hash(resumed) == weights_hash(undisturbed)
    for before, after in zip(undisturbed.history, resumed.history, strict=True):
        assert after["rows"] == before["rows"] == 1300
        for name in ("train_loss", "validation_loss", "validation_accuracy"):
            assert after[name] == pytest.approx(before[name], rel=1e-12)
    attempts = [entry["attempt"] for entry in resumed.history]
    assert attempts == [1] * epochs_before + [2] * (3 - epochs_before)


@pytest.mark.parametrize("at", [pytest.param(1.5, id="inside an epoch"), pytest.param(12 / 13, id="its last step")])
def test_a_training_that_is_told_to_leave_keeps_its_step_and_goes_on_as_if_nothing_had_been(
    prepared: Store, at: float
) -> None:
    class Recalled(Told):
        def hear(self, done: float, figures: dict[str, Any], finished: bool) -> None:
            super().hear(done, figures, finished)
            self.is_recalled = done >= at

    undisturbed, _ = alone.train(work(prepared), "undisturbed", Told())

    _, left = alone.train(work(prepared), "recalled", Recalled())
    resumed, ending = alone.train(work(prepared), "recalled", Told())

    assert (left, ending) == (Ending(is_left=True), Ending())
    assert weights_hash(resumed) == weights_hash(undisturbed)
    assert [entry["rows"] for entry in resumed.history] == [1300] * 3


@pytest.mark.parametrize(
    ("looks_first", "words"),
    [
        pytest.param(True, "nearly full", id="seen before"),
        pytest.param(False, "is full", id="met in the write"),
    ],
)
def test_a_full_disk_is_one_sentence_and_the_last_checkpoint_stays(
    small_disk: Path,
    fill: Callable[[Path], None],
    publish_digits: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    looks_first: bool,
    words: str,
) -> None:
    store, filler = Store.open(str(small_disk)), small_disk / "filler"
    monkeypatch.setattr(stores, "RESERVE_BYTES", 0)
    publish_digits(store, experiment())
    if not looks_first:
        monkeypatch.setattr(Store, "check_room", lambda *_: None)

    class Filling(Told):
        def hear(self, done: float, figures: dict[str, Any], finished: bool) -> None:
            if done >= 2 and not filler.exists():
                fill(small_disk)

    with pytest.raises(StoreError, match=words):
        alone.train(work(store), "full", Filling())

    folder = Path(checkpoint.storage_path(store)) / "full"
    assert [path.name for path in folder.iterdir()] == [checkpoint.INLINE]
    filler.unlink()
    undisturbed, resumed = (alone.train(work(store), key, Told())[0] for key in ("undisturbed", "full"))
    assert [entry["attempt"] for entry in resumed.history] == [1, 2, 2]
    assert weights_hash(resumed) == weights_hash(undisturbed)


def test_a_checkpoint_is_written_in_the_middle_of_an_epoch_that_takes_long(prepared: Store) -> None:
    kept: list[int] = []

    class Counted(alone.Inline):
        def _report(self, entry: dict[str, Any], name: str) -> None:
            kept.append(entry.get("step", -1))
            super()._report(entry, name)

    trainer = Counted(work(prepared, checkpoint_every=0.0, epochs=1), "long", Told())
    trainer.run_epoch(0)
    unhurried = Counted(work(prepared, epochs=1), "short", Told())
    unhurried.run_epoch(0)

    assert kept == [*range(1, 13), -1, -1]


def test_it_tells_how_far_it_is_and_when_its_first_step_was_done(prepared: Store) -> None:
    told = Told()

    course, ending = alone.train(work(prepared), "key", told)

    done = [done for done, _ in told.heard]
    assert ending == Ending()
    assert done == sorted(done)
    assert [done for done, finished in told.heard if finished] == [1, 2, 3]
    assert course.history[0]["first_step_s"] > 0
    assert "first_step_s" not in course.history[1]


def test_it_leaves_the_process_as_it_was(prepared: Store) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        alone.train(work(prepared, epochs=1), "key", Told())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_nothing_half_written_is_left_where_a_checkpoint_lies(prepared: Store) -> None:
    alone.train(work(prepared, checkpoint_every=0.0, epochs=1), "key", Told())

    folder = Path(checkpoint.storage_path(prepared)) / "key"
    assert [path.name for path in folder.iterdir()] == [checkpoint.INLINE]
    assert checkpoint.kept(prepared, "other") is None
