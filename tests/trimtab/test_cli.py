"""The command line as a person meets it: a process, its two streams and its exit code."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from typer.testing import CliRunner

from cluster.errors import UserError
from cluster.session import Session
from trimtab.cli import app, config_app, kubernetes_app, main

Run = Callable[..., "CompletedProcess[str]"]
VERBS = [
    "run", "preprocess", "tune", "train", "evaluate", "deploy", "undeploy", "plan", "validate", "up", "down", "status",
    "predict", "models", "logs", "stop", "doctor", "init", "config",
]  # fmt: skip


def test_help_names_every_verb(trimtab: Run) -> None:
    shown = trimtab("--help")

    assert shown.returncode == 0
    assert [verb for verb in VERBS if verb not in shown.stdout] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["--set", "train.epoch=3"], "did you mean `epochs`?", id="unknown key"),
        pytest.param(["--set", "train.epochs=x"], "should be a valid integer", id="wrong type"),
        pytest.param(["--set", "train.collective_timeout=5"], "for example 10m", id="wrong unit"),
        pytest.param(["--set", "tune.space={rate: {log: [1, 2]}}"], "no setting of train or model", id="search space"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "validate", "plan"])
def test_a_mistake_in_the_file_is_one_sentence_and_exit_code_2(
    trimtab: Run, experiment_file: Callable[..., Path], verb: str, arguments: list[str], words: str
) -> None:
    done = trimtab(verb, str(experiment_file()), *arguments)

    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_mistake_is_json_when_json_was_asked_for(trimtab: Run, experiment_file: Callable[..., Path]) -> None:
    done = trimtab("validate", str(experiment_file()), "--set", "train.epoch=3", "--json")

    assert done.returncode == 2
    assert json.loads(done.stdout)["field"] == "train.epoch"


def test_a_search_without_a_space_is_refused(trimtab: Run, experiment_file: Callable[..., Path]) -> None:
    done = trimtab("tune", str(experiment_file()))

    assert done.returncode == 2
    assert "tune = None: is missing" in done.stderr


def test_a_plan_has_the_search_between_the_data_and_the_training(
    trimtab: Run, experiment_file: Callable[..., Path]
) -> None:
    done = trimtab("plan", str(experiment_file(tune={"space": {"width": {"uniform": [0.5, 2.0]}}})), "--json")

    assert [row["step"] for row in json.loads(done.stdout)] == ["preprocess", "tune", "train", "evaluate", "deploy"]


def test_an_unknown_option_is_a_usage_error(trimtab: Run) -> None:
    assert trimtab("run", "x.yaml", "--nonsense").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "env", "code", "words"),
    [
        pytest.param(["run", "no.yaml"], {}, 2, "no such file", id="no file"),
        pytest.param(["status"], {"TRIMTAB_ADDRESS": "http://127.0.0.1:9"}, 2, "127.0.0.1:9", id="nobody there"),
        pytest.param(["status"], {"TRIMTAB_ADDRESS": "nonsense"}, 2, "http://host:8265", id="no address"),
        pytest.param(["logs"], {}, 2, "trimtab up", id="no cluster"),
        pytest.param(["models", "nope"], {}, 4, "no model 'nope'", id="unknown model"),
        pytest.param(["models"], {"TRIMTAB_STORE": "/dev/null/x"}, 2, "TRIMTAB_STORE", id="store not writable"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    trimtab: Run, arguments: list[str], env: dict[str, str], code: int, words: str
) -> None:
    done = trimtab(*arguments, env=env)

    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("source", "words"),
    [
        pytest.param({"kind": "idx", "path": "/nowhere"}, "data.source.path", id="missing idx folder"),
        pytest.param({"kind": "image_folder", "path": "/nowhere"}, "data.source.path", id="missing image folder"),
        pytest.param({"kind": "parquet", "path": "/nowhere.parquet"}, "data.source.path", id="missing table"),
    ],
)
def test_data_that_is_not_there_is_said_before_any_cluster_starts(
    trimtab: Run, experiment_file: Callable[..., Path], source: dict[str, str], words: str
) -> None:
    done = trimtab("run", str(experiment_file(data={"source": source})))

    assert done.returncode == 2
    assert words in done.stderr
    assert "up in" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(
            ["--kubernetes", "--address", "http://x"], "--address = 'http://x': does not go with", id="address"
        ),
        pytest.param(["--kubernetes", "--inline"], "--inline = True: does not go with --kubernetes", id="inline"),
        pytest.param(["--kubernetes", "--watch"], "--watch = True: does not go with --kubernetes", id="watch"),
        pytest.param(["--kubernetes", "--store", "x"], "--store = 'x': does not go with --kubernetes", id="store"),
        pytest.param(
            ["--kubernetes", "--cluster", "x"], "--cluster = 'x': does not go with --kubernetes", id="cluster"
        ),
        pytest.param(["--context", "x"], "--context = 'x': goes with --kubernetes alone", id="context"),
        pytest.param(["--overlay", "gpu"], "--overlay = 'gpu': goes with --kubernetes alone", id="overlay"),
    ],
)
def test_a_flag_that_would_be_without_effect_is_refused(
    experiment_file: Callable[..., Path], arguments: list[str], words: str
) -> None:
    done = CliRunner().invoke(app, ["run", str(experiment_file()), "--dry-run", *arguments])

    assert isinstance(done.exception, UserError)
    assert str(done.exception).startswith(words)


def test_an_address_in_the_environment_is_for_other_commands_and_json_is_json(
    experiment_file: Callable[..., Path],
) -> None:
    arguments = ["run", str(experiment_file()), "--dry-run", "--kubernetes", "--json"]

    done = CliRunner().invoke(app, arguments, env={"TRIMTAB_ADDRESS": "http://x", "TRIMTAB_STORE": "x"})

    assert {"RayJob", "RayService"} <= {one["kind"] for one in json.loads(done.stdout)}


def test_every_verb_has_json() -> None:
    verbs = [*app.registered_commands, *config_app.registered_commands, *kubernetes_app.registered_commands]

    assert [
        verb.callback for verb in verbs if "as_json" not in inspect.signature(verb.callback or main).parameters
    ] == []


def test_plan_says_what_would_run_and_loads_no_engine(trimtab: Run, experiment_file: Callable[..., Path]) -> None:
    done = trimtab("plan", str(experiment_file()), "--json")

    assert [(step["step"], step["would"]) for step in json.loads(done.stdout)] == [
        ("preprocess", "run"),
        ("train", "run"),
        ("evaluate", "run"),
        ("deploy", "run"),
    ]


def test_a_dry_run_is_a_plan(trimtab: Run, experiment_file: Callable[..., Path]) -> None:
    path = str(experiment_file())

    assert trimtab("run", path, "--dry-run", "--json").stdout == trimtab("plan", path, "--json").stdout


def test_init_writes_a_file_that_validates(trimtab: Run, tmp_path: Path) -> None:
    made = trimtab("init", "--out", str(tmp_path / "mine.yaml"))

    assert made.returncode == 0
    assert trimtab("validate", str(tmp_path / "mine.yaml")).returncode == 0
    assert trimtab("init", "--out", str(tmp_path / "mine.yaml")).returncode == 2


def test_the_schema_is_json_on_stdout(trimtab: Run) -> None:
    schema = json.loads(trimtab("config", "schema").stdout)

    assert schema["properties"]["train"]["$ref"] == "#/$defs/Train"


def test_the_doctor_looks_at_this_machine(trimtab: Run) -> None:
    checks = json.loads(trimtab("doctor", "--json").stdout)

    assert {check["state"] for check in checks} <= {"ok", "warn", "fail"}
    assert {"python", "haproxy", "memory"} <= {check["check"] for check in checks}


def test_down_without_a_cluster_says_so(trimtab: Run) -> None:
    done = trimtab("down")

    assert done.returncode == 0
    assert "not running" in done.stderr


def test_what_could_not_be_served_is_refused_before_anything_is_trained_and_the_plan_says_it(
    trimtab: Run, cluster: Session, home: Path, experiment_file: Callable[..., Path]
) -> None:
    env = {"TRIMTAB_HOME": str(home), "TRIMTAB_CLUSTER": cluster.name}
    path = str(experiment_file(name="large", serve={"cpus_per_replica": 60.0}))

    done, planned = trimtab("run", path, env=env), trimtab("plan", path, "--json", env=env)

    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "trimtab: serve.cpus_per_replica = 60.0: replicas.min 1 of them need"
    )
    assert "preprocess" not in done.stderr
    assert [(row["step"], row["would"]) for row in json.loads(planned.stdout)][-1] == ("deploy", "fail")
    without_gpu = trimtab("plan", path, "--set", "train.device=cuda", "--set", "train.workers=64", "--json", env=env)
    assert [row["would"] for row in json.loads(without_gpu.stdout)] == ["run", "fail", "run", "fail"]
    assert "preprocess" not in trimtab("train", path, "--set", "train.workers=64", env=env).stderr


def test_status_and_logs_speak_of_the_running_cluster(trimtab: Run, cluster: Session, home: Path) -> None:
    env = {"TRIMTAB_HOME": str(home), "TRIMTAB_CLUSTER": cluster.name}

    status = json.loads(trimtab("status", "--json", env=env).stdout)

    assert status["running"] is True
    assert status["dashboard"] == cluster.dashboard_url
    assert trimtab("logs", "no-such-job", env=env).returncode == 4
    unknown = trimtab("undeploy", "no-such-endpoint", env=env)
    assert unknown.returncode == 2
    assert "NAME = 'no-such-endpoint': is no endpoint of this cluster; endpoints there are:" in unknown.stderr
