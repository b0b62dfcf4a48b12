"""The preprocess step: rows of a source, cleaned, judged, split and stored as the shards of a dataset.

    read + clean (Ray Data)  ->  judge (on an index of hashes)  ->  gather and write (a task per shard)  ->  publish

Pixels stay in the object store between the first and the third; only hashes and labels come to this process.
Knows the order of the work; the sources, the rules and the file format are other modules' business.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cluster.config import Experiment
from cluster.errors import DataError, NotFoundError, TrimtabError
from cluster.store import Staging, Store
from jobs import shards, sources, verdicts
from jobs.cleaner import Cleaner
from jobs.source_rows import Reading
from tasks.dataset import SPLITS
from tasks.task import Rejected, Task, load_task

if TYPE_CHECKING:
    import ray

    from jobs.command import Context

INDEX_COLUMNS = ["content", "bucket", "label", "is_test", "is_validation", "reason", "position"]


def body(context: Context) -> dict[str, Any]:
    """The step as `jobs.command` runs it."""
    return run(context.experiment, context.store, context.keys.dataset, context.progress.update)


def run(experiment: Experiment, store: Store, key: str, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Make the dataset `key` on the connected cluster; returns figures for a person.

    `progress` gets rows cleaned and rows in all (0 while that is not known).

    Raises:
        DataError: the rows cannot be read, or what is left of them cannot be trained on.
        StoreError: not enough room, or not writable. In no case is anything left half-written.
    """
    store.check_room(0)
    sources.preflight(experiment)
    with _own_errors():
        cleaner, refs, index, rules, given = _cleaned(experiment, progress)
        judged = verdicts.judge(index, experiment.data, rules)
        verdicts.check(index, judged, experiment.data, _example(refs, index, judged), rules)
        num_good = sum(len(rows) for rows in judged.splits.values())
        store.check_room(num_good * cleaner.row_bytes)
        with store.stage("datasets", key) as staging:
            manifest = staging.publish(_written(staging, cleaner, refs, index, judged, given))
    return {
        "rows_in": manifest["rows_in"],
        "rejected": {name: manifest["rejected"][name] for name in ("total", "reasons")},
        "rows": {split: sum(entry["rows"] for entry in manifest["splits"][split]) for split in SPLITS},
        "shards": sum(len(entries) for entries in manifest["splits"].values()),
        "labels": len(judged.labels),
    }


# Read and clean


def _cleaned(
    experiment: Experiment, progress: Callable[[int, int], None]
) -> tuple[Cleaner, list[ray.ObjectRef], verdicts.Index, verdicts.Rules, dict[str, bytes]]:
    reading = sources.read(experiment)
    task = load_task(experiment)
    cleaner = _cleaner(task, reading)
    total = reading.num_rows() or 0
    rules = verdicts.Rules(
        reading.labels, has_values=task.targets == "value", ambiguous=task.ambiguous, outside=task.outside
    )
    dataset = _dataset(reading, cleaner)
    dataset.context.enable_progress_bars = False
    given = reading.files
    del reading  # the rows are in the object store now: this process need not hold them too
    refs: list[ray.ObjectRef] = []
    done = 0
    for bundle in dataset.iter_internal_ref_bundles():
        refs += bundle.block_refs
        done += bundle.num_rows() or 0
        progress(done, max(done, total) if total else 0)
    index = _index(refs)
    progress(len(index.row), len(index.row))
    return cleaner, refs, index, rules, given


def _cleaner(task: Task, reading: Reading) -> Cleaner:
    """Fixes shape and dtype of encoded rows by the first row that is good. Raises DataError when there is no row."""
    experiment = task.experiment
    found = reading.values()
    if (first := next(found, None)) is None:
        problem = "holds no row with an input"
        raise DataError("data.source", experiment.data.source.kind, problem, "name a source with rows")
    shape = task.row_shape(itertools.chain([first], found))
    for value in reading.values():
        with contextlib.suppress(Rejected):
            return Cleaner(experiment, shape, task.clean(value, shape).dtype.name)
    return Cleaner(experiment, shape, "uint8")  # no row is good: all will be counted as rejected, by reason


def _dataset(reading: Reading, cleaner: Cleaner) -> Any:
    import ray.data

    if reading.tables:
        dataset = ray.data.from_arrow(reading.tables)
        return dataset.map_batches(cleaner.tables, batch_format="pyarrow", batch_size=None)
    items = [{"number": number, "part": pickle.dumps(part)} for number, part in enumerate(reading.parts)]
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    return dataset.map_batches(cleaner.parts, batch_format="pyarrow", batch_size=None)


def _small_columns(block: pa.Table) -> pa.Table:
    return block.select(INDEX_COLUMNS).combine_chunks()


def _index(refs: Sequence[ray.ObjectRef]) -> verdicts.Index:
    import ray

    small_columns = ray.remote(_small_columns)
    tables = ray.get([small_columns.remote(ref) for ref in refs])
    whole = pa.concat_tables(tables).combine_chunks()
    # Blocks arrive as they are finished; the source's own order is what counts.
    order = np.argsort(whole["position"].to_numpy(), kind="stable")
    block = np.repeat(np.arange(len(tables)), [table.num_rows for table in tables])
    row = np.concatenate([np.arange(table.num_rows) for table in tables])
    label = whole["label"].combine_chunks().dictionary_encode()
    content = np.frombuffer(b"".join(whole["content"].to_pylist()), ">u8").astype(np.uint64).reshape(-1, 2)
    return verdicts.Index(
        block=block[order],
        row=row[order],
        content=content[order],
        bucket=whole["bucket"].to_numpy()[order],
        label=label.indices.to_numpy()[order],
        is_test=whole["is_test"].to_numpy()[order],
        is_validation=whole["is_validation"].to_numpy()[order],
        reason=whole["reason"].to_numpy()[order],
        texts=tuple(label.dictionary.to_pylist()),
    )


