"""The form of a network that PyTorch itself runs: for networks that ONNX cannot express, and for GPUs.

A file of it has weights alone (safetensors). The network around them is the task's own, built anew by the code that the
process has: a bundle brings none that would run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from cluster.errors import TrimtabError
from tasks.task import Encoding, Task, trimmed

if TYPE_CHECKING:
    import torch

SHIFT = "trimtab:shift"  # beside the weights: what is added to each answer


def pack(network: torch.nn.Module) -> bytes:
    """The network's weights as a file."""
    from safetensors.torch import save

    # Copies, as layers may share a tensor and the format has no word for that.
    data: bytes = save({name: tensor.cpu().clone().contiguous() for name, tensor in network.state_dict().items()})
    return data


def shifted(form: bytes, by: np.ndarray) -> bytes:
    """A form that adds float32 [width] to each of its answers."""
    from safetensors.numpy import load, save

    tensors = load(form)
    data: bytes = save({**tensors, SHIFT: tensors.get(SHIFT, np.float32(0.0)) + by.astype(np.float32)})
    return data


class TorchPredictor:
    """Runs a network of the task; one instance may be called from several threads."""

    def __init__(self, data: bytes, task: Task, encoding: Encoding, larger: str = "", threads: int = 1) -> None:
        """From a file that `pack` made of the task's network, or of the larger form of it that is named.

        On a GPU where `serve.gpus_per_replica` gives replicas one and there is one.

        Raises TrimtabError where the task of today builds another network than the weights are of.
        """
        import torch
        from safetensors.torch import load

        state, network = load(data), task.network(encoding)
        has_gpu = task.experiment.serve.gpus_per_replica > 0 and torch.cuda.is_available()
        self._device = torch.device("cuda" if has_gpu else "cpu")
        shift = state.pop(SHIFT, None)
        try:
            if larger:
                network = task.larger(network.eval(), encoding)[larger]
            network.load_state_dict(state)
        except (KeyError, RuntimeError) as error:
            raise TrimtabError("the task's code builds another network than these weights are of") from error
        self._network, self._task, self._threads = network.to(self._device).eval(), task, threads
        self._shift = None if shift is None else shift.to(self._device)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Rows [n, *shape] in the encoding's dtype -> answers float32 [n, width].

        Rows of a task that trims them are cut to the longest of the batch.
        """
        import torch

        given = trimmed(rows) if self._task.trims else rows
        if not given.flags.writeable:
            given = given.copy()  # torch takes no others without a warning
        with torch.inference_mode(), _threads(self._threads):
            answers = self._task.outputs(self._network(torch.from_numpy(given).to(self._device))).float()
            if self._shift is not None:
                answers = answers + self._shift
            array: np.ndarray = answers.cpu().numpy()
        return array


@contextlib.contextmanager
def _threads(num: int) -> Iterator[None]:
    """Torch knows one number of threads for a process: a job that trains as well shall keep its own."""
    import torch

    before = torch.get_num_threads()
    if before == num:
        yield
        return
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)
