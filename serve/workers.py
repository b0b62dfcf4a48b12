"""Threads that compute beside the event loop.

An executor of the standard library makes a future with a lock for each job, which costs more than choosing a batch
does, and keeps a process from ending while a job hangs. Knows nothing of jobs but that they raise nothing.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue

Job = Callable[[], None]


class Workers:
    """Daemon threads, begun as they are needed; they end with `close`, or when nobody holds this any more."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._num_threads = 0
        self.close = weakref.finalize(self, self._jobs.put, None)  # jobs that run are not waited for

    def run(self, job: Job, num_threads: int) -> None:
        """Hand over `job`, of which `num_threads` are being run with it."""
        while self._num_threads < num_threads:
            self._num_threads += 1
            name = f"{self._name}-{self._num_threads}"
            threading.Thread(target=_work, args=(self._jobs,), name=name, daemon=True).start()
        self._jobs.put(job)


def _work(jobs: SimpleQueue[Job | None]) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # what it holds must not live until the next one
    jobs.put(None)  # for the next thread
