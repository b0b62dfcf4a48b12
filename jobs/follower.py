"""How far a training is, carried from rank 0 to the driver while `fit` blocks there.

A worker may run on another machine and its prints go nowhere, so the figures travel through a small actor.
Knows figures, not how they come about.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cluster.progress import Progress
from jobs.checkpoint import Course

if TYPE_CHECKING:
    from cluster.registry import Registry

POLL_S = 0.3
COUNTERS = ("epoch", "attempt", "world_size")  # of an entry, which are no metrics


class Board:
    """A small actor between rank 0 and the driver: newest figures, those of each finished epoch, and flags back."""

    def __init__(self) -> None:
        self._is_stopped = self._is_recalled = False
        self._done, self._figures, self._epochs = 0.0, {}, []  # type: tuple[float, dict[str, Any], list[dict[str, Any]]]

    def write(self, done: float, figures: dict[str, Any], finished: bool) -> bool:
        """Returns whether the training is to keep a checkpoint at once and leave."""
        self._done, self._figures = done, figures
        if finished:
            self._epochs.append(figures)
        return self._is_recalled

    def recall(self) -> None:
        """Ask the training to keep a checkpoint at once and leave."""
        self._is_recalled = True

    def stop(self) -> None:
        """Ask the training to end after the epoch it is in."""
        self._is_stopped = True

    def is_stopped(self) -> bool:
        return self._is_stopped

    def read(self, num_known: int) -> tuple[float, dict[str, Any], list[dict[str, Any]]]:
        """Epochs done, newest figures, and the finished epochs after the first `num_known`."""
        return self._done, self._figures, self._epochs[num_known:]


class RunLog:
    """Metrics of finished epochs on their way to the registry; a registry that is away stops no training."""

    def __init__(self, registry: Registry | None, run_id: str | None) -> None:
        self._registry, self.run_id, self._logged = registry, run_id, set[int]()

    def write(self, entry: dict[str, Any]) -> None:
        if self._registry is None or self.run_id is None or entry["epoch"] in self._logged:
            return
        figures = {name: value for name, value in entry.items() if name not in COUNTERS}
        self._registry.log(self.run_id, figures, entry["epoch"])
        self._logged.add(entry["epoch"])


class Follower:
    """Reads the board while `fit` blocks, in a thread, and passes on what it says."""

    def __init__(self, progress: Progress, num_epochs: int) -> None:
        self.progress, self._num_epochs = progress, num_epochs
        self.log = RunLog(None, None)
        self.has_begun = False  # something was heard from the training
        self.is_recalled = False  # set to have the training keep a checkpoint at once and leave

    @contextlib.contextmanager
    def watch(self, board: Any) -> Iterator[None]:
        over = threading.Event()
        thread = threading.Thread(target=self._follow, args=(board, over), name="training-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def hear(self, done: float, figures: dict[str, Any], finished: bool) -> None:
        """As the board is told, where the training runs in this process."""
        if finished:
            with contextlib.suppress(Exception):  # as in `_follow`
                self.log.write(figures)
        self._say(done, figures)

    def finish(self, course: Course) -> None:
        """Say the last word, and log the epochs that did not get through before."""
        last = course.history[-1]
        self._say(self._num_epochs, last)
        for entry in course.history:
            self.log.write(entry)

    def _follow(self, board: Any, over: threading.Event) -> None:
        import ray

        num_known, last = 0, -1.0
        while not over.wait(POLL_S):
            try:
                if self.is_recalled:
                    board.recall.remote()
                done, figures, epochs = ray.get(board.read.remote(num_known), timeout=10)
                num_known += len(epochs)
                for entry in epochs:
                    self.log.write(entry)
            except Exception:  # noqa: S112 - progress is a courtesy; `finish` logs what was missed and does raise
                continue
            if done != last and figures:
                last = done
                self._say(done, figures)

    def _say(self, done: float, figures: dict[str, Any]) -> None:
        self.has_begun = True
        shown = {
            "loss": round(figures["train_loss"], 4),
            "accuracy": round(figures["validation_accuracy"], 4) if "validation_accuracy" in figures else None,
            "rows_per_s": round(figures["rows_per_s"]),
            "straggler": _straggler(figures),
        }
        self.progress.update(done, self._num_epochs, **{k: v for k, v in shown.items() if v is not None})


def _straggler(figures: dict[str, Any]) -> str | None:
    if "straggler" not in figures:
        return None
    return f"worker {figures['straggler']} takes {figures['straggler_ratio']:.1f} times as long as the others"
