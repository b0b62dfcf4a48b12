"""Feedback from its words to the ledger, over HTTP and gRPC, and past the death of the replica that took it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from cluster import feedback as words
from cluster import served
from cluster.config import Adapt, Record
from cluster.errors import RequestError, StoreError
from cluster.ledger import Ledger
from cluster.session import Session
from cluster.store import Store
from ladder.bundle import Bundle
from serve import deploy as deployment
from serve import feedback, recorder
from serve.core import Core
from serve.deploy import Endpoint
from serve.feedback import Intake
from serve.oip import oip_pb2
from serve.recorder import Recorder
from tests.serve.conftest import replicas, until

ROOT = Path(__file__).resolve().parents[2]
JSON = {"content-type": "application/json"}


def read(core: Core, tree: Any) -> list[dict[str, Any]]:
    return feedback.read(json.dumps(tree).encode(), core.model("shades"), feedback.Said("ann", "operate", 7))


@pytest.mark.parametrize(
    ("tree", "kind", "value"),
    [
        pytest.param({"request_id": "a", "label": "dark-1"}, "label", "dark-1", id="label"),
        pytest.param({"request_id": "a", "rating": 1, "row": 2}, "rating", "1.0", id="rating"),
        pytest.param({"request_id": "a", "outcome": "bought"}, "outcome", "bought", id="outcome"),
        pytest.param({"feedback": [{"request_id": "a", "label": "light-1"}]}, "label", "light-1", id="in a list"),
    ],
)
def test_a_word_becomes_a_row(core: Core, tree: Any, kind: str, value: str) -> None:
    (row,) = read(core, tree)

    assert (row["request_id"], row["kind"], row["value"]) == ("a", kind, value)
    assert (row["client"], row["role"], row["received_ns"]) == ("ann", "operate", 7)
    assert row["row"] == tree.get("row", 0)


@pytest.mark.parametrize(("said", "kept"), [(213.5, "213.5"), ("213.5", "213.5"), ("nan", None), ("much", None)])
def test_a_right_value_may_be_text_as_a_csv_file_has_it(said: Any, kept: str | None) -> None:
    model: Any = SimpleNamespace(task=SimpleNamespace(targets="value"))
    body, by = json.dumps({"request_id": "a", "label": said}).encode(), feedback.Said("ann", "operate", 7)
    if kept is None:
        with pytest.raises(RequestError, match="is not a number"):
            feedback.read(body, model, by)
    else:
        assert feedback.read(body, model, by)[0]["value"] == kept


def test_of_two_words_about_one_answer_in_one_list_the_later_is_the_latest(core: Core) -> None:
    labels = ("dark-1", "light-1", "dark-1")

    rows = read(core, {"feedback": [{"request_id": "a", "label": label} for label in labels]})

    assert len({row["id"] for row in rows}) == 3
    assert words.believed(rows[::-1]).labels == {("a", 0): "dark-1"}


@pytest.mark.parametrize(
    ("tree", "status", "problem"),
    [
        pytest.param([], 400, "not a JSON object", id="a list"),
        pytest.param({}, 400, "has 0 of label, rating, outcome", id="nothing"),
        pytest.param({"request_id": "a", "label": "dark-1", "rating": 1}, 400, "has 2 of", id="two at once"),
        pytest.param({"request_id": "a", "label": "grey"}, 422, "is no label of this model", id="an unknown label"),
        pytest.param({"request_id": "a", "label": None}, 400, "not a short text", id="no label"),
        pytest.param({"request_id": "a" * 300, "label": "dark-1"}, 400, "not a short text", id="a long id"),
        pytest.param({"request_id": "a\x00", "label": "dark-1"}, 400, "not a short text", id="a NUL"),
        pytest.param({"label": "dark-1"}, 400, "request_id", id="no id"),
        pytest.param({"request_id": "a", "rating": 2}, 422, "is not a rating", id="a rating of 2"),
        pytest.param({"request_id": "a", "rating": "good"}, 422, "is not a number", id="a rating in words"),
        pytest.param({"request_id": "a", "row": -1, "label": "dark-1"}, 400, "row", id="a row before the first"),
        pytest.param({"request_id": "a", "label": "dark-1", "x": 1}, 400, "x", id="an unknown field"),
        pytest.param({"feedback": []}, 400, "0 words", id="no words"),
        pytest.param({"feedback": [7]}, 400, "feedback[0]", id="a number"),
        pytest.param({"feedback": [{"request_id": "a", "label": "dark-1"}] * 1001}, 400, "1001 words", id="too many"),
        pytest.param({"feedback": [], "more": 1}, 400, "more than feedback", id="more beside it"),
    ],
)
def test_another_form_is_refused_in_one_sentence(core: Core, tree: Any, status: int, problem: str) -> None:
    with pytest.raises(RequestError) as refused:
        read(core, tree)

    assert refused.value.status == status
    assert problem in refused.value.message
    assert len(refused.value.message) < 500


def test_many_words_at_once_become_few_files(store: Store, core: Core) -> None:
    ledger = words.ledger(store, "shades")

    async def all_at_once() -> None:
        intake = Intake(ledger)
        await asyncio.gather(*(intake.keep(read(core, {"request_id": f"r{i}", "label": "dark-1"})) for i in range(200)))

    asyncio.run(all_at_once())

    assert ledger.read().num_rows == 200
    assert len(ledger.parts()) <= 3


def test_a_full_disk_is_said_and_nothing_is_acknowledged(
    store: Store, core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = words.ledger(store, "shades")

    def full(self: Store, num_bytes: int) -> None:
        raise StoreError("store", self.uri, "the disk is nearly full", "free some space")

    monkeypatch.setattr(Store, "check_room", full)

    with pytest.raises(RequestError, match="send it again") as refused:
        asyncio.run(Intake(ledger).keep(read(core, {"request_id": "a", "label": "dark-1"})))

    assert refused.value.status == 503
    monkeypatch.undo()
    assert ledger.read().num_rows == 0


# What was served


@pytest.mark.parametrize(
    ("record", "has_input", "has_outputs"),
    [
        pytest.param(Record(rate=1.0), True, True, id="all of it"),
        pytest.param(Record(rate=1.0, inputs=False), False, True, id="no inputs"),
        pytest.param(Record(rate=1.0, outputs=False), True, False, id="no outputs"),
    ],
)
def test_answers_are_in_the_sample_soon(
    store: Store, core: Core, monkeypatch: pytest.MonkeyPatch, record: Record, has_input: bool, has_outputs: bool
) -> None:
    monkeypatch.setattr(recorder, "FLUSH_S", 0.01)
    ledger, black = served.ledger(store, "shades"), np.zeros((2, 4, 6, 1), np.uint8)

    async def ask() -> None:
        core.recorder = Recorder(ledger, record)
        await core.predict(core.model("shades"), black, time.monotonic() + 30, "some-id")
        while not ledger.parts():
            await asyncio.sleep(0.01)

    asyncio.run(ask())

    first, second = ledger.read().to_pylist()
    assert (first["request_id"], first["row"], second["row"], first["version"]) == ("some-id", 0, 1, 3)
    assert first["input"] == (black[0].tobytes() if has_input else None)
    assert (first["outputs"] is not None) == has_outputs


@pytest.mark.parametrize(
    ("rate", "num_kept"), [pytest.param(1e-9, 1, id="beyond the rate"), pytest.param(0.0, 0, id="but not without one")]
)
def test_every_answer_of_a_version_that_is_being_tried_is_kept(store: Store, rate: float, num_kept: int) -> None:
    rows, outputs = np.zeros((1, 4), np.uint8), np.zeros((1, 2), np.float32)

    async def offered() -> int:
        made = Recorder(served.ledger(store, "shades"), Record(rate=rate))
        made.offer("some-id", 4, "a", rows, outputs)
        made.offer("some-id", 5, "a", rows, outputs, whole=True)
        return len(made._rows)

    assert asyncio.run(offered()) == num_kept


def test_without_a_rate_nothing_is_kept(store: Store, core: Core) -> None:
    ledger = served.ledger(store, "shades")

    async def ask() -> None:
        core.recorder = made = Recorder(ledger, Record(rate=0.0))
        await core.predict(core.model("shades"), np.zeros((1, 4, 6, 1), np.uint8), time.monotonic() + 30, "some-id")
        assert made._rows == []

    asyncio.run(ask())


# On a real cluster


@pytest.fixture(scope="module")
def endpoint(cluster: Session, make_bundle: Callable[..., Bundle]) -> Iterator[Endpoint]:
    settings = {"route": "/said", "record": {"rate": 1.0}}
    made = make_bundle(Store.open(cluster.store), 1, name="said", **settings)
    experiment = made.experiment.model_copy(update={"adapt": Adapt(enabled=False)})
    yield deployment.deploy(cluster, dataclasses.replace(made, experiment=experiment), 1)
    deployment.undeploy(cluster, "said")


@pytest.fixture
def ledger(cluster: Session) -> Ledger:
    return words.ledger(Store.open(cluster.store), "said")


def test_what_was_acknowledged_outlives_the_replica(cluster: Session, endpoint: Endpoint, ledger: Ledger) -> None:
    (pid,) = replicas(cluster, "said")
    headers = {"authorization": f"Bearer {cluster.api_token}", **JSON}
    with httpx.Client(headers=headers, trust_env=False, timeout=30.0) as client:
        image = {"instances": [[[[0]] * 6] * 4]}
        asked = client.post(f"{endpoint.url}/predict", json=image, headers={"x-request-id": "kept-1"})
        said = [client.post(f"{endpoint.url}/feedback", json={"request_id": f"kept-{i}", "label": "dark-1"})
                for i in range(1, 6)]  # fmt: skip
    os.kill(pid, signal.SIGKILL)

    assert asked.json()["predictions"][0]["label"] == "dark-1"
    assert [one.status_code for one in said] == [202] * 5
    assert said[0].json()["accepted"] == 1
    assert {f"kept-{i}" for i in range(1, 6)} <= set(ledger.read()["request_id"].to_pylist())
    until(lambda: replicas(cluster, "said") not in ([], [pid]))


def test_feedback_comes_over_grpc_too(cluster: Session, endpoint: Endpoint, ledger: Ledger) -> None:
    host = cluster.dashboard_url.rpartition(":")[0].removeprefix("http://")
    request = oip_pb2.FeedbackRequest(model_name="said")
    request.words.add(request_id="by-grpc", label="light-1")
    request.words.add(request_id="by-grpc", row=1, rating=0.5)
    metadata = [("authorization", f"Bearer {cluster.api_token}"), ("application", "said")]

    with grpc.insecure_channel(f"{host}:{cluster.grpc_port}") as channel:
        send = channel.unary_unary(
            "/trimtab.Feedback/Feedback",
            request_serializer=oip_pb2.FeedbackRequest.SerializeToString,
            response_deserializer=oip_pb2.FeedbackResponse.FromString,
        )
        answer = send(request, metadata=metadata, timeout=60, wait_for_ready=True)
        request.words[0].label = "grey"
        with pytest.raises(grpc.RpcError) as refused:
            send(request, metadata=metadata, timeout=60)

    assert answer.accepted == 2
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]
    found = [row for row in ledger.read().to_pylist() if row["request_id"] == "by-grpc"]
    assert sorted((row["row"], row["kind"], row["value"]) for row in found) == [
        (0, "label", "light-1"),
        (1, "rating", "0.5"),
    ]


def test_a_file_of_words_is_sent_and_summed_up(cluster: Session, endpoint: Endpoint, tmp_path: Path) -> None:
    experiment = tmp_path / "said.yaml"
    experiment.write_text("name: said\ndata: {source: {kind: digits}}\nserve: {route: /said}\n")
    said = tmp_path / "words.csv"
    said.write_text("request_id,label,rating\nfile-1,dark-1,\nfile-2,,0.5\n")
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"request_id": "file-1"}\n')

    def trimtab(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "trimtab", "feedback", str(experiment), *arguments, "--store", cluster.store]
        return subprocess.run([*command, "--cluster", "tests", "--json"], cwd=ROOT, capture_output=True, text=True)

    sent, refused, summary = trimtab(str(said)), trimtab(str(wrong)), trimtab()

    assert json.loads(sent.stdout)["accepted"] == 2, sent.stderr
    assert refused.returncode == 2
    assert "line 1" in refused.stdout
    assert "Traceback" not in refused.stderr
    found = json.loads(summary.stdout)
    assert found["words"]["label"] >= 1
    assert found["words"]["rating"] >= 1
