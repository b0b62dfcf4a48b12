"""How long a trial's network takes: exported as the ladder exports it, and timed as the ladder times it.

One actor measures for all trials of a search, one network at a time and each form of network once: settings that only
change how it is trained do not change its latency. Knows networks, not trials.
"""

from __future__ import annotations

from cluster.config import Experiment
from cluster.experiment import fingerprint
from cluster.store import Store
from ladder import profile
from ladder.forms import export_plain
from tasks.dataset import read_dataset
from tasks.task import load_task

ROWS = 256  # of the validation split, at most
MOST_BATCH = 32


class Timer:
    """Runs as a Ray actor that reserves no CPU."""

    def __init__(self, store: Store, dataset: str) -> None:
        self._dataset = read_dataset(store, dataset)
        rows, truth = self._dataset.load("validation")
        self._rows, self._truth = rows[:ROWS].copy(), truth[:ROWS].copy()
        self._measured: dict[str, dict[str, float]] = {}

    def measure(self, experiment: Experiment) -> dict[str, float]:
        """`latency_ms` of one row, and `latency_batch_ms` of a full batch (`serve.max_batch`, at most 32).

        Raises ExportError when the network has no form that could be served.
        """
        form = experiment.model.model_copy(update={"dropout": 0.0, "label_smoothing": 0.0})
        key = fingerprint(form)
        if key not in self._measured:
            self._measured[key] = self._time(experiment)
        return self._measured[key]

    def _time(self, experiment: Experiment) -> dict[str, float]:
        task, encoding = load_task(experiment, self._dataset.file), self._dataset.encoding
        variant, data, _ = export_plain(task.network(encoding), encoding, task)
        size = min(MOST_BATCH, experiment.serve.max_batch)
        (measured,) = profile.measure({variant: data}, variant, self._rows, self._truth, size, task, encoding)
        seconds = measured.seconds
        return {"latency_ms": 1000 * seconds[1], "latency_batch_ms": 1000 * seconds[max(seconds)]}
