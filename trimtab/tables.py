"""What a table of a user's own is: its first rows, and which of its columns are images, texts, labels, users and items.

Knows files and what columns look like; not what is written for them. A guess that a person may correct in the file.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from cluster.errors import DataError, first_line

KINDS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl"}
ROWS_LOOKED_AT = 1000
MOST_LABELS = 500
LABELS = ("label", "labels", "class", "category", "sentiment", "intent", "target", "topic", "y")
INTENTS, OUT_OF_SCOPE = ("intent", "intents"), ("oos", "out_of_scope")
USERS = ("user", "userid", "customer", "customerid", "reader", "member", "visitor", "client", "account")
ITEMS = (
    "item",
    "itemid",
    "product",
    "productid",
    "movie",
    "movieid",
    "book",
    "bookid",
    "article",
    "song",
    "track",
    "sku",
)
TIMES = ("time", "timestamp", "date", "datetime", "at", "createdat")
TITLES = ("title", "name", "itemname", "productname", "producttitle", "movietitle", "booktitle")
MAGIC = b"\x89PNG", b"\xff\xd8\xff"
IMAGE_TEXT = re.compile(r"iVBORw0KGgo|/9j/|.*\.(png|jpe?g)$", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Table:
    path: Path
    columns: dict[str, list[Any]]  # values of the first rows, without those that are empty

    @property
    def kind(self) -> str:
        return KINDS[self.path.suffix.lower()]

    def named(self, *names: str) -> str | None:
        """The first column with one of these names, whatever its case and punctuation."""
        return next((name for wanted in names for name in self.columns if plain(name) == wanted), None)

    def has(self, column: str, *values: str) -> bool:
        """Whether one of these values is in it."""
        return not set(self.columns[column]).isdisjoint(values)

    def image(self) -> str | None:
        return self._first(_is_image)

    def text(self) -> str | None:
        """Of the columns with words in them that differ from row to row the longest."""
        columns = {name: self.columns[name] for name in self.texts()}
        lengths = {
            name: sum(map(len, values)) / len(values)
            for name, values in columns.items()
            if sum(" " in one.strip() for one in values) * 2 > len(values)
        }
        return max(lengths, key=lambda name: lengths[name], default=None)

    def texts(self) -> list[str]:
        """Columns of texts that are no images."""
        return [
            name
            for name, values in self.columns.items()
            if values and all(isinstance(one, str) and not (IMAGE_TEXT.match(one) or _is_number(one)) for one in values)
        ]

    def label(self, *beside: str | None) -> str | None:
        """By its name, else the only column whose values come again and again; never one of `beside`."""
        named = self.named(*LABELS)
        if named is not None and named not in beside and _is_label(self.columns[named]):
            return named
        few = [name for name, values in self.columns.items() if name not in beside and _comes_again(values)]
        return few[0] if len(few) == 1 else None

    def _first(self, fits: Callable[[Any], bool]) -> str | None:
        return next((name for name, values in self.columns.items() if values and all(map(fits, values))), None)


def plain(name: str) -> str:
    """A column's name without case and punctuation."""
    return re.sub(r"[^a-z]", "", name.lower())


def look(path: Path) -> Table:
    """The first rows of a CSV, JSON lines or Parquet file. Raises DataError where it cannot be read as such."""
    kind = KINDS[path.suffix.lower()]
    try:
        rows = list(islice({"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}[kind](path), ROWS_LOOKED_AT))
    except (OSError, ValueError, csv.Error, RecursionError) as error:  # pyarrow's errors are ValueErrors or OSErrors
        raise DataError("--data", str(path), f"is no {kind} file ({first_line(error)})", "mend or remove it") from None
    if not rows:
        raise DataError("--data", str(path), "holds no row", "name a table with rows")
    names = dict.fromkeys(name for row in rows for name in row)
    return Table(path, {name: [row[name] for row in rows if row.get(name) not in (None, "")] for name in names})


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(sys.maxsize)
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        names = next(lines, [])
        check_header(str(path), names)
        for fields in lines:
            if len(fields) == len(names):
                row = dict(zip(names, fields, strict=True))
                if any(name and name == value for name, value in row.items()):
                    raise _no_header(str(path), names)
                yield row


def check_header(path: str, names: Sequence[str]) -> None:
    """Raises DataError where a CSV file's first line is none of column names, or names one twice."""
    if all(_is_number(name) for name in names):
        raise _no_header(path, names)
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError("--data", path, f"has two columns of the name {twice!r}", "give each a name of its own")


def _no_header(path: str, names: Sequence[str]) -> DataError:
    problem = f"has no line of column names: its first is {', '.join(names)[:60]!r}"
    return DataError("--data", path, problem, "put one in front, for example text,label")


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("a line is no JSON object")
                yield row


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=100):
            yield from batch.to_pylist()


def _is_image(value: Any) -> bool:
    if isinstance(value, dict):  # Hugging Face's image feature
        return "bytes" in value or "path" in value
    if isinstance(value, bytes):
        return value.startswith(MAGIC)
    return isinstance(value, str) and IMAGE_TEXT.match(value) is not None


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _is_label(values: Sequence[Any]) -> bool:
    """Texts or whole numbers."""
    return bool(values) and all(
        isinstance(one, bool | int) or (isinstance(one, str) and "." not in one) for one in values
    )


def _comes_again(values: Sequence[Any]) -> bool:
    return _is_label(values) and 2 <= len(set(values)) <= min(MOST_LABELS, len(values) // 2)
