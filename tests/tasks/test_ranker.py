"""The ranking stage: its features against plain numpy, that it learns what counts, and its export. No cluster."""

from __future__ import annotations

import numpy as np
import onnxruntime
import torch

from tasks import neighbours, ranker
from tasks.towers import SEEN, Ensemble, Towers

NUM, LENGTH = 30, 8


def histories(num: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    rows = np.zeros((num, LENGTH), np.int32)
    for row in rows:
        length = generator.integers(0, LENGTH + 1)
        row[:length] = generator.permutation(NUM)[:length] + 1
    return rows


def parts(recent: int = 5) -> tuple[Ensemble, ranker.Neighbours, np.ndarray, np.ndarray]:
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    texts = generator.standard_normal((NUM, 8)).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    users, items = generator.integers(0, 40, 300), generator.integers(0, NUM - 5, 300)
    near = neighbours.similarities(users, items, NUM, 6, 2.0)
    counts = np.bincount(items, minlength=NUM)
    pairs = Ensemble([Towers(texts, counts, 16, recent) for _ in range(2)])
    return pairs, ranker.Neighbours(*neighbours.padded(near, 6), recent), counts, texts


def ranked() -> ranker.Ranked:
    towers, near, counts, _ = parts()
    return ranker.Ranked(towers, near, counts).eval()


def test_neighbours_in_the_graph_are_those_of_the_matrix() -> None:
    _, module, _, _ = parts(recent=LENGTH)
    generator = np.random.default_rng(0)
    generator.standard_normal((NUM, 8))
    users, items = generator.integers(0, 40, 300), generator.integers(0, NUM - 5, 300)
    near = neighbours.similarities(users, items, NUM, 6, 2.0)
    rows = histories(20)

    expected = neighbours.scores(rows, near, ranker.NEIGHBOUR_DECAY)

    assert np.allclose(module(torch.from_numpy(rows)).numpy(), expected, atol=1e-5)


def test_what_was_seen_is_below_everything_else_and_padding_is_nothing() -> None:
    rows = histories(20)
    with torch.no_grad():
        scores = ranked()(torch.from_numpy(rows)).numpy()

    seen = np.zeros((20, NUM + 1), bool)
    seen[np.arange(20)[:, None], rows] = True
    assert (scores[seen[:, 1:]] < SEEN / 2).all()
    assert (scores[~seen[:, 1:]] > SEEN / 2).all()


def test_it_learns_which_feature_counts() -> None:
    network, rows = ranked(), histories(200)
    with torch.no_grad():
        text = network.said(torch.from_numpy(rows))[ranker.FEATURES.index("text")]
    text = text.numpy().copy()
    text[np.nonzero(rows)[0], rows[np.nonzero(rows)] - 1] = -np.inf
    truth = text.argmax(1)

    weights = dict(zip(ranker.FEATURES, ranker.fit(network, rows, truth).weights.tolist(), strict=True))

    assert weights["text"] > 4 * max(abs(weights[name]) for name in ("towers", "neighbours", "popularity"))


def test_parts_of_the_rows_give_the_weights_of_all(monkeypatch: object) -> None:
    rows = histories(60)
    truth = np.random.default_rng(1).integers(0, NUM, 60)
    whole = ranker.fit(ranked(), rows, truth).weights.tolist()

    monkeypatch.setattr(ranker, "MOST_BYTES", 10_000)  # type: ignore[attr-defined]
    parted = ranker.fit(ranked(), rows, truth).weights.tolist()

    assert np.allclose(whole, parted, atol=0.02)


def test_a_cheaper_form_has_some_of_the_features() -> None:
    network = ranked()
    simple = network.reduced(ranker.SIMPLE).eval()

    assert len(simple.weights) == 2
    assert torch.equal(simple.popularity, network.popularity)


def test_exported_it_answers_the_same_for_any_number() -> None:
    network = ranked()
    rows = torch.from_numpy(histories(4))
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.onnx.export(network, (rows,), dynamo=True, verbose=False, dynamic_shapes=shapes)
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())

    for some in (histories(1, 5), histories(7, 6)):
        (found,) = session.run(None, {session.get_inputs()[0].name: some})
        with torch.no_grad():
            assert np.allclose(found, network(torch.from_numpy(some)).numpy(), atol=1e-3)
