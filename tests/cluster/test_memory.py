from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from cluster.memory import available_bytes

MIB = 1024**2


@pytest.mark.parametrize(
    ("limit", "used", "stat", "free"),
    [
        pytest.param(f"{300 * MIB}", 200 * MIB, "anon 1\n", 100 * MIB, id="a limit"),
        pytest.param(f"{300 * MIB}", 200 * MIB, f"inactive_file {50 * MIB}\n", 150 * MIB, id="files give way"),
        pytest.param(f"{300 * MIB}", 301 * MIB, "", 0, id="over it"),
    ],
)
def test_a_containers_limit_is_what_is_free(tmp_path: Path, limit: str, used: int, stat: str, free: int) -> None:
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text(f"{used}\n")
    (tmp_path / "memory.stat").write_text(stat)

    assert available_bytes(tmp_path) == free


@pytest.mark.parametrize("limit", ["max", None])
def test_without_a_limit_the_machines_memory_is(tmp_path: Path, limit: str | None) -> None:
    if limit:
        (tmp_path / "memory.max").write_text(limit)

    assert available_bytes(tmp_path) == pytest.approx(psutil.virtual_memory().available, rel=0.5)
