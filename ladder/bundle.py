"""A model version's bundle: what is in it, how it is written and how it is read back.

Weights are safetensors or ONNX, never pickle: reading a bundle runs no code from it, and every file is
checked against the manifest's sha256. Knows the store's folders; not how a variant is made or run.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.config import Experiment
from cluster.errors import NotFoundError
from cluster.store import DamagedError, Store
from tasks.task import Encoding

FORMAT = 1
KEPT = "data:"  # how the roles of files begin that came with the dataset
CODE = "code:"  # and those of a copy of the task's own code, which is for people: nothing runs it


@dataclass(frozen=True)
class Bundle:
    """One immutable model version. `files` maps a role (`weights`, `onnx-fp32`, `card`, ...) to its entry."""

    store: Store
    key: str
    experiment: Experiment
    encoding: Encoding
    dataset: str  # key of the dataset it was trained on
    run: str  # key of the training run
    metrics: dict[str, Any]  # on the test split
    files: dict[str, dict[str, Any]]
    variants: tuple[str, ...]  # roles that are executable forms, most accurate first
    ladder: dict[str, Any] | None = None  # how each variant was measured: `ladder.profile.Ladder.to_json`

    @property
    def name(self) -> str:
        return self.experiment.name

    def read(self, role: str) -> bytes:
        """One file, checked. Raises NotFoundError, DamagedError."""
        return self.store.read("bundles", self.key, self.files[role])

    def check(self) -> None:
        """Read every file against its sha256. Raises NotFoundError, DamagedError."""
        for role in self.files:
            self.read(role)

    def file(self, name: str) -> bytes:
        """What the task kept with the dataset under `name`, checked. Raises NotFoundError, DamagedError."""
        if KEPT + name not in self.files:
            raise NotFoundError(f"bundle {self.key} has no file {name!r} of its dataset")
        return self.read(KEPT + name)

    def code(self) -> dict[str, bytes]:
        """The Python files of a task of one's own that made it, by name. Raises NotFoundError, DamagedError."""
        return {role.removeprefix(CODE): self.read(role) for role in self.files if role.startswith(CODE)}

    @property
    def accuracies(self) -> dict[str, float]:
        """Of each variant, on the validation split when the ladder was made; without that table one for all."""
        table: list[dict[str, Any]] = (self.ladder or {}).get("rungs", [])
        known = {entry["variant"]: float(entry["accuracy"]) for entry in table}
        return {variant: known.get(variant, float(self.metrics.get("accuracy", 0.0))) for variant in self.variants}

    def probe(self, n: int) -> np.ndarray:
        """Encoded rows [n, *shape] like those that will come, repeated where there are fewer; zeros in an old bundle.

        Raises NotFoundError, DamagedError.
        """
        if "probe" not in self.files:
            return np.zeros((n, *self.encoding.shape), self.encoding.dtype)
        rows = np.load(io.BytesIO(self.read("probe")), allow_pickle=False)
        return np.resize(rows, (n, *self.encoding.shape))


def write_bundle(
    store: Store,
    key: str,
    *,
    experiment: Experiment,
    encoding: Encoding,
    dataset: str,
    run: str,
    metrics: dict[str, Any],
    files: dict[str, tuple[str, bytes]],
    variants: tuple[str, ...],
    ladder: dict[str, Any] | None = None,
) -> Bundle:
    """Publish a bundle whole. `files` maps a role to (file name, content). Raises StoreError."""
    with store.stage("bundles", key) as staging:
        entries = {role: staging.write(name, data) for role, (name, data) in files.items()}
        staging.publish(
            {
                "format": FORMAT,
                "experiment": experiment.model_dump(mode="json"),
                "encoding": encoding.to_json(),
                "dataset": dataset,
                "run": run,
                "metrics": metrics,
                "files": entries,
                "variants": list(variants),
                "ladder": ladder,
            }
        )
    return read_bundle(store, key)


def read_bundle(store: Store, key: str) -> Bundle:
    """Raises NotFoundError when there is none, DamagedError when it is of a later format."""
    manifest = store.manifest("bundles", key)
    if manifest.get("format") != FORMAT:
        raise DamagedError(f"bundle {key} has format {manifest.get('format')}, this Trimtab reads {FORMAT}")
    return Bundle(
        store=store,
        key=key,
        experiment=Experiment.model_validate(manifest["experiment"]),
        encoding=Encoding.from_json(manifest["encoding"]),
        dataset=manifest["dataset"],
        run=manifest["run"],
        metrics=manifest["metrics"],
        files=manifest["files"],
        variants=tuple(manifest["variants"]),
        ladder=manifest.get("ladder"),
    )
