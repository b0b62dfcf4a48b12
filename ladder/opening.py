"""Opening a version as a replica does: every file checked, every rung loaded and run at both ends.

`python -m ladder.opening STORE BUNDLE MAX_BATCH` does it in a process of its own, for a version that nobody has tried:
what brings a process down from native code brings down none that matters.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence

import numpy as np

from cluster.errors import NotFoundError, TrimtabError, first_line
from cluster.store import Store
from ladder.bundle import Bundle, read_bundle
from ladder.variants import OnnxPredictor
from tasks.task import load_task

Forward = Callable[[np.ndarray], np.ndarray]


def executable(bundle: Bundle) -> tuple[str, ...]:
    """The variants a replica can run, most accurate first."""
    files = bundle.files
    return tuple(role for role in bundle.variants if role in files and files[role]["file"].endswith(".onnx"))


def opened_all(bundle: Bundle, rows: np.ndarray, threads: int) -> dict[str, Forward]:
    """All rungs, each run once with some of the encoded `rows` [n, *shape] and with all.

    Raises:
        NotFoundError: a file is gone, or the bundle has no variant a replica can run.
        DamagedError: a file is not what the bundle's manifest says.
        TrimtabError: a rung does not load, or answers nonsense.
    """
    variants = executable(bundle)
    if not variants:
        have = ", ".join(bundle.variants) or "none"
        raise NotFoundError(f"bundle {bundle.key} has no ONNX variant to serve (variants: {have})")
    width = load_task(bundle.experiment, bundle.file).output_spec(bundle.encoding).shape[1]
    return {variant: _opened(bundle, variant, rows, width, threads) for variant in variants}


def _opened(bundle: Bundle, variant: str, rows: np.ndarray, width: int, threads: int) -> Forward:
    """One rung, run at both ends, so that no request pays for the runtime's first allocations."""
    data = bundle.read(variant)
    try:
        predictor = OnnxPredictor(data, threads)
        outputs = [predictor(rows[:1]), predictor(rows)]
    except Exception as error:  # onnxruntime's own classes have no common base
        raise TrimtabError(f"bundle {bundle.key}: {variant} cannot be run ({first_line(error)})") from error
    for num_rows, output in zip((1, len(rows)), outputs, strict=True):
        if output.shape != (num_rows, width):
            raise TrimtabError(f"bundle {bundle.key}: {variant} gave {output.shape} for {num_rows} rows")
        if not np.isfinite(output).all():
            raise TrimtabError(f"bundle {bundle.key}: {variant} answers NaN or infinity")
    return predictor


def main(arguments: Sequence[str]) -> int:
    """0 when it opens; else the last line on stderr says why it does not."""
    store, key, max_batch = arguments
    try:
        bundle = read_bundle(Store.open(store), key)
        for role in bundle.files:
            bundle.read(role)
        opened_all(bundle, bundle.probe(int(max_batch)), threads=1)
        load_task(bundle.experiment, functools.cache(bundle.file)).open()
    except TrimtabError as error:
        sys.stderr.write(f"{first_line(error)}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
