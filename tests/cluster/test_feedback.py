from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pytest

from cluster import feedback, served
from cluster.feedback import Believed
from cluster.ledger import Follower, Ledger
from cluster.store import Store

Said = tuple[str, str, str]  # request id, label, client


def words(said: Sequence[Said]) -> list[dict[str, object]]:
    return [feedback.word(name, 0, "label", label, client, at) for at, (name, label, client) in enumerate(said)]


def believed(said: Sequence[Said], known: Sequence[str] | None = None, agreement: int = 1) -> Believed:
    answers = None if known is None else [(name, 0) for name in known]
    return feedback.believed(words(said), answers, agreement)


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


def shares(clients: Sequence[str | None], share: float) -> Counter[str | None]:
    """How many rows are left of each client."""
    rows = [{"id": f"{i}#0", "client": client} for i, client in enumerate(clients)]
    left = feedback.within_share(rows, share)
    assert left == [row for row in rows if row in left]
    return Counter(row["client"] for row in left)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("floods", [("mallory",), ("mallory", "trudy")], ids=["one", "two"])
def test_a_flood_of_one_client_has_no_more_than_its_share_of_what_is_left(
    floods: tuple[str, ...], share: float
) -> None:
    honest = [f"client {i % 20}" for i in range(200)]

    left = shares([*honest, *(client for client in floods for _ in range(5000))], share)

    for client in floods:
        assert min(5000.0, share * left.total() - 1) <= left[client] <= share * left.total() + 1e-9
    assert sum(left[f"client {i}"] for i in range(20)) == 200


@pytest.mark.parametrize(
    ("clients", "share", "expected"),
    [
        pytest.param([None] * 7 + ["ann"] * 9, 0.3, {None: 7, "ann": 3}, id="a flood among what several say"),
        pytest.param(["ann"] * 10 + ["bob"] * 10, 0.3, {}, id="too few clients for such a share"),
        pytest.param(["ann"] * 10 + ["bob"] * 10, 0.5, {"ann": 10, "bob": 10}, id="just enough"),
        pytest.param(["ann"] * 10, 1.0, {"ann": 10}, id="no bound"),
        pytest.param([], 0.3, {}, id="nothing"),
    ],
)
def test_what_a_share_leaves(clients: Sequence[str | None], share: float, expected: dict[str | None, int]) -> None:
    assert shares(clients, share) == expected


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

    found = feedback.believed(rows, agreement=2)

    assert found.labels == {(name, 0): label for name, label in expected.items()}
    assert found.alone == {}


def test_words_that_were_kept_before_roles_were_are_read_as_nobodys_in_particular(store: Store) -> None:
    old = feedback.SCHEMA.remove(feedback.SCHEMA.get_field_index("role"))
    Ledger(store, "feedback/digits", old).append(
        [{k: v for k, v in words([("a", "7", "ann")])[0].items() if k != "role"}]
    )

    rows = feedback.ledger(store, "digits").read().to_pylist()

    assert [row["role"] for row in rows] == [None]
    assert feedback.believed(rows, agreement=2).waiting == 1


def test_ratings_and_outcomes_are_no_labels() -> None:
    said = [feedback.word("a", 0, "rating", "1.0", "ann", 0), feedback.word("a", 0, "outcome", "bought", "ann", 1)]

    assert feedback.believed(said).labels == {}


def test_the_latest_word_counts_also_where_it_was_said_before(store: Store) -> None:
    ledger = feedback.ledger(store, "digits")
    follower, heard = Follower(ledger, "received_ns"), list[dict[str, object]]()

    for said in words([("a", "7", "ann"), ("a", "1", "ann"), ("a", "7", "ann")]):
        ledger.append([said])
        heard += follower.fresh().to_pylist()

    for rows in (ledger.read().to_pylist(), heard):
        assert feedback.believed(rows).labels == {("a", 0): "7"}


def test_a_label_that_is_said_again_is_none_that_was_not_heard_before() -> None:
    answers = pa.Table.from_pylist([{"id": f"{name}#0", "request_id": name, "row": 0} for name in "ab"], served.SCHEMA)
    said = words([("a", "7", "ann"), ("b", "7", "ann"), ("b", "1", "ann"), ("a", "7", "ann"), ("b", "7", "ann")])

    rows, _ = feedback.labelled(answers, pa.Table.from_pylist(said[::-1], feedback.SCHEMA), agreement=1)

    assert {row["request_id"]: row["heard_ns"] for row in rows} == {"a": 0, "b": 4}


def test_answers_of_a_sample_are_joined_with_the_labels_that_are_believed_of_them() -> None:
    answers = pa.Table.from_pylist(
        [{"id": f"{name}#0", "request_id": name, "row": 0, "at_ns": at} for at, name in enumerate("cba")], served.SCHEMA
    )
    said = words([("a", "7", "ann"), ("a", "7", "bob"), ("b", "3", "ann"), ("c", "1", "ann"), ("c", "1", "bob")])
    said.append(feedback.word("c", 0, "rating", "1", "cid", 99))
    said.append(feedback.word("unseen", 0, "label", "1", "cid", 99))

    rows, found = feedback.labelled(answers, pa.Table.from_pylist(said, feedback.SCHEMA), agreement=2)

    assert [(row["id"], row["at_ns"], row["label"], row["heard_ns"], row["client"]) for row in rows] == [
        ("c#0", 0, "1", 4, None),
        ("a#0", 2, "7", 1, None),
    ]
    assert (found.waiting, found.unknown) == (1, 1)
