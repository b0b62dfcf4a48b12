from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from cluster import experiment as experiments
from cluster.config import Experiment
from jobs import keys

DIGITS: dict[str, Any] = {"name": "digits", "data": {"source": {"kind": "digits"}}}


def all_keys(experiment: Experiment) -> tuple[str, str, str]:
    dataset = keys.dataset_key(experiment)
    run = keys.run_key(experiment, dataset)
    return dataset, run, keys.bundle_key(experiment, run)


@pytest.mark.parametrize(
    ("override", "num_unchanged"),
    [
        pytest.param("serve.max_batch=8", 3, id="serving changes nothing made before"),
        pytest.param("train.epochs=5", 1, id="training keeps the dataset"),
        pytest.param("model.network=large", 1, id="the network keeps the dataset"),
        pytest.param("data.shards=3", 0, id="data changes all"),
        pytest.param("seed=1", 0, id="the seed changes all"),
    ],
)
def test_a_setting_changes_the_keys_of_the_steps_that_read_it(override: str, num_unchanged: int) -> None:
    before, after = all_keys(experiments.parse(DIGITS)), all_keys(experiments.parse(DIGITS, [override]))

    assert [a == b for a, b in zip(before, after, strict=True)] == [i < num_unchanged for i in range(3)]


def test_data_that_changed_gives_another_dataset(tmp_path: Path) -> None:
    for part in ("train-images-idx3", "train-labels-idx1"):
        (tmp_path / f"{part}-ubyte.gz").write_bytes(gzip.compress(b"anything"))
    experiment = experiments.parse({"name": "x", "data": {"source": {"kind": "idx", "path": str(tmp_path)}}})
    before = keys.dataset_key(experiment)

    os.utime(tmp_path / "train-images-idx3-ubyte.gz", (1, 1))

    assert keys.dataset_key(experiment) != before


def test_every_module_that_reads_data_is_part_of_the_key() -> None:
    folder = Path(keys.__file__).parent
    readers = {f"jobs.{path.stem}" for path in folder.glob("source*.py")}

    assert readers <= set(keys.PREPROCESS_CODE)
