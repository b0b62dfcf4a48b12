"""`python -m jobs.behind MODULE ARGUMENTS`: run a module where nothing else wants the processor.

What is loaded first, torch and Ray among it, takes seconds of it: so this module loads none of that.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
from pathlib import Path


def give_way() -> None:
    """Let this process have a processor only where nothing else wants it, and with it whatever it starts from now on.

    On Linux by the scheduling class for that (SCHED_IDLE): a process of niceness 19 still gets in the way of one that
    wakes for each request, this one leaves at once. Elsewhere by niceness.
    """
    if sys.platform != "linux":
        os.setpriority(os.PRIO_PROCESS, 0, 19)
        return
    for thread in Path("/proc/self/task").iterdir():  # those that numeric libraries have begun too
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))


def let_session_give_way() -> None:
    """Let all of this process's session have what others leave, where the session is a job's own.

    Linux may share processors among sessions first and among a session's processes then (autogroups): Ray makes a
    session for each job, which would have as much as all replicas together, however idle what is in it. A session with
    a terminal is a person's and stays as it is.
    """
    if os.getsid(0) in (os.getpid(), os.getppid()) and not _has_terminal():
        with contextlib.suppress(OSError):  # it does not here
            Path("/proc/self/autogroup").write_text("19")


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY))
    except OSError:
        return False
    return True


if __name__ == "__main__":
    give_way()
    let_session_give_way()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
