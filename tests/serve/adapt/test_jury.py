from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from cluster import feedback, served
from cluster.config import Labels
from cluster.store import Store
from ladder.bundle import Bundle
from serve.adapt.jury import Jury
from serve.adapt.sequential import Tally

NOW = time.time()
ONE = Labels(agreement=1, client_share=1.0)


@pytest.fixture
def answer(store: Store) -> Callable[..., None]:
    """Writes down an answer that was light, and what was said of it."""

    def answered(name: str, version: int, at: float, *labels: str) -> None:
        at_ns = int(at * 1e9)
        served.ledger(store, "shades").append([
            {"id": f"{name}#0", "request_id": name, "row": 0, "at_ns": at_ns, "version": version,
             "variant": "onnx-fp32", "input": None, "outputs": [0.1, 0.9]}
        ])  # fmt: skip
        words = [feedback.word(name, 0, "label", text, f"client {i}", at_ns) for i, text in enumerate(labels)]
        if words:
            feedback.ledger(store, "shades").append(words)

    return answered


def test_each_version_is_judged_by_the_believed_labels_of_its_own_answers(
    store: Store, make_bundle: Callable[..., Bundle], answer: Callable[..., None]
) -> None:
    stable, candidate = (make_bundle(store, 1).key, 1), (make_bundle(store, 1).key, 2)
    jury = Jury(store, "shades")
    answer("before", 1, NOW - 100, "dark-1")
    answer("a", 1, NOW + 1, "light-1")
    answer("b", 2, NOW + 1, "light-1")
    answer("c", 2, NOW + 2, "dark-1")
    answer("d", 2, NOW + 2)
    answer("e", 3, NOW + 2, "light-1")

    first = jury.look(stable, candidate, NOW, ONE)
    answer("f", 1, NOW + 3, "dark-1")
    second = jury.look(stable, candidate, NOW, ONE)

    assert first == Tally(1, 0, 2, 1)
    assert second == Tally(2, 1, 2, 1)
    assert jury.look(stable, candidate, NOW, ONE) is second
    assert Jury(store, "shades").look(stable, candidate, NOW, Labels(agreement=2)) == Tally()


def test_no_client_judges_a_version_alone(
    store: Store, make_bundle: Callable[..., Bundle], answer: Callable[..., None]
) -> None:
    stable, candidate = (make_bundle(store, 1).key, 1), (make_bundle(store, 1).key, 2)
    for i in range(4):
        answer(f"s{i}", 1, NOW + 1, "light-1", "light-1")
        answer(f"c{i}", 2, NOW + 1, "dark-1")

    found = Jury(store, "shades").look(stable, candidate, NOW, Labels(agreement=1, client_share=0.5))

    assert found == Tally(4, 0, 0, 0)


def test_a_label_that_the_candidate_does_not_know_makes_its_answer_wrong(
    store: Store, make_bundle: Callable[..., Bundle], answer: Callable[..., None]
) -> None:
    stable, candidate = (make_bundle(store, 1).key, 1), (make_bundle(store, 7).key, 2)
    answer("a", 2, NOW + 1, "light-1")

    assert Jury(store, "shades").look(stable, candidate, NOW, ONE) == Tally(0, 0, 1, 1)
