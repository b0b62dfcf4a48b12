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
from cluster.state import default_store
from cluster.store import Store
from jobs import keys
from jobs.keys import Keys


@dataclass(frozen=True)
class Context:
    """What a step gets: the experiment, where results go, and how to say how far it is."""

    experiment: Experiment
    store: Store
    progress: progress.Progress
    keys: Keys  # of the results this step makes or reads
    inline: bool = False  # in the process of whoever asked, who would rather not wait for others to start
    asked_at: float | None = None  # seconds since 1970
    order: str = ""  # id of the order for a retraining, which finds keys of its own

    @cached_property
    def registry(self) -> Registry:
        return Registry.open(self.store)


Step = Callable[[Context], dict[str, Any]]


def main(step: str, body: Step, argv: Sequence[str] | None = None, module: str = "") -> int:
    """Run one step as a process; returns its exit code. `module` is what runs it, by default `jobs.<step>`."""
    arguments = _arguments(step, argv, module or f"jobs.{step}")
    started, started_at = time.monotonic(), time.time()
    try:
        experiment = experiments.load(arguments.experiment, arguments.set)
        found = _keys(arguments, experiment)
        session.connect()
        store = Store.open(arguments.store or default_store())
        asked_at = float(os.environ.get(experiments.ASKED_AT) or started_at)
        context = Context(
            experiment, store, progress.Progress(step), found, arguments.inline, asked_at, arguments.order
        )
        figures = body(context)
    except TrimtabError as error:
        progress.error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception:
        # A bug of ours, not the user's mistake: the job's log keeps the whole of it.
        traceback.print_exc()
        return 1
    progress.result(**{**figures, "seconds": round(time.monotonic() - started, 3)})
    return 0


def _keys(arguments: argparse.Namespace, experiment: Experiment) -> Keys:
    """What an order's job makes depends on more than the experiment, and also that its data are gone is its result."""
    if arguments.keys:
        return Keys.given(arguments.keys)
    return Keys("", "", "") if arguments.order else keys.of(experiment)


def _arguments(step: str, argv: Sequence[str] | None, module: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=f"The {step} step of an experiment.")
    parser.add_argument("experiment", help=f"experiment file, or - for the JSON in {experiments.ENVIRONMENT}")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting")
    parser.add_argument("--store", help="folder or URI (TRIMTAB_STORE)")
    what = "keys of dataset, run, bundle and search, if any, when they were planned elsewhere"
    parser.add_argument("--keys", nargs="+", metavar="KEY", help=what)
    parser.add_argument("--order", default="", metavar="ID", help="of the retraining to do")
    parser.add_argument("--inline", action="store_true", help="train in this process where one worker is enough")
    return parser.parse_args(argv if argv is not None else sys.argv[1:])
