"""Seconds to turn MNIST's files into a dataset, against a plain numpy and pyarrow script that does the same.

The plain script reads, hashes, finds equal rows, splits, orders, writes shards, statistics and checksums in one
process, and its shards have the very bytes of ours. Ray is started and its workers are warm before the clock runs.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import report
from benchmarks.arena import has_mnist, private
from cluster.config import Experiment
from cluster.experiment import parse
from cluster.store import Store
from jobs import preprocess

PEER = "plain numpy + pyarrow script, one process"
FILES = [("", "train"), ("test", "t10k")]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preprocess", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 rounds instead of 9")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/mnist"), help="folder of MNIST's gz files")
    parser.add_argument("--out", type=Path, help="JSON file; by default stdout")
    arguments = parser.parse_args()
    if not has_mnist(arguments.data):
        return 2
    made = parse({"name": "mnist", "data": {"source": {"kind": "idx", "path": str(arguments.data.absolute())}}})
    with private("benchmark-preprocess") as (cluster, folder):
        rounds = measure(made, folder, 3 if arguments.quick else 9, cluster.pid)
    write(arguments.out, rounds, quick=arguments.quick)
    return 0


def measure(made: Experiment, folder: Path, num_rounds: int, head: int | None) -> list[dict[str, float]]:
    """Interleaved rounds, each in a fresh store: seconds and CPU-seconds of both sides."""
    rounds = []
    for number in range(-1, num_rounds):  # the first starts the workers and is not counted
        store = Store.open(str(folder / f"ours-{number}"))
        plain = folder / f"plain-{number}"
        sides = {
            "ours": lambda store=store: preprocess.run(made, store, "d", lambda *_: None),
            "plain": lambda plain=plain: plain_preprocess(made, plain),
        }
        measured: dict[str, float] = {}
        for side in list(sides) if number % 2 else reversed(list(sides)):
            measured[side], measured[f"{side} cpu"] = clocked(sides[side], head)
        check_same(store, plain)
        print(f"round {number}: " + ", ".join(f"{k} {v:.2f} s" for k, v in sorted(measured.items())), file=sys.stderr)
        if number >= 0:
            rounds.append(measured)
    return rounds


def clocked(work: Callable[[], Any], head: int | None) -> tuple[float, float]:
    """Seconds, and CPU-seconds of this process and of Ray's."""
    cpu, started = cpu_seconds(head), time.perf_counter()
    work()
    return time.perf_counter() - started, cpu_seconds(head) - cpu


def cpu_seconds(head: int | None) -> float:
    trees = [psutil.Process()] + (psutil.Process(head).children(recursive=True) if head else [])
    total = 0.0
    for process in trees:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def check_same(store: Store, plain: Path) -> None:
    entries = [entry for split in store.manifest("datasets", "d")["splits"].values() for entry in split]
    theirs = json.loads((plain / "manifest.json").read_text())["sha256"]
    assert {entry["file"]: entry["sha256"] for entry in entries} == theirs, "both sides must make the same shards"


def write(out: Path | None, rounds: list[dict[str, float]], *, quick: bool) -> None:
    ours, plain = ([r[side] for r in rounds] for side in ("ours", "plain"))
    cpu, plain_cpu = ([r[f"{side} cpu"] for r in rounds] for side in ("ours", "plain"))
    figures = [
        report.figure("preprocess 70,000 MNIST rows", ours, "s", peer=PEER, peer_values=plain),
        report.figure("preprocess 70,000 MNIST rows, CPU", cpu, "CPU-s", peer=PEER, peer_values=plain_cpu),
    ]
    notes = "60,000 training and 10,000 test rows; warm workers; shards of both sides are equal byte for byte; CPU of "
    notes += "Ray's own processes is counted in both, as they also run while the plain script does"
    report.write(out, "preprocess", quick=quick, seed=0, figures=figures, notes=notes)


# The plain script: nothing of ours but the settings.


def plain_preprocess(made: Experiment, out: Path) -> None:
    out.mkdir()
    images, labels, is_test = read_idx(Path(made.data.source.path))  # type: ignore[union-attr]
    content = [hashlib.blake2b(image, digest_size=16).digest() for image in images]
    keep = first_of_each(content, labels, is_test)
    bucket = np.array(
        [
            int.from_bytes(hashlib.blake2b(f"{made.seed}:{c.hex()}".encode(), digest_size=8).digest(), "big")
            for c in content
        ],
        np.uint64,
    )
    words = np.frombuffer(b"".join(content), ">u8").reshape(-1, 2)
    order = keep[np.lexsort((words[keep, 1], words[keep, 0], bucket[keep]))]
    held_out = bucket[order] / 2.0**64 >= 1.0 - made.data.split.validation
    tested = is_test[order]
    splits = {"train": order[~tested & ~held_out], "validation": order[~tested & held_out], "test": order[tested]}
    sums = np.zeros(2, np.int64)
    checksums = {}
    for split, rows in splits.items():
        for i, part in enumerate(np.array_split(rows, made.data.shards)):
            x = images[part]
            if split == "train":
                wide = x.astype(np.int64)
                sums += [wide.sum(), (wide * wide).sum()]
            name = f"{split}-{i:05}-of-{made.data.shards:05}.parquet"
            checksums[name] = write_shard(out / name, x, labels[part], [content[row].hex() for row in part])
    pixels = len(splits["train"]) * images[0].size
    mean = sums[0] / pixels
    statistics = {"mean": float(mean), "std": float((sums[1] / pixels - mean**2) ** 0.5)}
    (out / "manifest.json").write_text(json.dumps({"sha256": checksums, "statistics": statistics}))


def read_idx(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images uint8 [n, 28, 28, 1], labels int32 [n], is_test bool [n]."""
    images, labels, is_test = [], [], []
    for split, name in FILES:
        pixels = gzip.decompress((folder / f"{name}-images-idx3-ubyte.gz").read_bytes())
        images.append(np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 28, 28, 1))
        label = gzip.decompress((folder / f"{name}-labels-idx1-ubyte.gz").read_bytes())
        labels.append(np.frombuffer(label, np.uint8, offset=8).astype(np.int32))
        is_test.append(np.full(len(labels[-1]), split == "test"))
    return np.concatenate(images), np.concatenate(labels), np.concatenate(is_test)


def first_of_each(content: list[bytes], labels: np.ndarray, is_test: np.ndarray) -> np.ndarray:
    first: dict[bytes, int] = {}
    for row in np.argsort(~is_test, kind="stable").tolist():
        if first.setdefault(content[row], row) != row and labels[first[content[row]]] != labels[row]:
            raise ValueError(f"row {row} contradicts row {first[content[row]]}")
    return np.array(sorted(first.values()))


def write_shard(path: Path, x: np.ndarray, y: np.ndarray, key: list[str]) -> str:
    table = pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(x), "y": y, "key": key})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=False)
    data = sink.getvalue()
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    raise SystemExit(main())
