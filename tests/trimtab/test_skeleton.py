from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import experiment as experiments
from cluster.errors import DataError, UserError
from tasks.task import load_task
from trimtab.skeleton import skeleton

ROOT = Path(__file__).resolve().parents[2]


def test_a_skeleton_works_as_it_stands_and_so_does_its_test(tmp_path: Path) -> None:
    written = skeleton("my-boxes", None, tmp_path / "boxes" / "experiment.yaml")

    made = experiments.load(written[0])
    assert made.data.source.kind == "csv"
    assert type(load_task(made)).__name__ == "MyBoxesTask"
    assert [path.name for path in written[1:]] == ["my_boxes_task.py", "test_my_boxes_task.py", "my-boxes.csv"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path / "boxes")]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    tested = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert "2 passed" in tested.stdout, tested.stdout


def test_columns_come_from_the_table_there_is(tmp_path: Path) -> None:
    (tmp_path / "it's.csv").write_text('a,"b ""c""",y\n1,2,3\n')

    written = skeleton("its", str(tmp_path / "it's.csv"), tmp_path / "experiment.yaml")

    source = experiments.load(written[0]).data.source
    assert (source.input, source.label) == (["a", 'b "c"'], "y")
    assert len(written) == 3


def test_nothing_is_written_over_or_beside_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "test_mine_task.py").write_text("mine")

    with pytest.raises(UserError, match="already exists"):
        skeleton("mine", None, tmp_path / "experiment.yaml")

    assert [path.name for path in tmp_path.iterdir()] == ["test_mine_task.py"]


@pytest.mark.parametrize("content", [pytest.param(None, id="none"), pytest.param("one\n1\n", id="one column")])
def test_a_table_that_cannot_be_read_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "rows.csv").write_text(content)

    with pytest.raises(DataError, match="CSV file"):
        skeleton("mine", str(tmp_path / "rows.csv"), tmp_path / "experiment.yaml")
