"""What users rely on by name is pinned here: a change to it is a decision, with a line in the changelog."""

from __future__ import annotations

import subprocess
import sys

from cluster import errors
from cluster.config import Experiment, Section
from tasks import task
from trimtab.cli import app

VERBS = [
    "deploy", "doctor", "down", "evaluate", "init", "logs", "models", "plan",
    "predict", "preprocess", "run", "status", "stop", "train", "up", "validate",
]  # fmt: skip
SECTIONS = {
    "": ["name", "task", "seed", "data", "model", "train", "ladder", "serve"],
    "data": ["source", "image", "split", "shards", "max_rejected"],
    "model": ["network", "dropout", "label_smoothing"],
    "train": [
        "workers", "device", "precision", "epochs", "batch_size", "learning_rate", "weight_decay",
        "augment", "early_stopping", "max_failures", "keep_checkpoints", "collective_timeout",
    ],
    "ladder": ["max_accuracy_loss", "int8", "student", "student_steps"],
    "serve": [
        "route", "replicas", "objective", "cpus_per_replica", "rungs", "max_batch", "max_wait",
        "max_queue", "request_timeout", "max_body", "max_pixels",
    ],
}  # fmt: skip
TASK_METHODS = [
    "answer", "augment", "clean", "decode", "input_spec", "loss", "media_types", "network",
    "partial_statistics", "row_shape", "statistics", "students",
]  # fmt: skip


def test_the_verbs_of_the_command_line() -> None:
    assert sorted(command.callback.__name__ for command in app.registered_commands if command.callback) == VERBS


def test_the_settings_of_an_experiment() -> None:
    found: dict[str, type[Section]] = {"": Experiment}
    for name in ("data", "model", "train", "ladder", "serve"):
        annotation = Experiment.model_fields[name].annotation
        assert isinstance(annotation, type)
        found[name] = annotation

    assert {name: list(section.model_fields) for name, section in found.items()} == SECTIONS


def test_what_a_task_of_ones_own_implements() -> None:
    assert sorted(name for name in vars(task.Task) if not name.startswith("_")) == TASK_METHODS


def test_the_exit_codes() -> None:
    codes = {name: kind.exit_code for name, kind in vars(errors).items() if hasattr(kind, "exit_code")}

    assert codes == {
        "TrimtabError": 1,
        "UserError": 2,
        "ConfigError": 2,
        "DataError": 2,
        "StoreError": 2,
        "ClusterError": 2,
        "GateError": 3,
        "NotFoundError": 4,
        "UnauthorisedError": 5,
        "DeadlineError": 124,
    }


def test_the_steps_run_as_modules() -> None:
    for step in ("preprocess", "train", "evaluate"):
        shown = subprocess.run([sys.executable, "-m", f"jobs.{step}", "--help"], capture_output=True, text=True)
        assert shown.returncode == 0, shown.stderr
        assert "experiment" in shown.stdout
