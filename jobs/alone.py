"""The training loop as the only rank, in the process that asks for it: no Ray Train, and none of its start-up.

A trial of a search trains this way (`tune.trial`), and a small training that was asked for with `--inline`, which keeps
its checkpoint in the store itself.
"""

from __future__ import annotations

from typing import Any

import torch

from jobs import checkpoint
from jobs.follower import Follower
from jobs.loop import Ending, Trainer, Work, run_epochs
from jobs.ranks import Ranks


class Alone(Trainer):
    """One rank that keeps no checkpoints of its own."""

    def _place(self) -> Ranks:
        # Ray hides the GPUs that a trial did not reserve.
        use_gpu = self.recipe.device != "cpu" and torch.cuda.is_available()
        return Ranks(0, 1, torch.device("cuda" if use_gpu else "cpu"))

    def _wrapped(self, network: torch.nn.Module) -> torch.nn.Module:
        return network.to(self.device)

    def _report(self, entry: dict[str, Any], name: str) -> None:
        pass

    def _is_told(self) -> bool:
        return False

    def _is_to_ask(self) -> bool:
        return False

    def _resume(self) -> None:
        pass


class Inline(Alone):
    """One rank that tells a follower in the same process and goes on where the last one under its key stopped."""

    def __init__(self, work: Work, key: str, follower: Follower) -> None:
        self._key, self._follower = key, follower
        super().__init__(work)

    def say(self, done: float, figures: dict[str, Any], finished: bool = False) -> None:
        self._follower.hear(done, figures, finished)

    def _report(self, entry: dict[str, Any], name: str) -> None:  # noqa: ARG002
        checkpoint.keep(self.work.store, self._key, self.parts(), self.course)

    def _is_told(self) -> bool:
        return self._follower.is_recalled

    def _resume(self) -> None:
        kept = checkpoint.kept(self.work.store, self._key)
        if kept is not None:
            self.go_on(*kept)


def train(work: Work, key: str, follower: Follower) -> tuple[checkpoint.Course, Ending]:
    """The course of the training, and how it came to its end."""
    threads = torch.get_num_threads()
    try:
        trainer = Inline(work, key, follower)
        return trainer.course, run_epochs(trainer)
    finally:
        torch.set_num_threads(threads)
