"""The training loop, as every worker runs it: read, step, validate, report, until the course is over.

Ray Train calls `loop` on each rank and calls it again from the top after a death, so everything that must
survive is in the checkpoint, and the order of rows depends on (seed, epoch) alone. Knows no source of data but
a published dataset, and nothing of what becomes of the weights.
"""

from __future__ import annotations

import math
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import get_device, prepare_model
from torch import distributed

from cluster.config import Experiment
from cluster.store import Store
from jobs import checkpoint
from jobs.checkpoint import Course
from jobs.feed import Feed, InMemory, Streamed
from jobs.precision import uses_bf16
from tasks.dataset import Dataset, read_dataset
from tasks.task import load_task, trimmed

PULSE_STEPS = 50  # steps between two looks at the loss that all ranks take together
SAY_EVERY_S = 0.3


@dataclass(frozen=True)
class Work:
    """What a worker is told; it travels to every rank."""

    experiment: Experiment
    store: Store
    dataset: str
    stream: bool  # rows come through Ray Data because they do not fit in memory
    board: Any  # handle of the actor that shows the driver how far rank 0 is


def loop(config: dict[str, Work]) -> dict[str, str]:
    """Train on this rank; returns `failure`, empty if all went well.

    A loss that is not finite is returned, not raised: raised, it would be retried like a crash and come again.
    """
    return {"failure": run_epochs(Trainer(config["work"]))}


def run_epochs(trainer: Trainer) -> str:
    """Train until the course is over; returns what went wrong."""
    for epoch in range(len(trainer.course.history), trainer.epochs):
        if trainer.course.over:  # started again after its last epoch
            break
        if failure := trainer.run_epoch(epoch):
            return failure
        if trainer.is_told_to_stop():
            break
    return ""


