from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pyarrow import fs

from cluster.config import EarlyStopping
from cluster.store import Store
from jobs import checkpoint
from jobs.checkpoint import CheckpointError, Course


def course_of(
    accuracies: list[float], rule: EarlyStopping | None, losses: list[float] | None = None, keep_last: bool = False
) -> Course:
    """A course that went on until it was over or the numbers ran out; its weights are its epoch."""
    course = Course()
    for epoch, accuracy in enumerate(accuracies):
        if course.over:
            break
        loss = losses[epoch] if losses else 1.0
        entry = {"epoch": epoch, "validation_accuracy": accuracy, "validation_loss": loss}
        course.record(entry, {"w": torch.tensor(float(epoch))}, rule, keep_last)
    return course


@pytest.mark.parametrize(
    ("accuracies", "rule", "epochs", "best"),
    [
        pytest.param([0.1, 0.2, 0.3], None, 3, 2, id="no rule: all epochs"),
        pytest.param([0.3, 0.2, 0.2, 0.1], None, 4, 0, id="no rule: the best is kept"),
        pytest.param([0.3, 0.2, 0.1, 0.9], EarlyStopping(patience=2), 3, 0, id="patience ends"),
        pytest.param([0.3, 0.2, 0.4, 0.3, 0.3, 0.9], EarlyStopping(patience=2), 5, 2, id="patience begins again"),
        pytest.param([0.30, 0.31, 0.32], EarlyStopping(patience=2, min_delta=0.05), 3, 2, id="small steps are stale"),
        pytest.param([0.5, 0.9, 0.95], EarlyStopping(target=0.9), 2, 1, id="target reached"),
    ],
)
def test_a_course_stops_by_its_rule_and_keeps_its_best_weights(accuracies, rule, epochs, best):
    course = course_of(accuracies, rule)

    assert len(course.history) == epochs
    assert course.best_epoch == best
    assert course.best_weights["w"] == best


def test_the_last_epoch_can_be_kept_and_patience_still_waits_for_the_best():
    course = course_of([0.3, 0.5, 0.2, 0.4, 0.9], EarlyStopping(patience=2), keep_last=True)

    assert (len(course.history), course.best_epoch) == (4, 3)
    assert course.best_weights["w"] == 3


def test_equal_accuracies_are_told_apart_by_their_loss():
    course = course_of([0.9, 0.9, 0.9], None, losses=[0.3, 0.1, 0.2])

    assert course.best_epoch == 1


def test_the_loss_can_be_the_metric():
    course = course_of([0.1, 0.9, 0.9, 0.9], EarlyStopping(metric="loss", patience=2), losses=[0.1, 0.3, 0.2, 0.0])

    assert (course.best_epoch, len(course.history)) == (0, 3)
    assert course.over == "no better loss for 2 epochs"


def test_best_weights_do_not_change_with_the_network():
    weights = torch.zeros(3)
    course = Course()
    course.record({"epoch": 0, "validation_accuracy": 1.0, "validation_loss": 0.0}, {"w": weights}, None)

    weights += 1

    assert torch.equal(course.best_weights["w"], torch.zeros(3))


def test_a_state_is_read_back_without_running_code(tmp_path: Path):
    course = course_of([0.5, 0.25], None)

    checkpoint.save(tmp_path, {"model": {"w": torch.ones(2)}}, course)
    parts, again = checkpoint.load(tmp_path)

    assert torch.equal(parts["model"]["w"], torch.ones(2))
    assert (again.history, again.best_epoch, again.best_weights) == (course.history, 0, course.best_weights)


def test_discarding_what_is_not_there_does_nothing(store: Store):
    checkpoint.discard(store, "key")


