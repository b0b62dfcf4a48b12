"""The preprocess step on a real cluster: what it stores, that it is the same each time, and what it refuses."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections import Counter, namedtuple
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cluster.config import Experiment
from cluster.errors import DataError, StoreError, TrimtabError
from cluster.experiment import parse
from cluster.store import Store
from jobs import preprocess, shards
from tasks.dataset import SPLITS, Dataset, read_dataset
from tasks.task import load_task

pytestmark = pytest.mark.usefixtures("ray_cluster")


def experiment(
    kind: str = "digits", seed: int = 0, settings: dict[str, Any] | None = None, **source: Any
) -> Experiment:
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in source.items()}
    data = {"source": {"kind": kind, **plain}, **(settings or {})}
    return parse({"name": "x", "seed": seed, "data": data})


def run(made: Experiment, store: Store, key: str = "d") -> dict[str, Any]:
    return preprocess.run(made, store, key, lambda *_: None)


def files_in(store: Store) -> dict[str, bytes]:
    root = Path(store.uri)
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def image(seed: int, kind: str = "PNG", side: int = 8) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)).save(out, kind)
    return out.getvalue()


def write_csv(path: Path, rows: list[tuple[bytes, str]]) -> Path:
    lines = [f"{base64.b64encode(data).decode()},{label}" for data, label in rows]
    path.write_text("\n".join(["image,label", *lines]))
    return path


def cats_and_dogs(num: int = 80, first: int = 0) -> list[tuple[bytes, str]]:
    return [(image(i), ("cat", "dog")[i % 2]) for i in range(first, first + num)]


def rejected(store: Store, dataset: Dataset) -> list[dict[str, Any]]:
    data = store.read("datasets", dataset.key, dataset.rejected["file"])
    rows: list[dict[str, Any]] = pq.read_table(pa.BufferReader(data)).to_pylist()
    return rows


# What is stored


def test_digits_become_a_dataset_whose_books_balance(store: Store) -> None:
    seen: list[tuple[int, int]] = []

    figures = preprocess.run(experiment(), store, "d", lambda done, total: seen.append((done, total)))

    dataset = read_dataset(store, "d")
    assert figures["rows_in"] == 1797 == sum(figures["rows"].values()) + figures["rejected"]["total"]
    assert figures["rows"] == {split: dataset.num_rows(split) for split in SPLITS}
    assert (figures["shards"], figures["labels"]) == (12, 10)
    assert dataset.encoding.labels == tuple("0123456789")
    assert (dataset.encoding.shape, dataset.encoding.dtype) == ((8, 8, 1), "uint8")
    assert seen[-1] == (1797, 1797)
    for split in SPLITS:
        sizes = [entry["rows"] for entry in dataset.shards[split]]
        assert len(sizes) == 4
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("num_rows", "asked", "expected"),
    [
        pytest.param(100, 4, 4, id="as asked"),
        pytest.param(3, 4, 3, id="fewer rows"),
        pytest.param(1001, 4, 11, id="too large"),
    ],
)
def test_no_shard_is_larger_than_may_be_read_at_once(
    monkeypatch: pytest.MonkeyPatch, num_rows: int, asked: int, expected: int
) -> None:
    monkeypatch.setattr(shards, "MAX_SHARD_BYTES", 100 * 64)
    rows, zeros = np.arange(num_rows), np.zeros(num_rows, np.int64)
    index: Any = SimpleNamespace(block=zeros, row=rows, content=np.zeros((num_rows, 2), np.uint64))
    judged: Any = SimpleNamespace(splits={"train": rows}, target=zeros)
    block: Any = "a reference"

    sizes = [len(shard.y) for shard in preprocess._cut("train", [block], index, judged, asked, 64)]

    assert (len(sizes), sum(sizes)) == (expected, num_rows)
    assert max(sizes) <= 100
    assert max(sizes) - min(sizes) <= 1


def test_statistics_come_from_the_training_split_alone(store: Store) -> None:
    made = experiment()
    run(made, store)

    dataset, task = read_dataset(store, "d"), load_task(made)

    x, _ = dataset.load("train")
    assert dataset.encoding.statistics == task.statistics([task.partial_statistics(x)])


def test_pixels_keep_their_labels(store: Store) -> None:
    from sklearn.datasets import load_digits

    run(experiment(), store)

    digits = load_digits()
    label_of = {
        np.round(x * (255 / 16)).astype(np.uint8).tobytes(): y
        for x, y in zip(*load_digits(return_X_y=True), strict=True)
    }
    dataset = read_dataset(store, "d")
    stored = [(x.tobytes(), y) for split in SPLITS for x, y in zip(*dataset.load(split), strict=True)]
    assert len({x for x, _ in stored}) == len(stored) == len(digits.target)
    assert all(label_of[x] == y for x, y in stored)


def test_shards_are_plain_arrow_with_a_canonical_tensor_and_no_pickle(store: Store) -> None:
    run(experiment(), store)

    dataset = read_dataset(store, "d")
    for entry in dataset.shards["train"]:
        table = pq.read_table(pa.BufferReader(store.read("datasets", "d", entry)))
        assert table.schema.field("x").type == pa.fixed_shape_tensor(pa.uint8(), (8, 8, 1))
        assert (table.schema.field("y").type, table.schema.field("key").type) == (pa.int32(), pa.string())
        assert "pickle" not in str(table.schema)
        assert {len(key) for key in table["key"].to_pylist()} == {32}


def test_the_same_seed_and_input_give_the_same_bytes_however_they_are_cut(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Store.open(str(tmp_path / "other"))
    run(experiment(), store)

    monkeypatch.setattr("jobs.source_rows.MAX_TABLE_BYTES", 20_000)  # 12 blocks where there was one
    run(experiment(), other)

    assert len(files_in(store)) == 13
    assert files_in(store) == files_in(other)


def test_neither_folder_nor_clock_leaves_a_trace(store: Store, tmp_path: Path) -> None:
    rows = [*cats_and_dogs(), (b"broken", "cat")]
    stores = [store, Store.open(str(tmp_path / "other"))]
    for name, place in zip(("here", "there"), stores, strict=True):
        (tmp_path / name).mkdir()
        run(experiment("csv", path=write_csv(tmp_path / name / "rows.csv", rows)), place)

    assert files_in(stores[0]) == files_in(stores[1])
    assert str(tmp_path).encode() not in b"".join(files_in(store).values())


def test_another_seed_draws_other_splits_from_the_same_rows(store: Store) -> None:
    for seed in (0, 1):
        run(experiment(seed=seed), store, f"d{seed}")

    one, other = (read_dataset(store, f"d{seed}") for seed in (0, 1))

    rows = [Counter(x.tobytes() for split in SPLITS for x in made.load(split)[0]) for made in (one, other)]
    assert rows[0] == rows[1]
    assert {x.tobytes() for x in one.load("test")[0]} != {x.tobytes() for x in other.load("test")[0]}


# Sources


def test_an_image_folder_of_jpeg_and_png_with_its_own_test_folder(store: Store, tmp_path: Path) -> None:
    for place, num in (("train", 40), ("test", 5)):
        for label in ("cat", "dog"):
            (tmp_path / place / label).mkdir(parents=True)
            for i in range(num):
                kind = ("PNG", "JPEG")[i % 2]
                path = tmp_path / place / label / f"{i}.{kind.lower()}"
                path.write_bytes(image(i + 1000 * len(place) + 100 * ord(label[0]), kind, side=8 + i % 2))
    (tmp_path / "train/cat/empty.png").touch()
    (tmp_path / "train/dog/truncated.png").write_bytes(image(5)[:60])
    (tmp_path / "train/dog/truncated.jpg").write_bytes(image(5, "JPEG", side=40)[:700])
    settings = {"image": {"height": 8, "width": 8}, "shards": 2}
    made = experiment("image_folder", path=tmp_path / "train", test_path=tmp_path / "test", settings=settings)

    figures = run(made, store)

    assert figures["rows_in"] == 93
    assert figures["rejected"] == {"total": 3, "reasons": {"empty": 1, "undecodable": 2}}
    assert figures["rows"]["test"] == 10
    dataset = read_dataset(store, "d")
    assert dataset.encoding.labels == ("cat", "dog")
    found = {row["origin"]: row for row in rejected(store, dataset)}
    assert found["dog/truncated.png"]["reason"] == "undecodable"
    assert found["dog/truncated.png"]["raw"] == image(5)[:60]
    assert found["cat/empty.png"]["label"] == "cat"


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_tables_give_the_same_rows_whatever_their_format(store: Store, tmp_path: Path, kind: str) -> None:
    rows = cats_and_dogs()
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"image": [r[0] for r in rows], "label": [r[1] for r in rows]}), path)
    elif kind == "csv":
        write_csv(path, rows)
    else:
        path.write_text("\n".join(json.dumps({"image": base64.b64encode(x).decode(), "label": y}) for x, y in rows))

    run(experiment(kind, path=path), store)

    stored = {x.tobytes(): y for split in SPLITS for x, y in zip(*read_dataset(store, "d").load(split), strict=True)}
    assert stored == {np.asarray(Image.open(io.BytesIO(x))).tobytes(): ("cat", "dog").index(label) for x, label in rows}


def test_rows_with_one_key_stay_in_one_split(store: Store, tmp_path: Path) -> None:
    rows = cats_and_dogs(120)
    table = {"image": [r[0] for r in rows], "label": [r[1] for r in rows], "shoot": [f"s{i // 6}" for i in range(120)]}
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    settings = {"split": {"validation": 0.3, "test": 0.3}}

    run(experiment("parquet", path=tmp_path / "rows.parquet", key="shoot", settings=settings), store)

    shoot_of = {
        np.asarray(Image.open(io.BytesIO(r[0]))).tobytes(): s for r, s in zip(rows, table["shoot"], strict=True)
    }
    dataset = read_dataset(store, "d")
    shoots = [{shoot_of[x.tobytes()] for x in dataset.load(split)[0]} for split in SPLITS]
    assert sum(len(s) for s in shoots) == len(set.union(*shoots)) == 20


def test_mnist_comes_with_its_own_test_rows(store: Store, mnist: Path) -> None:
    figures = run(experiment("idx", path=mnist), store)

    assert figures["rows_in"] == 70_000
    assert figures["rejected"]["total"] == 0
    assert figures["rows"]["test"] == 10_000
    assert 0.09 < figures["rows"]["validation"] / 60_000 < 0.11


# What is rejected, and what is refused


def test_rejected_rows_are_counted_by_reason_and_kept_with_their_origin(store: Store, tmp_path: Path) -> None:
    rows = cats_and_dogs(80)
    bad = [
        rows[3],
        (rows[4][0], "dog"),
        (b"", "cat"),
        (b"not an image", "cat"),
        (image(900), ""),
        (image(901, side=9), "dog"),
    ]
    big = b"\x89PNG\r\n\x1a\n" + bytes(100_000)
    train = write_csv(tmp_path / "train.csv", [*rows, *bad, (big, "cat")])
    test = write_csv(tmp_path / "test.csv", [*cats_and_dogs(10, first=500), (image(800), "horse"), rows[7]])

    figures = run(experiment("csv", path=train, test_path=test, settings={"max_rejected": 0.5}), store)

    reasons = {
        "duplicate": 2, "conflicting_label": 2, "empty": 1, "not_an_image": 1, "missing_label": 1, "wrong_shape": 1,
        "undecodable": 1, "unknown_label": 1,
    }  # fmt: skip
    assert figures["rejected"] == {"total": 10, "reasons": reasons}
    assert figures["rows_in"] == 99 == sum(figures["rows"].values()) + 10
    found = {row["origin"]: row for row in rejected(store, read_dataset(store, "d"))}
    assert found["train.csv#7"]["detail"] == "same content as test:test.csv#11"
    assert found["train.csv#80"]["detail"] == "same content as train.csv#3"
    assert {found[f"train.csv#{i}"]["reason"] for i in (4, 81)} == {"conflicting_label"}
    assert found["train.csv#83"]["raw"] == b"not an image"
    assert found["train.csv#86"]["raw"] == big[: 64 * 1024]
    assert found["test:test.csv#10"]["reason"] == "unknown_label"
    assert next(iter(found)) == "train.csv#4"


def too_many_bad(folder: Path) -> Experiment:
    return experiment("csv", path=write_csv(folder / "rows.csv", [*cats_and_dogs(), *[(b"bad", "cat")] * 20]))


def all_bad(folder: Path) -> Experiment:
    settings = {"image": {"height": 8, "width": 8}}
    return experiment("csv", path=write_csv(folder / "rows.csv", [(b"bad", "cat")] * 20), settings=settings)


def one_label(folder: Path) -> Experiment:
    return experiment("csv", path=write_csv(folder / "rows.csv", [(image(i), "cat") for i in range(30)]))


def too_few(folder: Path) -> Experiment:
    return experiment("csv", path=write_csv(folder / "rows.csv", cats_and_dogs(2)))


def no_rows(folder: Path) -> Experiment:
    return experiment("csv", path=write_csv(folder / "rows.csv", []))


def foreign_test_labels(folder: Path) -> Experiment:
    train = write_csv(folder / "rows.csv", cats_and_dogs())
    test = write_csv(folder / "test.csv", [(image(i), "horse") for i in range(500, 510)])
    return experiment("csv", path=train, test_path=test)


def damaged_parquet(folder: Path) -> Experiment:
    path, rows = folder / "rows.parquet", cats_and_dogs(400)
    table = pa.table({"image": [r[0] for r in rows], "label": [r[1] for r in rows]})
    pq.write_table(table, path, row_group_size=100)
    data = bytearray(path.read_bytes())
    start = len(data) // 2
    data[start : start + 9000] = b"\xff" * 9000
    path.write_bytes(data)
    return experiment("parquet", path=path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(
            too_many_bad,
            ["data.max_rejected = 0.1", "20 of 100 rows", "not_an_image 20", "the first: rows.csv#80"],
            id="too many rejected",
        ),
        pytest.param(all_bad, ["20 of 20 rows were rejected (not_an_image 20"], id="all rejected"),
        pytest.param(one_label, ["one label only (cat)"], id="one class only"),
        pytest.param(too_few, ["too few"], id="too few rows"),
        pytest.param(no_rows, ["holds no row"], id="no rows"),
        pytest.param(foreign_test_labels, ["none of the 10 test rows", "horse"], id="unknown labels in the test split"),
        pytest.param(damaged_parquet, ["rows.parquet'", "is not readable Parquet"], id="damage found within a task"),
    ],
)
def test_a_refusal_is_one_sentence_and_leaves_nothing(
    store: Store,
    tmp_path: Path,
    make: Callable[[Path], Experiment],
    words: list[str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    made = make(tmp_path)

    with pytest.raises(DataError) as refusal:
        run(made, store)

    assert type(refusal.value) is DataError
    assert all(word in str(refusal.value) for word in words), str(refusal.value)
    assert files_in(store) == {}
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_disk_that_is_nearly_full_is_noticed_before_anything_is_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12 - 10**6, 10**6))

    with pytest.raises(StoreError, match="the disk is nearly full: 0 MiB free"):
        run(experiment(), store)

    assert files_in(store) == {}


def test_what_fails_in_a_task_that_writes_comes_out_as_it_was_raised(store: Store, tmp_path: Path) -> None:
    blocked = Store.open(str(tmp_path / "blocked"))
    (tmp_path / "blocked/.staging").touch()  # no folder can be made beneath a file

    with pytest.raises(StoreError, match="cannot be written") as refusal:
        run(experiment(), blocked)

    assert isinstance(refusal.value, TrimtabError)
    assert type(refusal.value) is StoreError
    assert list(files_in(blocked)) == [".staging"]
