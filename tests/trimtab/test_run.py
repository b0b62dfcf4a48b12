"""The quickstart's path from end to end on a real cluster: each step as a job, an endpoint, a second run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from cluster.errors import UserError
from cluster.session import Session, rest
from cluster.store import Store
from serve import deploy

Run = Callable[..., "CompletedProcess[str]"]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def env(cluster: Session, home: Path) -> dict[str, str]:
    return {"TRIMTAB_HOME": str(home), "TRIMTAB_CLUSTER": cluster.name, "TRIMTAB_STORE": cluster.store}


@pytest.fixture
def clean_endpoint(cluster: Session) -> Iterator[None]:
    yield
    with contextlib.suppress(UserError):  # the test took it away itself
        deploy.undeploy(cluster, "digits")


@pytest.mark.usefixtures("clean_endpoint")
def test_from_a_file_to_an_answer_and_again_with_nothing_left_to_do(
    trimtab: Run, env: dict[str, str], tmp_path: Path, cluster: Session
) -> None:
    env = {**env, "TRIMTAB_STORE": str(tmp_path / "store")}
    first = trimtab("run", "experiments/digits.yaml", env=env, timeout_s=900)

    assert first.returncode == 0, first.stderr
    for step in ("preprocess", "train", "evaluate"):
        assert f"{step:<11} done in" in first.stderr
    figures = dict(line.split("  ", 1) for line in first.stdout.split("\n\n")[0].splitlines())
    assert figures["rows in"].strip() == "1,797"
    assert float(figures["test accuracy"]) > 0.95

    # The line to paste works when pasted.
    curl = first.stdout.split("try it:\n")[1].strip()
    answer = json.loads(subprocess.run(["bash", "-c", curl], capture_output=True, text=True, check=True).stdout)
    assert answer["label"] in list("0123456789")
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-3)

    second = trimtab("run", "experiments/digits.yaml", "--json", env=env, timeout_s=900)

    assert second.returncode == 0, second.stderr
    assert second.stderr.count("skipped, unchanged") == 3
    again = json.loads(second.stdout)
    assert again["model version"] == 1
    assert [again["seconds"][step] for step in ("preprocess", "train", "evaluate")] == [0, 0, 0]

    asked = trimtab("predict", "experiments/digits.yaml", _sample(curl), "--json", env=env)
    assert json.loads(asked.stdout)["label"] == answer["label"]
    rows = json.loads(trimtab("models", "digits", "--json", env=env).stdout)
    assert [(row["version"], row["aliases"]) for row in rows] == [(1, ["stable"])]
    assert "confusion" in trimtab("models", "digits", "--version", "stable", env=env).stdout.lower()
    shown = json.loads(trimtab("models", "digits", "--version", "stable", "--json", env=env).stdout)
    assert shown["variants"] == [rung["variant"] for rung in shown["ladder"]["rungs"]]
    back = trimtab("rollback", "experiments/digits.yaml", env=env)
    assert (back.returncode, "Traceback" in back.stderr) == (4, False)
    assert "no version or alias previous" in back.stderr

    assert _actors(cluster, "digits") == 1
    would = trimtab("undeploy", "digits", "--dry-run", "--json", env=env)
    assert json.loads(would.stdout) == {"would take away": "digits", "version": 1, "route": "/"}
    gone = trimtab("undeploy", "digits", "--json", env=env)
    assert json.loads(gone.stdout) == {"took away": "digits", "version": 1, "route": "/"}
    assert _actors(cluster, "digits") == 0
    assert json.loads(trimtab("models", "digits", "--json", env=env).stdout) == rows


def test_inline_gives_the_same_dataset_and_an_unmet_objective_is_not_deployed(
    trimtab: Run, env: dict[str, str], experiment_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = experiment_file(
        name="digits-gate", train={"epochs": 1}, serve={"objective": {"accuracy_at_least": 0.999}, "route": "/gate"}
    )

    done = trimtab("run", str(path), "--inline", "--json", env=env, timeout_s=900)

    assert done.returncode == 3, done.stderr
    error = json.loads(done.stdout)  # and nothing that Ray says, in whose process this was
    assert error["error"].startswith("serve.objective.accuracy_at_least = 0.999")
    assert "Traceback" not in done.stderr
    store = Store.open(env["TRIMTAB_STORE"])
    trained = [store.manifest("runs", key) for key in store.keys("runs")]
    (mine,) = [run for run in trained if run["experiment"]["name"] == "digits-gate"]
    assert (mine["epochs"], mine["feed"]) == (1, "memory")
    assert mine["first_step_s"] > 0


def test_texts_go_from_a_table_to_an_answer(
    trimtab: Run, env: dict[str, str], experiment_file: Callable[..., Path], cluster: Session, tmp_path: Path
) -> None:
    (tmp_path / "news.jsonl").write_text("\n".join(json.dumps(row) for row in _news()))
    path = experiment_file(
        name="news",
        task="sentiment",
        data={"source": {"kind": "jsonl", "path": str(tmp_path / "news.jsonl"), "input": "headline"}, "shards": 2},
        text={"layers": 1, "max_tokens": 24},  # the encoder's own weights, a sixth of its time
        train={"workers": 2, "epochs": 4, "batch_size": 32, "learning_rate": 0.002},
        ladder={"student_steps": 20, "max_accuracy_loss": 0.9},
        serve={"route": "/news"},
    )
    try:
        done = trimtab("run", str(path), env=env, timeout_s=900)

        assert done.returncode == 0, done.stderr
        figures = dict(line.split("  ", 1) for line in done.stdout.split("\n\n")[0].splitlines())
        assert figures["rejected"].strip() == "total 4, empty 1, missing_label 1, no_known_word 1, too_long 1"
        assert float(figures["test accuracy"]) > 0.9
        curl = done.stdout.split("try it:\n")[1].strip()
        answer = json.loads(subprocess.run(["bash", "-c", curl], capture_output=True, text=True, check=True).stdout)
        assert answer["label"] in ("negative", "neutral", "positive")

        (tmp_path / "two.json").write_text(
            json.dumps({"instances": [{"text": "Profit <b>rose</b>"}, {"headline": "Sales fell " * 30}]})
        )
        asked = trimtab("predict", str(path), str(tmp_path / "two.json"), "--json", env=env)
        first, second = json.loads(asked.stdout)["predictions"]
        assert (first["label"], second["label"]) == ("positive", "negative")
        assert first["score"] > 0 > second["score"]
        assert second["cut"] is True

        (tmp_path / "emoji.txt").write_text("👍")
        refused = trimtab("predict", str(path), str(tmp_path / "emoji.txt"), env=env)
        assert refused.returncode != 0
        assert "no_known_word" in refused.stderr
        rungs = json.loads(trimtab("models", "news", "--version", "stable", "--json", env=env).stdout)["ladder"]
        names = {rung["variant"] for rung in (*rungs["rungs"], *rungs["left_out"])}
        assert {"onnx-fp32", "onnx-int8", "static-student-fp32", "ngram-student-fp32"} <= names
    finally:
        deploy.undeploy(cluster, "news")


def _news() -> list[dict[str, Any]]:
    """Headlines whose verb decides, and four that are no use."""
    verbs = {"positive": ("rose", "grew", "improved"), "negative": ("fell", "shrank", "dropped")}
    verbs |= {"neutral": ("was reported", "is unchanged", "was published")}
    subjects = ("Profit", "Turnover", "Sales", "Revenue", "Demand", "Income", "Production", "Traffic", "Output")
    places = ("in Finland", "in Sweden", "in May", "this year", "in Europe", "in the quarter")
    rows: list[dict[str, Any]] = [
        {"headline": f"{subject} {verb} {place}", "label": label}
        for label, words in verbs.items()
        for verb in words
        for subject in subjects
        for place in places
    ]
    bad = [("<br>", "neutral"), ("Profit rose", None), ("🚀", "positive"), ("x" * 1_000_000, "negative")]
    return rows + [{"headline": text, "label": label} for text, label in bad]


def test_a_step_that_fails_in_a_job_says_why_in_one_sentence_and_leaves_nothing_half_made(
    trimtab: Run, env: dict[str, str], experiment_file: Callable[..., Path], tmp_path: Path
) -> None:
    for name in ("cat/1.png", "dog/1.png", "dog/2.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"no image at all")
    before = Store.open(env["TRIMTAB_STORE"]).keys("datasets")
    source: dict[str, Any] = {"kind": "image_folder", "path": str(tmp_path / "images")}

    done = trimtab("run", str(experiment_file(name="broken", data={"source": source})), env=env)

    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("trimtab: data.")
    assert Store.open(env["TRIMTAB_STORE"]).keys("datasets") == before


def test_an_interrupt_lets_go_of_a_job_which_goes_on_until_it_is_stopped(
    trimtab: Run, env: dict[str, str], experiment_file: Callable[..., Path]
) -> None:
    path = experiment_file(name="digits-long", train={"epochs": 5000, "early_stopping": None, "device": "cpu"})
    assert trimtab("preprocess", str(path), env=env, timeout_s=600).returncode == 0
    command = [sys.executable, "-m", "trimtab", "train", str(path)]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("TRIMTAB_", "RAY_"))}

    with subprocess.Popen(command, env={**clean, **env}, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        seen = next(line for line in process.stderr if line.startswith("train ") and "loss" in line)
        process.send_signal(signal.SIGINT)
        words = process.stderr.read()

    assert seen
    assert process.returncode == 130
    job = re.search(r"trimtab logs -f (\S+);", words)
    assert job is not None, words
    jobs = json.loads(trimtab("logs", "--json", env=env).stdout)
    assert [row["state"] for row in jobs if row["job"] == job[1]] == ["running"]
    assert json.loads(trimtab("stop", job[1], "--json", env=env).stdout)["stopped"] is True


def _actors(cluster: Session, name: str) -> int:
    """How many adaptation actors of an endpoint live."""
    query = "/api/v0/actors?detail=1&filter_keys=state&filter_predicates=%3D&filter_values=ALIVE"
    found = rest(cluster, "GET", query)["data"]["result"]["result"]
    return sum(actor["class_name"] == "Actor" and name in (actor["name"] or "") for actor in found)


def _sample(curl: str) -> str:
    return next(word[1:] for word in shlex.split(curl.replace("$(", "").replace(")", "")) if word.startswith("@"))
