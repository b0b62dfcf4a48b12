"""What all sources share: where files lie, the parts a source is read in, and the table of rows they give.

A row is a value (encoded bytes or a uint8 array), a label, where it came from and, when it cannot be used, why.
Knows no Ray, no image format and no task.
"""

from __future__ import annotations

import abc
import contextlib
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import fs

from cluster.errors import DataError

PATH, TEST_PATH = "data.source.path", "data.source.test_path"
MAX_TABLE_ROWS = 512
MAX_TABLE_BYTES = 16 * 1024**2
TEST, VALIDATION = "test", "validation"  # split of a row that the source itself calls so; "" for all others


class Row(NamedTuple):
    """`reason` is "" for a row that may be good; for others `value` is the raw text, where there is one."""

    value: bytes | None
    label: str
    origin: str
    key: str = ""
    reason: str = ""
    detail: str = ""
    split: str = ""  # where a row's place does not say it


class File(NamedTuple):
    name: str  # relative to its place, with forward slashes
    size: int  # bytes
    mtime_ns: int


@dataclass(frozen=True)
class Place:
    """A file or folder named in the experiment, on this machine or at a pyarrow.fs URI; picklable.

    `where` does not depend on the working directory, which differs between processes.
    """

    setting: str
    given: str
    split: str = ""
    where: str = field(default="", repr=False)

    @staticmethod
    def of(setting: str, given: str, split: str = "") -> Place:
        where = given if "://" in given else str(Path(given).expanduser().absolute())
        return Place(setting, given, split, where)

    def error(self, problem: str, mend: str, name: str = "") -> DataError:
        value = posixpath.join(self.given, name) if name and not self.given.endswith(name) else self.given
        return DataError(self.setting, value, problem, mend)

    def files(self) -> list[File]:
        """Files at any depth, sorted by name, hidden ones left out; a place that is a file gives itself.

        Raises:
            DataError: nothing there, or not readable.
        """
        system, root = self.system()
        try:
            info = system.get_file_info(root)
            if info.type == fs.FileType.NotFound:
                raise self.error("no such file or folder", "name one that exists")
            if info.type == fs.FileType.File:
                return [File(info.base_name, info.size, info.mtime_ns or 0)]
            found = system.get_file_info(fs.FileSelector(root, recursive=True))
        except (OSError, ValueError) as error:  # ValueError: pyarrow's, of a path that can be none
            raise self.error(f"cannot be read ({_words(error)})", "name one that you may read") from error
        base = root.rstrip("/") + "/"
        files = [File(i.path.removeprefix(base), i.size, i.mtime_ns or 0) for i in found if i.type == fs.FileType.File]
        return sorted(f for f in files if not any(part.startswith(".") for part in f.name.split("/")))

    def is_file(self) -> bool:
        system, root = self.system()
        return bool(system.get_file_info(root).type == fs.FileType.File)

    def folder(self) -> tuple[Any, str]:
        """The file system and the folder that the names of `files` are relative to."""
        system, root = self.system()
        return system, posixpath.dirname(root) if self.is_file() else root.rstrip("/")

    def origin(self, name: str, row: int | None = None) -> str:
        prefix = "test:" if self.split else ""  # both places may hold files of one name
        return f"{prefix}{name}" if row is None else f"{prefix}{name}#{row}"

    def system(self) -> tuple[Any, str]:
        if "://" not in self.where:
            return fs.LocalFileSystem(), self.where
        try:
            system, path = fs.FileSystem.from_uri(self.where)
        except Exception as error:  # pyarrow raises ValueError, ArrowInvalid and OSError here
            mend = "name a file, a folder or a URI such as s3://bucket/prefix"
            raise self.error(f"cannot be opened ({_words(error)})", mend) from error
        return system, path


@dataclass(frozen=True)
class Part(abc.ABC):
    """Some rows of a source, in order; small and picklable, read by whichever process has time."""

    place: Place
    num_rows: int | None  # None: not known before it is read

    @abc.abstractmethod
    def rows(self) -> Iterator[Row]:
        """Raises DataError when the file that holds the rows is damaged."""


