"""The training loop, as every worker runs it: read, step, validate, report, until the course is over.

Ray Train calls `loop` on each rank and calls it again from the top after a death, so everything that must survive is
in the checkpoint. A training that is told to leave keeps one at once. What a step sees and draws depends on (seed,
epoch, step) and its rank alone. Knows no source of data but a published dataset, and nothing of what becomes of the
weights.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import struct
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import get_device, prepare_model

from cluster.config import Experiment
from cluster.errors import ConfigError
from cluster.store import Store
from jobs import checkpoint, notice, report
from jobs.average import Average
from jobs.checkpoint import Course
from jobs.feed import Feed, InMemory, Streamed, balanced_weights
from jobs.optimise import Fault, Optimiser, Share
from jobs.pace import Leg, Position, Stopwatch, straggler
from jobs.precision import uses_bf16
from jobs.ranks import Ranks
from jobs.schedule import rates
from jobs.warm import begin
from tasks.dataset import Dataset, read_dataset
from tasks.task import load_task, trimmed


@dataclass(frozen=True)
class Work:
    """What a worker is told; it travels to every rank."""

    experiment: Experiment
    store: Store
    dataset: str
    stream: bool  # rows come through Ray Data because they do not fit in memory
    board: Any  # handle of the actor that shows the driver how far rank 0 is
    asked_at: float | None = None  # seconds since 1970 when somebody asked for this training
    start: str = ""  # key of the version whose weights it begins with; without one it begins anew


@dataclass(frozen=True)
class Ending:
    """How a training came to its end."""

    failure: str = ""  # in words, empty if all went well
    is_left: bool = False  # it was told to leave, and there is more to do


class Leave(Exception):
    """All ranks end here together, before the training's own end; says why where something went wrong."""


def loop(config: dict[str, Work]) -> dict[str, Any]:
    """Train on this rank; returns the fields of an `Ending`.

    A loss that is not finite and a store that is full are returned, not raised: raised, they would be retried like a
    crash and come again.
    """
    return asdict(run_epochs(Trainer(config["work"])))


def run_epochs(trainer: Trainer) -> Ending:
    """Train until the course is over."""
    try:
        for epoch in range(len(trainer.course.history), trainer.epochs):
            if trainer.course.over:  # started again after its last epoch
                break
            if failure := trainer.run_epoch(epoch):
                return Ending(failure)
            if trainer.is_told_to_stop():
                break
    except Leave as left:
        return Ending(str(left), is_left=True)
    return Ending()


