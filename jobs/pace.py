"""Where the time of an epoch goes, on each rank and over all of them; and when the ranks look up from their rows.

Clocks are read between steps, which is honest on a CPU. A GPU works on while the clock is read, so there only the wait
for rows is told. Knows numbers, not what is trained.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from jobs.ranks import Ranks

PHASES = ("data", "forward", "backward", "sync", "optimiser")
STRAGGLER = 1.5  # times the median: a rank that takes longer is named
SOME_S = 1.0  # that the median must have worked: less says nothing about a rank
LOOK_EVERY_S, MAX_STEPS = 0.2, 1000  # between two looks


class Stopwatch:
    """Seconds by phase since it was made."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._started, self._cpu_started = self.now(), time.process_time()
        self._last = self._started

    @staticmethod
    def now() -> float:
        return time.perf_counter()

    def lap(self, phase: str, at: float | None = None) -> None:
        """What passed since the last lap belongs to `phase`; it ended at `at`, or now."""
        now = self.now() if at is None else at
        self.seconds[phase] += now - self._last
        self._last = now

    def restart(self) -> None:
        """What passed since the last lap belongs to no phase."""
        self._last = self.now()

    def elapsed(self) -> float:
        return self.now() - self._started

    def cpu(self) -> float:
        return time.process_time() - self._cpu_started


class Pulse:
    """The steps after which all ranks look up together: about five times a second."""

    def __init__(self, step: int) -> None:
        self._first, self._next = step, step + 1

    def is_due(self, step: int) -> bool:
        return step >= self._next

    def plan(self, step: int, elapsed_s: float) -> None:
        """Choose the next one by how long the steps so far took, of which all ranks must say the same."""
        each = elapsed_s / max(1, step - self._first)
        self._next = step + max(1, min(MAX_STEPS, int(LOOK_EVERY_S / max(each, 1e-9))))


@dataclass
class Position:
    """How far the epoch under way is, over all ranks; with the seed it decides which rows come next."""

    step: int = 0  # global batches done
    loss_sum: float = 0.0  # loss x rows
    rows: float = 0.0
    spent: dict[str, float] = field(default_factory=dict)  # as `spent` gives it


class Leg:
    """The part of an epoch that one attempt does: all of it, if nothing died."""

    def __init__(self, epoch: int, start: Position, ranks: Ranks) -> None:
        self.epoch, self.step, self._start, self._device = epoch, start.step, start, ranks.device
        self.watch, self.pulse = Stopwatch(), Pulse(start.step)
        before = (start.loss_sum, start.rows) if ranks.rank == 0 else (0.0, 0.0)  # one rank adds what was done before
        self.total = torch.tensor(before, dtype=torch.float64, device=ranks.device)  # loss x rows, rows
        self._kept_at = Stopwatch.now()

    def count(self, loss_sum: torch.Tensor, num_rows: int) -> None:
        """A step is done: loss x rows float64 [], and this rank's rows."""
        self.total += torch.stack([loss_sum, torch.full_like(loss_sum, num_rows)])
        self.step += 1

    def unkept_s(self) -> float:
        """Seconds that would be lost if this process died now."""
        return Stopwatch.now() - self._kept_at

    def speed(self, num_rows: float, elapsed_s: float) -> float:
        """Rows per second of this attempt; `num_rows` are those of the epoch so far."""
        return (num_rows - self._start.rows) / max(elapsed_s, 1e-9)

    def keep(self, loss_sum: float, num_rows: float, spent: dict[str, float]) -> Position:
        """The position to go on from; the sums are `total` over all ranks."""
        self._kept_at = Stopwatch.now()
        return Position(self.step, loss_sum, num_rows, spent)

    def spent(self, table: Sequence[Sequence[float]]) -> dict[str, float]:
        """Seconds, CPU-seconds of all ranks and seconds by phase of the epoch so far, from all ranks' `mine`."""
        means = {f"{phase}_s": statistics.fmean(row[1 + i] for row in table) for i, phase in enumerate(PHASES)}
        now = {"seconds": self.watch.elapsed(), "cpu_s": sum(row[0] for row in table), **means}
        return {name: value + self._start.spent.get(name, 0.0) for name, value in now.items()}

    def mine(self) -> list[float]:
        """This rank's CPU-seconds, seconds by phase, and peak of memory in bytes."""
        return [self.watch.cpu(), *self.watch.seconds.values(), float(peak_memory(self._device))]


def straggler(table: Sequence[Sequence[float]]) -> dict[str, float]:
    """The slowest rank, and how many times the median it takes without waiting; empty where none stands out.

    `table` has each rank's `Leg.mine`. Of two ranks the faster one is the median.
    """
    waiting = 1 + PHASES.index("sync")
    busy = [sum(row[1 : 1 + len(PHASES)]) - row[waiting] for row in table]
    median = statistics.median_low(busy)
    if median < SOME_S or max(busy) <= STRAGGLER * median:
        return {}
    return {"straggler": busy.index(max(busy)), "straggler_ratio": max(busy) / median}


def peak_memory(device: torch.device) -> int:
    """Bytes that this process took at most so far: of the GPU's memory for tensors, or of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
