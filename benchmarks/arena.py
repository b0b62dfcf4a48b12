"""What the benchmarks on Ray have in common: a cluster of their own, and where MNIST lies."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cluster import session
from cluster.session import Session


@contextlib.contextmanager
def private(name: str) -> Iterator[tuple[Session, Path]]:
    """A cluster with a home and store of its own, this process as a driver on it, and the store's folder."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRIMTAB_HOME"] = folder  # the user's own clusters are left alone
        made = session.up(name, store=folder)
        try:
            session.connect(made)
            yield made, Path(folder)
        finally:
            import ray

            ray.shutdown()  # first: Ray ends a driver whose cluster goes away
            session.down(name)


def has_mnist(folder: Path) -> bool:
    """Whether MNIST's gz files are in `folder`; says so when they are not."""
    found = (folder / "train-images-idx3-ubyte.gz").is_file()
    if not found:
        print(f"--data {folder}: no MNIST there; name the folder with its gz files", file=sys.stderr)
    return found