@dataclass(frozen=True)
class Reading:
    """All rows of a source in order: as tables already in memory, or as parts still to be read."""

    tables: list[pa.Table] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    labels: tuple[str, ...] | None = None  # all there can be, where the source knows more than its rows show
    files: dict[str, bytes] = field(default_factory=dict)  # to keep with the dataset, by name

    def num_rows(self) -> int | None:
        counts = [table.num_rows for table in self.tables] + [part.num_rows for part in self.parts]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def values(self) -> Iterator[bytes | np.ndarray]:
        """The rows' values in order, read as far as they are asked for."""
        for table in self.tables:
            yield from values(table)
        for part in self.parts:
            yield from (row.value for row in part.rows() if row.value and not row.reason)


SCHEMA = pa.schema(
    {
        "value": pa.binary(),
        "label": pa.string(),
        "origin": pa.string(),
        "split": pa.string(),
        "key": pa.string(),
        "reason": pa.string(),
        "detail": pa.string(),
        "position": pa.int64(),  # orders all rows of a source, however they are cut into tables
    }
)


def read_part(part: Part, number: int) -> Iterator[pa.Table]:
    """The rows of a source's part in tables of bounded size; `number` orders the parts. Raises DataError."""
    batch: list[Row] = []
    start = number << 32
    num_bytes = 0
    for row in part.rows():
        batch.append(row)
        num_bytes += len(row.value or b"")
        if len(batch) >= MAX_TABLE_ROWS or num_bytes >= MAX_TABLE_BYTES:
            yield _table(batch, part.place.split, start)
            start, batch, num_bytes = start + len(batch), [], 0
    if batch:
        yield _table(batch, part.place.split, start)


def _table(rows: list[Row], split: str, start: int) -> pa.Table:
    columns = {name: list(column) for name, column in zip(Row._fields, zip(*rows, strict=True), strict=True)}
    columns["split"] = [own or split for own in columns["split"]]
    columns["position"] = list(range(start, start + len(rows)))
    return pa.table(columns, schema=SCHEMA)


def array_tables(images: np.ndarray, labels: Iterable[str], name: str, split: str, number: int) -> list[pa.Table]:
    """Tables over uint8 images [n, height, width, channels]; their pixels stay where they are."""
    texts = np.array(list(labels), dtype=object)
    step = max(1, MAX_TABLE_BYTES // 2 // max(1, images[0].nbytes)) if len(images) else 1
    return [
        _array_table(images[i : i + step], texts[i : i + step], name, split, (number << 32) + i, i)
        for i in range(0, len(images), step)
    ]


def _array_table(images: np.ndarray, labels: np.ndarray, name: str, split: str, position: int, first: int) -> pa.Table:
    num = len(images)
    blank = pa.DictionaryArray.from_arrays(np.zeros(num, np.int32), pa.array([""])).cast(pa.string())
    return pa.table(
        {
            "value": pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(images)),
            "label": pa.array(labels, pa.string()),
            "origin": pa.array([f"{name}#{i}" for i in range(first, first + num)], pa.string()),
            "split": pa.array([split] * num, pa.string()),
            "key": blank,
            "reason": blank,
            "detail": blank,
            "position": pa.array(np.arange(position, position + num)),
        }
    )


def values(table: pa.Table) -> Iterator[Any]:
    """Values of a table of rows: bytes or None, or a uint8 array [height, width, channels]."""
    for chunk in table["value"].chunks:
        if isinstance(chunk, pa.FixedShapeTensorArray):
            yield from tensor(chunk)
        else:
            yield from chunk.to_pylist()


def tensor(array: pa.FixedShapeTensorArray) -> np.ndarray:
    """The array [n, *shape] behind a fixed-shape tensor column, without copying it."""
    return np.asarray(array.storage.flatten()).reshape(len(array), *array.type.shape)


@contextlib.contextmanager
def container_errors(place: Place, name: str, what: str) -> Iterator[None]:
    """Turns what goes wrong in reading a file of many rows into a DataError that names the file."""
    try:
        yield
    except (OSError, EOFError, pa.ArrowException) as error:
        problem = f"is not readable {what} ({_words(error)})"
        raise place.error(problem, "fetch or make the file anew", name) from error


def _words(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error).split("\n")[0][:160] or type(error).__name__
