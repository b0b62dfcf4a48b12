"""Runs, metrics, model versions and aliases, kept in MLflow.

SQLite under the store by default, a server when `MLFLOW_TRACKING_URI` names one; either way the MLflow UI
shows each training as a run with its parameters and curves, and each bundle as a version of the model named
after its experiment. Knows only keys of bundles, not what is in them.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.errors import ClusterError, NotFoundError, StoreError, first_line
from cluster.store import Store, joined

if TYPE_CHECKING:
    from mlflow import MlflowClient

BUNDLE_TAG, RUN_TAG, PARENT_TAG = "trimtab.bundle", "trimtab.run", "mlflow.parentRunId"
REFUSED_TAG = "trimtab.refused"
STABLE, PREVIOUS = "stable", "previous"  # aliases
MOST_METRICS = 1000  # that MLflow takes in one batch
MOST_TAG = 2000  # characters of a tag's value


@dataclass(frozen=True)
class ModelVersion:
    name: str
    version: int
    bundle: str
    metrics: dict[str, float]
    aliases: tuple[str, ...]
    created_at: float  # seconds since the epoch
    refused: str = ""  # why it may answer nobody, if so


@dataclass(frozen=True)
class Registry:
    """Opened with `Registry.open(store)`; every method may raise ClusterError when the server is away."""

    uri: str
    artifacts: str

    @staticmethod
    def open(store: Store) -> Registry:
        """Creates the SQLite tables at first use (some ten seconds). Raises StoreError."""
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            if store.local is None:
                problem = "is an object store, which cannot hold the run database"
                raise StoreError("store", store.uri, problem, "set MLFLOW_TRACKING_URI to an MLflow server")
            uri = f"sqlite:///{store.local / 'mlflow.db'}"
        registry = Registry(uri, store.place("mlflow-artifacts"))
        with registry._alone(store):
            registry._client()
        return registry

    # Runs

    def start_run(
        self,
        experiment: str,
        run_key: str,
        params: dict[str, Any],
        tags: dict[str, str],
        parent: str | None = None,
    ) -> str:
        """MLflow's id of the run with this key: the one that was not finished, or a new one (a child of `parent`)."""
        if parent is not None:
            tags = {**tags, PARENT_TAG: parent}
        client = self._client()
        experiment_id = self._experiment(experiment)
        query = f"tags.`{RUN_TAG}` = '{run_key}' and attributes.status = 'RUNNING'"
        for run in client.search_runs([experiment_id], query, max_results=1):
            return str(run.info.run_id)
        run = client.create_run(experiment_id, run_name=run_key, tags={RUN_TAG: run_key, **tags})
        from mlflow.entities import Param

        flat = [Param(key, str(value)[:500]) for key, value in sorted(params.items())]
        client.log_batch(run.info.run_id, params=flat)
        return str(run.info.run_id)

    def log(self, run_id: str, metrics: dict[str, float], step: int) -> None:
        """One batch of metrics; `step` is the epoch."""
        self.log_history(run_id, [(step, metrics)])

    def log_history(self, run_id: str, history: Sequence[tuple[int, dict[str, float]]]) -> None:
        """Metrics of many epochs in one batch."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        batch = [
            Metric(name, float(value), now_ms, step)
            for step, metrics in history
            for name, value in sorted(metrics.items())
        ]
        for start in range(0, len(batch), MOST_METRICS):
            self._client().log_batch(run_id, metrics=batch[start : start + MOST_METRICS])

    def children(self, experiment: str, parent: str) -> set[str]:
        """Keys of the finished runs under a parent."""
        query = f"tags.`{PARENT_TAG}` = '{parent}' and attributes.status != 'RUNNING'"
        found = self._client().search_runs([self._experiment(experiment)], query, max_results=10_000)
        return {str(run.data.tags[RUN_TAG]) for run in found if RUN_TAG in run.data.tags}

    def end_run(self, run_id: str, status: str = "FINISHED") -> None:
        """`status`: FINISHED, FAILED or KILLED."""
        self._client().set_terminated(run_id, status)

    # Model versions

    def register(self, model: str, bundle: str, run_id: str | None, metrics: dict[str, float]) -> ModelVersion:
        """The version of `model` that is this bundle; made when there is none yet."""
        client = self._client()
        with contextlib.suppress(NotFoundError):
            return self._find(model, lambda version: version.bundle == bundle, f"bundle {bundle}")
        with _already_there():
            client.create_registered_model(model)
        tags = {BUNDLE_TAG: bundle, **{f"metric.{name}": repr(float(value)) for name, value in metrics.items()}}
        made = client.create_model_version(model, source=joined(self.artifacts, bundle), run_id=run_id, tags=tags)
        return self.version(model, str(made.version))

    def version(self, model: str, reference: str = "latest") -> ModelVersion:
        """By number, alias, or `latest`: the newest that was not refused. Raises NotFoundError naming what there is."""
        if reference == "latest":
            return self._find(model, lambda version: not version.refused, "version that was not refused")
        number = reference.removeprefix("v")
        if number.isdigit():
            return self._find(model, lambda version: version.version == int(number), f"version {number}")
        return self._find(model, lambda version: reference in version.aliases, f"version or alias {reference}")

    def versions(self, model: str) -> list[ModelVersion]:
        """Newest first; empty for a model nobody registered."""
        if not re.fullmatch(r"[a-z][a-z0-9-]*", model):
            return []
        # A search leaves out aliases on SQL stores; the model itself carries them.
        client = self._client()
        aliases: dict[int, list[str]] = {}
        found = client.search_model_versions(f"name='{model}'")
        if found:
            for alias, number in client.get_registered_model(model).aliases.items():
                aliases.setdefault(int(number), []).append(alias)
        versions = [_model_version(item, aliases.get(int(item.version), [])) for item in found]
        return sorted(versions, key=lambda version: -version.version)

    def models(self) -> list[str]:
        return sorted(model.name for model in self._client().search_registered_models())

    def refuse(self, model: str, version: int, reason: str) -> None:
        """Note why a version may answer nobody; it stays, to be looked at."""
        self._client().set_model_version_tag(model, str(version), REFUSED_TAG, reason[:MOST_TAG])

    def set_alias(self, model: str, alias: str, version: int) -> None:
        self._client().set_registered_model_alias(model, alias, str(version))

    def set_stable(self, model: str, version: int) -> bool:
        """Make `version` the stable one; the one that was stays known as `previous`. False where it was already."""
        before = next((one for one in self.versions(model) if STABLE in one.aliases), None)
        if before is not None and before.version == version:
            return False
        if before is not None:
            self.set_alias(model, PREVIOUS, before.version)
        self.set_alias(model, STABLE, version)
        return True

    def _find(self, model: str, wanted: Any, words: str) -> ModelVersion:
        versions = self.versions(model)
        for version in versions:
            if wanted(version):
                return version
        if not versions:
            known = ", ".join(self.models()) or "none yet; make one with trimtab run"
            raise NotFoundError(f"no model {model!r}; models there are: {known}")
        numbers = ", ".join(str(version.version) for version in reversed(versions))
        raise NotFoundError(f"model {model!r} has no {words}; versions there are: {numbers}")

    def _experiment(self, name: str) -> str:
        client = self._client()
        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        with _already_there():
            client.create_experiment(name, artifact_location=joined(self.artifacts, name))
        return str(client.get_experiment_by_name(name).experiment_id)

    def _client(self) -> MlflowClient:
        return _client(self.uri)

    @contextlib.contextmanager
    def _alone(self, store: Store) -> Iterator[None]:
        # Two processes that both find no tables would both migrate, and one of them would fail.
        if store.local is None or not self.uri.startswith("sqlite"):
            yield
            return
        with (store.local / ".mlflow.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _model_version(item: Any, aliases: list[str]) -> ModelVersion:
    metrics = {key.removeprefix("metric."): float(v) for key, v in item.tags.items() if key.startswith("metric.")}
    return ModelVersion(
        name=item.name,
        version=int(item.version),
        bundle=item.tags.get(BUNDLE_TAG, ""),
        metrics=metrics,
        aliases=tuple(sorted(aliases)),
        created_at=item.creation_timestamp / 1000,
        refused=item.tags.get(REFUSED_TAG, ""),
    )


@functools.cache
def _client(uri: str) -> MlflowClient:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # read at import, which is below
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow's imports warn of its own deprecations
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_experiments(max_results=1)
        except MlflowException as error:
            problem = f"the run registry does not answer ({first_line(error)})"
            raise ClusterError("MLFLOW_TRACKING_URI", uri, problem, "check the server or unset it") from error
    return client


@contextlib.contextmanager
def _already_there() -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
