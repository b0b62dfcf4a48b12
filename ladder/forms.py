"""The executable forms that a variant may have, told apart by its name: ONNX, or PyTorch's own for `torch-...`.

What holds for all of them stands here; each one's making and running stands in `ladder.variants` and
`ladder.torch_form`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from cluster.errors import TrimtabError
from ladder import torch_form, variants
from ladder.torch_form import TorchPredictor
from ladder.variants import REFERENCE, ExportError, OnnxPredictor, export_onnx
from tasks.task import Encoding, Task

if TYPE_CHECKING:
    import torch

Forward = Callable[[np.ndarray], np.ndarray]

_TORCH = "torch-"


def is_torch(variant: str) -> bool:
    return variant.startswith(_TORCH)


def torch_variant(larger: str = "") -> str:
    """The name of the trained network's form for PyTorch, or of its larger form that is named."""
    return f"{_TORCH}{larger}-fp32" if larger else f"{_TORCH}fp32"


def suffix(variant: str) -> str:
    """Of the file that the variant's form is in a bundle."""
    return ".safetensors" if is_torch(variant) else ".onnx"


def opened(variant: str, data: bytes, task: Task, encoding: Encoding, threads: int = 1) -> Forward:
    """What runs a form: rows [n, *shape] -> answers float32 [n, width].

    Raises TrimtabError as `TorchPredictor`, and what onnxruntime or torch raise, whose errors have no common base.
    """
    if is_torch(variant):
        larger = variant.removeprefix(_TORCH).removesuffix("fp32").removesuffix("-")
        return TorchPredictor(data, task, encoding, larger, threads)
    return OnnxPredictor(data, threads)


def export_torch(network: torch.nn.Module, encoding: Encoding, task: Task, larger: str = "") -> tuple[str, bytes]:
    """The name and the file of the network's form for PyTorch; `larger` names the task's larger form that it is.

    Raises:
        ExportError: the task does not build it so, or it answers something that is not finite.
    """
    import torch

    variant, data = torch_variant(larger), torch_form.pack(network)
    rows = task.example(encoding, variants.CHECKED_ROWS)
    with torch.inference_mode():
        expected = task.outputs(network.cpu().eval()(torch.from_numpy(rows))).float().numpy()
    try:
        predictor = opened(variant, data, task, encoding)
    except TrimtabError as error:
        raise ExportError("what is served is not the network that the task builds, so torch cannot run it") from error
    variants.check(predictor, rows, expected, "torch")
    return variant, data


def export_plain(network: torch.nn.Module, encoding: Encoding, task: Task) -> tuple[str, bytes, str]:
    """The name and the file of the trained network's plain form, and why it is not ONNX, where it is not.

    Raises:
        ExportError: it has neither form.
    """
    try:
        return REFERENCE, export_onnx(network, encoding, task), ""
    except ExportError as error:
        try:
            return *export_torch(network, encoding, task), str(error)
        except ExportError as other:
            both = str(error) if str(other) == str(error) else f"{error}, nor run by torch: {other}"
            raise ExportError(both) from other


def shifted(variant: str, data: bytes, by: np.ndarray) -> bytes:
    """A form that adds float32 [width] to each of the answers that this one gives."""
    return torch_form.shifted(data, by) if is_torch(variant) else variants.shifted(data, by)
