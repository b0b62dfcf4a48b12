"""Notice that a training is to be taken from where it runs, so that it can keep a checkpoint and leave in time.

A driver and a training in its own process get a SIGTERM (`trimtab stop`, a pod's end), a worker gets one too, or its
node is drained, which Ray tells. Python runs the handlers of signals in the main thread and Ray Train runs the loop in
another one, so a worker's handler is set by the backend, from the main thread, before training starts. A second SIGTERM
does what the first would have done without this. Knows nothing of checkpoints.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import ray.train
from ray.train.torch import TorchConfig

ASK_EVERY_S = 2.0  # between two looks for a drained node, in which all ranks wait for each other through Ray

_told = threading.Event()


class Config(TorchConfig):
    """PyTorch's process group as ever, on workers that take a SIGTERM as a notice."""

    @property
    def backend_cls(self) -> type[Any]:
        return _Backend


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc] # Ray gives the class by a property alone
    def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
        super().on_training_start(worker_group, backend_config)
        worker_group.execute(listen)


def listen() -> None:
    """From now on a SIGTERM to this process is a notice. To be called in its main thread."""
    before = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: Any) -> None:
        if _told.is_set() and callable(before):
            before(number, frame)
        _told.set()

    signal.signal(signal.SIGTERM, handle)


def is_given() -> bool:
    """Whether this process has been told."""
    return _told.is_set()


def is_node_drained() -> bool:
    """Whether Ray has said so of a node that a worker is on. A collective over the ranks of a Ray Train run."""
    return ray.train.get_preemption_info() is not None


@contextlib.contextmanager
def calls(act: Callable[[], None]) -> Iterator[None]:
    """Inside, the first SIGTERM to this process calls `act` in the main thread; nothing changes in any other thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    before = signal.getsignal(signal.SIGTERM)

    def handle(*_: Any) -> None:
        signal.signal(signal.SIGTERM, before)
        act()

    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
