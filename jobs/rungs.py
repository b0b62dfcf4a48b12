"""Make a model version's ladder: every form of the trained network and of its students, measured and put in order.

The only part of the evaluation step that chooses anything, so it sees training and validation rows alone.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from cluster.progress import Progress
from jobs.distil import distil
from ladder import forms, profile
from ladder.profile import Ladder, LeftOut
from ladder.variants import REFERENCE, ExportError, export_onnx, quantise, quantise_dynamic
from tasks.dataset import Dataset
from tasks.task import Task

OWN = "onnx-"  # how names of its forms begin
CALIBRATION_ROWS = 512
MOST_BYTES = 1024**3  # of training rows; larger data is learned from by its first shards


def build(
    task: Task, dataset: Dataset, network: torch.nn.Module, progress: Progress | None = None
) -> tuple[dict[str, bytes], Ladder]:
    """The files to keep, by variant, and the ladder of some or all of them.

    The network's own file is kept also where the ladder does without it: on another machine its int8 form may be
    the slower one. What others are measured against is its most accurate form. PyTorch's own forms are made where
    there is no other, and where a GPU serves: they come first there, whatever they take on this machine.

    Raises:
        ExportError: the network itself cannot be exported; what else cannot be made is left out, with its reason.
    """
    experiment, encoding = task.experiment, dataset.encoding
    rows, truth = _training_rows(dataset)
    seen, labels = profile.measurable(*dataset.load("validation"), task, encoding)
    network = task.finished(network, seen, labels)
    reference, data, lacking = forms.export_plain(network, encoding, task)
    made, failed = {reference: data}, [LeftOut(REFERENCE, lacking)] if lacking else []
    for variant, other in _others(task, dataset, network, rows, truth, progress).items():
        try:
            made[variant] = export_onnx(other, encoding, task)
        except ExportError as error:
            failed.append(LeftOut(variant, str(error)))
            continue
        if variant.startswith(OWN):
            reference = variant
    if lacking or experiment.serve.gpus_per_replica:
        for name, form in {"": network, **task.larger(network, encoding)}.items():
            try:
                reference, data = forms.export_torch(form, encoding, task, name)
            except ExportError as error:
                failed.append(LeftOut(forms.torch_variant(name), str(error)))
            else:
                made[reference] = data
    chosen = np.random.default_rng(experiment.seed).permutation(len(rows))[:CALIBRATION_ROWS]
    for variant in [name for name in made if not forms.is_torch(name)] if experiment.ladder.int8 else ():
        int8 = variant.removesuffix("fp32") + "int8"
        try:
            is_static = task.int8 == "static"
            made[int8] = quantise(made[variant], rows[chosen]) if is_static else quantise_dynamic(made[variant])
        except ExportError as error:
            failed.append(LeftOut(int8, str(error)))
    for name, simple in task.simpler(network, encoding).items():
        made[f"{name}-fp32"] = export_onnx(simple, encoding, task)
    answers = {name: profile.batched(forms.opened(name, form, task, encoding), seen) for name, form in made.items()}
    for variant, answer in answers.items():
        if (shift := task.calibrate(answer, labels)) is not None:
            made[variant], answers[variant] = forms.shifted(variant, made[variant], shift), answer + shift
    measured = profile.measure(made, reference, seen, labels, experiment.serve.max_batch, task, encoding, answers)
    ladder = profile.arrange(measured, reference, experiment.ladder.max_accuracy_loss, len(seen))
    ladder = dataclasses.replace(ladder, left_out=(*ladder.left_out, *failed))
    kept = {REFERENCE, *(rung.variant for rung in ladder.rungs)}
    return {variant: form for variant, form in made.items() if variant in kept}, ladder


def _others(
    task: Task,
    dataset: Dataset,
    network: torch.nn.Module,
    rows: np.ndarray,
    truth: np.ndarray,
    progress: Progress | None,
) -> dict[str, torch.nn.Module]:
    """The task's larger forms, best last, and its students, trained; each with the name of its plain form."""
    larger = {f"{OWN}{name}-fp32": form for name, form in task.larger(network, dataset.encoding).items()}
    if not task.experiment.ladder.student:
        return larger

    def say(step: int, num_steps: int) -> None:
        if progress is not None:
            progress.update(step, num_steps)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.experiment.seed)
        students = task.students(dataset.encoding)
        if students:
            distil(network, students, rows, truth, task, say)
    return larger | {f"{name}-fp32": student for name, student in students.items()}


def _training_rows(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Rows [n, *shape] and targets [n]: all, or those of the first shards that fit into MOST_BYTES."""
    row_bytes = int(np.prod(dataset.encoding.shape)) * np.dtype(dataset.encoding.dtype).itemsize
    shards: list[dict[str, Any]] = []
    num_bytes = 0
    for shard in dataset.shards["train"]:
        num_bytes += shard["rows"] * row_bytes
        if shards and num_bytes > MOST_BYTES:
            break
        shards.append(shard)
    return dataclasses.replace(dataset, shards={**dataset.shards, "train": shards}).load("train")
