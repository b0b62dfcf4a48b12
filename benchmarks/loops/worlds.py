"""What the rows of MNIST's endpoint come to look like: turned and noisy, or another script under the same labels."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from scipy import ndimage

from benchmarks.loops.traffic import Rows

DEGREES, NOISE = (30.0, 50.0), 24.0  # least and most; of 255
KMNIST = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"


def shifted(rows: Rows, seed: int = 0) -> Rows:
    """Each image [28, 28, 1] turned by an angle of DEGREES, with Gaussian noise."""
    images, labels = rows
    generator = np.random.default_rng(seed)
    angles = generator.uniform(*DEGREES, len(images))
    turned = np.stack([
        ndimage.rotate(image.astype(np.float32), angle, axes=(1, 0), reshape=False, order=1)
        for image, angle in zip(images, angles, strict=True)
    ])  # fmt: skip
    noisy = turned + generator.normal(0.0, NOISE, turned.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), labels


def kmnist(folder: Path) -> Rows:
    """KMNIST's test rows: cursive hiragana, ten classes that are called 0 to 9 here."""
    with gzip.open(folder / KMNIST[0]) as stream:
        images = np.frombuffer(stream.read(), np.uint8, offset=16).reshape(-1, 28, 28, 1)
    with gzip.open(folder / KMNIST[1]) as stream:
        labels = np.frombuffer(stream.read(), np.uint8, offset=8).astype(np.int64)
    return images, labels
