"""Jobs on threads beside the caller."""

from __future__ import annotations

import gc
import threading

from serve.workers import Workers


def test_jobs_run_in_their_order_on_one_thread_and_at_once_on_two() -> None:
    workers, seen, done = Workers("test"), [], threading.Event()
    for number in range(3):
        workers.run(lambda number=number: seen.append(number), 1)
    workers.run(done.set, 1)
    assert done.wait(30)
    assert seen == [0, 1, 2]

    meet = threading.Barrier(3, timeout=30)
    for _ in range(2):
        workers.run(meet.wait, 2)
    meet.wait()
    workers.close()


def test_threads_end_when_it_is_closed_or_forgotten() -> None:
    for is_closed in (True, False):
        workers, threads, meet = Workers("test"), [], threading.Barrier(3, timeout=30)

        def job(threads: list[threading.Thread] = threads, meet: threading.Barrier = meet) -> None:
            threads.append(threading.current_thread())
            meet.wait()

        for _ in range(2):
            workers.run(job, 2)
        meet.wait()
        if is_closed:
            workers.close()
        else:
            del workers
            gc.collect()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
