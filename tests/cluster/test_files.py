from __future__ import annotations

import threading
from pathlib import Path

from cluster.files import write_whole


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
