from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster import experiment as experiments
from cluster.config import Experiment
from cluster.errors import ConfigError
from cluster.store import Store
from tasks import own
from tasks.task import code_version, load_task

Write = Callable[..., Experiment]


def test_what_the_module_imports_from_its_folder_belongs_to_it_and_nothing_else(
    own_task: Write, tmp_path: Path
) -> None:
    made = own_task("kit.inner.sums:Sums", "from . import beside\nfrom ..near import thing\nimport numpy, json\n")
    for name in ("kit/__init__.py", "kit/near.py", "kit/inner/beside.py", "kit/unused.py", "kit/inner/test_sums.py"):
        (tmp_path / name).write_text("thing = 1\n")

    code = own.find(made)

    assert load_task(made).row_shape(iter(())) == (3,)
    assert code is not None
    assert sorted(code.files) == [
        "kit/__init__.py", "kit/inner/beside.py", "kit/inner/sums.py", "kit/near.py", "sums_helper.py",
    ]  # fmt: skip


def test_a_task_is_found_beside_its_experiment_and_its_key_follows_its_code(own_task: Write, tmp_path: Path) -> None:
    made = own_task()
    before = code_version(made)

    assert load_task(made).row_shape(iter(())) == (3,)
    assert str(tmp_path) not in sys.path
    (tmp_path / "unrelated.py").write_text("")
    assert code_version(made) == before
    (tmp_path / "sums_helper.py").write_text("WIDTH = 4\n")
    assert code_version(made) != before
    assert load_task(made).row_shape(iter(())) == (4,)  # also in a process that had the one before


def test_another_process_gets_the_code_from_the_store_by_its_hash(
    own_task: Write, store: Store, tmp_path: Path
) -> None:
    made = own_task()
    order = own.ship(made, store)
    (tmp_path / "sums.py").unlink()
    script = (
        "from cluster import experiment; from tasks.task import code_version, load_task;"
        "made = experiment.load('-'); print(load_task(made).row_shape(iter(())), code_version(made))"
    )
    environment = os.environ | order | {experiments.ENVIRONMENT: made.model_dump_json()}

    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)

    assert done.stdout.startswith("(3,)"), done.stderr
    own_task()
    assert done.stdout.split()[1] == code_version(made)


def test_code_that_is_not_what_was_ordered_is_not_imported(
    own_task: Write, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = own_task()
    digest, _, uri = own.ship(made, store)[own.VARIABLE].partition(" ")
    forged = digest[:16] + digest[:48]
    monkeypatch.setenv(own.VARIABLE, f"{forged} {uri}")

    with pytest.raises(ConfigError, match="has other code under that name"):
        own.find(made.lying_in(""))


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        pytest.param("tasks.mine:Sums", "", "the name of one of Trimtab's own packages; rename it", id="ours"),
        pytest.param("statistics:Sums", "", "the name of a module that is installed", id="Python's"),
        pytest.param("yaml:Sums", "", "the name of a module that is installed", id="installed"),
        pytest.param("sums:Sums", "def broken(:\n", r"is not Python \(sums.py, line", id="no Python"),
        pytest.param(
            "sums:Sums", "import no_such_package\n", "install no_such_package where the cluster runs", id="not there"
        ),
        pytest.param(
            "sums:Sums", "1 / 0\n", "importing it raised ZeroDivisionError: division by zero at sums.py", id="fails"
        ),
        pytest.param("sums:Other", "", "cannot be imported", id="no such class"),
        pytest.param("sums:WIDTH", "", "is not a subclass of tasks.task.Task", id="no class"),
        pytest.param(
            "sums:Less", "class Less(Task):\n    pass\n", r"does not define clean\(\), decode\(\)", id="methods lack"
        ),
    ],
)
def test_what_keeps_a_task_from_being_imported_is_one_sentence(
    own_task: Write, name: str, more: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        load_task(own_task(name, more))

    assert str(refused.value).startswith(f"task = '{name}': ")
    assert "\n" not in str(refused.value)


def test_a_module_that_is_nowhere_says_where_it_is_looked_for(own_task: Write) -> None:
    made = own_task().model_copy(update={"task": "nowhere:Task"})

    for look in (load_task, code_version):
        with pytest.raises(ConfigError, match="put it into the folder of the experiment file, or install it"):
            look(made)


def test_built_in_tasks_carry_no_code(own_task: Write, store: Store) -> None:
    assert own.ship(own_task().model_copy(update={"task": "images"}), store) == {}
