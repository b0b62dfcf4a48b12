from __future__ import annotations

import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.files import write_new, write_whole


def test_a_reader_never_sees_a_part_of_a_file_that_is_written_over(tmp_path: Path) -> None:
    path, contents = tmp_path / "f", [bytes([i]) * 200_000 for i in range(2)]
    write_whole(path, contents[0])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for content in contents:
                write_whole(path, content)

    writer = threading.Thread(target=write)
    writer.start()
    seen = {path.read_bytes() for _ in range(300)}
    stop.set()
    writer.join()

    assert seen <= set(contents)


def test_of_many_writers_of_a_new_file_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "f"

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda i: write_new(path, bytes([i]) * 1000), range(16)))

    assert sum(won) == 1
    assert path.read_bytes() == bytes([won.index(True)]) * 1000
    assert list(tmp_path.iterdir()) == [path]


def test_where_there_are_no_links_the_file_that_is_there_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuses)

    assert write_new(tmp_path / "f", b"first")
    assert not write_new(tmp_path / "f", b"second")
    assert (tmp_path / "f").read_bytes() == b"first"
