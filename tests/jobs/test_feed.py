from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from cluster.config import Experiment
from cluster.errors import ConfigError
from cluster.store import Store
from jobs.feed import InMemory, Streamed, balanced_weights
from jobs.ranks import Ranks
from tasks.dataset import read_dataset

NUM_ROWS = 103


@pytest.fixture
def numbered(store: Store, publish_digits: Callable[..., str]) -> Store:
    """A dataset whose rows are told apart by their first pixel."""
    x = np.zeros((NUM_ROWS, 8, 8, 1), np.uint8)
    x[:, 0, 0, 0] = np.arange(NUM_ROWS)
    publish_digits(store, experiment(), train=(x, np.arange(NUM_ROWS) % 3), validation=(x[:7], np.zeros(7, int)))
    return store


def experiment(**train: Any) -> Experiment:
    tree = {"name": "digits", "data": {"source": {"kind": "digits"}}, "train": {"batch_size": 10, **train}}
    return Experiment.model_validate(tree)


def feed(store: Store, rank: int = 0, world: int = 1, **train: Any) -> InMemory:
    return InMemory(read_dataset(store, "digits"), experiment(**train), Ranks(rank, world, torch.device("cpu")))


def numbers(rows: torch.Tensor) -> list[int]:
    return rows[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("world", [2, 3, 10])
def test_a_global_batch_is_the_same_on_any_number_of_ranks(numbered: Store, world: int) -> None:
    alone = [sorted(numbers(rows)) for rows, _ in feed(numbered).batches(epoch=4)]

    shares = [[numbers(rows) for rows, _ in feed(numbered, rank, world).batches(epoch=4)] for rank in range(world)]

    together = [sorted(itertools.chain(*parts)) for parts in zip(*shares, strict=True)]
    assert together == alone
    assert len(alone) == feed(numbered).num_steps == 10


def test_an_epoch_that_goes_on_elsewhere_sees_each_row_once(numbered: Store) -> None:
    first = [numbers(rows) for rows, _ in feed(numbered).batches(epoch=1)][:4]  # died after four batches

    rest = [numbers(rows) for rank in (0, 1) for rows, _ in feed(numbered, rank, 2).batches(epoch=1, start=4)]

    seen = list(itertools.chain(*first, *rest))
    assert len(seen) == len(set(seen)) == 100  # of 103, in whole batches


def test_an_epoch_that_is_streamed_leaves_out_as_many_batches_as_were_done(
    numbered: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shard:
        """Ray Data's iterator on a worker, which can only begin at the beginning."""

        def iter_torch_batches(self, batch_size: int, **_: Any) -> Iterator[dict[str, torch.Tensor]]:
            for start in range(0, 50, batch_size):
                rows = torch.arange(start, start + batch_size)
                yield {"x": rows, "y": rows.int()}

    monkeypatch.setattr("ray.train.get_dataset_shard", lambda _: Shard())
    streamed = Streamed(read_dataset(numbered, "digits"), experiment(), Ranks(1, 2, torch.device("cpu")))

    left = list(streamed.batches(epoch=0, start=8))

    assert (streamed.num_steps, streamed.batch_rows) == (10, 10)
    assert [rows.tolist() for rows, _ in left] == [list(range(40, 45)), list(range(45, 50))]
    assert left[0][1].dtype == torch.int64


def test_every_epoch_has_an_order_of_its_own(numbered: Store) -> None:
    orders = [[numbers(rows) for rows, _ in feed(numbered).batches(epoch)] for epoch in (0, 1)]

    assert orders[0] != orders[1]


def test_labels_weigh_the_more_the_fewer_their_rows_are(store: Store, publish_digits: Callable[..., str]) -> None:
    truth = np.array([0] * 6 + [1] * 3 + [2])
    publish_digits(store, experiment(), train=(np.zeros((10, 8, 8, 1), np.uint8), truth))

    weights = balanced_weights(read_dataset(store, "digits"))

    # Ten labels, so that one tenth of ten rows would be even; those that nobody has weigh 1.
    assert weights.tolist() == pytest.approx([1 / 6, 1 / 3, 1.0] + [1.0] * 7)
    assert weights.dtype == torch.float32


def test_values_cannot_be_weighed_as_labels(numbered: Store) -> None:
    dataset = read_dataset(numbered, "digits")
    values = dataclasses.replace(dataset, encoding=dataclasses.replace(dataset.encoding, labels=()))

    with pytest.raises(ConfigError, match=r"train.class_weights.*there are none"):
        balanced_weights(values)
