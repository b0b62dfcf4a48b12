"""Opening a version as a replica does: every file checked, every rung loaded and run at both ends.

`python -m ladder.opening STORE BUNDLE MAX_BATCH` does it in a process of its own, for a version that nobody has tried:
what brings a process down from native code brings down none that matters.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence

import numpy as np

from cluster.errors import NotFoundError, TrimtabError, first_line
from cluster.store import DamagedError, Store
from ladder import forms
from ladder.bundle import Bundle, read_bundle
from ladder.forms import Forward
from tasks.task import Task, load_task


def executable(bundle: Bundle) -> tuple[str, ...]:
    """The variants a replica can run, most accurate first."""
    have = kept(bundle)
    return tuple(role for role in bundle.variants if role in have)


def kept(bundle: Bundle) -> tuple[str, ...]:
    """All forms in a bundle, with those that its ladder does without."""
    return tuple(role for role, entry in bundle.files.items() if entry["file"].endswith(forms.suffix(role)))


def open_one(bundle: Bundle, variant: str, task: Task | None = None, threads: int = 1) -> Forward:
    """One form of a bundle. Raises NotFoundError, DamagedError, and what its runtime raises."""
    task = task or load_task(bundle.experiment, functools.cache(bundle.file))
    return forms.opened(variant, bundle.read(variant), task, bundle.encoding, threads)


def opened_all(bundle: Bundle, rows: np.ndarray, threads: int, task: Task | None = None) -> dict[str, Forward]:
    """All rungs, each run once with some of the encoded `rows` [n, *shape] and with all.

    `task` is the bundle's with the settings of today, if they are not those of the day it was made.

    Raises:
        NotFoundError: a file is gone, or the bundle has no variant a replica can run.
        DamagedError: a file is not what the bundle's manifest says.
        TrimtabError: a rung does not load, or answers nonsense.
    """
    variants = executable(bundle)
    if not variants:
        have = ", ".join(bundle.variants) or "none"
        raise NotFoundError(f"bundle {bundle.key} has no variant that can be served (variants: {have})")
    task = task or load_task(bundle.experiment, functools.cache(bundle.file))
    width = task.output_spec(bundle.encoding).shape[1]
    return {variant: _opened(bundle, variant, rows, width, task, threads) for variant in variants}


def _opened(bundle: Bundle, variant: str, rows: np.ndarray, width: int, task: Task, threads: int) -> Forward:
    """One rung, run at both ends, so that no request pays for the runtime's first allocations."""
    try:
        predictor = open_one(bundle, variant, task, threads)
        outputs = [predictor(rows[:1]), predictor(rows)]
    except (NotFoundError, DamagedError):
        raise
    except Exception as error:  # the runtimes' own classes have no common base
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
