"""Sources with a row per line or record: Parquet, CSV and JSON lines, in one file or a folder of them.

Finds the data files and checks that they have the columns the experiment names. The unit that is read in
parallel is a file; for Parquet it is a part of one.
"""

from __future__ import annotations

import abc
import csv
import difflib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.config import Experiment, TableSource
from cluster.errors import DataError
from jobs.source_records import Columns, CsvRows, JsonlRows, ParquetRows
from jobs.source_rows import PATH, TEST, TEST_PATH, File, Part, Place, Reading, container_errors
from tasks.task import load_task

MAX_PART_ROWS = 8192
NUM_CHECKED_FILES = 32  # whose columns are looked at before any work begins


@dataclass(frozen=True)
class Table(abc.ABC):
    """What the three kinds share; each adds its file names, its columns and its parts."""

    source: TableSource
    experiment: Experiment
    suffixes: ClassVar[tuple[str, ...]]

    @property
    def columns(self) -> Columns:
        given = self.source.input or self.experiment.default_input
        names = (given,) if isinstance(given, str) else tuple(given)
        return Columns(names, self.source.label, self.source.key, is_object=not isinstance(given, str))

    @property
    def columns_as_read(self) -> Columns:
        """With what the task says of them; its code is not needed to check that they are there."""
        task = load_task(self.experiment)
        return replace(self.columns, is_text=task.takes == "text", has_values=task.targets == "value")

    def places(self) -> list[Place]:
        test = self.source.test_path
        return [Place.of(PATH, self.source.path)] + ([Place.of(TEST_PATH, test, TEST)] if test is not None else [])

    def files(self, place: Place) -> list[File]:
        """Data files of a place; in a folder those with the kind's suffixes. Raises DataError when there is none."""
        files = [f for f in place.files() if place.is_file() or f.name.lower().endswith(self.suffixes)]
        if not files:
            raise place.error(
                f"holds no {self.suffixes[0]} file", f"name a {self.suffixes[0]} file or a folder of them"
            )
        return files

    def check(self) -> None:
        """Raises DataError when files are missing or damaged, or lack a column."""
        for place in self.places():
            for file in self.files(place)[:NUM_CHECKED_FILES]:
                if file.size == 0:
                    raise place.error("is empty", "fetch or make the file anew", file.name)
                check_names(self.columns.named(), self.columns_there(place, file.name), place.origin(file.name))

    def has_test(self) -> bool:
        return self.source.test_path is not None

    def state(self) -> object:
        """Names, sizes and times of the data files; images that rows only name are not looked at."""
        return [[place.split, *file] for place in self.places() for file in self.files(place)]

    def read(self) -> Reading:
        columns = self.columns_as_read
        return Reading(
            parts=[p for place in self.places() for f in self.files(place) for p in self.parts(place, f.name, columns)]
        )

    @abc.abstractmethod
    def columns_there(self, place: Place, name: str) -> list[str]: ...

    @abc.abstractmethod
    def parts(self, place: Place, name: str, columns: Columns) -> list[Part]: ...


class Parquet(Table):
    suffixes = (".parquet", ".pq")

    def columns_there(self, place: Place, name: str) -> list[str]:
        with container_errors(place, name, "Parquet"):
            system, folder = place.folder()
            schema = pq.read_schema(f"{folder}/{name}", filesystem=system)
        for setting, column in self.columns.named():
            if column in schema.names:
                _check_type(setting, column, schema.field(column).type, is_object=self.columns.is_object)
        return list(schema.names)

    def parts(self, place: Place, name: str, columns: Columns) -> list[Part]:
        with container_errors(place, name, "Parquet"):
            system, folder = place.folder()
            metadata = pq.read_metadata(f"{folder}/{name}", filesystem=system)
        parts: list[Part] = []
        first = 0
        for group in range(metadata.num_row_groups):
            num = metadata.row_group(group).num_rows
            for start in range(0, num, MAX_PART_ROWS):
                size = min(MAX_PART_ROWS, num - start)
                parts.append(ParquetRows(place, size, name, columns, group, start, first + start))
            first += num
        return parts


class Csv(Table):
    suffixes = (".csv", ".csv.gz")

    def columns_there(self, place: Place, name: str) -> list[str]:
        csv.field_size_limit(sys.maxsize)
        return next(csv.reader(CsvRows(place, None, name, self.columns).lines()), [])

    def parts(self, place: Place, name: str, columns: Columns) -> list[Part]:
        return [CsvRows(place, None, name, columns)]


class Jsonl(Table):
    suffixes = (".jsonl", ".ndjson", ".jsonl.gz")

    def columns_there(self, place: Place, name: str) -> list[str]:
        """Keys of the first record that parses; lines before it become rejected rows."""
        for line in JsonlRows(place, None, name, self.columns).lines():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict):
                return list(record)
        raise place.error("holds no line with a JSON object", "write one object per line", name)

    def parts(self, place: Place, name: str, columns: Columns) -> list[Part]:
        return [JsonlRows(place, None, name, columns)]


def check_names(named: Sequence[tuple[str, str]], there: list[str], file: str) -> None:
    """Raises DataError where a column, given as (setting, name), is not in a file, or is there twice."""
    for setting, wanted in named:
        if wanted not in there:
            raise _missing(setting, wanted, there, file)
        if there.count(wanted) > 1:
            mend = "give each column a name of its own"
            raise DataError(f"data.source.{setting}", wanted, f"{file} has two columns of that name", mend)


def _missing(setting: str, wanted: str, there: list[str], file: str) -> DataError:
    nearness = {name: difflib.SequenceMatcher(None, wanted.lower(), name.lower()).ratio() for name in there}
    nearest = sorted(there, key=lambda name: (-nearness[name], name))
    names = (", ".join(nearest[:20]) or "none").encode("utf-8", "replace").decode()
    return DataError(f"data.source.{setting}", wanted, f"no such column in {file}", f"the columns are: {names}")


def _check_type(setting: str, column: str, kind: pa.DataType, *, is_object: bool) -> None:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    is_image = pa.types.is_struct(kind) and {"bytes", "path"} & {kind.field(i).name for i in range(kind.num_fields)}
    is_number = pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_floating(kind)
    if setting == "input" and not (is_text or is_bytes or is_image or (is_object and is_number)):
        mend = "name a column of texts or bytes, or a list of columns of numbers and texts"
        raise DataError("data.source.input", column, f"the column is {kind}", mend)
    if setting != "input" and not (is_text or is_number):
        mend = "name a column of text or whole numbers"
        raise DataError(f"data.source.{setting}", column, f"the column is {kind}", mend)
