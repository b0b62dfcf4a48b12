"""Lines of a file or of stdin, a few at a time: bounded, in order, and never read ahead of what is worked on.

What is not read stays in the pipe, so a producer faster than the endpoint waits. Knows nothing of what a line is.
"""

from __future__ import annotations

import hashlib
import os
import select
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import UserError

MOST_LINE = 256 * 1024  # bytes; a longer line is passed over
CHUNK = 64 * 1024
HEAD = 1024  # bytes by which a file is known again
FOLLOW_S = 0.25
STDIN = "-"

Words = Callable[[str], None]


@dataclass(frozen=True)
class Line:
    """`data` is None for a line that is too long; `end` is where the next one begins."""

    data: bytes | None
    end: int


class Lines:
    """Use as a context manager. `follow` waits for more at the end of a file; a pipe is followed by its nature."""

    def __init__(self, path: str, *, follow: bool = False, on_word: Words = lambda _: None) -> None:
        """Raises UserError where the file cannot be read."""
        self._path, self._say = path, on_word
        try:
            self._fd = 0 if path == STDIN else os.open(path, os.O_RDONLY)
            self._is_file = stat.S_ISREG(os.fstat(self._fd).st_mode)
            if stat.S_ISDIR(os.fstat(self._fd).st_mode):
                raise IsADirectoryError(21, "is a folder")
        except OSError as error:
            raise UserError(
                "STREAM", path, f"cannot be read ({error.strerror})", "name a file, or - for stdin"
            ) from None
        self._follow = follow
        self.ended = False
        self._buffer, self._offset, self._is_long = b"", 0, False

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        if self._path != STDIN:
            os.close(self._fd)

    @property
    def is_live(self) -> bool:
        """Whether more may come, and time goes on without it."""
        return self._follow or not self._is_file

    def position(self, end: int) -> dict[str, Any] | None:
        """Where to go on in a file; None where there is no going back."""
        if not self._is_file or self._path == STDIN:
            return None
        return {"path": str(Path(self._path).resolve()), "offset": end, "head": self._head(min(end, HEAD))}

    def go_on(self, position: dict[str, Any] | None) -> bool:
        """Whether it is the file of `position`, and reading goes on there."""
        if position is None or not self._is_file or self._path == STDIN:
            return False
        end = int(position["offset"])
        is_same = position["path"] == str(Path(self._path).resolve()) and os.fstat(self._fd).st_size >= end
        if not is_same or position["head"] != self._head(min(end, HEAD)):
            return False
        self._offset = os.lseek(self._fd, end, os.SEEK_SET)
        return True

    def take(self, most: int, linger_s: float, idle_s: float) -> list[Line]:
        """Up to `most` lines: what comes within `linger_s` of the first; none when nothing comes for `idle_s`."""
        found: list[Line] = []
        until = time.monotonic() + idle_s
        while len(found) < most:
            if line := self._next():
                if not found:
                    until = time.monotonic() + linger_s
                found.append(line)
                continue
            if self.ended or not self._more(max(0.0, until - time.monotonic())):
                break
        return found

    def _next(self) -> Line | None:
        """The next whole line in the buffer; the last one may lack its end."""
        at = self._buffer.find(b"\n")
        if at < 0 and self.ended and self._buffer:
            at = len(self._buffer)
        if at < 0:
            if len(self._buffer) > MOST_LINE:
                self._offset += len(self._buffer)
                self._buffer, self._is_long = b"", True
            return None
        data, self._buffer = self._buffer[:at], self._buffer[at + 1 :]
        self._offset += at + 1
        is_long, self._is_long = self._is_long or len(data) > MOST_LINE, False
        return Line(None if is_long else data, self._offset)

    def _more(self, timeout_s: float) -> bool:
        """Read some; False when there is nothing yet."""
        if not self._is_file and not select.select([self._fd], [], [], timeout_s)[0]:
            return False
        if chunk := os.read(self._fd, CHUNK):
            self._buffer += chunk
            return True
        if self._is_file and self._follow:
            self._see_whether_it_is_another()
            time.sleep(min(timeout_s, FOLLOW_S))
            return timeout_s > FOLLOW_S
        self.ended = True
        return True

    def _see_whether_it_is_another(self) -> None:
        """A log that was rotated is a new file under the old name; one that was emptied is shorter than before."""
        try:
            named, opened = Path(self._path).stat(), os.fstat(self._fd)
        except OSError:
            return  # between two files of this name
        if (named.st_dev, named.st_ino) != (opened.st_dev, opened.st_ino):
            fresh = os.open(self._path, os.O_RDONLY)
            os.close(self._fd)
            self._fd = fresh
        elif opened.st_size < os.lseek(self._fd, 0, os.SEEK_CUR):
            os.lseek(self._fd, 0, os.SEEK_SET)
        else:
            return
        self._say(f"{self._path} is a new file: it is read from its beginning")
        self._buffer, self._offset, self._is_long = b"", 0, False

    def _head(self, num: int) -> str:
        return hashlib.sha256(os.pread(self._fd, num, 0)).hexdigest()