class Trainer:
    """Network, optimiser and course of one rank, which change together."""

    def __init__(self, work: Work) -> None:
        self.work, self.recipe, self.epochs = work, work.experiment.train, work.experiment.train.epochs
        self.ranks = self._place()
        self.device = self.ranks.device
        if self.device.type == "cpu":
            torch.set_num_threads(1)  # the ranks are the parallelism; more threads would fight over the cores
            if self.recipe.precision == "fp16":
                raise ConfigError("train.precision", "fp16", "needs a GPU, and there is none", "use bf16 or auto")
        dataset = self._dataset()
        if self.recipe.rows == "train_and_validation":
            dataset = dataset.learning_from_validation()
        self.task = load_task(work.experiment, dataset.file)
        if self.recipe.class_weights == "balanced":
            self.task.class_weights = balanced_weights(dataset).to(self.device)
        self.feed: Feed = (Streamed if work.stream else InMemory)(dataset, work.experiment, self.ranks)

        torch.manual_seed(work.experiment.seed)
        network = self.task.network(dataset.encoding)
        frozen = self.task.frozen(network)
        if frozen is not None:
            body, network = frozen
            self.feed.put_through(body.to(self.device), uses_bf16(self.recipe.precision, self.device))
        self._is_whole = frozen is None  # else rows are what the body has said
        if work.start:
            begin(network, work.store, work.start)
        model = self._wrapped(network)
        self.network: torch.nn.Module = getattr(model, "module", model)  # without DDP's wrapper
        groups = self.task.parameter_groups(self.network, self.recipe)
        self.optimiser = Optimiser(model, groups, self.recipe, self.device, self.task.loss, self.ranks.agree)
        self.average = Average(self.network, self.recipe.ema) if self.recipe.ema is not None else None
        self.course, self.position = Course(), Position()
        self.first_step_at = 0.0  # seconds since 1970
        self._generator = torch.Generator()
        self._answer: Any = None  # the board's, to what it was told last
        self._asked_at = 0.0  # on the stopwatch's clock, when Ray was asked whether a node is drained
        self._resume()

    @property
    def kept(self) -> torch.nn.Module:
        """The network that is validated and whose weights are kept."""
        return self.network if self.average is None else self.average.network

    def run_epoch(self, epoch: int) -> str:
        """Train, validate, report; returns what went wrong."""
        leg = Leg(epoch, self.position, self.ranks)
        if fault := self.train(leg):
            what = f"the {fault.what} is not finite in epoch {epoch + 1} at step {fault.step + 1}"
            return self._words(what, is_first=epoch == fault.step == 0)
        entry = {**self._account(leg), **self.validate()}
        if not math.isfinite(entry["validation_loss"]):
            return self._words(f"the validation loss is not finite in epoch {epoch + 1}", is_first=False)
        self.finish(entry)
        return ""

    def train(self, leg: Leg) -> Fault | None:
        """An epoch, or the rest of it. All ranks stop in the same step when something is not finite."""
        self.network.train()
        for rows, targets in self.feed.batches(leg.epoch, leg.step):
            loss = self._learn(rows, targets, leg)
            if fault := self._step(loss, leg):
                return fault
            leg.count(loss, len(rows))
            if leg.pulse.is_due(leg.step):
                self._look_up(leg)
        return self.optimiser.settle()

    def validate(self) -> dict[str, float]:
        """The task's own loss and the accuracy over the whole validation split in fp32; each rank does a share."""
        self._average_buffers()
        self.kept.eval()
        total = torch.zeros(3, dtype=torch.float64, device=self.device)  # loss x rows, how right, rows
        with torch.inference_mode():
            for rows, targets in self.feed.validation():
                truth = targets.to(self.device)
                logits = self.kept(self._on_device(rows)).float()
                right = self.task.right(self.task.outputs(logits).cpu().numpy(), targets.numpy()).sum()
                total += _sums(self.task.loss(logits, truth) * len(rows), right, len(rows))
        loss_sum, right_sum, num_rows = self.ranks.sums(total)
        return {"validation_loss": loss_sum / num_rows, "validation_accuracy": right_sum / num_rows}

    def finish(self, entry: dict[str, Any]) -> None:
        """Record the epoch and hand it to Ray Train, a barrier over the ranks; rank 0 brings the checkpoint."""
        self.course.record(entry, self.kept.state_dict(), self.recipe.early_stopping, self.recipe.keeps_last)
        self.position = Position()
        self.say(len(self.course.history), entry, finished=True)
        self._report(entry, f"epoch-{entry['epoch']:05}")

    def say(self, done: float, figures: dict[str, Any], finished: bool = False) -> None:
        """Show the driver how far we are; nobody waits for it."""
        if self.ranks.rank == 0 and self.work.board is not None:
            self._answer = self.work.board.write.remote(done, figures, finished)

    def is_told_to_stop(self) -> bool:
        """Whether the board says so; rank 0 asks, and all ranks get the same answer."""
        board = self.work.board
        if board is None:
            return False
        told = float(self.ranks.rank == 0 and _answer(board.is_stopped.remote()))
        return self.ranks.sums(torch.tensor([told], dtype=torch.float64, device=self.device))[0] > 0

    def parts(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the course; no state of random numbers, since each step seeds its own."""
        average = {} if self.average is None else {"average": self.average.state_dict()}
        return {
            "model": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "position": asdict(self.position),
            **average,
        }

    def go_on(self, parts: dict[str, Any], course: Course) -> None:
        """Take over what `parts` gave, here or in another process, on as many workers or on others."""
        self.course, self.position = course, Position(**parts["position"])
        self.course.attempt += 1
        self.network.load_state_dict(parts["model"])
        self.optimiser.load_state_dict(parts["optimiser"])
        if self.recipe.ema is not None:
            self.average = Average(self.network, self.recipe.ema)
            if "average" in parts:  # a trial may go on from one that had none
                self.average.load_state_dict(parts["average"])

    def _learn(self, rows: torch.Tensor, targets: torch.Tensor, leg: Leg) -> torch.Tensor:
        """The gradient of this rank's rows of a global batch; returns their loss x rows, float64 []."""
        generator = self._seeded(leg.epoch, leg.step)
        rows = self._on_device(rows)
        rows = self.task.augment(rows, generator) if self._is_whole else rows
        targets = targets.to(self.device, non_blocking=True)
        leg.watch.lap("data")
        return self.optimiser.learn(rows, targets, Share(self.feed.batch_rows, self.ranks.world), leg.watch)

    def _on_device(self, rows: torch.Tensor) -> torch.Tensor:
        return (trimmed(rows) if self.task.trims and self._is_whole else rows).to(self.device, non_blocking=True)

    def _step(self, loss: torch.Tensor, leg: Leg) -> Fault | None:
        num_steps = self.feed.num_steps
        now = rates(self.recipe, leg.epoch * num_steps + leg.step, self.epochs * num_steps)
        if fault := self.optimiser.step(leg.step, loss, now):
            return fault
        if self.average is not None:
            self.average.update()
        leg.watch.lap("optimiser")
        return None

    def _look_up(self, leg: Leg) -> None:
        """All ranks together: say how far we are, and write a checkpoint where the last one is long ago.

        Raises Leave, with a checkpoint kept, when one of them is told to leave.
        """
        self.first_step_at = self.first_step_at or time.time()  # the first look is after the first step
        clocks = (leg.watch.elapsed(), leg.unkept_s()) if self.ranks.rank == 0 else (0.0, 0.0)  # rank 0's count for all
        mine = leg.total.new_tensor((*clocks, float(self._is_told()), float(self._is_to_ask())))
        loss, num_rows, elapsed, unkept, told, ask = self.ranks.sums(torch.cat([leg.total, mine]))
        must_leave = told > 0 or (ask > 0 and notice.is_node_drained())
        leg.watch.lap("sync")
        leg.pulse.plan(leg.step, elapsed)
        figures = {"epoch": leg.epoch, "train_loss": loss / num_rows, "rows_per_s": leg.speed(num_rows, elapsed)}
        self.say(leg.epoch + leg.step / self.feed.num_steps, figures)
        is_due = unkept >= self.recipe.checkpoint_every and leg.step < self.feed.num_steps
        if (is_due or must_leave) and self.optimiser.settle() is None:
            self._keep(leg, loss, num_rows)
        if must_leave:
            raise Leave

    def _keep(self, leg: Leg, loss_sum: float, num_rows: float) -> None:
        """A checkpoint in the middle of an epoch. A collective."""
        self._average_buffers()
        self.position = leg.keep(loss_sum, num_rows, leg.spent(self.ranks.table(leg.mine())))
        self._report({"epoch": leg.epoch, "step": leg.step}, f"epoch-{leg.epoch:05}-step-{leg.step:07}")
        leg.watch.restart()

    def _account(self, leg: Leg) -> dict[str, Any]:
        """What an epoch's training came to, over all ranks."""
        loss, num_rows = self.ranks.sums(leg.total)
        table = self.ranks.table(leg.mine())
        spent = leg.spent(table)
        if self.device.type != "cpu":  # a GPU works on while the clock is read
            spent = {name: spent[name] for name in ("seconds", "cpu_s", "data_s")}
        asked_at = self.work.asked_at if leg.epoch == 0 and self.course.attempt == 1 else None
        first = {} if asked_at is None else {"first_step_s": self.first_step_at - asked_at}
        return {
            "epoch": leg.epoch,
            "train_loss": loss / max(num_rows, 1),
            "rows": round(num_rows),
            "rows_per_s": num_rows / max(spent["seconds"], 1e-9),
            "world_size": self.ranks.world,
            "attempt": self.course.attempt,
            "peak_memory_bytes": round(max(row[-1] for row in table)),
            **spent,
            **first,
            **(straggler(table) if self.device.type == "cpu" else {}),
        }

    def _words(self, what: str, *, is_first: bool) -> str:
        if is_first:
            return f"{what}, before anything was learned; look at the rows and at the task's loss"
        clip = " or set train.clip_norm" if self.recipe.clip_norm is None else ""
        return f"{what}; lower train.learning_rate (now {self.recipe.learning_rate}){clip}"

    # Where Ray Train comes in; `jobs.alone` does without it.

    def _place(self) -> Ranks:
        context = ray.train.get_context()
        return Ranks(context.get_world_rank(), context.get_world_size(), get_device())

    def _dataset(self) -> Dataset:
        return read_dataset(self.work.store, self.work.dataset)

    def _wrapped(self, network: torch.nn.Module) -> torch.nn.Module:
        # Buffers are averaged once per epoch instead of sent round before every step.
        ddp = {"forward_sync_buffers": False, "gradient_as_bucket_view": True}
        wrapped: torch.nn.Module = prepare_model(network, parallel_strategy_kwargs=ddp)
        return wrapped

    def _report(self, entry: dict[str, Any], name: str) -> None:
        """Raises Leave on all ranks when the store does not take the checkpoint."""
        problem = ""
        if self.ranks.rank == 0:
            problem = report.hand_over(self.work.store, entry, name, self.parts(), self.course)
        else:
            ray.train.report(entry)
        if not self.ranks.agree(not problem):
            raise Leave(problem)

    def _is_told(self) -> bool:
        """Whether this process was, or the driver, which the board tells rank 0."""
        answered = [] if self._answer is None else ray.wait([self._answer], timeout=0)[0]
        return notice.is_given() or any(map(_answer, answered))

    def _is_to_ask(self) -> bool:
        """Whether it is time to ask Ray for drained nodes; rank 0's clock counts."""
        if self.ranks.rank != 0 or Stopwatch.now() - self._asked_at < notice.ASK_EVERY_S:
            return False
        self._asked_at = Stopwatch.now()
        return True

    def _resume(self) -> None:
        found = ray.train.get_checkpoint()
        if found is not None:
            with found.as_directory() as folder:
                self.go_on(*checkpoint.load(Path(folder)))

    # What each step draws, and what the ranks must agree on.

    def _seeded(self, epoch: int, step: int) -> torch.Generator:
        """Random numbers of one step, for dropout and for augmentation: no other step's depend on them."""
        place = struct.pack("<4Q", self.work.experiment.seed, epoch, step, self.ranks.rank)
        seed = int.from_bytes(hashlib.blake2b(place, digest_size=8).digest()) >> 1
        torch.default_generator.manual_seed(seed)  # torch.manual_seed asks every kind of device, 80 times as long
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        return self._generator.manual_seed(seed)

    def _average_buffers(self) -> None:
        """Batch norm's running statistics differ by rank; their mean has seen all rows and is the same everywhere."""
        self.ranks.average(self.network.buffers())
        if self.average is not None:
            self.ranks.average(self.average.network.buffers())


def _answer(asked: Any) -> bool:
    """What the board says; one that is gone, with its driver, says nothing."""
    with contextlib.suppress(ray.exceptions.RayError):
        return bool(ray.get(asked))
    return False


def _sums(*values: torch.Tensor | float) -> torch.Tensor:
    """float64 [len(values)] on the device of the first value."""
    first = torch.as_tensor(values[0])
    return torch.stack([torch.as_tensor(value, dtype=torch.float64, device=first.device) for value in values])
