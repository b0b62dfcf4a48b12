from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from trimtab.skeleton import skeleton

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    skeleton("mine", None, tmp_path / "mine" / "experiment.yaml")
    return tmp_path / "mine"


def test_validate_tries_the_task_on_rows_of_its_source_and_does_not_import_it(tmp_path: Path, trimtab: Run) -> None:
    folder = tmp_path / "mine"
    made = trimtab("init", "--task", "custom", "--out", str(folder / "experiment.yaml"))
    assert made.returncode == 0, made.stderr
    # Whatever a task does to its process, the command line outlives it.
    (folder / "mine_task.py").write_text((folder / "mine_task.py").read_text() + "\nimport os; os.environ.clear()\n")

    done = trimtab("validate", str(folder / "experiment.yaml"))

    assert done.returncode == 0, done.stderr
    assert "every method tried on 64 rows of the source: float32 3, labels large, small" in done.stderr
    assert "is valid: mine, task mine_task:MineTask" in done.stdout


@pytest.mark.parametrize(
    ("code", "exit_code", "words"),
    [
        pytest.param(
            "MineTask.loss = lambda self, logits: 0", 2, "its loss() cannot be called as", id="a wrong method"
        ),
        pytest.param("import os; os._exit(9)", 1, "died with code 9", id="a dying process"),
        pytest.param(
            "import no_such_package", 2, "install no_such_package where the cluster runs", id="a missing package"
        ),
    ],
)
def test_what_is_wrong_is_one_sentence(folder: Path, trimtab: Run, code: str, exit_code: int, words: str) -> None:
    (folder / "mine_task.py").write_text((folder / "mine_task.py").read_text() + f"\n{code}\n")

    done = trimtab("validate", str(folder / "experiment.yaml"))

    assert done.returncode == exit_code, done.stderr
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