def _example(refs: Sequence[ray.ObjectRef], index: verdicts.Index, judged: verdicts.Verdicts) -> str:
    import ray

    rejected = np.flatnonzero(judged.reason != "")
    if len(rejected) == 0:
        return ""
    first = rejected[0]
    row = ray.get(refs[index.block[first]]).slice(index.row[first], 1).select(["origin", "detail"]).to_pylist()[0]
    return f"{row['origin']}, {judged.reason[first]}" + (f", {row['detail']}" if row["detail"] else "")


# Write


def _written(
    staging: Staging,
    cleaner: Cleaner,
    refs: Sequence[ray.ObjectRef],
    index: verdicts.Index,
    judged: verdicts.Verdicts,
    given: dict[str, bytes],
) -> dict[str, Any]:
    """Writes all files, also those `given` by the source; returns the manifest.

    Nothing in it depends on when or where this ran.
    """
    import ray

    experiment = cleaner.experiment
    write_shard, write_rejected = ray.remote(shards.write_shard), ray.remote(shards.write_rejected)
    pending = [
        (split, write_shard.remote(staging, shard, experiment))
        for split in SPLITS
        for shard in _cut(split, refs, index, judged, experiment.data.shards, cleaner.row_bytes)
    ]
    rejects = _rejects(refs, index, judged)
    last = [write_rejected.remote(staging, rejects)] if rejects is not None else []
    results = shards.finish([task for _, task in pending] + last)
    entries: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for (split, _), (entry, _) in zip(pending, results, strict=False):
        entries[split].append(entry)
    task = load_task(experiment, lambda name: _given(given, name))
    files = {name: staging.write(name, data) for name, data in (given | task.gather()).items()}
    partials = [partial for _, partial in results[: len(pending)] if partial is not None]
    counts = judged.counts()
    return {
        "encoding": {
            "labels": list(judged.labels),
            "shape": list(cleaner.shape),
            "dtype": cleaner.dtype,
            "statistics": task.statistics(partials) | _of_targets(judged),
        },
        "schema": {
            "x": f"fixed_shape_tensor<{cleaner.dtype}>{list(cleaner.shape)}",
            "y": str(pa.from_numpy_dtype(judged.target.dtype)),
            "key": "string",
        },
        "files": files,
        "splits": entries,
        "rejected": {"total": sum(counts.values()), "reasons": counts, "file": results[-1] if last else None},
        "rows_in": len(index.row),
        "inputs": _inputs(experiment),
    }


def _given(files: dict[str, bytes], name: str) -> bytes:
    if name not in files:
        raise NotFoundError(f"the source gave no file {name!r}")
    return files[name]


def _of_targets(judged: verdicts.Verdicts) -> dict[str, Any]:
    """Where targets are values, what a network needs to answer in their unit: of the training rows alone."""
    if judged.target.dtype != np.float32:
        return {}
    values = judged.target[judged.splits["train"]].tolist()
    mean = math.fsum(values) / len(values)
    return {"target": {"mean": mean, "std": math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values)) or 1.0}}


def _cut(
    split: str,
    refs: Sequence[ray.ObjectRef],
    index: verdicts.Index,
    judged: verdicts.Verdicts,
    num_shards: int,
    row_bytes: int,
) -> Iterator[shards.Shard]:
    """Shards whose sizes differ by one row at most.

    Fewer of them than asked for when there are fewer rows, and more when one would be too large to be in memory whole.
    """
    rows = judged.splits[split]
    most_rows = max(1, shards.MAX_SHARD_BYTES // row_bytes)
    num = max(min(num_shards, len(rows)), math.ceil(len(rows) / most_rows))
    for i, part in enumerate(np.array_split(rows, num)):
        yield shards.Shard(
            name=f"{split}-{i:05}-of-{num:05}.parquet",
            gather=shards.gather(refs, index.block[part], index.row[part]),
            y=judged.target[part],
            content=index.content[part],
            with_statistics=split == "train",
        )


def _rejects(refs: Sequence[ray.ObjectRef], index: verdicts.Index, judged: verdicts.Verdicts) -> shards.Rejects | None:
    rows = np.flatnonzero(judged.reason != "")
    if len(rows) == 0:
        return None
    twin = judged.same_as[rows]
    twins = np.unique(twin[twin >= 0])
    return shards.Rejects(
        gather=shards.gather(refs, index.block[rows], index.row[rows]),
        reason=judged.reason[rows],
        twins=shards.gather(refs, index.block[twins], index.row[twins]),
        same_as=np.where(twin >= 0, np.searchsorted(twins, twin), -1),
    )


def _inputs(experiment: Experiment) -> dict[str, Any]:
    """What the dataset was made by, without the folders, which differ from machine to machine."""
    data = experiment.data.model_dump(mode="json")
    data["source"] = {
        name: value for name, value in data["source"].items() if name not in ("path", "test_path", "items")
    }
    return {"data": data, "seed": experiment.seed, "task": experiment.task}


@contextlib.contextmanager
def _own_errors() -> Iterator[None]:
    """Our own errors come out of Ray's tasks as they were raised, and without Ray's traceback in the log."""
    import ray.data  # noqa: F401 (its import sets the level of its logger)
    from ray.exceptions import RayTaskError

    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, TrimtabError):
            raise error.cause from None
        raise
    finally:
        logger.setLevel(level)


if __name__ == "__main__":
    from jobs import command

    raise SystemExit(command.main("preprocess", body))
