from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import experiment as experiments
from cluster.config import ParquetSource
from cluster.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
DIGITS = {"name": "digits", "data": {"source": {"kind": "digits"}}}


@pytest.mark.parametrize(
    ("override", "field", "words"),
    [
        pytest.param("train.epoch=3", "train.epoch", "did you mean `epochs`?", id="unknown key, near one named"),
        pytest.param("trian.epochs=3", "trian", "did you mean `train`?", id="unknown section"),
        pytest.param(
            "xyzzy=1",
            "xyzzy",
            "known keys here: adapt, alerts, answers, data, gate",
            id="unknown key, nothing near",
        ),
        pytest.param("data.source.pth=a", "data.source.pth", "known keys here: kind", id="unknown key of a source"),
        pytest.param("train.epochs=many", "train.epochs", "should be a valid integer", id="wrong type"),
        pytest.param("train.epochs=2.5", "train.epochs", "should be a valid integer", id="fraction for a count"),
        pytest.param("train.epochs='3'", "train.epochs", "should be a valid integer", id="text for a number"),
        pytest.param("train.workers=0", "train.workers", "greater than or equal to 1", id="below its bound"),
        pytest.param("train.collective_timeout=10", "train.collective_timeout", "10m", id="duration without unit"),
        pytest.param("train.collective_timeout=10.5", "train.collective_timeout", "10m", id="fraction without unit"),
        pytest.param(
            "train.collective_timeout=10MiB", "train.collective_timeout", "not a duration", id="size for time"
        ),
        pytest.param("serve.max_body=3x", "serve.max_body", "512MiB", id="unknown size unit"),
        pytest.param("serve.max_body=10m", "serve.max_body", "not a size", id="time for a size"),
        pytest.param("data.source.kind=foo", "data.source.kind", "'digits', 'idx'", id="unknown source kind"),
        pytest.param("data.source={kind: idx}", "data.source.path", "add `path:`", id="missing key"),
        pytest.param("name=Bad Name", "name", "pattern", id="name that no URL takes"),
        pytest.param("data.split={validation: 0.6, test: 0.5}", "data.split", "keep their sum below 1", id="split"),
        pytest.param("serve.replicas.min=3", "serve.replicas", "min 3 is above max 1", id="replicas"),
        pytest.param("train={precision: fp16, device: cpu}", "train", "precision fp16 needs a GPU", id="float16"),
        pytest.param("train={accumulate: 9, batch_size: 4}", "train", "accumulate 9 parts; lower", id="parts"),
        pytest.param("train={checkpoint_every: 10ms}", "train", "leaves no time to train", id="checkpoints"),
        pytest.param("train={workers: 8, batch_size: 4}", "train", "batch_size 4 is below workers 8", id="batch"),
        pytest.param(
            "train.workers={mim: 1}", "train.workers.mim", "did you mean `min`?", id="key of a range of workers"
        ),
        pytest.param("train.workers={min: 3, max: 2}", "train.workers", "min 3 is above max 2", id="range upside down"),
        pytest.param("serve.gpus_per_replica=2.0", "serve.gpus_per_replica", "less than or equal to 1", id="two GPUs"),
        pytest.param("train", "--set", "write --set train.epochs=3", id="override without value"),
        pytest.param("name.x=1", "--set", "holds a value", id="override below a value"),
        pytest.param("name=[", "--set", "quote it", id="override that is not YAML"),
    ],
)
def test_a_mistake_is_one_sentence_with_field_and_mend(override: str, field: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        experiments.parse(DIGITS, [override])

    assert caught.value.field == field
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param("name: [", "is not YAML", id="broken YAML"),
        pytest.param("- a\n- b\n", "not a mapping", id="a list"),
        pytest.param("", "not a mapping", id="empty"),
        pytest.param(b"\xff\xfe\x00", "cannot be read", id="not text"),
    ],
)
def test_an_unusable_file_is_named(tmp_path: Path, content: str | bytes, words: str) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(ConfigError, match=words):
        experiments.load(path)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trimtab init"):
        experiments.load(tmp_path / "none.yaml")


def test_overrides_are_typed_like_the_file_and_leave_it_alone() -> None:
    tree = {**DIGITS, "train": {"epochs": 3}}

    changed = experiments.parse(tree, ["train.epochs=5", "train.early_stopping=null", "serve.max_body=1MiB"])

    assert (changed.train.epochs, changed.train.early_stopping, changed.serve.max_body) == (5, None, 1024**2)
    assert tree["train"] == {"epochs": 3}


@pytest.mark.parametrize(
    ("text", "seconds"), [("200ms", 0.2), ("30s", 30.0), ("10m", 600.0), ("1.5h", 5400.0), ("7d", 604800.0)]
)
def test_durations_carry_their_unit(text: str, seconds: float) -> None:
    made = experiments.parse(DIGITS, [f"train.collective_timeout={text}"])

    assert made.train.collective_timeout == pytest.approx(seconds)


def test_an_experiment_survives_the_way_to_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    made = experiments.parse(DIGITS, ["train.collective_timeout=90s", "data.image={height: 8, width: 8, channels: 1}"])

    monkeypatch.setitem(os.environ, experiments.ENVIRONMENT, made.model_dump_json())

    assert experiments.load("-") == made


def test_a_fingerprint_changes_with_its_parts_alone() -> None:
    made, same = experiments.parse(DIGITS), experiments.parse(DIGITS)
    other = experiments.parse(DIGITS, ["train.epochs=7"])

    assert experiments.fingerprint(made.train, 1) == experiments.fingerprint(same.train, 1)
    assert experiments.fingerprint(made.train, 1) != experiments.fingerprint(other.train, 1)
    assert experiments.fingerprint(made.data) == experiments.fingerprint(other.data)


def test_paths_are_absolute_once_loaded_but_uris_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("name: x\ndata: {source: {kind: parquet, path: rows, test_path: 's3://bucket/rows'}}\n")
    monkeypatch.chdir(tmp_path)

    source = experiments.load(path).data.source

    assert isinstance(source, ParquetSource)
    assert (source.path, source.test_path) == (str(tmp_path / "rows"), "s3://bucket/rows")


SHIPPED = [*(ROOT / "experiments").glob("*.yaml"), ROOT / "experiments/own_task/diabetes.yaml"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_no_shipped_experiment_names_a_file_where_its_job_would_not_find_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)

    loaded = experiments.load(path).model_dump(mode="json")

    paths = [text for text in _texts(loaded) if text.startswith(("data/", "experiments/", "my-"))]
    assert paths == []


def _texts(tree: object) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _texts(value)
