"""Images changed at random for training, each so that it still shows the same: tensors in, tensors out.

All that is drawn comes from the generator, on the CPU, so that a seed gives the same images on any device. Which
changes are made, and in which order, stands in `train.augment`. Knows no task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

CROP_AREA, CROP_RATIO = (0.5, 1.0), (0.75, 4 / 3)  # of what is kept; width to height
COLOUR = 0.3  # most that brightness, contrast and saturation change, as a share
CUTOUT_AREA, CUTOUT_SHARE = (0.05, 0.25), 0.5  # of the image; of the rows

Change = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


def augmented(rows: torch.Tensor, changes: Sequence[str], generator: torch.Generator) -> torch.Tensor:
    """uint8 [n, h, w, c] after `changes`, by their names in `CHANGES`, one after the other."""
    for name in changes:
        rows = CHANGES[name](rows, generator)
    return rows


def shift(rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """uint8 [n, h, w, c] moved by up to a tenth of each side; what comes in from outside mirrors the border."""
    n, height, width, _ = rows.shape
    ys = _moved(n, height, generator).to(rows.device)
    xs = _moved(n, width, generator).to(rows.device)
    every = torch.arange(n, device=rows.device)
    return rows[every[:, None, None], ys[:, :, None], xs[:, None, :]]


def flip(rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """uint8 [n, h, w, c] with about every second row mirrored left to right."""
    chosen = torch.rand(len(rows), generator=generator) < 0.5
    return torch.where(chosen.to(rows.device)[:, None, None, None], rows.flip(2), rows)


def crop(rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A part of each of uint8 [n, h, w, c], of half its area or more and somewhat other proportions, scaled up again.

    As in C. Szegedy et al., *Going Deeper with Convolutions*, 2015, with larger parts.
    """
    n = len(rows)
    area, ratio = _between(*CROP_AREA, n, generator), _between(*CROP_RATIO, n, generator)
    width, height = (area * ratio).sqrt().clamp(max=1.0), (area / ratio).sqrt().clamp(max=1.0)
    # Middles of the part, on the scale -1 to 1 of the whole image, so that it lies inside.
    x, y = ((1 - side) * _between(-1.0, 1.0, n, generator) for side in (width, height))
    zero = torch.zeros(n)
    places = torch.stack([torch.stack([width, zero, x], 1), torch.stack([zero, height, y], 1)], 1).to(rows.device)
    images = rows.permute(0, 3, 1, 2).float()
    grid = functional.affine_grid(places, list(images.shape), align_corners=False)
    made = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return _as_rows(made.permute(0, 2, 3, 1))


def colour(rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """uint8 [n, h, w, c] brighter or darker, with more or less contrast and, with three channels, saturation."""
    n, _, _, num_channels = rows.shape
    brightness, contrast, saturation = (
        _between(1 - COLOUR, 1 + COLOUR, n, generator).to(rows.device)[:, None, None, None] for _ in range(3)
    )
    images = rows.float() * brightness
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    images = middle + (images - middle) * contrast
    if num_channels == 3:
        grey = images.mean(dim=3, keepdim=True)
        images = grey + (images - grey) * saturation
    return _as_rows(images)


def cutout(rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """uint8 [n, h, w, c], about half of the rows with a rectangle of their own mean colour somewhere.

    T. DeVries, G. Taylor, *Improved Regularization of Convolutional Neural Networks with Cutout*, 2017; rectangles and
    their share as in Z. Zhong et al., *Random Erasing Data Augmentation*, 2020.
    """
    n, height, width, _ = rows.shape
    area, ratio = _between(*CUTOUT_AREA, n, generator), _between(0.5, 2.0, n, generator)
    chosen = torch.rand(n, generator=generator) < CUTOUT_SHARE
    inside = [
        _span(share.sqrt().clamp(max=1.0), side, generator)
        for share, side in ((area / ratio, height), (area * ratio, width))
    ]
    hidden = (inside[0][:, :, None] & inside[1][:, None, :] & chosen[:, None, None]).to(rows.device)
    mean = _as_rows(rows.float().mean(dim=(1, 2), keepdim=True))
    return torch.where(hidden[..., None], mean, rows)


CHANGES: dict[str, Change] = {"shift": shift, "crop": crop, "flip": flip, "colour": colour, "cutout": cutout}


def inside(positions: torch.Tensor, side: int) -> torch.Tensor:
    """Positions beyond 0 and `side` - 1 mirrored back."""
    return (side - 1) - ((side - 1) - positions.abs()).abs()


def _moved(n: int, side: int, generator: torch.Generator) -> torch.Tensor:
    """Source positions int64 [n, side] of a random shift, mirrored back inside at both ends."""
    most = max(1, round(side / 10))
    offsets = torch.randint(-most, most + 1, (n, 1), generator=generator)
    return inside(torch.arange(side) + offsets, side)


def _span(share: torch.Tensor, side: int, generator: torch.Generator) -> torch.Tensor:
    """bool [n, side]: the places of a part of each row's `share` of the side, at least one."""
    length = (share * side).round().clamp(min=1)
    start = (torch.rand(len(share), generator=generator) * (side - length + 1)).floor()
    places = torch.arange(side)
    return (places >= start[:, None]) & (places < (start + length)[:, None])


def _between(low: float, high: float, n: int, generator: torch.Generator) -> torch.Tensor:
    return low + (high - low) * torch.rand(n, generator=generator)


def _as_rows(images: torch.Tensor) -> torch.Tensor:
    return images.round().clamp(0, 255).to(torch.uint8)
