"""Lines from files that grow, shrink and are rotated, and from pipes that are full."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from cluster.errors import UserError
from trimtab.lines import MOST_LINE, Line, Lines


def every(lines: Lines) -> list[Line]:
    found: list[Line] = []
    while part := lines.take(3, 0.0, 0.0):
        found += part
    return found


def test_a_file_is_read_a_few_lines_at_a_time_to_its_last_without_an_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"one\n\ntwo \xff\nthree")

    with Lines(str(path)) as lines:
        found = every(lines)

    assert [line.data for line in found] == [b"one", b"", b"two \xff", b"three"]
    assert [line.end for line in found][:3] == [4, 5, 11]


def test_a_line_that_is_too_long_is_passed_over_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"one\n" + b"x" * (5 * MOST_LINE) + b"\ntwo\n" + b"y" * (MOST_LINE + 1) + b"\nthree\n")

    with Lines(str(path)) as lines:
        found = every(lines)
        assert len(lines._buffer) <= 2 * MOST_LINE

    assert [line.data for line in found] == [b"one", None, b"two", None, b"three"]
    assert found[-1].end == path.stat().st_size


def test_reading_goes_on_where_it_was_and_not_in_another_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"one\ntwo\n")
    with Lines(str(path)) as lines:
        position = lines.position(lines.take(1, 0.0, 0.0)[0].end)
    with path.open("ab") as file:
        file.write(b"three\n")

    with Lines(str(path)) as again:
        assert again.go_on(position)
        assert [line.data for line in every(again)] == [b"two", b"three"]
    path.write_bytes(b"one!two\nx\n")
    with Lines(str(path)) as other:
        assert not other.go_on(position)
    path.write_bytes(b"on")
    with Lines(str(path)) as shorter:
        assert not shorter.go_on(position)


def test_a_followed_file_may_grow_be_emptied_and_be_rotated(tmp_path: Path) -> None:
    path, said = tmp_path / "a.jsonl", list[str]()
    path.write_bytes(b"one\n")

    with Lines(str(path), follow=True, on_word=said.append) as lines:
        assert [line.data for line in lines.take(9, 0.1, 5.0)] == [b"one"]
        assert lines.take(9, 0.0, 0.0) == []
        with path.open("ab") as file:
            file.write(b"two\nhalf")
        assert [line.data for line in lines.take(9, 0.1, 5.0)] == [b"two"]
        path.rename(tmp_path / "a.jsonl.1")
        path.write_bytes(b"three\n")
        assert [line.data for line in lines.take(9, 0.1, 5.0)] == [b"three"]
        path.write_bytes(b"4\n")
        assert [line.data for line in lines.take(9, 0.1, 5.0)] == [b"4"]
        assert not lines.ended
        assert lines.is_live
    assert len(said) == 2


def test_a_pipe_is_read_no_further_than_asked(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    writer = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    with Lines(str(fifo)) as lines:
        assert lines.take(9, 0.0, 0.05) == []
        os.write(writer, b"one\ntwo\nthr")
        assert [line.data for line in lines.take(9, 0.05, 5.0)] == [b"one", b"two"]
        num_written = 0
        with contextlib.suppress(BlockingIOError):  # until the pipe is full
            while True:
                num_written += os.write(writer, b"x" * 1023 + b"\n")
        lines.take(1, 0.0, 5.0)
        assert len(lines._buffer) < num_written + 64 * 1024
        assert lines.position(10) is None
    os.close(writer)


@pytest.mark.parametrize("name", [".", "missing"])
def test_what_cannot_be_read_is_a_users_mistake(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="STREAM"):
        Lines(str(tmp_path / name))
