"""Train small networks on the answers of a large one, which show more than labels do.

Soft targets at a temperature beside the true labels (G. Hinton, O. Vinyals, J. Dean, *Distilling the Knowledge in
a Neural Network*, 2015); values are targets of the task's own loss. In one process: students are small, and the number
of their steps is bounded. All see the same batches, so that the large network, which is most of the work, answers each
only once. Knows networks and rows, not where they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch.nn import functional

from jobs.precision import uses_bf16
from tasks import forward
from tasks.task import Task, trimmed

TEMPERATURE = 4.0
TRUTH_SHARE = 0.1  # of the loss
LEARNING_RATE = 0.01  # peak of the one-cycle schedule; students have few weights and batch norm
LEAST_STEPS = 300  # also where the teacher had fewer: it takes that many to learn anything
MANY_WEIGHTS = 300_000  # of a teacher whose pass takes so long that more than one thread is of use

Steps = Callable[[int, int], None]  # how many are done, of how many


def distil(
    teacher: torch.nn.Module,
    students: Mapping[str, torch.nn.Module],
    rows: np.ndarray,
    truth: np.ndarray,
    task: Task,
    on_step: Steps = lambda *_: None,
) -> None:
    """Train `students` on encoded rows [n, *shape] with targets [n], for as many steps as `steps` says.

    They are left in evaluation mode. The same seed gives the same weights on the same machine, whoever else is
    taught beside.
    """
    threads = torch.get_num_threads()
    try:
        _distil(teacher, students, rows, truth, task, on_step)
    finally:
        torch.set_num_threads(threads)


def steps(task: Task, num_rows: int) -> int:
    """Bounded by those of the trained network, so that a ladder never takes much longer than what it is made from."""
    recipe = task.experiment.train
    own = recipe.epochs * max(1, num_rows // recipe.batch_size)
    return min(task.experiment.ladder.student_steps, max(LEAST_STEPS, round(own * task.student_share)))


def _distil(
    teacher: torch.nn.Module,
    students: Mapping[str, torch.nn.Module],
    rows: np.ndarray,
    truth: np.ndarray,
    task: Task,
    on_step: Steps,
) -> None:
    experiment = task.experiment
    num_steps, size = steps(task, len(rows)), min(experiment.train.batch_size, len(rows))
    x, y = torch.from_numpy(rows), torch.from_numpy(truth)
    bf16 = uses_bf16(experiment.train.precision, torch.device("cpu"))
    # Rows that change at random get their answers at each step; the others once.
    changes = type(task).augment is not Task.augment and (":" in experiment.task or experiment.train.augment != "none")
    once = None if changes else forward.answers(teacher, x, trims=task.trims, bf16=bf16)
    if once is not None or sum(weights.numel() for weights in teacher.parameters()) < MANY_WEIGHTS:
        torch.set_num_threads(1)  # a step takes a millisecond: threads would wait for each other for most of it
    lessons = [_Lesson(student, task, num_steps, bf16) for student in students.values()]
    generator = torch.Generator().manual_seed(experiment.seed)
    for step, chosen in enumerate(_batches(len(rows), size, num_steps, generator), 1):
        batch = task.augment(trimmed(x[chosen]) if task.trims else x[chosen], generator)
        answer = forward.answers(teacher, batch, trims=task.trims, bf16=bf16) if once is None else once[chosen]
        for lesson in lessons:
            lesson.step(batch, answer, y[chosen])
        on_step(step, num_steps)
    for student in students.values():
        student.eval()


class _Lesson:
    """One student with its optimiser."""

    def __init__(self, student: torch.nn.Module, task: Task, num_steps: int, bf16: bool) -> None:
        self._student, self._task, self._bf16 = student.train(), task, bf16
        decay = task.experiment.train.weight_decay
        self._optimizer = torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE, weight_decay=decay, fused=True)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(self._optimizer, LEARNING_RATE, total_steps=num_steps)

    def step(self, batch: torch.Tensor, answers: torch.Tensor, truth: torch.Tensor) -> None:
        # Around one forward pass only: weights in bf16 are kept until its end, and must not outlive a step.
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            logits = self._student(batch)
        loss = _loss(logits.float(), answers, truth, self._task)
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self._optimizer.step()
        self._schedule.step()


def _loss(logits: torch.Tensor, answers: torch.Tensor, truth: torch.Tensor, task: Task) -> torch.Tensor:
    if task.targets == "value":
        return (1 - TRUTH_SHARE) * task.loss(logits, answers[:, 0]) + TRUTH_SHARE * task.loss(logits, truth)
    soft = functional.kl_div(
        functional.log_softmax(task.taught(logits) / TEMPERATURE, dim=1),
        functional.log_softmax(task.taught(answers) / TEMPERATURE, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    # Gradients of soft targets shrink with the square of the temperature.
    return (1 - TRUTH_SHARE) * TEMPERATURE**2 * soft + TRUTH_SHARE * task.loss(logits, truth)


def _batches(num_rows: int, size: int, num_steps: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Row numbers int64 [size] for each step; an epoch's rest, too small for a batch, is left."""
    while num_steps > 0:
        order = torch.randperm(num_rows, generator=generator)
        for start in range(0, min(num_rows // size, num_steps) * size, size):
            yield order[start : start + size]
            num_steps -= 1
