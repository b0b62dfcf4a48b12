"""The record of an endpoint's adaptation, read from wherever it lies.

In a folder it is what `serve.adapt.journal` writes. An object store cannot append, so there it is a copy in segments,
which `serve.adapt.post` writes: numbered objects of gzipped lines, each beginning with a `state`. Knows how it is kept,
not what it means.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator

from cluster.store import Store
from serve.adapt import mailbox
from serve.adapt.journal import Reading, read_last, read_lines, since_state

SUFFIX = ".jsonl.gz"
MOST_BACK = 8  # segments without a state, before it is taken for lost


def folder(name: str) -> str:
    """Of the segments, in a store."""
    return f"{mailbox.folder(name)}/{mailbox.JOURNAL}"


def file_of(number: int) -> str:
    return f"{number:08d}{SUFFIX}"


def number_of(file: str) -> int:
    return int(file.removesuffix(SUFFIX))


def segments(store: Store, path: str) -> list[str]:
    """Their files' names, oldest first."""
    return [name for name in store.names(path) if name.endswith(SUFFIX) and name.removesuffix(SUFFIX).isdigit()]


def where(store: Store, name: str) -> str:
    """For a person."""
    return store.place(folder(name))


def is_there(store: Store, name: str) -> bool:
    """Whether an actor has ever been at work on the endpoint `name`."""
    return mailbox.place(store, name).is_dir() if store.local is not None else bool(segments(store, folder(name)))


def last(store: Store, name: str) -> Reading:
    """From the last `state` on; empty where there is none. Raises OSError in a folder, else StoreError."""
    if store.local is not None:
        return read_last(mailbox.journal(mailbox.place(store, name)))
    return _last(store, folder(name))[1]


def last_lines(store: Store, path: str) -> bytes:
    """Whole lines, the `state` that everything goes on from among them. Raises StoreError."""
    return _last(store, path)[0]


def whole(store: Store, path: str) -> Reading:
    """All segments in a folder of a store, or the one that `path` names. Raises StoreError."""
    reading = Reading()
    names = [path] if path.endswith(SUFFIX) else [f"{path}/{name}" for name in segments(store, path)]
    for name in names:
        _unpacked(store, name, reading)
    return reading


def _last(store: Store, path: str) -> tuple[bytes, Reading]:
    lines: list[bytes] = []  # newest first

    def parts() -> Iterator[Reading]:
        for name in reversed(segments(store, path)[-MOST_BACK:]):
            reading = Reading()
            lines.append(_unpacked(store, f"{path}/{name}", reading))
            yield reading

    found = since_state(parts())
    return b"".join(reversed(lines)), found


def _unpacked(store: Store, path: str, reading: Reading) -> bytes:
    """The lines of a segment, which are added to `reading`; what is gone by now was the oldest."""
    data = store.get(path)
    if not data:
        return b""
    try:
        lines = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        reading.problems.append(f"{path}: no segment ({error})")
        return b""
    read_lines(reading, path.rpartition("/")[2], lines.splitlines(keepends=True))
    return lines
