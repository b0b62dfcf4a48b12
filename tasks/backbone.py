"""Networks of torchvision for images, with pretrained weights from a file or without.

Rows are brought to the backbone's size and scale inside the network, so that serving cannot forget it. Weights are
never downloaded, and read as safetensors or by `torch.load(weights_only=True)`: a file runs no code. Knows no task.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from cluster.config import Model
from cluster.errors import ConfigError, first_line
from tasks import weights
from tasks.task import Encoding

SIDE = 224  # of the images that torchvision's weights were trained on
LEAST_SIDE = 32  # below this the deepest layers have nothing left
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of those images, on the scale 0 to 1


def build(model: Model, encoding: Encoding) -> nn.Module:
    """uint8 [n, height, width, channels] -> logits float32 [n, num_labels].

    Pretrained weights come with the size and the scale they were trained with, `model.side` overrides the size.

    Raises:
        ConfigError: `model.weights` cannot be read, or are of another network.
    """
    from torchvision import models

    body = models.get_model(model.network, weights=None)
    if model.weights is not None:
        _load(body, model.weights, model.network)
    _replace_head(body, len(encoding.labels), model.dropout)
    height, width, num_channels = encoding.shape
    if model.weights is None and model.side is None:
        size = max(LEAST_SIDE, height), max(LEAST_SIDE, width)
    else:
        size = (model.side or SIDE,) * 2
    if model.weights is not None:
        mean, std = [255 * value for value in MEAN], [255 * value for value in STD]
    else:
        mean, std = ([*encoding.statistics[name]] * (3 // num_channels) for name in ("mean", "std"))
    network = nn.Sequential(Prepared(size, mean, std), body)
    return network.to(memory_format=torch.channels_last)


class Prepared(nn.Module):
    """uint8 [n, h, w, c] of 1 or 3 channels -> float32 [n, 3, *size] on a network's scale."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, size: tuple[int, int], mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(1, 3, 1, 1))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        x = rows.permute(0, 3, 1, 2).to(torch.float32)
        if tuple(x.shape[2:]) != self.size:
            x = functional.interpolate(x, size=self.size, mode="bilinear", align_corners=False)
        x = (x.expand(-1, 3, -1, -1) - self.mean) / self.std
        return x.contiguous(memory_format=torch.channels_last)


def _replace_head(body: Any, num_labels: int, dropout: float) -> None:
    layers, last = (body, "fc") if hasattr(body, "fc") else (body.classifier, str(len(body.classifier) - 1))
    before = getattr(layers, last)
    setattr(layers, last, nn.Sequential(nn.Dropout(dropout), nn.Linear(before.in_features, num_labels)))


def _load(body: Any, path: str, network: str) -> None:
    """All weights but the head's, which is for other labels."""
    head = "fc." if hasattr(body, "fc") else f"classifier.{len(body.classifier) - 1}."
    found = {name: tensor for name, tensor in _tensors(path).items() if not name.startswith(head)}
    mend = f"name a file of torchvision's {network}, or set model.network to the file's"
    try:
        missing, unexpected = body.load_state_dict(found, strict=False)
    except RuntimeError as error:
        problem = f"has weights of other shapes than {network} ({first_line(error)})"
        raise ConfigError(weights.FIELD, path, problem, mend) from error
    if lacking := [name for name in missing if not name.startswith(head)]:
        raise ConfigError(weights.FIELD, path, f"lacks weights of {network}, for example {lacking[0]}", mend)
    if unexpected:
        raise ConfigError(weights.FIELD, path, f"has weights that {network} has not, for example {unexpected[0]}", mend)


def _tensors(path: str) -> dict[str, torch.Tensor]:
    data = weights.read(path)
    try:
        if data[:2] == b"PK" or data[:1] == b"\x80":  # torch's own archive, and its older form
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        else:
            from safetensors.torch import load

            found = load(data)
    except pickle.UnpicklingError as error:
        problem = "holds more than weights, and is not unpacked: that could run code"
        raise ConfigError(weights.FIELD, path, problem, "save the network's state_dict() alone") from error
    except Exception as error:  # of safetensors, of torch's archive
        problem = f"is no file of weights ({first_line(error)})"
        raise ConfigError(weights.FIELD, path, problem, "name a .safetensors or torchvision .pth file") from error
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        problem = "holds no weights by name"
        raise ConfigError(weights.FIELD, path, problem, "save the network's state_dict() alone")
    return found
