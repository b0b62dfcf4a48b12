from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster import experiment as experiments
from cluster import feedback, served
from cluster.config import Labels, Record
from cluster.store import Store
from ladder.bundle import write_bundle
from serve.adapt import evidence
from serve.adapt.evidence import Hearing, files_at
from serve.adapt.triggers import Judged
from tasks.task import Encoding

S = 10**9
DAY = 86400 * S


def test_the_fingerprint_is_of_names_sizes_and_times(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    file = tmp_path / "deep" / "er" / "a.csv"
    file.write_text("1")
    first = files_at(str(tmp_path))
    assert files_at(str(tmp_path)) == first
    assert files_at(f"file://{tmp_path}").problem == ""

    os.utime(file, ns=(S, S))
    second = files_at(str(tmp_path))
    (tmp_path / "b.csv").write_text("")
    third = files_at(str(tmp_path))

    assert len({first.fingerprint, second.fingerprint, third.fingerprint}) == 3
    assert files_at(str(file)).fingerprint


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        pytest.param("gone", "there is nothing at this path", id="gone"),
        pytest.param("empty", "there is no file in it", id="empty"),
        pytest.param("odd://bucket/data", "cannot be looked at", id="no such system"),
    ],
)
def test_what_cannot_be_seen_is_a_problem_in_words(tmp_path: Path, path: str, problem: str) -> None:
    (tmp_path / "empty").mkdir()

    found = files_at(path if "://" in path else str(tmp_path / path))

    assert (found.fingerprint, found.problem[: len(problem)]) == ("", problem)


@pytest.fixture
def bundle(store: Store) -> str:
    experiment = experiments.parse({"name": "digits", "data": {"source": {"kind": "digits"}}})
    encoding = Encoding(("a", "b", "c"), (4, 4, 1), "uint8", {"mean": [1.0], "std": [1.0]})
    rungs = [{"variant": "onnx-fp32", "accuracy": 0.9}, {"variant": "student-int8", "accuracy": 0.8}]
    files = {"onnx-fp32": ("onnx-fp32.onnx", b"model")}
    write_bundle(store, "b" * 16, experiment=experiment, encoding=encoding, dataset="d", run="r",
                 metrics={"accuracy": 0.9}, files=files, variants=("onnx-fp32",), ladder={"rungs": rungs})  # fmt: skip
    return "b" * 16


def serve(store: Store, answers: Sequence[tuple[str, int, str, int]], *, inputs: bool = True) -> None:
    """Answers by (request id, version, rung, class), one a second."""
    rows: list[dict[str, Any]] = []
    for at, (name, version, variant, label) in enumerate(answers):
        outputs = np.eye(3)[label].tolist()
        rows.append({"id": f"{name}#0", "request_id": name, "row": 0, "at_ns": at * S, "version": version,
                     "variant": variant, "input": b"0" if inputs else None, "outputs": outputs})  # fmt: skip
    served.ledger(store, "digits").append(rows)


def say(store: Store, words: Sequence[tuple[str, str, str, int]]) -> None:
    """Labels by (request id, label, client, second)."""
    feedback.ledger(store, "digits").append(
        [feedback.word(name, 0, "label", label, client, at * S) for name, label, client, at in words]
    )


def test_labels_are_counted_where_they_are_believed_and_of_answers_that_are_known(store: Store, bundle: str) -> None:
    serve(store, [("1", 1, "onnx-fp32", 0), ("2", 1, "onnx-fp32", 1), ("3", 2, "onnx-fp32", 2)])
    agreed = [(name, label, client, 10) for name, label in (("1", "a"), ("2", "a"), ("3", "c")) for client in "xy"]
    say(store, [*agreed, ("4", "a", "x", 10), ("4", "a", "y", 10)])
    hearing = Hearing(store, "digits")

    hearing.listen(Labels(client_share=1.0), Record(), 60.0)
    found, expected = hearing.labels(bundle, 1, 0.0)

    assert (found.num, found.judged) == (3, Judged(1.0, 2))
    assert expected == pytest.approx(0.9)