def reported(store: Store, *epochs: int) -> Path:
    """A run's folder as Ray Train leaves it: one checkpoint per epoch, all named in its snapshot."""
    folder = Path(checkpoint.storage_path(store)) / "key"
    results = [{"checkpoint_dir_name": f"epoch-{epoch}", "metrics": {}} for epoch in epochs]
    for epoch, result in zip(epochs, results, strict=True):
        made = folder / result["checkpoint_dir_name"]
        made.mkdir(parents=True)
        checkpoint.save(made, {"model": {"w": torch.full((64,), float(epoch))}}, Course())
    snapshot = {
        "checkpoint_results": results,
        "checkpoint_report_indices": list(epochs),
        "latest_checkpoint_result": results[-1],
    }
    (folder / checkpoint.SNAPSHOT).write_text(json.dumps(snapshot))
    return folder


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(truncate, id="truncated"),
        pytest.param(flip_a_bit, id="a bit flipped"),
        pytest.param(Path.unlink, id="file gone"),
        pytest.param(lambda file: shutil.rmtree(file.parent), id="folder gone"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_aloud_for_the_one_before(store: Store, damage: Callable[[Path], object]):
    folder = reported(store, 3, 4)
    damage(folder / "epoch-4" / checkpoint.STATE)

    said = checkpoint.pass_over_damaged(store, "key")

    snapshot = json.loads((folder / checkpoint.SNAPSHOT).read_text())
    assert said == "damaged and passed over: epoch-4; going on from epoch-3"
    assert snapshot["latest_checkpoint_result"]["checkpoint_dir_name"] == "epoch-3"
    assert (len(snapshot["checkpoint_results"]), snapshot["checkpoint_report_indices"]) == (1, [3])
    assert checkpoint.pass_over_damaged(store, "key") == ""


def test_whole_checkpoints_are_left_alone_and_without_any_whole_one_training_begins_anew(store: Store):
    folder = reported(store, 1)
    before = (folder / checkpoint.SNAPSHOT).read_bytes()

    assert checkpoint.pass_over_damaged(store, "key") == ""
    assert (folder / checkpoint.SNAPSHOT).read_bytes() == before

    truncate(folder / "epoch-1" / checkpoint.STATE)
    assert checkpoint.pass_over_damaged(store, "key").endswith("there is none before it, training begins anew")
    assert not (folder / checkpoint.SNAPSHOT).exists()


@pytest.mark.parametrize("cut", [pytest.param(0, id="empty"), pytest.param(20, id="cut off")])
def test_a_list_of_checkpoints_that_was_cut_off_is_written_anew_from_the_whole_ones(store: Store, cut: int):
    folder = reported(store, 3, 4, 5)
    truncate(folder / "epoch-5" / checkpoint.STATE)
    os.truncate(folder / checkpoint.SNAPSHOT, cut)

    said = checkpoint.pass_over_damaged(store, "key")

    snapshot = json.loads((folder / checkpoint.SNAPSHOT).read_text())
    assert said.endswith("; going on from epoch-4")
    assert [result["checkpoint_dir_name"] for result in snapshot["checkpoint_results"]] == ["epoch-3", "epoch-4"]
    assert snapshot["latest_checkpoint_result"]["checkpoint_dir_name"] == "epoch-4"
    assert checkpoint.pass_over_damaged(store, "key") == ""


def test_without_a_list_and_any_whole_checkpoint_training_begins_anew(store: Store):
    folder = reported(store, 1)
    truncate(folder / "epoch-1" / checkpoint.STATE)
    os.truncate(folder / checkpoint.SNAPSHOT, 1)

    assert checkpoint.is_there(store, "key")
    assert checkpoint.pass_over_damaged(store, "key").endswith("none is whole, training begins anew")
    assert not folder.exists()
    assert not checkpoint.is_there(store, "key")


def test_checkpoints_of_another_model_are_refused_in_one_sentence(store: Store):
    checkpoint.claim(store, "key", "one that was refused before its first checkpoint")
    checkpoint.claim(store, "key", "mine")
    reported(store, 1)
    checkpoint.claim(store, "key", "mine")

    with pytest.raises(CheckpointError, match="are of another model or other settings"):
        checkpoint.claim(store, "key", "another")


def test_a_damaged_checkpoint_of_a_training_alone_is_passed_over_aloud(store: Store):
    checkpoint.keep(store, "key", {"model": {"w": torch.tensor(1.0)}}, Course(stale=3))
    assert checkpoint.pass_over_damaged(store, "key") == ""
    path = f"checkpoints/key/{checkpoint.INLINE}"
    data = store.get(path) or b""

    store.put(path, data[:-1])

    assert "damaged and passed over" in checkpoint.pass_over_damaged(store, "key")
    assert checkpoint.kept(store, "key") is None


def test_one_of_another_model_is_refused_whoever_kept_it(store: Store):
    checkpoint.claim(store, "key", "mine")
    checkpoint.keep(store, "key", {}, Course())

    with pytest.raises(CheckpointError, match="are of another model or other settings"):
        checkpoint.claim(store, "key", "another")


def test_an_object_store_with_parameters_keeps_checkpoints_where_ray_looks_for_them(tmp_path: Path):
    store = Store(f"file://{tmp_path}/bucket?endpoint_override=localhost:9000")
    checkpoint.claim(store, "key", "mine")
    checkpoint.keep(store, "key", {"model": {"w": torch.tensor(1.0)}}, Course(stale=3))

    _, folder = fs.FileSystem.from_uri(checkpoint.storage_path(store, "key"))  # as Ray Train does
    parts, course = checkpoint.kept(store, "key") or ({}, Course())

    assert Path(folder) == tmp_path / "bucket" / "checkpoints" / "key"
    assert (Path(folder) / checkpoint.INLINE).exists()
    assert (parts["model"]["w"], course.stale) == (1.0, 3)
    assert checkpoint.names(store) == ["key"]
    assert checkpoint.is_there(store, "key")
    checkpoint.discard(store, "key")
    assert checkpoint.names(store) == []
