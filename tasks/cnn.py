"""Convolutional networks for images of any size.

All networks take uint8 [n, height, width, channels] and normalise inside, so that no caller can forget it.
Knows shapes and statistics, not where images come from.
"""

from __future__ import annotations

import torch
from torch import nn

from cluster.config import Model
from tasks.augment import inside
from tasks.task import Encoding

SMALL_GRID = 6  # the small network sees at most this many cells per side before its dense layer
TINY_SIDE, TINY_GRID = 32, 7  # the tiny network pools to about this side, and strides to about this grid
TINY_WIDTHS = (16, 32)
LARGE_WIDTHS = (48, 96, 192)


def build(model: Model, encoding: Encoding) -> nn.Module:
    """uint8 [n, height, width, channels] -> logits float32 [n, num_labels]; height and width at least 4."""
    return _whole(encoding, (_small if model.network == "small" else _large)(encoding, model))


def build_narrow(model: Model, encoding: Encoding) -> nn.Module:
    """As `build` of a large network, with half of its channels: a quarter of its work."""
    return _whole(encoding, _large(encoding, model.model_copy(update={"width": model.width / 2})))


def build_tiny(encoding: Encoding) -> nn.Module:
    """As `build`, a fraction of the small network's work: one strided convolution and a dense layer."""
    height, width, num_channels = encoding.shape
    cell = max(1, height // TINY_SIDE), max(1, width // TINY_SIDE)
    layers: list[nn.Module] = [Normalise(encoding.statistics["mean"], encoding.statistics["std"])]
    if cell != (1, 1):
        layers.append(nn.AvgPool2d(cell))
        height, width = height // cell[0], width // cell[1]
    num_filters, num_hidden = TINY_WIDTHS
    stride = max(2, height // TINY_GRID), max(2, width // TINY_GRID)
    kernel, pad = (stride[0] + 1, stride[1] + 1), ((stride[0] + 1) // 2, (stride[1] + 1) // 2)
    rows, columns = (
        (side + 2 * p - k) // s + 1 for side, p, k, s in zip((height, width), pad, kernel, stride, strict=True)
    )
    layers += [nn.Conv2d(num_channels, num_filters, kernel, stride, pad, bias=False), nn.BatchNorm2d(num_filters)]
    layers += [nn.ReLU(), nn.Flatten(), nn.Linear(num_filters * rows * columns, num_hidden), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Linear(num_hidden, len(encoding.labels)))
    return network.to(memory_format=torch.channels_last)


def _whole(encoding: Encoding, layers: list[nn.Module]) -> nn.Module:
    network = nn.Sequential(Normalise(encoding.statistics["mean"], encoding.statistics["std"]), *layers)
    # Channels last is how the rows lie in memory already, and what CPU and GPU kernels like best.
    return network.to(memory_format=torch.channels_last)


class Views(nn.Module):
    """uint8 [n, h, w, c] -> log of the mean probabilities of an image moved along its diagonal, each also mirrored.

    Averaging answers over changed inputs as in A. Krizhevsky et al., *ImageNet Classification with Deep
    Convolutional Neural Networks*, 2012. All views go through the network in one batch.
    """

    columns: torch.Tensor
    rows: torch.Tensor

    def __init__(self, network: nn.Module, height: int, width: int, shifts: tuple[int, ...]) -> None:
        super().__init__()
        self.network = network
        rows, columns = [], []
        for shift in shifts:
            across = inside(torch.arange(width) + shift, width)
            for places in (across, across.flip(0)):
                rows.append(inside(torch.arange(height) + shift, height))
                columns.append(places)
        self.register_buffer("rows", torch.stack(rows))
        self.register_buffer("columns", torch.stack(columns))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        views = torch.cat(
            [x.index_select(1, ys).index_select(2, xs) for ys, xs in zip(self.rows, self.columns, strict=True)]
        )
        answers = torch.softmax(self.network(views).float(), dim=1)
        return answers.reshape(len(self.rows), -1, answers.shape[1]).mean(dim=0).log()


class Normalise(nn.Module):
    """uint8 [n, h, w, c] -> float32 [n, c, h, w] with the training rows' mean 0 and deviation 1."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(1, -1, 1, 1))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        n, height, width, channels = rows.shape
        # Line by line: over the few channels alone, engines broadcast one number at a time.
        mean, std = (each.reshape(-1).repeat(width) for each in (self.mean, self.std))
        x = (rows.reshape(n, height, width * channels).to(torch.float32) - mean) / std
        return x.reshape(n, height, width, channels).permute(0, 3, 1, 2)  # channels last


def _small(encoding: Encoding, model: Model) -> list[nn.Module]:
    """Two convolutions of 16 and 32 channels and a dense layer of 64. Pooling before ReLU is 1.6 times as fast."""
    height, width, num_channels = encoding.shape
    first, second, hidden = (_channels(n, model) for n in (16, 32, 64))
    pad = (int(height < 16), int(width < 16))  # small images cannot spare their border
    layers: list[nn.Module] = []
    for before, after in ((num_channels, first), (first, second)):
        layers += [nn.Conv2d(before, after, 3, padding=pad), nn.MaxPool2d(2), nn.BatchNorm2d(after), nn.ReLU()]
        height, width = (height - 2 + 2 * pad[0]) // 2, (width - 2 + 2 * pad[1]) // 2
    cell = -(-height // SMALL_GRID), -(-width // SMALL_GRID)
    if cell != (1, 1):
        layers.append(nn.AvgPool2d(cell))
    num_features = second * (height // cell[0]) * (width // cell[1])
    dense = [nn.Flatten(), nn.Linear(num_features, hidden), nn.ReLU()]
    return [*layers, *dense, nn.Dropout(model.dropout), nn.Linear(hidden, len(encoding.labels))]


def _large(encoding: Encoding, model: Model) -> list[nn.Module]:
    """A stem and three double blocks, each halving the image after its first convolution."""
    height, width, num_channels = encoding.shape
    stride = max(1, min(height, width) // 48)
    widths = [_channels(n, model) for n in LARGE_WIDTHS]
    stem = widths[0] // 2
    first = nn.Conv2d(num_channels, stem, 2 * stride + 1, stride=stride, padding=stride, bias=False)
    layers: list[nn.Module] = [first, nn.BatchNorm2d(stem), nn.ReLU()]
    height, width = (height - 1) // stride + 1, (width - 1) // stride + 1
    before = stem
    for after in widths:
        pool = min(2, height), min(2, width)
        layers += [_conv(before, after), nn.MaxPool2d(pool), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [_conv(after, after), nn.BatchNorm2d(after), nn.ReLU()]
        before, height, width = after, height // pool[0], width // pool[1]
    return [*layers, GlobalMax(), nn.Dropout(model.dropout), nn.Linear(before, len(encoding.labels))]


def _channels(num: int, model: Model) -> int:
    """Even, and at least 4."""
    return max(4, 2 * round(num * model.width / 2))


def _conv(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1, bias=False)  # the batch norm behind it has the bias


class GlobalMax(nn.Module):
    """[n, c, h, w] -> [n, c]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.amax(dim=(2, 3))
