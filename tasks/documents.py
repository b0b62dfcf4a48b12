"""Files that a task reads beside its rows: a file, or those of a folder, on this machine or at a pyarrow.fs URI.

Every mistake is a DataError that names the setting and the file. Knows nothing of what is in them.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import DataError, first_line

MAX_FILE_BYTES = 64 * 1024**2


@dataclass(frozen=True)
class Found:
    name: str  # relative to the folder, with forward slashes
    size: int  # bytes
    mtime_ns: int


@dataclass(frozen=True)
class Place:
    """What the setting `setting` names; `suffixes` are those of the files that are read in a folder."""

    setting: str
    given: str
    suffixes: tuple[str, ...]

    def files(self) -> list[Found]:
        """By name, hidden ones left out. Raises DataError where there is none, or one that cannot be read whole."""
        from pyarrow import fs

        system, root = self._system()
        try:
            info = system.get_file_info(root)
            if info.type == fs.FileType.NotFound:
                raise self.error("no such file or folder", "name one that exists")
            is_file = info.type == fs.FileType.File
            infos = [info] if is_file else system.get_file_info(fs.FileSelector(root, recursive=True))
        except OSError as error:
            raise self.error(f"cannot be read ({first_line(error)})", "name one that you may read") from error
        base = posixpath.dirname(root) + "/" if is_file else root.rstrip("/") + "/"
        found = sorted(
            (Found(each.path.removeprefix(base), each.size, each.mtime_ns or 0) for each in infos if each.is_file),
            key=lambda file: file.name,
        )
        found = [file for file in found if is_file or self._is_meant(file.name)]
        if not found or not all(file.name.lower().endswith(self.suffixes) for file in found):
            raise self.error(f"holds no {' or '.join(self.suffixes)} file", "name such a file, or a folder of them")
        for file in found:
            if file.size > MAX_FILE_BYTES:
                raise self.error(f"{file.size} bytes are over {MAX_FILE_BYTES}", "cut the file in parts", file.name)
        return found

    def texts(self) -> Iterator[tuple[str, str]]:
        """(name, text) of each of the files. Raises DataError as `files` does, and for what is not UTF-8."""
        for file in self.files():
            try:
                yield file.name, self.read(file.name).decode("utf-8-sig")
            except UnicodeDecodeError as error:
                problem = f"is not UTF-8 ({error.reason} at byte {error.start})"
                raise self.error(problem, "save it as UTF-8", file.name) from error

    def read(self, name: str) -> bytes:
        system, root = self._system()
        path = root if root.endswith(name) and system.get_file_info(root).is_file else posixpath.join(root, name)
        try:
            with system.open_input_file(path) as stream:
                return bytes(stream.read())
        except OSError as error:
            raise self.error(f"cannot be read ({first_line(error)})", "name one that you may read", name) from error

    def error(self, problem: str, mend: str, name: str = "") -> DataError:
        value = posixpath.join(self.given, name) if name and not self.given.endswith(name) else self.given
        return DataError(self.setting, value, problem, mend)

    def _is_meant(self, name: str) -> bool:
        return name.lower().endswith(self.suffixes) and not any(part.startswith(".") for part in name.split("/"))

    def _system(self) -> tuple[Any, str]:
        from pyarrow import fs

        if "://" not in self.given:
            return fs.LocalFileSystem(), str(Path(self.given).expanduser().absolute())
        try:
            system, path = fs.FileSystem.from_uri(self.given)
        except Exception as error:  # pyarrow raises ValueError, ArrowInvalid and OSError here
            mend = "name a file, a folder or a URI such as s3://bucket/prefix"
            raise self.error(f"cannot be opened ({first_line(error)})", mend) from error
        return system, path
