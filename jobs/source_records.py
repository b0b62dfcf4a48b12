"""Rows of table files: what one Parquet record, CSV line or JSON line says, and how each goes wrong.

A damaged file is an error that names it; a line that does not parse is a rejected row with its text. Knows
nothing of folders full of files, nor of which columns there should be.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
import math
import posixpath
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow.parquet as pq

from jobs.source_rows import Part, Row, container_errors


@dataclass(frozen=True)
class Columns:
    """Several input columns are one input, a JSON object of them."""

    inputs: tuple[str, ...]
    label: str
    key: str | None
    is_object: bool = False  # the input is a JSON object, also of one column
    is_text: bool = False  # a text is the input itself, not a file's bytes or path
    has_values: bool = False  # labels are numbers of any kind

    def named(self) -> list[tuple[str, str]]:
        """(setting, column) of each."""
        wanted = [*(("input", name) for name in self.inputs), ("label", self.label), ("key", self.key)]
        return [(setting, name) for setting, name in wanted if name is not None]


@dataclass(frozen=True)
class TablePart(Part):
    name: str
    columns: Columns

    def row(self, record: dict[str, Any], number: int) -> Row:
        """One record as a row; what is wrong with it becomes the row's reason."""
        row = Row(None, "", self.place.origin(self.name, number), _text(record.get(self.columns.key or "")) or "")
        read = _number if self.columns.has_values else _text
        label = read(record.get(self.columns.label))
        if label is None:
            return row._replace(reason="bad_label", detail=f"a {type(record[self.columns.label]).__name__}")
        if self.columns.is_object:
            named = {name: _plain(record.get(name)) for name in self.columns.inputs}
            return row._replace(label=label, value=json.dumps(named).encode())
        value = record.get(self.columns.inputs[0])
        if isinstance(value, dict):  # Hugging Face's image feature: {bytes, path}
            value = value.get("bytes") or value.get("path")
        row = row._replace(label=label)
        if isinstance(value, str) and value:
            if self.columns.is_text:
                return row._replace(value=value.encode("utf-8", "replace"))
            return self._from_text(row, value.strip())
        if not value:
            return row
        if isinstance(value, bytes):
            return row._replace(value=value)
        return row._replace(reason="bad_input", detail=f"a {type(value).__name__}, not bytes or text")

    @cached_property
    def _beside(self) -> tuple[Any, str]:
        system, folder = self.place.folder()
        return system, posixpath.dirname(f"{folder}/{self.name}")

    def _from_text(self, row: Row, text: str) -> Row:
        # Base64 has no dot, a file name with a suffix always has one.
        if "." not in text:
            try:
                return row._replace(value=base64.b64decode(text, validate=True))
            except (binascii.Error, ValueError):
                detail = "neither base64 nor a path with a suffix"
                return row._replace(value=text.encode(), reason="bad_input", detail=detail)
        system, base = self._beside
        path = posixpath.normpath(posixpath.join(base, text))
        # A data file must not reach into the rest of the disk.
        if not path.startswith(base.rstrip("/") + "/"):
            return row._replace(
                value=text.encode(), reason="outside_folder", detail="the path leaves the file's folder"
            )
        try:
            with system.open_input_stream(path, compression=None) as stream:
                return row._replace(value=stream.read())
        except OSError as error:
            return row._replace(value=text.encode(), reason="unreadable", detail=str(error)[:200])


@dataclass(frozen=True)
class ParquetRows(TablePart):
    group: int
    start: int  # first row within the row group
    first: int  # its number within the file

    def rows(self) -> Iterator[Row]:
        system, folder = self.place.folder()
        with (
            container_errors(self.place, self.name, "Parquet"),
            system.open_input_file(f"{folder}/{self.name}") as stream,
            pq.ParquetFile(stream) as file,
        ):
            yield from self._rows(file)

    def _rows(self, file: pq.ParquetFile) -> Iterator[Row]:
        assert self.num_rows is not None
        skip, left, number = self.start, self.num_rows, self.first
        wanted = list(dict.fromkeys(name for _, name in self.columns.named()))
        for batch in file.iter_batches(batch_size=1024, row_groups=[self.group], columns=wanted, use_threads=False):
            piece = batch.slice(skip, left)
            skip = max(0, skip - batch.num_rows)
            for record in piece.to_pylist():
                yield self.row(record, number)
                number += 1
            left -= piece.num_rows
            if left == 0:
                return


class TextPart(TablePart):
    def lines(self) -> Iterator[str]:
        """Lines with their ends; bytes that are not UTF-8 stay in them as surrogates."""
        system, folder = self.place.folder()
        with (
            container_errors(self.place, self.name, "text"),
            system.open_input_stream(f"{folder}/{self.name}") as stream,  # unpacks .gz by its name
            io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="\n") as text,
        ):
            yield from text

    def bad(self, text: str, number: int, detail: str) -> Row:
        raw = text.encode("utf-8", "surrogateescape")
        return Row(raw, "", self.place.origin(self.name, number), reason="bad_line", detail=detail)


class JsonlRows(TextPart):
    def rows(self) -> Iterator[Row]:
        for number, line in enumerate(self.lines()):
            if not line.strip():
                continue
            try:
                line.encode()
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield self.bad(line, number, str(error)[:200])
                continue
            yield self.row(record, number) if isinstance(record, dict) else self.bad(line, number, "not an object")


class CsvRows(TextPart):
    def rows(self) -> Iterator[Row]:
        csv.field_size_limit(sys.maxsize)  # base64 images are longer than the default allows
        taken: list[str] = []
        reader = csv.reader(self._taking(taken), strict=True)
        header = next(reader, [])
        number = -1
        while True:
            taken.clear()
            number += 1
            try:
                fields = next(reader)
                "".join(fields).encode()
            except StopIteration:
                return
            except (csv.Error, UnicodeEncodeError) as error:
                yield self.bad("".join(taken), number, str(error)[:200])
                continue
            if len(fields) == len(header):
                yield self.row(dict(zip(header, fields, strict=True)), number)
            elif fields:
                detail = f"{len(fields)} fields where the header has {len(header)}"
                yield self.bad("".join(taken), number, detail)

    def _taking(self, taken: list[str]) -> Iterator[str]:
        for line in self.lines():
            taken.append(line)
            yield line


def _number(value: object) -> str | None:
    """A finite number as text that gives it back exactly, "" for none, None for what is no number."""
    if value is None or value == "":
        return ""
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        return None
    return repr(number) if math.isfinite(number) else None


def _plain(value: object) -> object:
    """What JSON can say of a value: numbers, texts, truth; a list as its parts with commas, others as text."""
    if isinstance(value, list):
        return ", ".join(str(part) for part in value if part is not None)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _text(value: object) -> str | None:
    """A label or key as text: "" when there is none, None when it is neither text nor whole number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None  # whole numbers beside nulls are stored as floats
    return str(value).strip() if isinstance(value, str | int) else None