def test_what_comes_later_is_heard_and_what_was_learnt_is_left_out(store: Store, bundle: str) -> None:
    names = [str(i) for i in range(4)]
    serve(store, [(name, 1, "student-int8", 0) for name in names])
    hearing, rules = Hearing(store, "digits"), Labels(agreement=1, client_share=1.0)
    say(store, [(name, "a", "x", 10) for name in names[:2]])
    hearing.listen(rules, Record(), 60.0)
    before, expected = hearing.labels(bundle, 1, 0.0)

    say(store, [(name, "b", "x", 20) for name in names[2:]])
    hearing.listen(rules, Record(), 60.0)

    assert (before.num, expected) == (2, pytest.approx(0.8))
    assert hearing.labels(bundle, 1, 0.0)[0].judged == Judged(2.0, 4)
    assert hearing.labels(bundle, 1, 15.0)[0].judged == Judged(0.0, 2)  # since the last training
    assert hearing.labels(bundle, 1, 0.0, since=3.0)[0].judged == Judged(0.0, 1)  # of answers since then


def test_of_what_is_counted_no_client_has_more_than_its_share(store: Store, bundle: str) -> None:
    """A flood is a minority of all labels, and would be the most of those about one version, or of the latest."""
    honest = [f"h{i}" for i in range(80)]
    serve(store, [(name, 2, "onnx-fp32", 0) for name in honest])
    serve(store, [(f"f{i}", 1, "onnx-fp32", 0) for i in range(30)] + [(f"o{i}", 1, "onnx-fp32", 0) for i in range(7)])
    say(store, [(name, "a", f"client {i % 20}", 10) for i, name in enumerate(honest)])
    say(store, [(f"f{i}", "b", "mallory", 20) for i in range(30)])
    say(store, [(f"o{i}", "a", client, 20) for i in range(7) for client in "xy"])
    hearing = Hearing(store, "digits")
    hearing.listen(Labels(agreement=1, client_share=0.3), Record(), 60.0)

    found, _ = hearing.labels(bundle, 1, 15.0)

    assert found.num == 10
    assert found.judged == Judged(7.0, 10)
    assert (hearing.errors(bundle, 1).wrong == 1.0).sum() == 3


def test_nothing_can_be_learnt_from_answers_whose_input_was_not_kept(store: Store, bundle: str) -> None:
    serve(store, [("1", 1, "onnx-fp32", 0)], inputs=False)
    say(store, [("1", "a", "x", 10)])
    hearing = Hearing(store, "digits")

    hearing.listen(Labels(agreement=1, client_share=1.0), Record(), 60.0)

    found, _ = hearing.labels(bundle, 1, 0.0)
    assert (found.num, found.judged) == (0, Judged(1.0, 1))


def test_errors_come_in_the_order_of_the_answers_with_what_their_rungs_lose(store: Store, bundle: str) -> None:
    serve(store, [("1", 1, "onnx-fp32", 0), ("2", 1, "student-int8", 1), ("3", 2, "onnx-fp32", 2)])
    say(store, [("2", "a", "x", 10), ("1", "a", "x", 20), ("3", "c", "x", 10)])
    hearing = Hearing(store, "digits")
    hearing.listen(Labels(agreement=1, client_share=1.0), Record(), 60.0)

    found = hearing.errors(bundle, 1)

    assert (found.at_ns.tolist(), found.wrong.tolist()) == ([0, S], [0.0, 1.0])
    assert found.losses.tolist() == [0.0, pytest.approx(0.1)]
    assert len(hearing.errors(bundle, 3).wrong) == 0


def test_no_more_is_remembered_than_the_sample_keeps(
    store: Store, bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "LEAST_REMEMBERED", 40)
    hearing, record, rules = Hearing(store, "digits"), Record(max_rows=20), Labels(agreement=1, client_share=1.0)

    for day in range(10):
        names = [f"{day}-{i}" for i in range(30)]
        rows = [{"id": f"{name}#0", "request_id": name, "row": 0, "at_ns": day * DAY, "version": 1,
                 "variant": "onnx-fp32", "input": b"0", "outputs": [1.0, 0.0, 0.0]} for name in names]  # fmt: skip
        served.ledger(store, "digits").append(rows)
        feedback.ledger(store, "digits").append(
            [feedback.word(name, 0, "label", "a", "x", day * DAY) for name in [*names, *(f"no {n}" for n in names)]]
        )
        hearing.listen(rules, record, day * 86400.0)

    labels, _ = hearing.labels(bundle, 1, -1.0)
    assert 20 <= labels.num <= 60
    assert len(hearing._words) <= 140
    assert hearing.listen(rules, record, 10 * 86400.0) is False
