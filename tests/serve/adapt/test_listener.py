from __future__ import annotations

from collections.abc import Callable

import pytest

from cluster import experiment as experiments
from cluster import feedback, served
from cluster.config import Experiment
from cluster.store import Store
from ladder.bundle import Bundle
from serve.adapt.listener import Listener, Subject
from serve.adapt.mistakes import Watch

NOW = 1_750_000_000.0


def settings(**triggers: object) -> Experiment:
    retrain = {"triggers": triggers, "labels": {"agreement": 1, "client_share": 1.0}}
    return experiments.parse({"name": "shades", "data": {"source": {"kind": "digits"}}, "retrain": retrain})


@pytest.fixture
def answer(store: Store) -> Callable[..., None]:
    """So many answers of version 1 from then on, one a second, that were light; and what was said of each."""

    def answered(num: int, at: float, label: str) -> None:
        names = [(f"{at + i:.0f}", int((at + i) * 1e9)) for i in range(num)]
        served.ledger(store, "shades").append([
            {"id": f"{name}#0", "request_id": name, "row": 0, "at_ns": at_ns, "version": 1,
             "variant": "onnx-fp32", "input": None, "outputs": [0.1, 0.9]} for name, at_ns in names
        ])  # fmt: skip
        words = [feedback.word(name, 0, "label", label, "ann", at_ns) for name, at_ns in names]
        feedback.ledger(store, "shades").append(words)

    return answered


def test_errors_that_rise_and_fall_are_said_once_whoever_goes_on_and_forgotten_with_the_version(
    store: Store, make_bundle: Callable[..., Bundle], answer: Callable[..., None]
) -> None:
    subject, said, watched = Subject(make_bundle(store, 1).key, 1, 0.0), list[str](), settings(drift=True)
    answer(100, NOW - 200, "dark-1")  # before anybody watched
    listener = Listener(store, "shades", Watch(), said.append)
    listener.listen(subject, watched, None, NOW)

    answer(400, NOW, "light-1")
    answer(60, NOW + 400, "dark-1")
    listener.listen(subject, watched, None, NOW + 500)
    risen = listener.drift
    answer(200, NOW + 600, "light-1")
    after = Listener(store, "shades", listener.watch, said.append)
    after.listen(subject, watched, None, NOW + 900)

    assert risen is not None
    assert (risen.since, risen.judged.num) == (NOW + 400, 60)
    assert risen.rise.startswith("0 % of 400 labelled answers were wrong until 2025-06-15 15:13:20 UTC, 100 % of ")
    assert [words.partition(":")[0] for words in said] == [
        "labels show that version 1 is wrong more often than it was",
        "labels show that version 1 is wrong less often than it was",
    ]
    assert after.drift is None
    listener.listen(subject._replace(version=2), watched, None, NOW + 900)
    assert (listener.watch.version, listener.watch.rise, listener.drift) == (2, None, None)


def test_a_rise_is_said_where_no_trigger_asks_and_is_no_news_once_it_has_been_learnt(
    store: Store, make_bundle: Callable[..., Bundle], answer: Callable[..., None]
) -> None:
    subject, said = Subject(make_bundle(store, 1).key, 1, 0.0), list[str]()
    listener = Listener(store, "shades", Watch(), said.append)
    listener.listen(subject, settings(), None, NOW)
    answer(400, NOW, "light-1")
    answer(60, NOW + 400, "dark-1")

    listener.listen(subject, settings(), None, NOW + 500)
    quiet = listener.labels, listener.drift
    listener.listen(subject._replace(learnt_at=NOW + 600), settings(drift=True), None, NOW + 700)

    assert len(said) == 1
    assert quiet == (None, None)
    assert listener.drift is not None
    assert (listener.drift.rise, listener.drift.judged.num) == ("", 0)
