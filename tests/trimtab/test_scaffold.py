from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import experiment as experiments
from cluster.config import ParquetSource
from cluster.errors import DataError, UserError
from jobs import sources
from trimtab.scaffold import name_from, scaffold


def test_a_file_for_the_digits_is_valid_and_commented(tmp_path: Path) -> None:
    made = scaffold("digits", None, tmp_path / "digits.yaml")

    assert experiments.load(made).data.source.kind == "digits"
    assert "#" in made.read_text()


def test_an_endpoint_has_a_route_of_its_own(tmp_path: Path) -> None:
    assert experiments.load(scaffold("mine", None, tmp_path / "mine.yaml")).serve.route == "/mine"


def _png(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"looked at by its name only")


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        pytest.param(["cat/1.png", "dog/2.jpg"], "image_folder", id="a folder per class"),
        pytest.param(["train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"], "idx", id="idx"),
    ],
)
def test_the_kind_is_found_by_looking(tmp_path: Path, files: list[str], kind: str) -> None:
    for name in files:
        _png(tmp_path / "it's data" / name)

    made = experiments.load(scaffold("mine", str(tmp_path / "it's data"), tmp_path / "mine.yaml"))

    assert made.data.source.kind == kind


TEXTS = "headline,sentiment\n" + "profit rose again,good\nprofit fell again,bad\n" * 3
QUESTIONS = '{"question": "where is it", "intent": "track"}\n{"question": "take it back", "intent": "return"}\n' * 3
EVENTS = "userId,movieId,rating,timestamp\n1,7,4.5,100\n1,8,3.0,101\n"
ITEMS = "movieId,title,genres\n7,Heat,Crime\n8,Sabrina,Comedy\n"
BOXES = "height,width,size\n1,2,small\n9,9,large\n"


@pytest.mark.parametrize(
    ("files", "data", "asked", "task", "source"),
    [
        pytest.param({"a.csv": TEXTS}, "a.csv", None, "sentiment", {"kind": "csv", "input": "headline"}, id="texts"),
        pytest.param({"q.jsonl": QUESTIONS}, "q.jsonl", None, "answers", {"label": "intent"}, id="intents"),
        pytest.param({"a.csv": TEXTS}, "", "answers", "answers", {"kind": "csv", "label": "sentiment"}, id="asked for"),
        pytest.param({"e.csv": EVENTS, "i.csv": ITEMS}, "", None, "recommend", {"kind": "interactions"}, id="events"),
        pytest.param({"a.csv": "x", "e.csv": EVENTS, "i.csv": ITEMS}, "e.csv", None, "recommend", {}, id="and others"),
    ],
)
def test_a_tables_columns_say_which_task_it_is_for(
    tmp_path: Path, files: dict[str, str], data: str, asked: str | None, task: str, source: dict[str, str]
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)

    made = experiments.load(scaffold("mine", str(tmp_path / data), tmp_path / "mine.yaml", asked))

    assert made.task == task
    assert {name: getattr(made.data.source, name) for name in source} == source
    sources.preflight(made)  # the columns it names are there


def test_a_parquet_table_of_images_is_for_images(tmp_path: Path) -> None:
    pq.write_table(pa.table({"picture": [b"\x89PNG..."] * 4, "class": ["a", "b"] * 2}), tmp_path / "a.parquet")

    made = experiments.load(scaffold("mine", str(tmp_path), tmp_path / "mine.yaml"))

    assert (made.task, made.data.source.kind) == ("images", "parquet")
    assert isinstance(made.data.source, ParquetSource)
    assert (made.data.source.input, made.data.source.label) == ("picture", "class")


@pytest.mark.parametrize(
    ("files", "asked", "words"),
    [
        pytest.param(
            {"a.csv": BOXES}, None, "height, width, size, .* no images, nor texts .*--task custom", id="numbers"
        ),
        pytest.param({"a.csv": BOXES}, "sentiment", "no texts beside a column of labels", id="not what was asked"),
        pytest.param({"a.csv": EVENTS}, None, "and a table of those items", id="no items"),
        pytest.param(
            {"a.csv": "so good,yes\nso bad,no\nvery good,yes\n"}, None, "no line of column names", id="no header"
        ),
        pytest.param({"a.csv": "1,2\n3,4\n"}, None, "no line of column names", id="numbers for a header"),
        pytest.param({"a.csv": "text,text\na,b\n"}, None, "two columns of the name 'text'", id="a name twice"),
        pytest.param({"a.csv": "text,label\n"}, None, "holds no row", id="no rows"),
        pytest.param({"a.parquet": "junk"}, None, "is no parquet file", id="not Parquet"),
        pytest.param({"a.jsonl": "[1]\n"}, None, "is no jsonl file", id="not objects"),
        pytest.param(
            {"cat/1.png": "", "dog/1.png": ""}, "sentiment", "holds no table", id="images for a task of texts"
        ),
    ],
)
def test_a_table_that_fits_no_task_is_refused_and_nothing_written(
    tmp_path: Path, files: dict[str, str], asked: str | None, words: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    with pytest.raises(DataError, match=words):
        scaffold("mine", str(tmp_path), tmp_path / "mine.yaml", asked)

    assert not (tmp_path / "mine.yaml").exists()


@pytest.mark.parametrize(
    ("name", "out", "words"),
    [
        pytest.param("X Y", "mine.yaml", "name = 'X Y'", id="no name"),
        pytest.param("mine", "file/mine.yaml", "--out = .*: cannot be written", id="a parent that is a file"),
    ],
)
def test_what_cannot_be_written_is_said(tmp_path: Path, name: str, out: str, words: str) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(UserError, match=words):
        scaffold(name, None, tmp_path / out)


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
