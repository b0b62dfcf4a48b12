from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pytest

from cluster import feedback, served
from cluster.config import Labels
from cluster.feedback import Believed, Rules
from cluster.ledger import Follower, Ledger
from cluster.store import Store

Said = tuple[str, str, str]  # request id, label, client


def words(said: Sequence[Said]) -> list[dict[str, object]]:
    return [feedback.word(name, 0, "label", label, client, at) for at, (name, label, client) in enumerate(said)]


def believed(said: Sequence[Said], known: Sequence[str] | None = None, **rules: float) -> Believed:
    answers = None if known is None else [(name, 0) for name in known]
    return feedback.believed(words(said), answers, Rules(**rules))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        pytest.param([("a", "7", "ann")], {"a": "7"}, id="one word"),
        pytest.param([("a", "7", "ann"), ("a", "7", "ann")], {"a": "7"}, id="said again"),
        pytest.param([("a", "7", "ann"), ("a", "3", "ann")], {"a": "3"}, id="thought better of"),
        pytest.param([("a", "7", "ann"), ("a", "3", "bob"), ("a", "7", "cid")], {"a": "7"}, id="two against one"),
        pytest.param([("a", "7", "ann"), ("a", "3", "bob")], {}, id="one against one"),
        pytest.param([("a", "7", "ann"), ("b", "3", "ann")], {"a": "7", "b": "3"}, id="of two answers"),
    ],
)
def test_what_is_believed(said: Sequence[Said], expected: dict[str, str]) -> None:
    assert believed(said).labels == {(name, 0): label for name, label in expected.items()}


def test_one_against_one_is_a_conflict() -> None:
    assert believed([("a", "7", "ann"), ("a", "3", "bob")]).conflicting == 1


def test_a_label_waits_until_enough_agree() -> None:
    alone = believed([("a", "7", "ann")], agreement=2)
    together = believed([("a", "7", "ann"), ("a", "7", "bob")], agreement=2)

    assert (alone.labels, alone.waiting) == ({}, 1)
    assert together.labels == {("a", 0): "7"}


def test_a_word_about_no_known_answer_is_counted_and_not_believed() -> None:
    found = believed([("a", "7", "ann"), ("b", "3", "ann")], known=["b"])

    assert found.labels == {("b", 0): "3"}
    assert found.unknown == 1


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_a_flood_of_one_client_has_no_more_than_its_share(share: float) -> None:
    honest = [(f"honest {i}", "7", f"client {i % 20}") for i in range(200)]
    flood = [(f"flood {i}", "3", "mallory") for i in range(5000)]

    found = believed(honest + flood, client_share=share)

    wrong = sum(label == "3" for label in found.labels.values())
    assert wrong <= share * len(found.labels) + 1e-9
    assert wrong >= share * len(found.labels) - 1
    assert found.over_share == 5000 - wrong
    assert sum(label == "7" for label in found.labels.values()) == 200


OPERATOR = "operator"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        pytest.param([("a", "7", OPERATOR)], {"a": "7"}, id="one word is enough"),
        pytest.param([("a", "7", OPERATOR), ("a", "3", "ann"), ("a", "3", "bob")], {"a": "7"}, id="over any number"),
        pytest.param([("a", "7", OPERATOR), ("a", "3", OPERATOR)], {"a": "3"}, id="thought better of"),
    ],
)
def test_a_word_of_whom_the_endpoint_trusts_is_believed_alone(said: Sequence[Said], expected: dict[str, str]) -> None:
    rows = [dict(row, role="operate" if row["client"] == OPERATOR else "feedback") for row in words(said)]

    found = feedback.believed(rows, None, Rules(agreement=2, client_share=0.1))

    assert found.labels == {(name, 0): label for name, label in expected.items()}


def test_words_that_were_kept_before_roles_were_are_read_as_nobodys_in_particular(store: Store) -> None:
    old = feedback.SCHEMA.remove(feedback.SCHEMA.get_field_index("role"))
    Ledger(store, "feedback/digits", old).append(
        [{k: v for k, v in words([("a", "7", "ann")])[0].items() if k != "role"}]
    )

    rows = feedback.ledger(store, "digits").read().to_pylist()

    assert [row["role"] for row in rows] == [None]
    assert feedback.believed(rows, None, Rules(agreement=2)).waiting == 1


def test_ratings_and_outcomes_are_no_labels() -> None:
    said = [feedback.word("a", 0, "rating", "1.0", "ann", 0), feedback.word("a", 0, "outcome", "bought", "ann", 1)]

    assert feedback.believed(said, None, Rules()).labels == {}


def test_the_latest_word_counts_also_where_it_was_said_before(store: Store) -> None:
    ledger = feedback.ledger(store, "digits")
    follower, heard = Follower(ledger, "received_ns"), list[dict[str, object]]()

    for said in words([("a", "7", "ann"), ("a", "1", "ann"), ("a", "7", "ann")]):
        ledger.append([said])
        heard += follower.fresh().to_pylist()

    for rows in (ledger.read().to_pylist(), heard):
        assert feedback.believed(rows, None, Rules()).labels == {("a", 0): "7"}


def test_a_label_that_is_said_again_is_none_that_was_not_heard_before() -> None:
    answers = pa.Table.from_pylist([{"id": f"{name}#0", "request_id": name, "row": 0} for name in "ab"], served.SCHEMA)
    said = words([("a", "7", "ann"), ("b", "7", "ann"), ("b", "1", "ann"), ("a", "7", "ann"), ("b", "7", "ann")])

    rows, _ = feedback.labelled(
        answers, pa.Table.from_pylist(said[::-1], feedback.SCHEMA), Labels(agreement=1, client_share=1.0)
    )

    assert {row["request_id"]: row["heard_ns"] for row in rows} == {"a": 0, "b": 4}


def test_answers_of_a_sample_are_joined_with_the_labels_that_are_believed_of_them() -> None:
    answers = pa.Table.from_pylist(
        [{"id": f"{name}#0", "request_id": name, "row": 0, "at_ns": at} for at, name in enumerate("cba")], served.SCHEMA
    )
    said = words([("a", "7", "ann"), ("a", "7", "bob"), ("b", "3", "ann"), ("c", "1", "ann"), ("c", "1", "bob")])
    said.append(feedback.word("c", 0, "rating", "1", "cid", 99))
    said.append(feedback.word("unseen", 0, "label", "1", "cid", 99))

    rows, found = feedback.labelled(answers, pa.Table.from_pylist(said, feedback.SCHEMA), Labels(agreement=2))

    assert [(row["id"], row["at_ns"], row["label"], row["heard_ns"]) for row in rows] == [
        ("c#0", 0, "1", 4),
        ("a#0", 2, "7", 1),
    ]
    assert (found.waiting, found.unknown) == (1, 1)
