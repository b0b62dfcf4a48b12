"""What every step's command line has in common: `python -m jobs.<step> experiment.yaml`.

Reads the experiment, opens store and registry, connects to Ray, reports progress and figures on stdout for
whoever follows, and turns errors into exit codes. Knows nothing of what a step does.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cluster import experiment as experiments
from cluster import progress, session
from cluster.config import Experiment
from cluster.errors import TrimtabError
from cluster.registry import Registry
from cluster.store import Store
from jobs import keys


@dataclass(frozen=True)
class Context:
    """What a step gets: the experiment, where results go, and how to say how far it is."""

    experiment: Experiment
    store: Store
    progress: progress.Progress
    dataset: str  # keys of the results this step makes or reads
    run: str
    bundle: str

    @cached_property
    def registry(self) -> Registry:
        return Registry.open(self.store)


Step = Callable[[Context], dict[str, Any]]


def context(step: str, experiment: Experiment, store: Store, dataset: str | None = None) -> Context:
    """`dataset` saves looking at the data again when its key is known. Raises DataError."""
    dataset = dataset or keys.dataset_key(experiment)
    run = keys.run_key(experiment, dataset)
    return Context(experiment, store, progress.Progress(step), dataset, run, keys.bundle_key(experiment, run))


def main(step: str, body: Step, argv: Sequence[str] | None = None) -> int:
    """Run one step as a process; returns its exit code."""
    arguments = _arguments(step, argv)
    started = time.monotonic()
    try:
        experiment = experiments.load(arguments.experiment, arguments.set)
        made = context(step, experiment, Store.open(arguments.store), arguments.dataset)
        session.connect()
        figures = body(made)
    except TrimtabError as error:
        progress.error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception:
        # A bug of ours, not the user's mistake: the job's log keeps the whole of it.
        traceback.print_exc()
        return 1
    progress.result(dataset=made.dataset, seconds=round(time.monotonic() - started, 3), **figures)
    return 0


def _arguments(step: str, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m jobs.{step}", description=f"The {step} step of an experiment.")
    parser.add_argument("experiment", help=f"experiment file, or - for the JSON in {experiments.ENVIRONMENT}")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting")
    parser.add_argument("--store", default=os.environ.get("TRIMTAB_STORE"), help="folder or URI (TRIMTAB_STORE)")
    parser.add_argument("--dataset", help="key of the dataset, when known")
    arguments = parser.parse_args(argv if argv is not None else sys.argv[1:])
    if arguments.store is None:
        arguments.store = str(session.home() / "store")
    return arguments
