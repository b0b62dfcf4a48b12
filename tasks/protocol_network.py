"""The half of a task that trains, checked: its networks' answers, its loss and gradient, its random changes.

Loads torch where it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cluster.errors import ConfigError
from tasks.guard import failure
from tasks.protocol_words import Say
from tasks.task import Encoding, Task

if TYPE_CHECKING:
    import torch


def check_training(
    task: Task, encoding: Encoding, rows: np.ndarray, truth: np.ndarray, say: Say
) -> tuple[torch.nn.Module, torch.Tensor]:
    import torch

    network = task.network(encoding)
    if not isinstance(network, torch.nn.Module):
        raise say.wrong("network", f"gave a {type(network).__name__}", "give a torch.nn.Module")
    x, y = torch.from_numpy(rows), torch.from_numpy(truth)
    _check_augment(task, x, say)
    logits = _answered(task, network, x, encoding, "network", say)
    loss = task.loss(_called(task, network.train(), x, "network").float(), y)
    if not isinstance(loss, torch.Tensor) or loss.dim() != 0:
        found = list(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise say.wrong("loss", f"gave {found}", "give the mean over all rows, a tensor without dimensions")
    if not torch.isfinite(loss):
        raise say.wrong("loss", f"gave {float(loss.detach())} before any training", "give a finite number")
    if not loss.requires_grad:
        raise say.wrong("loss", "has no gradient", "compute it from the logits by torch alone")
    loss.backward()  # type: ignore[no-untyped-call]
    if not any(weight.grad is not None for weight in network.parameters()):
        raise say.wrong("network", "has no weight that the loss reaches", "give a network that can be trained")
    _check_parts(task, network, x, say)
    finished = task.finished(network.eval(), x.numpy(), y.numpy())
    _answered(task, finished, x, encoding, "finished", say)
    for method, made in (
        ("larger", task.larger(finished, encoding)),
        ("simpler", task.simpler(finished, encoding)),
        ("students", task.students(encoding)),
    ):
        if not isinstance(made, dict):
            raise say.wrong(method, f"gave a {type(made).__name__}", "give a dict of networks by name")
        for other in made.values():
            _answered(task, other, x, encoding, method, say)
    return network.eval(), logits


def _check_parts(task: Task, network: torch.nn.Module, x: torch.Tensor, say: Say) -> None:
    """What is trained of a network, and how fast."""
    import torch

    parts = task.frozen(network.eval())
    if parts is not None:
        body, head = parts
        with torch.inference_mode():
            if not torch.allclose(head(body(x)), network(x), atol=1e-5):
                raise say.wrong("frozen", "gave parts that are not the network", "let head(body(rows)) be its answer")
        network = head
    if not isinstance(task.taught(network(body(x) if parts is not None else x)), torch.Tensor):
        raise say.wrong("taught", "gave no tensor", "give some of the columns of the logits")
    groups = task.parameter_groups(network, task.experiment.train)
    if not isinstance(groups, list) or not all(
        isinstance(one, dict) and {"params", "lr"} <= set(one) for one in groups
    ):
        raise say.wrong("parameter_groups", "gave no list of groups", 'give [{"params": [...], "lr": ...}, ...]')


def _check_augment(task: Task, x: torch.Tensor, say: Say) -> None:
    import torch

    made, again = (task.augment(x.clone(), torch.Generator().manual_seed(7)) for _ in range(2))
    if not isinstance(made, torch.Tensor) or made.shape != x.shape or made.dtype != x.dtype:
        raise say.wrong("augment", "changed the rows' shape or dtype", f"give {x.dtype} {list(x.shape)} back")
    if not torch.equal(made, again):
        raise say.wrong("augment", "gave two results for one seed", "draw from the generator alone")


def _answered(
    task: Task, network: torch.nn.Module, x: torch.Tensor, encoding: Encoding, method: str, say: Say
) -> torch.Tensor:
    """Logits, or values, of the right shape."""
    import torch

    with torch.inference_mode():
        logits = _called(task, network.eval(), x, method)
    has_values = task.targets == "value"
    width = 1 if has_values else len(encoding.labels)
    # A task with labels may have answers of another width where it says itself what they mean.
    free = type(task).output_spec is not Task.output_spec
    expected = f"give a network of rows to [rows, {width}], {'the value' if has_values else 'a logit per label'}"
    if not isinstance(logits, torch.Tensor) or not logits.is_floating_point():
        raise say.wrong(method, "made a network that answers no tensor of floats", expected)
    if logits.dim() != 2 or len(logits) != len(x) or (logits.shape[1] != width and not free):
        raise say.wrong(method, f"made a network that answers {list(logits.shape)} to {len(x)} rows", expected)
    if not torch.isfinite(logits).all():
        raise say.wrong(method, "made a network that answers NaN or infinity", "scale its input by the statistics")
    return logits.float()


def _called(task: Task, network: torch.nn.Module, x: torch.Tensor, method: str) -> torch.Tensor:
    try:
        answer: torch.Tensor = network(x)
    except ConfigError:
        raise
    except Exception as error:
        what = f"the network of its {method}(), called with {x.dtype} {list(x.shape)},"
        raise failure(task.experiment.task, what, error) from error
    return answer
