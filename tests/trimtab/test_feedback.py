from __future__ import annotations

from pathlib import Path

import pytest

from cluster import experiment as experiments
from cluster import feedback, served
from cluster.errors import ClusterError, UserError
from cluster.session import Session
from cluster.store import Store
from ladder.bundle import write_bundle
from tasks.task import Encoding
from trimtab.feedback import send, summary
from trimtab.screen import Screen
from trimtab.workspace import Workspace


def test_the_summary_says_what_is_believed_and_how_right_each_version_was(store: Store) -> None:
    experiment = experiments.parse({"name": "digits", "data": {"source": {"kind": "digits"}}})
    workspace = Workspace(Screen(as_json=True), store_uri=store.uri)
    encoding = Encoding(("a", "b"), (4, 4, 1), "uint8", {"mean": [1.0], "std": [1.0]})
    write_bundle(store, "b" * 16, experiment=experiment, encoding=encoding, dataset="d", run="r",
                 metrics={"accuracy": 0.9}, variants=("onnx-fp32",), files={"onnx-fp32": ("m.onnx", b"m")})  # fmt: skip
    workspace.registry.register("digits", "b" * 16, None, {})
    nothing = summary(experiment, workspace)
    served.ledger(store, "digits").append(
        [{"id": f"{i}#0", "request_id": str(i), "row": 0, "at_ns": i, "version": 1 + i // 4, "variant": "onnx-fp32",
          "input": b"0", "outputs": [0.9, 0.1]} for i in range(5)]
    )  # fmt: skip
    said = [("0", "a", "x"), ("1", "b", "x"), ("2", "a", "x"), ("2", "b", "y"), ("4", "a", "x"), ("9", "a", "x")]
    words = [feedback.word(name, 0, "label", label, client, at) for at, (name, label, client) in enumerate(said)]
    feedback.ledger(store, "digits").append([*words, feedback.word("0", 0, "rating", "0.5", "y", 9)])

    feedback.ledger(store, "digits").append([feedback.word("0", 0, "rating", "0.5", "y", 10)])  # sent again

    found = summary(experiment, workspace)

    assert (nothing["words"]["label"], nothing["versions"]) == (0, [])
    assert found["words"] == {"label": 6, "rating": 1, "outcome": 0}
    assert (found["clients"], found["mean rating"]) == (2, 0.5)
    assert found["labels"] == {"of answers in the sample": 3, "of others": 1, "contradictory": 1}
    assert found["versions"] == [
        {"version": 1, "answers": 4, "labelled": 2, "right": 0.5},
        {"version": 2, "answers": 1, "labelled": 1, "right": None},  # no such version is registered any more
    ]


NOWHERE = Session("x", "", "http://127.0.0.1:9", 9, 9, "", "/dev/null", "")


def test_a_table_of_words_with_two_columns_of_one_name_is_not_sent(tmp_path: Path) -> None:
    experiment = experiments.parse({"name": "digits", "data": {"source": {"kind": "digits"}}})
    (tmp_path / "words.csv").write_text("request_id,label,label\na,1,2\n")

    with pytest.raises(UserError, match="WORDS = 'request_id,label,label': has two columns of the name 'label'"):
        send(experiment, tmp_path / "words.csv", NOWHERE)


def test_a_long_word_in_a_table_is_read_whole(tmp_path: Path) -> None:
    experiment = experiments.parse({"name": "digits", "data": {"source": {"kind": "digits"}}})
    (tmp_path / "words.csv").write_text(f"request_id,outcome\na,{'x' * 200_000}\n")

    with pytest.raises(ClusterError, match="does not answer"):  # it was read, and would have been sent
        send(experiment, tmp_path / "words.csv", NOWHERE)
