"""The two towers: what padding, cold items and empty histories do, that they learn, and their export. No cluster."""

from __future__ import annotations

import numpy as np
import onnxruntime
import torch

from tasks.towers import Ensemble, Towers


def towers(num_items: int = 12, seed: int = 0) -> Towers:
    torch.manual_seed(seed)
    texts = np.random.default_rng(0).standard_normal((num_items, 8)).astype(np.float32)
    return Towers(texts / np.linalg.norm(texts, axis=1, keepdims=True), np.arange(num_items), width=16)


def test_padding_changes_nothing() -> None:
    network = towers().eval()

    short, padded = network(torch.tensor([[3, 5]])), network(torch.tensor([[3, 5, 0, 0]]))

    assert torch.allclose(short, padded, atol=1e-6)


def test_the_newest_item_counts_most() -> None:
    network = towers().eval()
    items = network.items()

    one_way, other_way, alone = (network.users(torch.tensor([row]), items) for row in ([3, 5], [5, 3], [3, 0]))

    assert (one_way - alone).norm() < (other_way - alone).norm()


def test_what_was_seen_is_last_but_in_training() -> None:
    network, rows = towers(), torch.tensor([[3, 5, 0]])

    assert network.eval()(rows)[0].argsort()[:2].sort().values.tolist() == [2, 4]
    assert network.train()(rows).min() > -100


def test_an_empty_history_gives_the_order_of_popularity() -> None:
    scores = towers().eval()(torch.zeros((1, 4), dtype=torch.int32))

    assert scores[0].argsort().tolist() == list(range(12))


def test_it_learns_what_follows_what() -> None:
    network = towers()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    rows, targets = torch.arange(1, 13)[:, None], torch.arange(12).roll(1)
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(network(rows), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert (network.eval()(rows).argmax(1) == targets).float().mean() > 0.9


def test_pairs_are_ranked_by_the_mean_of_their_scores_and_learn_each_for_itself() -> None:
    one, other = towers().eval(), towers(seed=1).eval()
    with torch.no_grad():
        one.log_scale += 0.5
        other.bias += torch.arange(12) / 7
    both, rows = Ensemble([one, other]).eval(), torch.tensor([[3, 5, 0], [2, 0, 0]])

    assert torch.allclose(both(rows), (one(rows) + other(rows)) / 2, atol=1e-4)

    both.train()
    logits = both(rows)
    assert logits.shape == (2, 2, 12)
    logits[:, 0].square().sum().backward()
    assert one.bias.grad.abs().sum() > 0
    assert other.bias.grad.abs().sum() == 0


def test_exported_it_answers_the_same_for_any_number() -> None:
    network, free = Ensemble([towers(), towers(seed=1)]).eval(), torch.export.Dim.DYNAMIC
    example = torch.tensor([[3, 5, 1], [2, 0, 0]], dtype=torch.int32)
    program = torch.onnx.export(network, (example,), dynamo=True, verbose=False, dynamic_shapes=({0: free},))
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())

    for rows in (np.array([[3, 5, 0], [0, 0, 0]], np.int32), np.array([[1, 2, 3]], np.int32)):
        (found,) = session.run(None, {session.get_inputs()[0].name: rows})
        assert np.allclose(found, network(torch.as_tensor(rows)).detach().numpy(), atol=1e-4)
