"""Write a file so that nobody ever sees a part of it. Knows nothing of what is in it; loads nothing heavy."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

NO_LINKS = errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP  # of mounted buckets, mostly: there a look beforehand must do


def write_whole(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write beside `path`, flush to the disk, then rename over it. Raises OSError."""
    with _aside(path, data, mode) as aside:
        aside.replace(path)


def write_new(path: Path, data: bytes, mode: int = 0o644) -> bool:
    """As `write_whole`, but only where there is no file yet: the first of several writers alone. Raises OSError."""
    with _aside(path, data, mode) as aside:
        try:
            path.hardlink_to(aside)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            if path.exists():
                return False
            aside.replace(path)
    return True


@contextlib.contextmanager
def _aside(path: Path, data: bytes, mode: int) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        yield aside
    finally:
        aside.unlink(missing_ok=True)
