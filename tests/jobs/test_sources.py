"""Every kind of source: the rows it gives, how its damage is told, and when its fingerprint changes. No cluster."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cluster.config import Experiment
from cluster.errors import DataError
from cluster.experiment import parse
from jobs import sources
from jobs.source_rows import SCHEMA, read_part, values


def experiment(kind: str, split: dict[str, Any] | None = None, **source: Any) -> Experiment:
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in source.items()}
    return parse({"name": "x", "data": {"source": {"kind": kind, **plain}, "split": split or {}}})


def rows_of(made: Experiment) -> list[dict[str, Any]]:
    reading = sources.read(made)
    tables = reading.tables + [table for i, part in enumerate(reading.parts) for table in read_part(part, i)]
    columns = [name for name in SCHEMA.names if name != "value"]
    return [
        {**row, "value": value}
        for table in tables
        for row, value in zip(table.select(columns).to_pylist(), values(table), strict=True)
    ]


def image(colour: int, kind: str = "PNG", side: int = 8) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), colour, np.uint8)).save(out, kind)
    return out.getvalue()


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, part: str, num: int) -> None:
    images = np.arange(num * 16).reshape(num, 4, 4) % 251
    write(folder / f"{part}-images-idx3-ubyte.gz", gzip.compress(idx(images)))
    write(folder / f"{part}-labels-idx1-ubyte.gz", gzip.compress(idx(np.arange(num) % 3)))


def write_folder(folder: Path, num: int = 3) -> Path:
    for label in ("cat", "dog"):
        for i in range(num):
            kind = ("PNG", "JPEG")[i % 2]
            write(folder / label / f"deeper/{i}.{kind.lower()}", image(50 * i + len(label), kind))
    return folder


def write_parquet(path: Path, num: int = 4, **columns: Any) -> Path:
    table = {"image": [image(i) for i in range(num)], "label": ["a", "b"] * (num // 2), **columns}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path, row_group_size=3)
    return path


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# Rows


def test_the_digits_are_there_without_any_file() -> None:
    rows = rows_of(experiment("digits"))

    assert len(rows) == 1797
    assert rows[3]["value"].shape == (8, 8, 1)
    assert rows[3]["value"].dtype == np.uint8
    assert max(row["value"].max() for row in rows) == 255
    assert (rows[3]["label"], rows[3]["origin"], rows[3]["split"]) == ("3", "digits#3", "")


def test_idx_files_give_arrays_and_bring_their_test_rows(tmp_path: Path) -> None:
    write_idx(tmp_path, "train", 5)
    write_idx(tmp_path, "t10k", 2)

    rows = rows_of(experiment("idx", path=tmp_path))

    assert [row["split"] for row in rows] == [""] * 5 + ["test"] * 2
    assert [row["label"] for row in rows] == ["0", "1", "2", "0", "1", "0", "1"]
    assert rows[1]["value"][..., 0].tolist() == np.arange(16, 32).reshape(4, 4).tolist()
    assert rows[6]["origin"] == "t10k-images-idx3-ubyte.gz#1"
    assert [row["position"] for row in rows] == sorted({row["position"] for row in rows})


def test_torchvision_reads_what_is_already_downloaded(tmp_path: Path) -> None:
    for part, num in (("train", 4), ("t10k", 2)):
        images, labels = np.ones((num, 28, 28)), np.arange(num)
        write(tmp_path / f"MNIST/raw/{part}-images-idx3-ubyte", idx(images))
        write(tmp_path / f"MNIST/raw/{part}-labels-idx1-ubyte", idx(labels))

    rows = rows_of(experiment("torchvision", name="MNIST", path=tmp_path))

    assert [(row["label"], row["split"]) for row in rows] == [
        *((str(i), "") for i in range(4)),
        ("0", "test"),
        ("1", "test"),
    ]
    assert rows[0]["value"].shape == (28, 28, 1)


def test_a_download_that_fails_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])

    with pytest.raises(DataError, match=r"data.source.name = 'MNIST': could not be downloaded .* put the files into"):
        sources.read(experiment("torchvision", name="MNIST", path=tmp_path))


def test_an_image_folder_gives_a_row_per_file_and_a_reason_for_each_that_is_no_image(tmp_path: Path) -> None:
    write_folder(tmp_path / "all")
    write(tmp_path / "all/cat/notes.txt", "not an image")
    write(tmp_path / "all/stray.png", image(1))
    write(tmp_path / "all/cat/.hidden.png", image(1))
    write_folder(tmp_path / "held-out", num=1)

    rows = rows_of(experiment("image_folder", path=tmp_path / "all", test_path=tmp_path / "held-out"))

    found = {row["origin"]: (row["label"], row["reason"], row["split"]) for row in rows}
    assert len(rows) == 10
    assert found["cat/deeper/1.jpeg"] == ("cat", "", "")
    assert found["cat/notes.txt"] == ("cat", "not_an_image", "")
    assert found["stray.png"] == ("", "", "")
    assert found["test:dog/deeper/0.png"] == ("dog", "", "test")


@pytest.mark.parametrize(
    "inputs",
    [
        pytest.param([image(i) for i in range(4)], id="bytes"),
        pytest.param([b64(image(i)) for i in range(4)], id="base64"),
        pytest.param([{"bytes": image(i), "path": None} for i in range(4)], id="bytes and path"),
    ],
)
def test_parquet_rows_are_read_from_bytes_and_from_text(tmp_path: Path, inputs: list[Any]) -> None:
    path = write_parquet(tmp_path / "a.parquet", image=inputs, label=[3, None, 1, 0], shoot=["x", "x", "y", None])

    rows = rows_of(experiment("parquet", path=path, key="shoot"))

    assert [row["value"] for row in rows] == [image(i) for i in range(4)]
    assert [row["label"] for row in rows] == ["3", "", "1", "0"]
    assert [row["key"] for row in rows] == ["x", "x", "y", ""]
    assert [row["origin"] for row in rows] == [f"a.parquet#{i}" for i in range(4)]


def test_large_parquet_files_are_read_in_parts_that_give_every_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.source_tables.MAX_PART_ROWS", 2)
    path = write_parquet(tmp_path / "a.parquet", num=8)

    made = experiment("parquet", path=path.as_uri())

    assert [part.num_rows for part in sources.read(made).parts] == [2, 1, 2, 1, 2]
    assert [row["origin"] for row in rows_of(made)] == [f"a.parquet#{i}" for i in range(8)]
    assert [row["value"] for row in rows_of(made)] == [image(i) for i in range(8)]


def test_csv_lines_that_do_not_parse_become_rejected_rows_with_their_text(tmp_path: Path) -> None:
    write(tmp_path / "images/1.png", image(1))
    lines = [
        b"\xef\xbb\xbfimage,label",
        f"{b64(image(0))},a".encode(),
        b"images/1.png,b",
        b"too,many,fields",
        b"\xff\xfe,a",
        b'"two ""quotes"" and a \nline break.png",b',
        b"images/missing.png,a",
        b"../../etc/passwd.png,a",
        b",a",
        b"?!,a",
        b'"never closed,a',
    ]
    path = write(tmp_path / "rows.csv", b"\r\n".join(lines))

    rows = rows_of(experiment("csv", path=path))

    assert [row["reason"] for row in rows] == [
        "", "", "bad_line", "bad_line", "unreadable", "unreadable", "outside_folder", "", "bad_input", "bad_line"
    ]  # fmt: skip
    assert [row["value"] for row in rows[:4]] == [image(0), image(1), b"too,many,fields\r\n", b"\xff\xfe,a\r\n"]
    assert rows[7]["value"] is None
    assert [row["origin"] for row in rows] == [f"rows.csv#{i}" for i in range(10)]


def test_jsonl_lines_that_do_not_parse_become_rejected_rows_with_their_text(tmp_path: Path) -> None:
    good = {"image": b64(image(0)), "label": 7, "extra": None}
    lines = [
        json.dumps(good),
        "",
        '{"image": ',
        "[1, 2]",
        json.dumps({"label": "x"}),
        json.dumps({**good, "label": 1.5}),
    ]
    path = write(tmp_path / "rows.jsonl.gz", gzip.compress("\n".join(lines).encode()))

    rows = rows_of(experiment("jsonl", path=path))

    assert [(row["label"], row["reason"]) for row in rows] == [
        ("7", ""), ("", "bad_line"), ("", "bad_line"), ("x", ""), ("", "bad_label")
    ]  # fmt: skip
    assert rows[1]["value"] == b'{"image": \n'
    assert rows[3]["value"] is None


# Damage and mistakes


def truncated_gz(folder: Path) -> Experiment:
    write_idx(folder, "train", 500)
    images = folder / "train-images-idx3-ubyte.gz"
    images.write_bytes(images.read_bytes()[:-30])
    return experiment("idx", path=folder)


def short_idx(folder: Path) -> Experiment:
    write_idx(folder, "train", 5)
    write(folder / "train-images-idx3-ubyte.gz", gzip.compress(idx(np.zeros((5, 4, 4)))[:-7]))
    return experiment("idx", path=folder)


def mismatched_idx(folder: Path) -> Experiment:
    write_idx(folder, "train", 5)
    write(folder / "train-labels-idx1-ubyte.gz", gzip.compress(idx(np.zeros(4))))
    return experiment("idx", path=folder)


def truncated_csv(folder: Path) -> Experiment:
    text = "image,label\n" + "".join(f"{b64(np.random.default_rng(i).bytes(90))},a\n" for i in range(2000))
    return experiment("csv", path=write(folder / "rows.csv.gz", gzip.compress(text.encode())[:-20]))


def damaged_parquet(folder: Path) -> Experiment:
    path = write_parquet(folder / "rows.parquet", num=60)
    data = bytearray(path.read_bytes())
    data[4:400] = b"\xff" * 396
    path.write_bytes(data)
    return experiment("parquet", path=path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(truncated_gz, ["train-images-idx3-ubyte.gz'", "is not readable gzip"], id="truncated gz"),
        pytest.param(short_idx, ["holds 73 bytes where its header says 5 x 4 x 4"], id="idx shorter than it says"),
        pytest.param(mismatched_idx, ["(5, 4, 4)", "(4,), which do not match"], id="images and labels differ"),
        pytest.param(truncated_csv, ["rows.csv.gz'", "is not readable text (Truncated"], id="truncated csv.gz"),
        pytest.param(damaged_parquet, ["rows.parquet'", "is not readable Parquet"], id="damaged Parquet"),
    ],
)
def test_a_damaged_file_of_many_rows_is_an_error_that_names_it(tmp_path: Path, make: Any, words: list[str]) -> None:
    made = make(tmp_path)
    sources.preflight(made)

    with pytest.raises(DataError) as refusal:
        rows_of(made)

    assert all(word in str(refusal.value) for word in words), str(refusal.value)
    assert "anew" in refusal.value.mend


def no_train_files(folder: Path) -> Experiment:
    write_idx(folder, "t10k", 2)
    return experiment("idx", path=folder)


def not_gz(folder: Path) -> Experiment:
    write_idx(folder, "train", 2)
    write(folder / "train-images-idx3-ubyte.gz", b"plain")
    return experiment("idx", path=folder)


def share_twice(folder: Path) -> Experiment:
    write_idx(folder, "train", 2)
    write_idx(folder, "t10k", 2)
    return experiment("idx", path=folder, split={"test": 0.2})


def one_class(folder: Path) -> Experiment:
    write(folder / "cat/1.png", image(1))
    return experiment("image_folder", path=folder)


def no_class_folders(folder: Path) -> Experiment:
    write(folder / "1.png", image(1))
    return experiment("image_folder", path=folder)


def missing_column(folder: Path) -> Experiment:
    return experiment("parquet", path=write_parquet(folder / "a.parquet", imgs=[b"x"] * 4), input="img")


def missing_csv_column(folder: Path) -> Experiment:
    return experiment("csv", path=write(folder / "a.csv", "image,Label\nx.png,a\n"))


def missing_jsonl_column(folder: Path) -> Experiment:
    return experiment("jsonl", path=write(folder / "a.jsonl", 'oops\n{"image": "x.png", "class": 1}\n'))


def wrong_column_type(folder: Path) -> Experiment:
    return experiment("parquet", path=write_parquet(folder / "a.parquet", image=[1, 2, 3, 4]))


def truncated_parquet(folder: Path) -> Experiment:
    path = write_parquet(folder / "a.parquet")
    path.write_bytes(path.read_bytes()[:-10])
    return experiment("parquet", path=folder)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda f: experiment("idx", path=f / "no"), ["no such file or folder"], id="no folder"),
        pytest.param(lambda f: experiment("csv", path=f), ["holds no .csv file"], id="empty folder"),
        pytest.param(lambda f: experiment("image_folder", path=f), ["holds no JPEG or PNG"], id="no images"),
        pytest.param(
            lambda _: experiment("parquet", path="bogus://x"), ["bogus://x", "cannot be opened"], id="unknown URI"
        ),
        pytest.param(no_train_files, ["holds no train-images-idx3-ubyte.gz"], id="no idx file"),
        pytest.param(not_gz, ["is not readable gzip"], id="not gz"),
        pytest.param(share_twice, ["data.split.test = 0.2", "brings its own test rows"], id="test share twice"),
        pytest.param(one_class, ["has one class only (cat)"], id="one class only"),
        pytest.param(no_class_folders, ["has images but no class folders"], id="no class folders"),
        pytest.param(
            missing_column, ["data.source.input = 'img'", "no such column in a.parquet", "are: imgs, image, label"],
            id="missing Parquet column",
        ),
        pytest.param(missing_csv_column, ["data.source.label = 'label'", "are: Label, image"], id="missing CSV column"),
        pytest.param(missing_jsonl_column, ["no such column in a.jsonl", "class, image"], id="missing JSON key"),
        pytest.param(wrong_column_type, ["the column is int64"], id="column of numbers"),
        pytest.param(truncated_parquet, ["a.parquet'", "is not readable Parquet"], id="truncated Parquet"),
        pytest.param(
            lambda f: experiment("jsonl", path=write(f / "a.jsonl", "")), ["a.jsonl': is empty"], id="empty file"
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_found_before_a_cluster_is_needed(tmp_path: Path, make: Any, words: list[str]) -> None:
    made = make(tmp_path)

    with pytest.raises(DataError) as refusal:
        sources.preflight(made)

    assert all(word in str(refusal.value) for word in words), str(refusal.value)


# Fingerprints


def test_a_fingerprint_changes_with_the_files_and_with_nothing_else(tmp_path: Path) -> None:
    made = experiment("image_folder", path=write_folder(tmp_path / "one"))
    before = sources.fingerprint(made)
    same = sources.fingerprint(made)
    write(tmp_path / "one/cat/more.png", image(9))

    assert before == same
    assert sources.fingerprint(made) != before


@pytest.mark.parametrize("kind", ["digits", "torchvision"])
def test_sources_without_files_of_the_users_have_a_fixed_fingerprint(tmp_path: Path, kind: str) -> None:
    more = {"name": "MNIST", "path": tmp_path} if kind == "torchvision" else {}

    assert len({sources.fingerprint(experiment(kind, **more)) for _ in range(2)}) == 1


def test_looking_at_data_loads_neither_ray_nor_torch() -> None:
    code = "import sys; from jobs import sources; print({'ray', 'torch', 'sklearn'} & set(sys.modules))"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


RECORDS = [
    {"size": 1.5, "name": 'a, "b"', "y": "u"},
    {"size": 2, "name": "", "y": "v"},
    {"size": None, "name": "é", "y": "u"},
]


def table_of(kind: str, path: Path, records: list[dict[str, Any]]) -> Path:
    """The same records as a file of each kind; what a kind has no word for is left empty."""
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, records)))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
    return path


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_several_input_columns_are_one_json_object(tmp_path: Path, kind: str) -> None:
    path = table_of(kind, tmp_path / f"rows.{kind}", RECORDS)
    made = experiment(kind, path=path, input=["size", "name"], label="y")

    sources.preflight(made)
    rows = rows_of(made)

    texts = kind == "csv"  # in which all is text
    numbers: list[Any] = ["1.5", "2", ""] if texts else [1.5, 2, None]
    found = [json.loads(row["value"]) for row in rows]
    assert [list(each) for each in found] == [["size", "name"]] * 3  # in the order of the setting
    assert found == [{"size": n, "name": r["name"]} for n, r in zip(numbers, RECORDS, strict=True)]
    assert [row["label"] for row in rows] == ["u", "v", "u"]


def test_one_column_in_a_list_is_an_object_too(tmp_path: Path) -> None:
    path = table_of("jsonl", tmp_path / "rows.jsonl", RECORDS)

    rows = rows_of(experiment("jsonl", path=path, input=["size"], label="y"))

    assert [row["value"] for row in rows] == [b'{"size": 1.5}', b'{"size": 2}', b'{"size": null}']


def test_each_input_column_must_be_there_and_be_plain(tmp_path: Path) -> None:
    records = [{"size": 1.0, "many": [1, 2], "y": "u"}]
    lacking = table_of("csv", tmp_path / "rows.csv", records)
    nested = table_of("parquet", tmp_path / "rows.parquet", records)

    with pytest.raises(DataError, match=r"data.source.input = 'sizes': no such column in rows.csv"):
        sources.preflight(experiment("csv", path=lacking, input=["size", "sizes"], label="y"))
    with pytest.raises(DataError, match=r"data.source.input = 'many': the column is list"):
        sources.preflight(experiment("parquet", path=nested, input=["size", "many"], label="y"))


def test_a_column_of_which_there_are_two_is_not_guessed_at(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("size,y,size\n1,u,2\n")

    with pytest.raises(DataError, match=r"data.source.input = 'size': rows.csv has two columns of that name"):
        sources.preflight(experiment("csv", path=tmp_path / "rows.csv", input=["size"], label="y"))


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_the_labels_of_a_task_of_values_are_any_numbers(tmp_path: Path, kind: str) -> None:
    targets = [1.5, -2.0, 1e-30, None]
    path = table_of(kind, tmp_path / f"rows.{kind}", [{"age": 1, "y": y} for y in targets])

    rows = rows_of(values_of(kind, path))

    assert [row["label"] for row in rows] == ["1.5", "-2.0", "1e-30", ""]
    assert {row["reason"] for row in rows} == {""}  # a missing one is counted where rows are cleaned


def test_what_is_no_number_is_a_bad_label_of_a_task_of_values(tmp_path: Path) -> None:
    lines = [f'{{"age": 1, "y": {y}}}' for y in ('"two"', "true", "[1]", "NaN", "1e999", '" 3 "')]
    path = write(tmp_path / "rows.jsonl", "\n".join(lines))

    rows = rows_of(values_of("jsonl", path))

    assert [row["reason"] for row in rows] == ["bad_label"] * 5 + [""]
    assert rows[5]["label"] == "3.0"


def values_of(kind: str, path: Path) -> Experiment:
    """For the example of a task of one's own, whose targets are values."""
    source = {"kind": kind, "path": str(path), "input": ["age"], "label": "y"}
    made = parse({"name": "x", "task": "diabetes:Diabetes", "data": {"source": source}})
    return made.lying_in(str(Path(__file__).parents[2] / "experiments" / "own_task"))
