from __future__ import annotations

from pathlib import Path

import pytest

from cluster import experiment as experiments
from cluster.errors import DataError, UserError
from trimtab.scaffold import name_from, scaffold


def test_a_file_for_the_digits_is_valid_and_commented(tmp_path: Path) -> None:
    made = scaffold("digits", None, tmp_path / "digits.yaml")

    assert experiments.load(made).data.source.kind == "digits"
    assert "#" in made.read_text()


def _png(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"looked at by its name only")


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        pytest.param(["cat/1.png", "dog/2.jpg"], "image_folder", id="a folder per class"),
        pytest.param(["part-1.parquet"], "parquet", id="parquet"),
        pytest.param(["rows.csv"], "csv", id="csv"),
        pytest.param(["rows.jsonl"], "jsonl", id="jsonl"),
        pytest.param(["train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"], "idx", id="idx"),
    ],
)
def test_the_kind_is_found_by_looking(tmp_path: Path, files: list[str], kind: str) -> None:
    for name in files:
        _png(tmp_path / "it's data" / name)

    made = experiments.load(scaffold("mine", str(tmp_path / "it's data"), tmp_path / "mine.yaml"))

    assert made.data.source.kind == kind


@pytest.mark.parametrize(
    ("files", "words"),
    [
        pytest.param([], "no images, tables or idx", id="empty"),
        pytest.param(["readme.txt"], "no images, tables or idx", id="nothing known"),
        pytest.param(["only/1.png"], "1 class folder", id="one class"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_and_nothing_written(
    tmp_path: Path, files: list[str], words: str
) -> None:
    (tmp_path / "data").mkdir()
    for name in files:
        _png(tmp_path / "data" / name)

    with pytest.raises(DataError, match=words):
        scaffold("mine", str(tmp_path / "data"), tmp_path / "mine.yaml")

    assert not (tmp_path / "mine.yaml").exists()


def test_an_existing_file_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("mine")

    with pytest.raises(UserError, match="already exists"):
        scaffold("digits", None, tmp_path / "x.yaml")

    assert (tmp_path / "x.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("path", "name"),
    [("My Photos", "my-photos"), ("2024", "model-2024"), ("data.parquet", "data"), ("__", "model")],
)
def test_names_are_made_valid(path: str, name: str) -> None:
    assert name_from(Path(path)) == name