class Trainer:
    """Network, optimiser, schedule and course of one rank, which change together."""

    def __init__(self, work: Work) -> None:
        self.work, self.recipe, self.epochs = work, work.experiment.train, work.experiment.train.epochs
        self.rank, self.world, self.device = self._place()
        if self.device.type == "cpu":
            torch.set_num_threads(1)  # the ranks are the parallelism; more threads would fight over the cores
        dataset = self._dataset()
        if self.recipe.rows == "train_and_validation":
            dataset = dataset.learning_from_validation()
        self.task = load_task(work.experiment, dataset.file)
        self.bf16 = uses_bf16(self.recipe.precision, self.device)
        self.feed: Feed = (Streamed if work.stream else InMemory)(dataset, work.experiment, self.rank, self.world)

        torch.manual_seed(work.experiment.seed)
        self.model = self._wrapped(self.task.network(dataset.encoding))
        self.network: torch.nn.Module = getattr(self.model, "module", self.model)  # without DDP's wrapper
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=self.recipe.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=self.recipe.weight_decay,
            fused=True,
        )
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            max_lr=self.recipe.learning_rate,
            total_steps=self.feed.num_steps * self.epochs + 1,  # one more than is taken: a schedule needs two
            pct_start=0.25,
        )
        self.course = Course()
        self._resume()

    def run_epoch(self, epoch: int) -> str:
        """Train, validate, report; returns what went wrong."""
        entry = {**self.train(epoch), **self.validate()}
        if not math.isfinite(entry["train_loss"] + entry["validation_loss"]):
            rate = self.recipe.learning_rate
            return f"the loss is not finite in epoch {epoch + 1}; lower train.learning_rate (now {rate})"
        self.finish(entry)
        return ""

    def train(self, epoch: int) -> dict[str, Any]:
        """One epoch; the loss and the counts are those of all ranks together."""
        seed = (self.work.experiment.seed * 1_000_003 + epoch) * 1_009 + self.rank
        torch.manual_seed(seed)  # dropout; a resumed epoch draws what it would have drawn
        generator = torch.Generator().manual_seed(seed)
        self.model.train()
        pulse = Pulse(self, epoch)
        total = torch.zeros(2, dtype=torch.float64, device=self.device)  # loss x rows, rows
        for step, (rows, targets) in enumerate(self.feed.batches(epoch), start=1):
            rows = self.task.augment(self._on_device(rows), generator)
            total += self._step(rows, targets.to(self.device, non_blocking=True))
            if step % PULSE_STEPS == 0 and not pulse.beat(step, total):
                break
        loss, num_rows = self._over_ranks(total)
        return {**pulse.figures(), "train_loss": loss / max(num_rows, 1), "rows": round(num_rows)}

    def validate(self) -> dict[str, float]:
        """The task's own loss and the accuracy over the whole validation split in fp32; each rank does a share."""
        self._average_buffers()
        self.network.eval()
        total = torch.zeros(3, dtype=torch.float64, device=self.device)  # loss x rows, how right, rows
        with torch.inference_mode():
            for rows, targets in self.feed.validation():
                truth = targets.to(self.device)
                logits = self.network(self._on_device(rows)).float()
                right = self.task.right(self.task.outputs(logits).cpu().numpy(), targets.numpy()).sum()
                total += _sums(self.task.loss(logits, truth) * len(rows), right, len(rows))
        loss_sum, right_sum, num_rows = self._over_ranks(total)
        return {"validation_loss": loss_sum / num_rows, "validation_accuracy": right_sum / num_rows}

    def finish(self, entry: dict[str, Any]) -> None:
        """Record the epoch and hand it to Ray Train, a barrier over the ranks; rank 0 brings the checkpoint."""
        keep_last = self.recipe.rows == "train_and_validation"
        self.course.record(entry, self.network.state_dict(), self.recipe.early_stopping, keep_last)
        self.say(len(self.course.history), entry, finished=True)
        self._report(entry)

    def say(self, done: float, figures: dict[str, Any], finished: bool = False) -> None:
        """Show the driver how far we are; nobody waits for it."""
        if self.rank == 0 and self.work.board is not None:
            self.work.board.write.remote(done, figures, finished)

    def is_told_to_stop(self) -> bool:
        """Whether the board says so; rank 0 asks, and all ranks get the same answer."""
        board = self.work.board
        if board is None:
            return False
        told = float(self.rank == 0 and ray.get(board.is_stopped.remote()))
        return self._over_ranks(torch.tensor([told], dtype=torch.float64, device=self.device))[0] > 0

    def parts(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the course."""
        return {
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }

    def go_on(self, parts: dict[str, Any], course: Course) -> None:
        """Take over what `parts` gave, here or in another process."""
        self.course = course
        self.course.attempt += 1
        self.network.load_state_dict(parts["model"])
        self.optimizer.load_state_dict(parts["optimizer"])
        self.scheduler.load_state_dict(parts["scheduler"])

    # Where Ray Train comes in; a trial of a search does without it (`tune.trial`).

    def _place(self) -> tuple[int, int, torch.device]:
        """Rank, number of ranks, device."""
        context = ray.train.get_context()
        return context.get_world_rank(), context.get_world_size(), get_device()

    def _dataset(self) -> Dataset:
        return read_dataset(self.work.store, self.work.dataset)

    def _wrapped(self, network: torch.nn.Module) -> torch.nn.Module:
        # Buffers are averaged once per epoch instead of sent round before every step.
        ddp = {"forward_sync_buffers": False, "gradient_as_bucket_view": True}
        wrapped: torch.nn.Module = prepare_model(network, parallel_strategy_kwargs=ddp)
        return wrapped

    def _report(self, entry: dict[str, Any]) -> None:
        if self.rank != 0:
            ray.train.report(entry)
            return
        # After a restart the same epoch comes again; writing over its old folder could leave a mixture.
        name = f"epoch-{entry['epoch']:05}-{uuid.uuid4().hex[:8]}"
        with tempfile.TemporaryDirectory() as folder:
            checkpoint.save(Path(folder), self.parts(), self.course)
            made = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(entry, checkpoint=made, checkpoint_dir_name=name)

    def _resume(self) -> None:
        found = ray.train.get_checkpoint()
        if found is not None:
            with found.as_directory() as folder:
                self.go_on(*checkpoint.load(Path(folder)))

    def _on_device(self, rows: torch.Tensor) -> torch.Tensor:
        return (trimmed(rows) if self.task.trims else rows).to(self.device, non_blocking=True)

    def _step(self, rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.model(rows)
        loss = self.task.loss(logits.float(), targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.scheduler.step()
        return _sums(loss.detach() * len(rows), len(rows))

    def _average_buffers(self) -> None:
        """Batch norm's running statistics differ by rank; their mean has seen all rows and is the same everywhere."""
        if self.world == 1:
            return
        for buffer in self.network.buffers():
            if buffer.is_floating_point():
                distributed.all_reduce(buffer)
                buffer /= self.world

    def _over_ranks(self, sums: torch.Tensor) -> list[float]:
        if self.world > 1:
            distributed.all_reduce(sums)
        values: list[float] = sums.tolist()
        return values


def _sums(*values: torch.Tensor | float) -> torch.Tensor:
    """float64 [len(values)] on the device of the first value."""
    first = torch.as_tensor(values[0])
    return torch.stack([torch.as_tensor(value, dtype=torch.float64, device=first.device) for value in values])


class Pulse:
    """Looks at the loss now and then: stops all ranks together when it is not finite, and says how far we are."""

    def __init__(self, trainer: Trainer, epoch: int) -> None:
        self._trainer, self._epoch = trainer, epoch
        self._started, self._cpu_started = time.monotonic(), time.process_time()
        self._said = -math.inf

    def beat(self, step: int, total: torch.Tensor) -> bool:
        """False when the loss of any rank is not finite. A collective: every rank calls it at the same steps."""
        loss, num_rows = self._trainer._over_ranks(total.clone())
        now = time.monotonic()
        if now - self._said >= SAY_EVERY_S:
            self._said = now
            speed = num_rows / (now - self._started)
            figures = {"epoch": self._epoch, "train_loss": loss / num_rows, "rows_per_s": speed}
            self._trainer.say(self._epoch + step / self._trainer.feed.num_steps, figures)
        return math.isfinite(loss)

    def figures(self) -> dict[str, Any]:
        seconds, cpu = time.monotonic() - self._started, time.process_time() - self._cpu_started
        (cpu_s,) = self._trainer._over_ranks(torch.tensor([cpu], dtype=torch.float64, device=self._trainer.device))
        world, attempt = self._trainer.world, self._trainer.course.attempt
        return {"epoch": self._epoch, "seconds": seconds, "cpu_s": cpu_s, "world_size": world, "attempt": attempt}
