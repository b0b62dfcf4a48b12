"""Histories out of events and items: their order, their splits, and what is refused with its reason. No cluster."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.config import Experiment
from cluster.errors import ConfigError, DataError
from cluster.experiment import parse
from jobs import sources
from jobs.source_rows import values
from tasks.catalogue import CATALOGUE, HISTORIES, Catalogue, unpack_histories

ITEMS = [{"item": f"i{n}", "title": f"Title {n}", "tags": ["red", "old"]} for n in range(6)]
EVENTS = [("u", f"i{n}", 4, 100 + n) for n in range(5)] + [("v", "i2", 3, 7), ("v", "i0", 5, 5)]


def write(folder: Path, events: list[Any], items: list[Any] = ITEMS) -> Experiment:
    lines = ["user,item,rating,time", *(",".join(map(str, event)) for event in events)]
    (folder / "events.csv").write_text("\n".join(lines) + "\n")
    (folder / "items.jsonl").write_text("\n".join(json.dumps(item) for item in items) + "\n")
    return experiment(folder / "events.csv", folder / "items.jsonl")


def experiment(events: Path, items: Path, **more: Any) -> Experiment:
    source = {"kind": "interactions", "path": str(events), "items": str(items), **more}
    source.setdefault("columns", {"rating": "rating"})
    source.setdefault("item_columns", {"text": ["tags"]})
    return parse({"name": "x", "task": "recommend", "data": {"source": source}})


def rows_of(made: Experiment) -> list[dict[str, Any]]:
    sources.preflight(made)
    columns = ["label", "split", "reason", "detail", "origin", "position"]
    return [
        {**row, "value": value}
        for table in sources.read(made).tables
        for row, value in zip(table.select(columns).to_pylist(), values(table), strict=True)
    ]


def good(made: Experiment) -> list[tuple[str, str, list[int]]]:
    rows = (row for row in rows_of(made) if not row["reason"])
    return [(row["split"], row["label"], np.frombuffer(row["value"], "<i4").tolist()) for row in rows]


def reasons(made: Experiment) -> Counter[str]:
    return Counter(row["reason"] for row in rows_of(made) if row["reason"])


def test_the_last_event_is_tested_with_and_the_one_before_validated_with(tmp_path: Path) -> None:
    made = write(tmp_path, EVENTS)

    assert good(made) == [
        ("", "i1", [1]),
        ("", "i2", [2, 1]),
        ("validation", "i3", [3, 2, 1]),
        ("test", "i4", [4, 3, 2, 1]),
        ("test", "i2", [1]),  # v's events, put in the order of their time
    ]


def test_histories_are_cut_to_the_newest_and_so_are_positions(tmp_path: Path) -> None:
    made = write(tmp_path, EVENTS)
    short = experiment(tmp_path / "events.csv", tmp_path / "items.jsonl", history=2, positions=1)

    assert good(short)[:3] == [("", "i2", [2, 1]), ("validation", "i3", [3, 2]), ("test", "i4", [4, 3])]
    assert sources.read(made).labels == tuple(f"i{n}" for n in range(6))


def test_what_goes_with_the_dataset_knows_texts_and_whole_histories(tmp_path: Path) -> None:
    files = sources.read(write(tmp_path, EVENTS)).files

    items, histories = Catalogue.from_bytes(files[CATALOGUE]).items, unpack_histories(files[HISTORIES])

    assert (items[3].id, items[3].title, items[3].text) == ("i3", "Title 3", "Title 3. red, old")
    assert [found.tolist() for user in "uv" if (found := histories.of(user)) is not None] == [[0, 1, 2, 3, 4], [0, 2]]
    assert histories.of("w") is None
    assert [part.tolist() for part in histories.training()] == [[0, 0, 0], [0, 1, 2]]  # neither of v's two


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        pytest.param(("u", "i5", 5.5, 9), "bad_rating", id="rating above its range"),
        pytest.param(("u", "i5", "nan", 9), "bad_rating", id="rating that is no number"),
        pytest.param(("u", "i5", "", 9), "bad_rating", id="no rating"),
        pytest.param(("u", "i5", 4, "soon"), "bad_time", id="no time"),
        pytest.param(("u", "i9", 4, 9), "unknown_item", id="an item that is not in the catalogue"),
        pytest.param(("", "i5", 4, 9), "missing_user", id="no user"),
        pytest.param(("u", "", 4, 9), "missing_item", id="no item"),
        pytest.param(("u", "i1", 4, 9e9), "repeated", id="an item once more"),
        pytest.param(("w", "i1", 4, 9), "single_event", id="a user with one event"),
        pytest.param(("u", "i5", 4), "bad_line", id="a line too short"),
    ],
)
def test_an_event_that_cannot_be_used_is_counted(tmp_path: Path, event: tuple[Any, ...], reason: str) -> None:
    made = write(tmp_path, [*EVENTS, event])

    assert reasons(made) == {reason: 1}
    assert len(good(made)) == 5


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        pytest.param({"item": "i9", "title": "", "tags": None}, "no_text", id="without text"),
        pytest.param({"item": "i9", "title": "<p></p>", "tags": []}, "no_text", id="with markup alone"),
        pytest.param({"item": "i1", "title": "Again"}, "repeated_item", id="twice"),
        pytest.param({"title": "No id"}, "missing_item", id="without id"),
        pytest.param({"item": "i9", "title": "x" * 30_000}, "too_long", id="with a very long text"),
    ],
)
def test_an_item_that_cannot_be_used_is_counted(tmp_path: Path, item: dict[str, Any], reason: str) -> None:
    assert reasons(write(tmp_path, EVENTS, [*ITEMS, item])) == {reason: 1}


def test_parquet_and_dates_give_the_same_as_csv_and_seconds(tmp_path: Path) -> None:
    made = write(tmp_path, EVENTS)
    columns = dict(zip(("user", "item", "rating", "time"), zip(*EVENTS, strict=True), strict=True))
    stamps = pa.array([t * 1_000_000 for t in columns["time"]], pa.timestamp("us", tz="UTC"))
    pq.write_table(
        pa.table({name: list(column) for name, column in columns.items()} | {"time": stamps}), tmp_path / "e.parquet"
    )
    pq.write_table(pa.Table.from_pylist(ITEMS), tmp_path / "i.parquet")

    other = experiment(tmp_path / "e.parquet", tmp_path / "i.parquet")

    assert good(other) == good(made)
    assert sources.read(other).files == sources.read(made).files
    assert sources.fingerprint(other) != sources.fingerprint(made)


def test_clicks_need_no_rating(tmp_path: Path) -> None:
    write(tmp_path, [(u, i, "", t) for u, i, _, t in EVENTS])
    clicks = experiment(tmp_path / "events.csv", tmp_path / "items.jsonl", columns={})

    assert (len(good(clicks)), reasons(clicks)) == (5, {})


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    write(tmp_path, EVENTS)
    made = experiment(tmp_path / "events.csv", tmp_path / "items.jsonl", columns={"time": "timestamp"})

    with pytest.raises(DataError, match=r"data\.source\.columns\.time = .*timestamp.*no such column.*time"):
        sources.preflight(made)


def test_a_catalogue_of_nothing_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gives 0 items with a text"):
        sources.read(write(tmp_path, EVENTS, [{"item": "i1", "title": ""}]))


def test_task_and_source_go_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a source of kind interactions"):
        parse({"name": "x", "task": "recommend", "data": {"source": {"kind": "digits"}}})
    with pytest.raises(ConfigError, match="needs a source of another kind"):
        parse({"name": "x", "data": {"source": {"kind": "interactions", "path": "a.csv", "items": "b.csv"}}})
