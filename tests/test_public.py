"""What users rely on by name is pinned here: a change to it is a decision, with a line in the changelog."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

from cluster import errors
from cluster.config import Experiment, Section
from tasks import task
from trimtab.cli import app, kubernetes_app

VERBS = [
    "alerts", "canary", "deploy", "doctor", "down", "drift", "evaluate", "explain", "feedback", "history", "init",
    "logs", "models", "monitor", "pause", "pin", "plan", "predict", "preprocess", "promote", "replay", "resume",
    "retrain", "rollback", "run", "set_values", "status", "stop", "train", "tune", "undeploy", "unpin", "up",
    "validate", "watch",
]  # fmt: skip
SECTIONS = {
    "": [
        "name", "task", "seed", "data", "model", "text", "answers", "recommend", "train", "tune", "ladder", "serve",
        "adapt", "retrain", "gate", "rollout", "alerts", "kubernetes", "settings",
    ],
    "data": ["source", "image", "split", "shards", "max_rejected"],
    "model": ["network", "weights", "side", "width", "dropout", "label_smoothing"],
    "text": ["encoder", "encoder_learning_rate", "layers", "max_tokens", "max_chars"],
    "answers": [
        "templates", "documents", "out_of_scope_label", "rejected", "least_confidence", "passage_chars",
        "overlap_chars", "max_turns", "conversation_ttl",
    ],
    "recommend": ["width", "ensemble", "recent", "neighbours", "shrink", "diversity"],
    "train": [
        "workers", "device", "precision", "epochs", "rows", "keep", "batch_size", "accumulate", "schedule", "warmup",
        "learning_rate", "weight_decay", "clip_norm", "ema", "class_weights", "augment", "early_stopping",
        "max_failures", "keep_checkpoints", "checkpoint_every", "collective_timeout", "wait",
    ],
    "tune": [
        "space", "algorithm", "early_stop", "metric", "latency", "trials", "minutes", "target", "parallel",
        "workers", "refit",
    ],
    "ladder": ["max_accuracy_loss", "int8", "views", "student", "student_steps"],
    "serve": [
        "route", "replicas", "objective", "cpus_per_replica", "gpus_per_replica", "threads", "concurrency", "rungs",
        "max_batch", "max_wait", "max_queue", "request_timeout", "max_body", "max_pixels", "record",
    ],
    "adapt": [
        "enabled", "tick_ms", "cooldown", "dwell", "replica_cooldown", "patience", "actions_per_minute", "journal",
    ],
    "retrain": ["triggers", "labels", "warm_start", "epochs", "cooldown", "per_day", "most"],
    "gate": [
        "max_accuracy_loss", "max_recent_loss", "least_recent", "max_class_loss", "max_calibration_loss",
        "max_slowdown", "max_growth",
    ],
    "rollout": [
        "automatic", "shadow", "shadow_share", "steps", "least_requests", "least_time", "patience", "error",
        "tolerance",
    ],
    "alerts": [
        "negative", "topics", "similarity", "window", "lateness", "least", "learn", "baseline", "false_alarms",
        "least_rise", "cooldown", "silence", "max_topics", "hosts", "private_hosts",
    ],
    "kubernetes": [
        "image", "namespace", "store", "claim", "tokens_secret", "ray_token_secret", "credentials_secret",
        "schedule", "serve_pod", "train_pod",
    ],
}  # fmt: skip
TASK_METHODS = [
    "accompany", "agreement", "ambiguous", "answer", "augment", "calibrate", "clean", "cross_entropy", "decode",
    "example", "finished", "frozen", "gather", "input_spec", "inspect", "int8", "labels", "larger", "loss",
    "media_types", "metrics", "network", "open", "output_spec", "outputs", "outside", "parameter_groups",
    "partial_statistics", "right", "row_shape", "sample", "simpler", "statistics", "student_share", "students",
    "takes", "targets", "taught", "trims",
]  # fmt: skip


def test_the_verbs_of_the_command_line() -> None:
    assert sorted(command.callback.__name__ for command in app.registered_commands if command.callback) == VERBS


def test_the_verbs_on_kubernetes() -> None:
    assert sorted(command.name or "" for command in kubernetes_app.registered_commands) == ["check", "render"]


def test_the_settings_of_an_experiment() -> None:
    found: dict[str, type[Section]] = {"": Experiment}
    for name in (
        "data",
        "model",
        "text",
        "answers",
        "recommend",
        "train",
        "tune",
        "ladder",
        "serve",
        "adapt",
        "retrain",
        "gate",
        "rollout",
        "alerts",
        "kubernetes",
    ):
        annotation = Experiment.model_fields[name].annotation
        annotation = next(iter(get_args(annotation)), annotation)  # of those that may be left away
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
        "StoppedError": 143,
    }


def test_the_steps_run_as_modules() -> None:
    def begun(module: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", module, "--help"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    modules = ("jobs.preprocess", "jobs.train", "jobs.evaluate", "tune.search")
    for process in [begun(module) for module in modules]:  # all at once: they only import
        shown, error = process.communicate()
        assert process.returncode == 0, error
        assert "experiment" in shown
