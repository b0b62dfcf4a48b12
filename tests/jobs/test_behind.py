from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}

    said = subprocess.check_output([sys.executable, "-m", "jobs.behind", "late", "-", "x"], text=True, env=environment)

    assert said.strip() == f"__main__ ['-', 'x'] {os.SCHED_IDLE}"
