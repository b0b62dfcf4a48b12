"""Sources that come as arrays and fit in memory: scikit-learn's digits, MNIST's idx files, torchvision's sets.

Knows where each keeps its pixels and labels and what its test rows are; nothing of how rows are used.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib.metadata
import struct
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.config import DigitsSource, IdxSource, TorchvisionSource
from cluster.errors import DataError
from jobs.source_rows import PATH, TEST, Place, Reading, array_tables, container_errors

TRAIN_FILES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
TEST_FILES = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
UNSIGNED_BYTE = 0x08  # idx's code for uint8


@dataclass(frozen=True)
class Digits:
    source: DigitsSource

    def check(self) -> None:
        """Always there."""

    def has_test(self) -> bool:
        return False

    def state(self) -> object:
        return ["digits", importlib.metadata.version("scikit-learn")]

    def read(self) -> Reading:
        from sklearn.datasets import load_digits

        digits = load_digits()
        # 17 grey levels, spread over a byte.
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # [1797, 8, 8, 1]
        return Reading(tables=array_tables(images, map(str, digits.target), "digits", "", 0))


@dataclass(frozen=True)
class Idx:
    source: IdxSource

    @property
    def place(self) -> Place:
        return Place.of(PATH, self.source.path)

    def check(self) -> None:
        """Raises DataError when a file is missing, empty or does not begin as gzipped idx."""
        names = {file.name: file.size for file in self.place.files()}
        for name in TRAIN_FILES + (TEST_FILES if self.has_test() else ()):
            if not names.get(name):
                problem = f"holds no {name}" if name not in names else f"{name} is empty"
                raise self.place.error(problem, f"put {' and '.join(TRAIN_FILES)} there")
            with _gz_errors(self.place, name), _gz(self.place, name) as stream:
                _header(self.place, name, stream.read(4))

    def has_test(self) -> bool:
        return any(file.name in TEST_FILES for file in self.place.files())

    def state(self) -> object:
        known = TRAIN_FILES + TEST_FILES
        return [list(file) for file in self.place.files() if file.name in known]

    def read(self) -> Reading:
        tables = []
        for number, (names, split) in enumerate([(TRAIN_FILES, ""), (TEST_FILES, TEST)]):
            if split and not self.has_test():
                continue
            images, labels = (_idx(self.place, name) for name in names)
            if images.ndim != 3 or labels.shape != images.shape[:1]:
                problem = f"{names[0]} has shape {images.shape} and {names[1]} {labels.shape}, which do not match"
                raise self.place.error(problem, "fetch both files anew from one source")
            tables += array_tables(images[..., None], map(str, labels), names[0], split, number)
        return Reading(tables=tables)


@dataclass(frozen=True)
class Torchvision:
    source: TorchvisionSource

    def check(self) -> None:
        """Raises DataError when the folder for the download is taken by a file."""
        folder = Path(self.source.path).expanduser()
        if folder.exists() and not folder.is_dir():
            raise DataError(PATH, self.source.path, "is not a folder", "name a folder to download to")

    def has_test(self) -> bool:
        return True

    def state(self) -> object:
        # torchvision checks what it downloads against its own checksums: the name says all, also before the download.
        return ["torchvision", self.source.name]

    def read(self) -> Reading:
        tables = []
        for number, split in enumerate(["", TEST]):
            found = self._download(is_train=not split)
            images, labels = _torchvision_arrays(self.source.name, found)
            name = f"{self.source.name}/{split or 'train'}"
            tables += array_tables(images, labels, name, split, number)
        return Reading(tables=tables)

    def _download(self, is_train: bool) -> Any:
        import torchvision

        make = getattr(torchvision.datasets, self.source.name)
        part = {"split": "train" if is_train else "test"} if self.source.name == "SVHN" else {"train": is_train}
        root = Path(self.source.path).expanduser().absolute()
        try:
            # A step's stdout carries its figures; torchvision prints to it while it downloads.
            with contextlib.redirect_stdout(sys.stderr):
                return make(root=str(root), download=True, **part)
        except (OSError, RuntimeError, EOFError, ValueError) as error:
            problem = f"could not be downloaded ({str(error).splitlines()[0][:160]})"
            mend = f"connect this machine to the internet or put the files into {self.source.path}"
            raise DataError("data.source.name", self.source.name, problem, mend) from error


def _torchvision_arrays(name: str, found: Any) -> tuple[np.ndarray, list[str]]:
    """Images uint8 [n, height, width, channels] and one label text for each."""
    images = np.asarray(found.data)
    if name == "SVHN":
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1)), [str(label) for label in found.labels]
    targets = np.asarray(found.targets)
    # MNIST's class names are "0 - zero" and so on; the digit alone is the better label.
    names = [str(i) for i in range(10)] if name == "MNIST" else found.classes
    return images if images.ndim == 4 else images[..., None], [names[target] for target in targets]


def _idx(place: Place, name: str) -> np.ndarray:
    """The uint8 array in a gzipped idx file. Raises DataError."""
    with _gz_errors(place, name), _gz(place, name) as stream:
        num_dimensions = _header(place, name, stream.read(4))
        shape = struct.unpack(f">{num_dimensions}I", stream.read(4 * num_dimensions))
        data = stream.read()
    if len(data) != int(np.prod(shape, dtype=np.int64)):
        problem = f"holds {len(data)} bytes where its header says {' x '.join(map(str, shape))}"
        raise place.error(problem, "fetch the file anew", name)
    return np.frombuffer(data, np.uint8).reshape(shape)


def _header(place: Place, name: str, header: bytes) -> int:
    if len(header) < 4 or header[:2] != b"\0\0" or header[2] != UNSIGNED_BYTE:
        raise place.error("is not an idx file of unsigned bytes", "fetch the file anew", name)
    return header[3]


@contextlib.contextmanager
def _gz_errors(place: Place, name: str) -> Any:
    with container_errors(place, name, "gzip"):
        try:
            yield
        except (zlib.error, struct.error) as error:
            raise EOFError(str(error)) from error


@contextlib.contextmanager
def _gz(place: Place, name: str) -> Any:
    system, folder = place.folder()
    with (
        system.open_input_stream(f"{folder}/{name}", compression=None) as raw,
        gzip.GzipFile(fileobj=raw, mode="rb") as stream,
    ):
        yield stream
