from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GROUPS = Path("/proc/sys/kernel/sched_autogroup_enabled")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the scheduling class is Linux's")


def test_a_process_gives_way_with_all_its_threads_and_what_it_starts() -> None:
    code = """
import os, subprocess, sys, threading
from jobs import behind
over = threading.Event()
thread = threading.Thread(target=over.wait)
thread.start()
behind.give_way()
asked = "import os; print(os.sched_getscheduler(0))"
print(os.sched_getscheduler(0), os.sched_getscheduler(thread.native_id), flush=True)
subprocess.run([sys.executable, "-c", asked])
over.set()
"""

    said = subprocess.check_output([sys.executable, "-c", code], text=True)

    assert said.split() == [str(os.SCHED_IDLE)] * 3


def test_a_module_is_run_behind_all_else_from_its_first_line(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text("import os, sys; print(__name__, sys.argv[1:], os.sched_getscheduler(0))")

    assert behind(tmp_path, "late", "-", "x") == f"__main__ ['-', 'x'] {os.SCHED_IDLE}"


@pytest.mark.skipif(
    not GROUPS.exists() or GROUPS.read_text().strip() != "1", reason="sessions do not share processors here"
)
def test_a_jobs_session_gives_way_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text("print(open('/proc/self/autogroup').read())")

    assert behind(tmp_path, "late").endswith("nice 19")


def behind(folder: Path, *words: str) -> str:
    """What a module says that is run as Ray runs a job: in a session of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    command = [sys.executable, "-m", "jobs.behind", *words]
    return subprocess.check_output(command, text=True, env=environment, start_new_session=True).strip()
