"""Source of who chose what and when: histories as rows, the item that came next as their label.

Two tables, of events and of items, are read whole. Each user's events are put in the order of their time: the last item
is a test row's label, the one before a validation row's, earlier ones are training rows' (leave-last-out). What cannot
be used is a rejected row with its reason. Knows no texts' meaning and no network; the items go with the dataset.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.config import CsvSource, Experiment, InteractionsSource, JsonlSource, ParquetSource
from jobs.source_records import Columns
from jobs.source_rows import PATH, SCHEMA, TEST, VALIDATION, File, Place, Reading, Row, container_errors
from jobs.source_tables import Csv, Jsonl, Parquet, Table, check_names
from tasks import wording
from tasks.catalogue import CATALOGUE, HISTORIES, MAX_ITEMS, Catalogue, Item, pack_histories
from tasks.task import Rejected

ITEMS = "data.source.items"
KINDS: tuple[type[Table], ...] = (Csv, Jsonl, Parquet)
SOURCES: dict[type[Table], Any] = {Csv: CsvSource, Jsonl: JsonlSource, Parquet: ParquetSource}
TABLE_ROWS = 4096


@dataclass(frozen=True)
class Interactions:
    source: InteractionsSource
    experiment: Experiment

    def places(self) -> tuple[Place, Place]:
        return Place.of(PATH, self.source.path), Place.of(ITEMS, self.source.items)

    def columns(self) -> tuple[Columns, Columns]:
        """Of the events, and of the items: what identifies a row is its label and its key, the rest its input."""
        events, items = self.source.columns, self.source.item_columns
        facts = [events.time, *([events.rating] if events.rating is not None else [])]
        return (
            Columns(tuple(facts), events.item, events.user, is_object=True),
            Columns((items.title, *items.text), items.item, None, is_object=True),
        )

    def named(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """(setting, column) of both files."""
        events, items = self.source.columns, self.source.item_columns
        wanted = [("user", events.user), ("item", events.item), ("time", events.time), ("rating", events.rating)]
        return (
            [(f"columns.{setting}", name) for setting, name in wanted if name is not None],
            [(f"item_columns.{setting}", name) for setting, name in (("item", items.item), ("title", items.title))]
            + [("item_columns.text", name) for name in items.text],
        )

    def check(self) -> None:
        """Raises DataError when files are missing or damaged, or lack a column."""
        for place, columns, named in zip(self.places(), self.columns(), self.named(), strict=True):
            for file in _files(place):
                if file.size == 0:
                    raise place.error("is empty", "fetch or make the file anew", file.name)
                check_names(named, _columns_there(place, file.name, columns), place.origin(file.name))

    def has_test(self) -> bool:
        return True

    def state(self) -> object:
        return [[place.setting, *file] for place in self.places() for file in _files(place)]

    def read(self) -> Reading:
        """Raises DataError for a damaged file, and where there are more items than MAX_ITEMS."""
        (event_place, item_place), (event_columns, item_columns) = self.places(), self.columns()
        items, rejected = self._items(_records(item_place, item_columns))
        if not 2 <= len(items) <= MAX_ITEMS:
            raise item_place.error(f"gives {len(items)} items with a text", f"give 2 to {MAX_ITEMS}")
        catalogue = Catalogue(tuple(items))
        histories, refused = self._histories(_records(event_place, event_columns), catalogue)
        rows = [*self._rows(histories, catalogue), *rejected, *refused]
        files = {CATALOGUE: catalogue.to_bytes(), HISTORIES: pack_histories(histories)}
        return Reading(tables=list(_tables(rows)), labels=catalogue.ids, files=files)

    def _items(self, rows: Iterable[Row]) -> tuple[list[Item], list[Row]]:
        found: dict[str, Item] = {}
        rejected = []
        for row in rows:
            try:
                item = self._item(row)
                if item.id in found:
                    raise Rejected("repeated_item", item.id)
                found[item.id] = item
            except Rejected as error:
                rejected.append(row._replace(label="", reason=error.reason, detail=error.detail))
        return list(found.values()), rejected

    def _item(self, row: Row) -> Item:
        if row.reason:
            raise Rejected(row.reason, row.detail)
        if not row.label:
            raise Rejected("missing_item")
        most, parts = self.experiment.text.max_chars, []
        for value in json.loads(row.value or b"{}").values():
            try:
                parts.append(wording.plain("" if value is None else str(value).replace("|", ", "), most))
            except Rejected as error:
                if error.reason != "empty":
                    raise
                parts.append("")
        if not any(parts):
            raise Rejected("no_text", row.label)
        return Item(row.label, parts[0] or row.label, ". ".join(part for part in parts if part)[:most])

    def _histories(self, rows: Iterable[Row], catalogue: Catalogue) -> tuple[dict[str, list[int]], list[Row]]:
        """Of each user the items, oldest first; users with one event are refused like events that cannot be used."""
        events: dict[str, list[tuple[float, int, Row]]] = {}
        rejected = []
        for row in rows:
            try:
                when, item = self._event(row, catalogue)
                events.setdefault(row.key, []).append((when, item, row))
            except Rejected as error:
                rejected.append(row._replace(label="", reason=error.reason, detail=error.detail))
        histories: dict[str, list[int]] = {}
        for user, mine in events.items():
            mine.sort(key=lambda event: event[0])  # stable: equal times keep the file's order
            firsts: dict[int, Row] = {}
            for _, item, row in mine:
                if item in firsts:
                    rejected.append(row._replace(label="", reason="repeated", detail=f"user {user[:60]}"))
                firsts.setdefault(item, row)
            if len(firsts) < 2:
                only = next(iter(firsts.values()))
                rejected.append(only._replace(label="", reason="single_event", detail=f"user {user[:60]}"))
            else:
                histories[user] = list(firsts)
        return histories, rejected

    def _event(self, row: Row, catalogue: Catalogue) -> tuple[float, int]:
        """When, and which item. Raises Rejected."""
        if row.reason:
            raise Rejected(row.reason, row.detail)
        if not row.key:
            raise Rejected("missing_user")
        if not row.label:
            raise Rejected("missing_item")
        facts, columns = json.loads(row.value or b"{}"), self.source.columns
        if columns.rating is not None:
            rating = _number(facts[columns.rating])
            if rating is None or not columns.lowest <= rating <= columns.highest:
                shown = f"{str(facts[columns.rating])[:40]!r} is not from {columns.lowest:g} to {columns.highest:g}"
                raise Rejected("bad_rating", shown)
        when = _time(facts[columns.time])
        if when is None:
            raise Rejected("bad_time", f"{str(facts[columns.time])[:40]!r} is neither seconds nor an ISO 8601 date")
        if (item := catalogue.number.get(row.label)) is None:
            raise Rejected("unknown_item", row.label[:60])
        return when, item

    def _rows(self, histories: dict[str, list[int]], catalogue: Catalogue) -> Iterator[Row]:
        for user, items in histories.items():
            last = len(items) - 1
            for place in range(max(1, last - 1 - self.source.positions), last + 1):
                split = TEST if place == last else VALIDATION if place == last - 1 else ""
                newest_first = items[max(0, place - self.source.history) : place][::-1]
                value = (np.array(newest_first, "<i4") + 1).tobytes()
                yield Row(value, catalogue.ids[items[place]], f"user {user}#{place}", user, split=split)


def _files(place: Place) -> list[File]:
    suffixes = tuple(suffix for kind in KINDS for suffix in kind.suffixes)
    files = [file for file in place.files() if file.name.lower().endswith(suffixes)]
    if not files:
        raise place.error(f"holds no {', '.join(suffixes)} file", "name such a file, or a folder of them")
    return files


def _table(place: Place, name: str, columns: Columns) -> Table:
    kind = next(kind for kind in KINDS if name.lower().endswith(kind.suffixes))
    source = SOURCES[kind](
        kind=kind.__name__.lower(), path=place.given, input=list(columns.inputs), label=columns.label
    )
    return kind(source, None)  # type: ignore[arg-type]


def _columns_there(place: Place, name: str, columns: Columns) -> list[str]:
    table = _table(place, name, columns)
    if isinstance(table, Parquet):
        with container_errors(place, name, "Parquet"):
            system, folder = place.folder()
            return list(pq.read_schema(f"{folder}/{name}", filesystem=system).names)
    return table.columns_there(place, name)


def _records(place: Place, columns: Columns) -> Iterator[Row]:
    for file in _files(place):
        for part in _table(place, file.name, columns).parts(place, file.name, columns):
            yield from part.rows()


def _tables(rows: Sequence[Row]) -> Iterator[pa.Table]:
    for start in range(0, len(rows), TABLE_ROWS):
        some = rows[start : start + TABLE_ROWS]
        columns: dict[str, Any] = {
            name: list(column) for name, column in zip(Row._fields, zip(*some, strict=True), strict=True)
        }
        columns["position"] = list(range(start, start + len(some)))
        yield pa.table(columns, schema=SCHEMA)


def _number(value: object) -> float | None:
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _time(value: object) -> float | None:
    """Seconds since 1970; a date without an offset is in UTC."""
    if (number := _number(value)) is not None or not isinstance(value, str):
        return number
    try:
        moment = datetime.fromisoformat(value.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
