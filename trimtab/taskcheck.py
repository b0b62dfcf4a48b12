"""Try a task of one's own in a process of its own, so that what it does there cannot harm or slow the command line.

The parent starts `python -m trimtab.taskcheck`, waits, and turns what it says into words or an error. The child takes a
few rows of the experiment's source, calls every method on them and exports the network. What is right stands in
`tasks.protocol`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from itertools import islice

from cluster import experiment as experiments
from cluster import progress
from cluster.config import Experiment
from cluster.errors import ConfigError, DataError, DeadlineError, TrimtabError
from tasks.protocol import Example, check

MAX_ROWS = 64
TIMEOUT_S = 180.0
LINES_SHOWN = 5


def tried(experiment: Experiment, timeout_s: float = TIMEOUT_S) -> str:
    """Try the experiment's task; returns what was done, in words.

    Raises:
        ConfigError: what is wrong with it, in one sentence.
        DeadlineError: it took longer than `timeout_s`.
        TrimtabError: its process died.
    """
    command = [sys.executable, "-P", "-m", "trimtab.taskcheck", experiment.folder]
    environment = os.environ | {experiments.ENVIRONMENT: experiment.model_dump_json()}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        message = f"task {experiment.task} was not tried to its end within {timeout_s:.0f} s: see what its methods do"
        raise DeadlineError(message) from error
    for event in filter(None, map(progress.parse, done.stdout.splitlines())):
        if event.kind == "error":
            raise event.exception()
        if event.kind == "result":
            return str(event.figures["words"])
    last = " / ".join((done.stderr or done.stdout).strip().splitlines()[-LINES_SHOWN:])
    raise TrimtabError(f"the process that tried task {experiment.task} died with code {done.returncode}: {last}")


def try_here(experiment: Experiment) -> str:
    """As `tried`, in this process."""
    from ladder.forms import export_plain
    from ladder.variants import ExportError
    from tasks.task import load_task

    task = load_task(experiment)
    try:
        examples, source = list(islice(_examples(experiment), MAX_ROWS)), "of the source"
    except DataError as error:
        examples, source = [], f"that example() gives, as the source cannot be read ({error.problem})"
    found = check(task, examples)
    try:
        _, _, lacking = export_plain(found.network, found.encoding, task)
    except ExportError as error:
        problem = f"its network has no form that a replica runs: {error}"
        raise ConfigError("task", experiment.task, problem, "build it of operations that ONNX has") from error
    encoding = found.encoding
    answers = f"labels {', '.join(encoding.labels[:5])}" if encoding.labels else "values"
    refused = f", {found.num_rejected} refused" if found.num_rejected else ""
    shape = " x ".join(map(str, encoding.shape))
    served = f"; served by torch alone, slower and without cheaper forms, as {lacking}" if lacking else ""
    tried = f"every method tried on {found.num_rows} rows {source}{refused}"
    return f"{tried}: {encoding.dtype} {shape}, {answers}{served}"


def _examples(experiment: Experiment) -> Iterator[Example]:
    """Rows with a label. Raises DataError."""
    from jobs import sources
    from jobs.source_rows import values

    sources.preflight(experiment)
    reading = sources.read(experiment)
    for table in reading.tables:
        for value, label in zip(values(table), table["label"].to_pylist(), strict=True):
            yield Example(value, label)
    for part in reading.parts:
        for row in part.rows():
            if row.value and row.label and not row.reason:
                yield Example(row.value, row.label)


def _main() -> int:
    try:
        progress.result(words=try_here(experiments.load("-").lying_in(sys.argv[1])))
    except TrimtabError as error:
        progress.error(error)
        return error.exit_code
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(_main())
