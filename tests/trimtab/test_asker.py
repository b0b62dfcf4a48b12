"""An endpoint that is busy, away, or does not like one of the instances, asked until all have an answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.errors import ClusterError, DeadlineError, NotFoundError, TrimtabError, UnauthorisedError
from serve.watch.events import BadLine
from trimtab.asker import MOST_FAILED, Asker

from .conftest import Endpoint, Reply, says  # type: ignore[import-not-found]


@pytest.fixture
def asker(endpoint: Endpoint) -> Iterator[Asker]:
    with Asker(endpoint.url, "token", 60.0, lambda _: None) as made:
        yield made


def labels(answers: list[Any]) -> list[str]:
    return [one.reason if isinstance(one, BadLine) else one["label"] for one in answers]


def test_a_batch_is_one_request(asker: Asker, endpoint: Endpoint) -> None:
    assert labels(asker.ask(["a", "bad", "c"])) == ["good", "bad", "good"]
    assert asker.ask([]) == []
    assert endpoint.asked == [["a", "bad", "c"]]


def test_an_endpoint_that_is_busy_or_away_is_waited_for(
    asker: Asker, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.asker.FIRST_S", 0.02)
    asker.ask(["first"])
    endpoint.replies = [(429, {"retry-after": "0"}, {"error": "busy"}), (503, {}, {}), (404, {}, {}), (504, {}, {})]

    assert labels(asker.ask(["a", "b"])) == ["good", "good"]
    assert endpoint.asked[1:] == [["a", "b"]] * 5


def test_one_bad_instance_spoils_nothing_for_the_others(asker: Asker, endpoint: Endpoint) -> None:
    def picky(instances: list[Any]) -> Reply:
        return (422, {}, {"error": "instances: is empty"}) if "" in instances else says(instances)

    endpoint.answer = picky
    batch = [f"text {i}" for i in range(32)]
    batch[7] = batch[30] = ""

    answers = asker.ask(batch)

    assert [i for i, label in enumerate(labels(answers)) if label == "refused"] == [7, 30]
    assert labels(answers).count("good") == 30
    assert len(endpoint.asked) < 32
    assert "is empty" in str(answers[7])


def test_an_instance_on_which_the_endpoint_fails_is_left_out_and_one_that_fails_on_all_ends_it(
    asker: Asker, endpoint: Endpoint
) -> None:
    def fails(instances: list[Any]) -> Reply:
        return (500, {}, {"error": "boom"}) if "poison" in instances else says(instances)

    endpoint.answer = fails
    assert labels(asker.ask(["a", "poison", "b"])) == ["good", "failed", "good"]

    endpoint.answer = lambda _: (500, {}, {"error": "boom"})
    with pytest.raises(TrimtabError, match=f"failed on {MOST_FAILED} instances in a row: boom"):
        asker.ask([f"text {i}" for i in range(64)])


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({}, id="no predictions"),
        pytest.param({"predictions": []}, id="too few"),
        pytest.param({"predictions": ["x"]}, id="no object"),
        pytest.param([1], id="a list"),
    ],
)
def test_an_answer_that_is_none_is_a_failure(asker: Asker, endpoint: Endpoint, body: Any) -> None:
    endpoint.answer = lambda _: (200, {}, body)

    assert labels(asker.ask(["a"])) == ["failed"]


@pytest.mark.parametrize(
    ("status", "kind"), [(401, UnauthorisedError), (404, NotFoundError)], ids=["token", "no such model"]
)
def test_what_no_waiting_mends_ends_it(asker: Asker, endpoint: Endpoint, status: int, kind: type[Exception]) -> None:
    endpoint.answer = lambda _: (status, {}, {"error": "no"})

    with pytest.raises(kind, match="no"):
        asker.ask(["a"])


def test_an_endpoint_that_was_never_there_is_a_mistake_and_one_that_stays_away_a_deadline(endpoint: Endpoint) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with (
            Asker(nowhere, "token", 60.0, lambda _: None) as asker,
            pytest.raises(ClusterError, match="trimtab deploy"),
        ):
            asker.ask(["a"])
    said: list[str] = []
    with Asker(endpoint.url, "token", 0.5, said.append) as asker:
        asker.ask(["a"])
        endpoint.answer = lambda _: (503, {}, {"error": "no replica"})
        with pytest.raises(DeadlineError, match="503, no replica; what was read is kept"):
            asker.ask(["a"])
    assert said[0] == "waiting for the endpoint: 503, no replica"
