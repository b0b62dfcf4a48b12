"""The keys of a pipeline's results: hashes of everything that decides them, so that nothing runs twice.

A key changes with the part of the experiment a step reads, with its input and with the code that does the
work; it does not change with the rest of the file. Loads neither Ray nor torch: `trimtab plan` calls this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from cluster.config import Experiment
from cluster.errors import ConfigError
from cluster.experiment import fingerprint
from jobs import sources
from tasks import weights
from tasks.task import code_version, load_task

# Of a training's settings, those that say how it goes on and not what comes of it.
NOT_IN_THE_RESULT = {"max_failures", "keep_checkpoints", "checkpoint_every", "collective_timeout", "wait"}

# Modules whose code decides a step's result; tests/jobs/test_keys.py keeps the lists whole.
PREPROCESS_CODE = (
    "jobs.preprocess",
    "jobs.cleaner",
    "jobs.verdicts",
    "jobs.shards",
    "jobs.sources",
    "jobs.source_arrays",
    "jobs.source_images",
    "jobs.source_interactions",
    "jobs.source_records",
    "jobs.source_rows",
    "jobs.source_tables",
)
TRAIN_CODE = (
    "jobs.train",
    "jobs.fit",
    "jobs.loop",
    "jobs.alone",
    "jobs.feed",
    "jobs.optimise",
    "jobs.average",
    "jobs.schedule",
    "jobs.precision",
    "jobs.ranks",
    "jobs.pace",
    "jobs.warm",
    "jobs.checkpoint",
    "tasks.forward",
)
SEARCH_CODE = ("tune.search", "tune.space", "tune.study", "tune.trial", "tune.refit")
EVALUATE_CODE = (
    "jobs.evaluate",
    "jobs.model_card",
    "jobs.learning_curve",
    "jobs.rungs",
    "jobs.distil",
    "jobs.precision",
    "tasks.forward",
    "ladder.forms",
    "ladder.torch_form",
    "ladder.variants",
    "ladder.profile",
    "ladder.reference",
    "ladder.embedding",
    "ladder.latency",
    "ladder.bundle",
)


@dataclass(frozen=True)
class Keys:
    """Of the dataset, the training run and the bundle; and of the search before the run, where there is one."""

    dataset: str
    run: str
    bundle: str
    search: str = ""

    @staticmethod
    def given(words: Sequence[str]) -> Keys:
        """From a command line. Raises ConfigError when there are too few or too many."""
        if len(words) not in (3, 4):
            raise ConfigError("--keys", list(words), "are not 3 or 4 keys", "leave it away to have them computed")
        return Keys(*words)

    def words(self) -> list[str]:
        """As `given` takes them."""
        return [key for key in astuple(self) if key]


def of(experiment: Experiment) -> Keys:
    """Raises DataError when the data cannot be found, ConfigError when pretrained weights cannot."""
    code = {part: code_version(experiment, *modules) for part, modules in _CODE.items()}
    text = experiment.text.max_tokens, experiment.text.max_chars, experiment.answers.out_of_scope_label
    layers = experiment.text.layers if experiment.task == "recommend" else None  # its texts are read there
    own = experiment.seed, experiment.task, experiment.settings
    dataset = fingerprint(experiment.data, text, layers, *own, sources.fingerprint(experiment), code["dataset"])
    run = _run(experiment, dataset, code["run"])
    search = _search(experiment, run)
    run = fingerprint(run, search) if search else run
    return Keys(dataset, run, _bundle(experiment, run, code["bundle"]), search)


def of_retraining(experiment: Experiment, dataset: str, stable: str) -> Keys:
    """Of a training on another dataset than the experiment's, that begins with the weights of the bundle `stable`."""
    code = {part: code_version(experiment, *_CODE[part]) for part in ("run", "bundle")}
    run = fingerprint(_run(experiment, dataset, code["run"]), stable)
    return Keys(dataset, run, _bundle(experiment, run, code["bundle"]))


def _run(experiment: Experiment, dataset: str, code: str) -> str:
    recipe = experiment.train.model_dump(mode="json", exclude=NOT_IN_THE_RESULT)
    sections = recipe, experiment.model, experiment.text, experiment.recommend, experiment.settings
    return fingerprint(
        *sections, weights.fingerprint(experiment.model), experiment.seed, experiment.task, dataset, code
    )


def _bundle(experiment: Experiment, run: str, code: str) -> str:
    # Of a task of one's own nothing is asked here: its module may load anything, and a plan is made in no time.
    beside = None if ":" in experiment.task else load_task(experiment).inspect()
    has_gpu = experiment.serve.gpus_per_replica > 0  # then there are forms of the network for it
    return fingerprint(experiment.name, experiment.ladder, has_gpu, run, code, *([] if beside is None else [beside]))


def _search(experiment: Experiment, untuned_run: str) -> str:
    """Empty where the experiment has no search. Latency and the objective count only where they choose."""
    if experiment.tune is None:
        return ""
    chooses = (experiment.serve.objective, experiment.serve.max_batch) if experiment.tune.latency else ()
    return fingerprint(experiment.tune, *chooses, untuned_run, code_version(experiment, *SEARCH_CODE))


_CODE = {"dataset": PREPROCESS_CODE, "run": TRAIN_CODE, "bundle": EVALUATE_CODE}
